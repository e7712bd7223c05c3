"""How much of the time rungs were on, to the minute, and what that says."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.telemetry.ladder_capacity import capacity, capacity_rows, spoken, verdict_of
from controlplane.telemetry.surface_told import keep_told
from tests.telemetry.ladder_history import HOUR, MINUTE, SURFACE, climbs, engaged, take
from tests.worker_reports import NOON, report, surface_row

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)


def tell(since, until):
    """That somebody told of the surface in each minute of the range."""
    keep_told((SURFACE, since + number * MINUTE) for number in range(int((until - since) / MINUTE)))


def test_each_rung_has_its_share_of_the_time():
    """A rung is on also below a higher one; the sentence names the one that says most."""
    tell(NOON - 30 * DAY, NOON)
    start = NOON - 10 * DAY
    climbs((start, 1), (start + HOUR, 4), (start + 23 * HOUR + 19 * MINUTE, 1), (start + 24 * HOUR, 0))

    with CaptureQueriesContext(connection) as asked:
        found = capacity(SURFACE, now=NOON)

    assert len(asked) == 7
    uses = {one.rung: one for one in found.rungs}
    assert (uses[4].seconds, uses[4].on_seconds) == (80_340.0, 80_340.0)
    assert uses[4].share == 80_340 / (30 * 86_400)
    assert (uses[1].seconds, uses[1].on_seconds, uses[5].on_seconds) == (6_060.0, 86_400.0, 0.0)
    assert [uses[rung].verdict for rung in (1, 4, 5)] == ["undersized", "undersized", "fits"]
    assert found.sentence == ("Rung 4 was on 3.1 % of the last 30 days (22 h 19 min): the architecture is undersized.")
    assert (found.verdict, found.untold_seconds) == ("undersized", 0.0)


def test_rush_in_the_first_hour_says_nothing_of_what_is_needed():
    """Its share is told, and not held against anybody before half a day is known."""
    tell(NOON - HOUR, NOON)
    climbs((NOON - HOUR, 4), (NOON - 30 * MINUTE, 0))

    found = capacity(SURFACE, now=NOON)

    assert found.verdict == "unknown"
    assert found.sentence.startswith("Rung 4 was on 50.0 % of the 1 h 0 min that were told of in the last 30 days")
    assert "less than half a day says nothing about what is needed" in found.sentence


def test_what_nobody_told_of_is_named_and_counts_for_nothing():
    """A share is of what is known: a rung that stood while no worker reported is in neither part of it."""
    tell(NOON - 10 * DAY, NOON)
    engaged(NOON - 10 * DAY - 5 * MINUTE, 2, until=NOON - 10 * DAY + 10 * MINUTE)

    found = capacity(SURFACE, now=NOON)

    assert (found.told_seconds, found.untold_seconds) == (10 * 86_400.0, 20 * 86_400.0)
    assert {one.rung: one.on_seconds for one in found.rungs}[2] == 600.0
    assert found.sentence == (
        "Rung 2 was on under 0.1 % of the 10 d 0 h that were told of in the last 30 days (10 min): "
        "the architecture fits. Of 20 d 0 h nobody told anything."
    )
    assert capacity("elsewhere", now=NOON).sentence == "Nobody told of this surface in the last 30 days."
    assert capacity("elsewhere", now=NOON).verdict == "unknown"


def test_nothing_that_was_on_fits():
    """The sentence says so."""
    tell(NOON - DAY, NOON)

    assert capacity(SURFACE, days=1, now=NOON).sentence == "No rung was on in the last 1 days: the architecture fits."


def test_requests_triggers_and_the_worst_hour():
    """How many were served on each rung; how often each trigger pressed, and for how long it then stood up."""
    tell(NOON - DAY, NOON)
    start = NOON - 5 * HOUR
    climbs((start, 1), (start + 30 * MINUTE, 0))
    climbs((start + HOUR, 1), (start + HOUR + 10 * MINUTE, 2), (start + 2 * HOUR, 0), first=3, trigger="queue")
    rows = (
        surface_row(start, rung=1, requests=30),
        surface_row(start + HOUR, rung=2, requests=60),
        surface_row(start + HOUR, requests=110),
        surface_row(start + HOUR, outcome="job", requests=500),
    )
    take(report(surfaces=rows))

    found = capacity(SURFACE, days=1, now=NOON)

    assert {one.rung: (one.requests, one.request_share) for one in found.rungs if one.requests} == {
        1: (30, 0.15),
        2: (60, 0.3),
    }
    assert [(one.slug, one.presses, one.seconds) for one in found.triggers] == [
        ("queue", 2, 3600.0),
        ("load", 1, 1800.0),
    ]
    assert (found.worst.at, found.worst.requests, found.worst.touched) == (start + HOUR, 170, 60)
    head, first, second, *_ = capacity_rows(found)
    assert dict(zip(head, second, strict=True)) | {"since": "", "until": ""} == {
        "surface": SURFACE,
        "since": "",
        "until": "",
        "rung": 2,
        "name": "No tools",
        "on seconds": 3000.0,
        "share of time": 0.034722,
        "requests": 60,
        "share of requests": 0.3,
    }
    assert (first[3], len(capacity_rows(found))) == (1, 7)
    assert found.to_json()["worst"]["touched"] == 60


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(0.0, "fits"), (0.000_999, "fits"), (0.001, "tight"), (0.009_99, "tight"), (0.01, "undersized")],
)
def test_verdict_has_stated_thresholds(share, verdict):
    """Below one in a thousand it fits, below one in a hundred it is tight."""
    assert verdict_of(share) == verdict


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(40, "40 s"), (60, "1 min"), (80_340, "22 h 19 min"), (172_740, "47 h 59 min"), (273_600, "3 d 4 h")],
)
def test_length_of_time_is_said_as_people_do(seconds, words):
    """To the minute, and from two days on to the hour."""
    assert spoken(seconds) == words
