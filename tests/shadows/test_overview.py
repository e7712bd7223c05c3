"""How each shadow does: by what its policy decides now, over a day that has passed and the day that budgets are of."""

from datetime import timedelta

import pytest

from controlplane.console.shadow_content import ShadowView
from controlplane.routing.operations import routing_tables
from controlplane.shadows.operations import kill_shadow
from controlplane.shadows.overview import overviews
from controlplane.telemetry.operations import record_events
from controlplane.telemetry.shadows import record_shadows
from dataplane.routing import RoutingTable
from dataplane.shadow.counting import NOISE
from dataplane.shadow.switch import State
from tests.factories import NOW, crew
from tests.shadow_rows import POLICY, shadow_row
from tests.worker_reports import report

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


def take(*rows):
    record_shadows([report(shadow=rows)], now=NOW)


def overview(now=NOW):
    (found,) = overviews(RoutingTable.parse(routing_tables.active().document), now=now)
    return found


def happened(kind, digest, *, at=NOW, seq=1, **data):
    event = {"at": at.timestamp(), "kind": kind, "data": {"policy": POLICY, "digest": digest, **data}}
    record_events([report(events=(event,), seq=seq)])


def test_budget_is_of_the_utc_day_and_of_both_arms(shadowed):
    """What was spent before midnight is yesterday's."""
    take(
        shadow_row(NOW - 13 * HOUR, asked=500, digest=shadowed.digest),
        shadow_row(NOW - HOUR, asked=300, digest=shadowed.digest),
        shadow_row(NOW, arm=NOISE, asked=100, digest=shadowed.digest),
    )

    found = overview()

    assert found.facts()["used"] == {"calls": 400, "tokens": 12_000, "cost_micros": 80_000}
    assert found.facts()["limits"] == {"calls": 1000, "tokens": 10**6, "cost_micros": 10**6}
    assert [(one.label, one.share, one.tone) for one in ShadowView(found).budgets] == [
        ("Calls", 40, "good"),
        ("Tokens", 1, "good"),
        ("Money", 8, "good"),
    ]
    assert found.candidate.counts["asked"] == 800


def test_what_another_policy_of_the_name_counted_is_no_part_of_it(shadowed):
    """It decided otherwise, so its figures are of something else."""
    take(shadow_row(asked=9), shadow_row(asked=4, digest=shadowed.digest))

    assert overview().candidate.counts["asked"] == 4


def test_a_pause_is_of_its_day(shadowed):
    """At midnight it is over, whether anybody said so or not."""
    happened("shadow.paused", shadowed.digest, measured={"budget": "calls", "day": "2026-03-04"})

    assert (overview().standing.state, overview().standing.reason) == (
        State.PAUSED,
        "the day's budget of calls is used up",
    )
    assert overview(NOW + 12 * HOUR).standing.state is State.RUNNING


def test_a_kill_outweighs_a_pause(shadowed):
    """Nobody waits for midnight then."""
    kill_shadow(policy=POLICY, reason="too dear", actor=crew.oncall, now=NOW - HOUR)
    happened("shadow.paused", shadowed.digest, measured={"budget": "calls", "day": "2026-03-04"})

    standing = overview().standing

    assert (standing.state, standing.by, standing.since) == (State.KILLED, "oncall", NOW - HOUR)
