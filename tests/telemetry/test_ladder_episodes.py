"""When rungs were on: what triggers did, people engaged and hosts were ordered, as one line, and what that did."""

from datetime import timedelta
from itertools import pairwise

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controlplane.telemetry.ladder_episodes import episode, episodes
from controlplane.telemetry.ladder_postmortem import postmortem
from controlplane.telemetry.ladder_track import FORGOTTEN, track
from controlplane.telemetry.surface_rows import SurfaceReading
from dataplane.ladder.policy import Ladder
from tests.ladders import surface
from tests.telemetry.ladder_history import (
    BUCKET,
    HOUR,
    MINUTE,
    SURFACE,
    climbs,
    engaged,
    moved,
    ordered,
    stood_down,
    take,
)
from tests.worker_reports import NOON, ladder_state, report, surface_load, surface_row

pytestmark = pytest.mark.django_db

LATER = NOON + 6 * HOUR


def found(*, since=NOON - HOUR, until=LATER, now=LATER):
    return episodes(SURFACE, since=since, until=until, now=now)


def told(one):
    """Each step as (minutes after noon, before, rung, cause)."""
    return [((step.at - NOON) / MINUTE, step.before, step.rung, step.cause) for step in one.steps]


def test_episode_is_from_the_first_rung_to_the_last():
    """Of triggers alone: up in steps, down in steps, and another one later."""
    climbs((NOON, 1), (NOON + MINUTE, 2), (NOON + 5 * MINUTE, 1), (NOON + 9 * MINUTE, 0), (NOON + HOUR, 1))

    second, first = found(now=NOON + 2 * HOUR)

    assert told(first) == [(0, 0, 1, "pressed"), (1, 1, 2, "pressed"), (5, 2, 1, "eased"), (9, 1, 0, "eased")]
    assert (first.until, first.highest, first.duration) == (NOON + 9 * MINUTE, 2, 9 * MINUTE)
    assert (second.id, second.until, second.duration) == (int((NOON + HOUR).timestamp()), None, HOUR)
    assert first.steps[0].sentence == "Triggers took the ladder up to rung 1: load, which read 120"
    assert not any(step.is_by_people for step in first.steps)


def test_what_people_engage_and_triggers_overlaps_in_one_episode():
    """The highest that stood for anybody counts; what is below it is told all the same."""
    climbs((NOON, 1), (NOON + 10 * MINUTE, 0))
    hand = engaged(NOON + 2 * MINUTE, 4, tiers=["free"])
    stood_down(hand, NOON + 8 * MINUTE)

    (one,) = found()

    assert told(one) == [
        (0, 0, 1, "pressed"),
        (2, 1, 4, "engaged"),
        (8, 4, 1, "stood_down"),
        (10, 1, 0, "eased"),
    ]
    assert one.steps[1].sentence == "Rung 4 engaged by oncall for tier free: Black Friday"
    assert any(step.is_by_people for step in one.steps)


def test_activation_that_replaces_another_leaves_no_gap():
    """The same scope engaged anew at another rung, which then ends by itself."""
    engaged(NOON, 4)
    engaged(NOON + 5 * MINUTE, 2)

    (one,) = found()

    assert told(one) == [(0, 0, 4, "engaged"), (5, 4, 4, "engaged"), (5, 4, 2, "replaced"), (65, 2, 0, "ended")]


def test_hold_for_everybody_holds_the_ladder_and_one_for_a_tier_does_not():
    """As in the data plane, what triggers engaged stands no higher than people let it."""
    climbs((NOON, 1), (NOON + MINUTE, 2), (NOON + MINUTE + timedelta(seconds=61), 0))
    engaged(NOON + 90 * timedelta(seconds=1), 0, mode="hold", tiers=["vip"])
    hold = engaged(NOON + 2 * MINUTE, 0, mode="hold", until=NOON + 30 * MINUTE)
    take(report(events=(moved(NOON + 3 * MINUTE, 0, 0, generation=9, cause="held"),), seq=2))

    (one,) = found()

    assert told(one) == [(0, 0, 1, "pressed"), (1, 1, 2, "pressed"), (2, 2, 0, "hold_begun")]
    assert one.steps[-1].name == hold.name


def test_order_on_a_host_ends_when_no_worker_has_it_any_more():
    """Nobody tells that it was stood down there."""
    take(report(events=(ordered(),)))
    seen = NOON + 7 * MINUTE
    take(report(ladders=(ladder_state(ids=["emergency-1"]),), seq=2, sent_at=seen), now=seen)

    (under_way,) = found(now=seen + BUCKET)
    (over,) = found()

    assert (under_way.until, under_way.highest) == (None, 6)
    assert told(over)[1][1:] == (6, 0, "order_ended")
    assert over.until == seen + BUCKET
    assert over.steps[0].sentence == "Rung 6 ordered on a host by ada: the console is down"


def test_step_that_several_workers_took_alone_counts_once():
    """Cut off from each other they come to the same, some seconds apart."""
    for number, worker in enumerate(("host-a/gateway-0", "host-b/gateway-0", "host-c/gateway-0")):
        at = NOON + number * timedelta(seconds=2)
        events = (moved(at, 0, 1, generation=1), moved(at + MINUTE, 1, 0, generation=2))
        take(report(events=events, worker=worker))

    (one,) = found()

    assert told(one) == [(0, 0, 1, "pressed"), (1, 1, 0, "eased")]


def test_fleet_that_lost_where_it_stood_ends_the_episode():
    """Its store and all workers were gone: steps are counted from none again, which the readings say."""
    climbs((NOON, 1), (NOON + MINUTE, 2), first=7)
    lost = NOON + 10 * MINUTE
    loads = (surface_load(NOON + MINUTE, level=2, generation=8), surface_load(lost, level=0, generation=0))
    take(report(surface_readings=loads), now=lost)
    take(report(events=(moved(lost + HOUR, 0, 1, generation=1),), boot="b2"))

    after, before = found()

    assert told(before)[-1] == (10, 2, 0, "forgotten")
    assert told(after) == [(70, 0, 1, "pressed")]


def test_fleet_that_goes_on_where_it_stood_has_lost_nothing():
    """Numbers of steps that grow, two workers of which one is behind in the same 10 s, and one that is alone."""
    climbs((NOON, 1), (NOON + MINUTE, 2), first=7)
    loads = [surface_load(NOON + number * MINUTE, level=2, generation=8 + number // 3) for number in range(6)]
    late = surface_load(NOON + 3 * MINUTE, level=2, generation=8)
    alone = surface_load(NOON + 4 * MINUTE, level=0, generation=0, is_alone=True)
    take(report(surface_readings=loads), now=LATER)
    take(report(surface_readings=[late, alone], worker="other"), now=LATER)

    (one,) = found()

    assert [step[-1] for step in told(one)] == ["pressed", "pressed"]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=12))
def test_each_fall_of_the_number_of_steps_is_told_and_nothing_else(numbers):
    """Whatever the readings say, one after the other; those of workers that are alone say nothing of the fleet."""
    SurfaceReading.objects.all().delete()
    loads = [
        surface_load(NOON + place * BUCKET, level=1, generation=number, is_alone=alone)
        for place, (number, alone) in enumerate(numbers)
    ]
    take(report(surface_readings=loads), now=LATER)

    heard = [(NOON + place * BUCKET, number) for place, (number, alone) in enumerate(numbers) if not alone]
    falls = [at for (_, before), (at, number) in pairwise(heard) if number < before]
    lost = [step.at for step in track(SURFACE, since=NOON, until=LATER, now=LATER) if step.cause == FORGOTTEN]
    assert lost == falls


def test_episode_that_began_before_the_range_is_told_whole():
    """Also one that triggers kept up for longer than is looked back otherwise."""
    start = NOON - timedelta(days=10)
    climbs((start, 1), (NOON, 0))

    (one,) = found(since=NOON - HOUR)

    assert (one.since, one.until) == (start, NOON)
    assert found(since=NOON + MINUTE) == []
    assert episode(SURFACE, one.id, now=LATER) == one
    assert episode(SURFACE, one.id + 1, now=LATER) is None


def test_episode_says_whom_it_touched_and_what_it_cost():
    """By rung and tier; waits are of those who got an answer, costs of all, beside those of the hour before."""
    climbs((NOON, 1), (NOON + MINUTE, 2), (NOON + 30 * MINUTE, 0))
    rows = (
        surface_row(NOON - 30 * MINUTE, requests=50),
        surface_row(NOON, rung=1, requests=6, ms=200.0),
        surface_row(NOON + MINUTE, rung=2, requests=3, ms=1000.0),
        surface_row(NOON + MINUTE, rung=2, tier="standard", outcome="later", requests=4, ms=5.0),
        surface_row(NOON + MINUTE, rung=2, outcome="refused", requests=2, cost_micros=0),
        surface_row(NOON + MINUTE, tier="vip", reserved=5, requests=5),
        surface_row(NOON + MINUTE, outcome="job", requests=7),
        surface_row(NOON + 31 * MINUTE, requests=1000),
    )
    take(report(surfaces=rows), now=NOON + HOUR)

    (one,) = found()

    assert one.touched == {1: {"free": 6}, 2: {"standard": 4, "free": 5}}
    assert (one.requests, one.touched_requests, one.refused, one.later) == (20, 15, 2, 4)
    assert one.wait_p50_ms == pytest.approx(200, rel=0.02)
    assert one.wait_p95_ms == pytest.approx(1000, rel=0.02)
    assert (one.cost_micros, one.cost_before_micros) == (300 * (6 + 3 + 4 + 5 + 7), 300 * 50)
    assert one.cost_per_hour_micros == 2 * one.cost_micros
    assert one.to_json()["touched"] == {"1": {"free": 6}, "2": {"standard": 4, "free": 5}}


def test_only_so_many_episodes_are_told_as_are_asked_for():
    """The newest, each with what its requests came to; of the others nothing is read."""
    climbs(*((NOON + number * HOUR + off * MINUTE, 1 - off) for number in range(4) for off in (0, 1)))

    told = episodes(SURFACE, since=NOON - HOUR, until=LATER, now=LATER, most=2)

    assert told == found()[:2]
    assert [one.since for one in told] == [NOON + 3 * HOUR, NOON + 2 * HOUR]


def test_queries_do_not_grow_with_what_happened():
    """Seven, for one episode as for many."""
    climbs((NOON, 1), (NOON + MINUTE, 0))
    with CaptureQueriesContext(connection) as few:
        assert len(found()) == 1
    for number in range(1, 20):
        engaged(NOON + number * 10 * MINUTE, 3, until=NOON + number * 10 * MINUTE + MINUTE)

    with CaptureQueriesContext(connection) as many:
        assert len(found()) == 20

    assert len(few) == len(many) == 8


def test_postmortem_is_filled_in_with_what_is_known():
    """The timeline, who was touched, waits and costs, and where the thresholds that pressed come from."""
    climbs((NOON, 1), (NOON + MINUTE, 0))
    engaged(NOON + MINUTE / 2, 3, until=NOON + 5 * MINUTE, reason="a | b\n# not a heading")
    take(report(surfaces=(surface_row(rung=3, requests=8, ms=1500.0), surface_row(requests=2))), now=NOON + HOUR)
    (one,) = found()

    text = postmortem(one, surface=Ladder.parse({SURFACE: surface()})[SURFACE], url="https://console.example")

    assert text.startswith("# Postmortem: Web chat, 2026-03-04\n")
    assert "up to rung 3 (Cheaper model). Triggers engaged it by themselves." in text
    assert "| 2026-03-04 12:00:00 | 0 → 1 | Triggers took the ladder up to rung 1: load, which read 120 |" in text
    assert "Rung 3 engaged by oncall: a \\| b \\# not a heading |" in text
    assert "Of 10 requests, 8 (80 %) were served on a rung." in text
    assert "| 3 Cheaper model | Free | 8 |" in text
    assert "| `triggers.load.enter` | 100 |" in text
    assert all(f"## {title}" in text for title in ("What worked", "What did not work", "Actions"))
    assert "does not have this surface" in postmortem(one, surface=None)
