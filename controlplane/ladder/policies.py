"""Ladder policies: the versions that there are, which one is in force, and single numbers that are to be others."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from controlplane.accounts.models import Operator
from controlplane.approvals.kinds import Kind
from controlplane.approvals.models import ChangeRequest
from controlplane.audit import operations as audit
from controlplane.ladder.checks import library
from controlplane.ladder.errors import (
    AlteredLadder,
    InvalidLadder,
    NeverInForce,
    RungIsEngaged,
    SameLadder,
    UnknownSurface,
)
from controlplane.ladder.models import LadderPolicy, LadderPolicyActivation, RungActivation, RungMode
from controlplane.ladder.standing import end_activation, iso, live_activations
from controlplane.ladder.thresholds import with_thresholds
from controlplane.versioned.numbers import NewValue
from controlplane.versioned.operations import Refusals, Versions
from dataplane.ladder.policy import Ladder
from dataplane.release import MalformedRelease

KIND_NAME: Final = "ladder.policy"
MAX_SURFACE_CHARACTERS: Final = 100


def left_over(policy: LadderPolicy, *, now: datetime) -> list[tuple[RungActivation, str]]:
    """What is engaged now and could not be under `policy`, each with why; a surface that it drops has no ladder."""
    live = [one for one in live_activations(now) if one.mode == RungMode.ENGAGE]
    if not live:
        return []
    ladder, known = policy.parsed(), library()
    found = []
    for one in live:
        surface = ladder.get(one.surface)
        if surface is None:
            continue
        rung = surface.rungs.get(one.rung)
        if rung is None:
            found.append((one, f"the surface has no rung {one.rung}"))
        elif missing := known.missing(surface, rung):
            found.append((one, "; ".join(missing)))
    return found


def _parse(document: Any) -> Ladder:
    ladder = Ladder.parse(document, path="$")
    for slug in ladder:
        if len(slug) > MAX_SURFACE_CHARACTERS:
            fact = f"a surface's name has at most {MAX_SURFACE_CHARACTERS} characters, not {len(slug)}"
            raise MalformedRelease("$", fact)
    return ladder


def _facts(policy: LadderPolicy) -> dict[str, Any]:
    return {"regulated": any(surface.regulated for surface in policy.parsed().values())}


def _refuse_left_over(policy: LadderPolicy, now: datetime) -> None:
    for one, why in left_over(policy, now=now):
        raise RungIsEngaged(
            f"{one.said} is engaged until {iso(one.until)} ({one.name}), and under {policy} {why}; stand it down first"
        )


def _stand_down_left_over(policy: LadderPolicy, reason: str, now: datetime) -> None:
    for one, why in left_over(policy, now=now):
        end_activation(one, reason=f"{reason}, and under {policy} {why}", actor="ballast", now=now)


ladder_policies: Final = Versions(
    model=LadderPolicy,
    log=LadderPolicyActivation,
    kind=KIND_NAME,
    section="ladder",
    empty={},
    # Words that nobody signed yet are no mistake: their rung cannot be engaged, that is all. See `checks`.
    parse=_parse,
    refusals=Refusals(
        invalid=InvalidLadder,
        same=SameLadder,
        none_in_force=UnknownSurface,
        never_in_force=NeverInForce,
        altered=AlteredLadder,
    ),
    facts=_facts,
    guard=_refuse_left_over,
    make_way=_stand_down_left_over,
)


@audit.operation
def propose_thresholds(
    *, slug: str, changes: Mapping[str, NewValue | None], reason: str, actor: Operator | str, now: datetime
) -> ChangeRequest:
    """Propose the policy in force with other thresholds of one surface.

    Args:
        slug: Of the surface.
        changes: By the thresholds' names, such as 'triggers.queue.enter'.
    Raises:
        UnknownSurface, InvalidThreshold: as `thresholds.with_thresholds`; UnknownSurface also when no policy is in
            force.
        InvalidLadder, SameLadder, DigestRejected: as `Versions.submit`.
    """
    return ladder_policies.propose_numbers(
        lambda document, values: with_thresholds(document, slug, values), changes, reason=reason, actor=actor, now=now
    )


KIND = Kind(
    name=KIND_NAME,
    label="Ladder policy",
    survey=ladder_policies.survey,
    facts=lambda content: {"regulated": content["regulated"]},
    view_permission="ladder.view_ladderpolicy",
    sign_off_permission="ladder.sign_off_ladder",
    break_glass_permission="ladder.break_glass_ladder",
    review_permission="ladder.review_break_glass_ladder",
    apply=ladder_policies.apply,
    lapse=ladder_policies.lapse,
    conditions={"regulated": frozenset({True, False})},
)
