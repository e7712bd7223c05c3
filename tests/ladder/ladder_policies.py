"""Ladder policies in force with their words signed, made through the operations that people use."""

from datetime import datetime, timedelta
from typing import Any

from controlplane.accounts.models import Operator
from controlplane.approvals.models import ChangeRequest
from controlplane.approvals.operations import apply_change
from controlplane.audit import operations as audit
from controlplane.ladder import rungs
from controlplane.ladder.models import LadderPolicy, RungActivation
from controlplane.ladder.policies import ladder_policies
from controlplane.releases.operations import current_release
from dataplane.release import Release, parse_document
from tests import ladders
from tests.factories import NOW, SETUP, crew, make_live_copy, sign

SURFACE = "web-chat"
HOUR = timedelta(hours=1)
# All six; the answers of rung 5 are signed beside them.
RUNGS = (1, 2, 3, 4, 5, 6)


def ladder_document(*, slug: str = SURFACE, **changes: Any) -> dict[str, Any]:
    """One surface of the route `chat`, whose rung 3 is served by the route `summaries`."""
    return {slug: ladders.surface(**({"rungs": ladders.rungs(cheaper="summaries")} | changes))}


@audit.operation
def make_words(*numbers: int, regulated: bool = False) -> None:
    """Signed and live words of these rungs, with one release for all of them; of all six unless told which."""
    for number in numbers or RUNGS:
        make_live_copy(slug=f"rung-{number}", kind="rung", regulated=regulated)
        if number == 5:
            make_live_copy(slug="help-answers", kind="answers", regulated=regulated)


def make_ladder(document: Any = None, *, now: datetime = NOW) -> LadderPolicy:
    """A policy in force, as a deployment is set up: without sign-offs."""

    @audit.operation
    def put_in_force() -> LadderPolicy:
        policy = ladder_policies.submit(document=document or ladder_document(), rationale="r", actor=SETUP, now=now)
        ladder_policies.activate(policy, actor=SETUP, reason="set up", now=now)
        return policy

    return put_in_force()


def submit(document: Any) -> LadderPolicy:
    """A policy of on-call's."""
    return ladder_policies.submit(document=document, rationale="r", actor=crew.oncall, now=NOW)


def propose(document: Any) -> tuple[LadderPolicy, ChangeRequest]:
    """A policy of on-call's and its change request."""
    policy = submit(document)
    return policy, ladder_policies.propose(version=policy, reason="r", actor=crew.oncall, now=NOW)


def put_in_force(document: Any, *, now: datetime = NOW) -> LadderPolicy:
    """A policy of on-call's that two approvers signed."""
    policy, change = propose(document)
    sign(change, crew.approver_one, crew.approver_two)
    apply_change(change=change, actor=crew.oncall, now=now)
    return policy


def engage(
    rung: int = 3, *, lasts: timedelta = HOUR, now: datetime = NOW, actor: Operator | None = None, **asked: Any
) -> RungActivation:
    """A rung engaged by on-call."""
    asked = {"surface": SURFACE, "reason": "it burns"} | asked
    return rungs.engage_rung(rung=rung, until=now + lasts, actor=actor or crew.oncall, now=now, **asked)


def hold(rung: int = 0, *, lasts: timedelta = HOUR, now: datetime = NOW, **asked: Any) -> RungActivation:
    """Triggers held down by on-call."""
    asked = {"surface": SURFACE, "reason": "it flaps"} | asked
    return rungs.hold_down(rung=rung, until=now + lasts, actor=crew.oncall, now=now, **asked)


def section(name: str) -> Any:
    """A section of the current release."""
    release = current_release()
    assert release is not None
    return release.content["sections"][name]


def served() -> Release:
    """The current release, as a worker reads it."""
    release = current_release()
    assert release is not None
    return parse_document(release.content, digest=release.digest)
