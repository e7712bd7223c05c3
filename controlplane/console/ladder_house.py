"""Where every surface's ladder stands, in the one line that is on every page."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from controlplane.console.ladder_now import newest_moves
from controlplane.console.ladder_words import clock
from controlplane.console.wording import listed
from controlplane.ladder.models import RungMode
from controlplane.ladder.policies import ladder_policies
from controlplane.ladder.standing import live_activations
from controlplane.telemetry.surfaces import highest_rungs
from dataplane.ladder.policy import OFF


@dataclass(frozen=True, slots=True)
class EngagedLadder:
    """A surface on a rung, with how it came there: 'since 14:02 UTC, by trigger queue'."""

    title: str
    rung: int
    how: str


def engaged_ladders(*, now: datetime) -> list[EngagedLadder] | None:
    """The surfaces on which a rung stands for anybody, by workers and by people; None: no ladder is in force. Four
    queries.
    """
    policy = ladder_policies.active()
    if policy is None:
        return None
    heard, live = highest_rungs(now), live_activations(now)
    moves = newest_moves(policy.document)
    found = []
    for slug, document in policy.document.items():
        by_hand = [one for one in live if one.surface == slug and one.mode == RungMode.ENGAGE]
        newest = max(by_hand, key=lambda one: (one.rung, one.pk), default=None)
        rung = max(heard.get(slug, OFF), newest.rung if newest else OFF)
        if rung == OFF:
            continue
        move = moves.get(slug)
        if newest is not None and newest.rung == rung:
            how = f" since {clock(newest.since)}, by {newest.actor}"
        elif move is not None and move.after == rung:
            how = f" since {clock(move.at)}, by {f'trigger {move.trigger}' if move.trigger else 'triggers'}"
        else:
            how = ""
        found.append(EngagedLadder(str(document["title"]), rung, how))
    return found


def ladder_sentence(engaged: Sequence[EngagedLadder]) -> str:
    """In one line: 'Ladder: Web chat on rung 3 since 14:02 UTC, by trigger queue.'"""
    if not engaged:
        return "Ladder off."
    if len(engaged) == 1:
        (one,) = engaged
        return f"Ladder: {one.title} on rung {one.rung}{one.how}."
    return f"Ladder: {listed([f'{one.title} on rung {one.rung}' for one in engaged])}."
