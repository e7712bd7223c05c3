"""What is counted of surfaces: what became of requests, and how loaded the fleet was, each in rows of 10 seconds."""

from __future__ import annotations

import json

import pytest

from dataplane.ladder.activations import Engaged
from dataplane.ladder.counting import COUNTS, OUTCOMES, SKETCHES, VALUES, SurfaceCounting, outcome_of
from dataplane.ladder.desk import Stand
from dataplane.ladder.policy import Ladder
from dataplane.ladder.signals import Told
from dataplane.reports import ReportShipper
from dataplane.settings import ReportSettings
from dataplane.sketches import Sketch
from tests.ladders import surface

SURFACE = Ladder.parse({"web-chat": surface()})["web-chat"]


@pytest.fixture
def counting(clock):
    return SurfaceCounting(region="eu-west", wall=clock)


def stand(rung=0, **changes):
    return Stand(
        **({"surface": SURFACE, "tier": "free", "rung": rung, "engaged": Engaged(rung), "is_reserved": False} | changes)
    )


def told(attempts=0, failures=0, **changes):
    nothing = {"in_flight": {}, "queue_age_seconds": 0.0, "quota_utilisation": None, "breakers_open_share": None}
    return Told(**(nothing | {"windows": {}, "gauges": {}, "attempts": attempts, "failures": failures} | changes))


def see(counting, tellings, **changes):
    """One turn of a fleet whose leader this worker is."""
    told = {"counted": tellings, "level": 0, "generation": 0, "leads": True, "is_alone": False}
    counting.see("web-chat", tellings, **(told | changes))


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, "answered"),
        ({"is_copy": True, "is_asked": False}, "copy"),
        ({"result": "error", "code": "shed", "is_asked": False}, "refused"),
        ({"result": "error", "code": "maintenance", "is_asked": False}, "refused"),
        ({"result": "error", "code": "quota_exhausted"}, "refused"),
        ({"result": "error", "code": "upstream_timeout"}, "failed"),
        ({"result": "rejected", "code": "invalid_request"}, "rejected"),
        ({"result": "cancelled", "code": "cancelled"}, "cancelled"),
    ],
)
def test_each_request_comes_to_one_outcome(facts, expected):
    """By how it ended; what a ladder or a quota refuses on purpose is no failure."""
    facts = {"result": "ok", "code": "ok", "is_copy": False, "is_asked": True} | facts

    assert outcome_of(stand(3), **facts) == expected


def test_promise_is_told_from_an_answer_and_a_runner_from_a_caller():
    """On rung 4 nobody asks a lane, but for embeddings; what a runner asks was counted when it was put off."""
    facts = {"result": "ok", "code": "ok", "is_copy": False}

    assert outcome_of(stand(4), is_asked=False, **facts) == "later"
    assert outcome_of(stand(4), is_asked=False, **(facts | {"is_copy": True})) == "later"
    assert outcome_of(stand(4), is_asked=True, **facts) == "answered"
    assert outcome_of(stand(0, is_job=True), is_asked=True, **facts) == "job"


def test_row_adds_up_what_one_series_counted(counting, clock):
    """Requests by surface, region, tier, rung and outcome, with what they cost and how long they took."""
    counting.record(stand(3), "answered", cost_micros=20, latency_ms=100.0, queued_ms=None)
    counting.record(stand(3), "answered", cost_micros=30, latency_ms=300.0, queued_ms=50.0)
    counting.record(stand(tier="vip", is_reserved=True), "answered", cost_micros=90, latency_ms=900.0, queued_ms=None)

    degraded, reserved = counting.drain(clock())

    assert {name: degraded[name] for name in ("surface", "region", "tier", "rung", "outcome")} == {
        "surface": "web-chat",
        "region": "eu-west",
        "tier": "free",
        "rung": 3,
        "outcome": "answered",
    }
    assert [degraded[name] for name in COUNTS] == [2, 0, 50]
    assert [Sketch.from_json(degraded[name]).count for name in SKETCHES] == [2, 1]
    assert (reserved["rung"], reserved["requests"], reserved["reserved"]) == (0, 1, 1)
    assert degraded["bucket"] % 10 == 0


def test_only_what_changed_is_told_again_and_a_closed_bucket_never(counting, clock):
    """A bucket that began at zero again would replace what was told of it."""
    counting.record(stand(), "answered", cost_micros=1, latency_ms=1.0, queued_ms=None)
    (first,) = counting.drain(clock())
    assert counting.drain(clock()) == []

    counting.record(stand(), "answered", cost_micros=1, latency_ms=1.0, queued_ms=None)
    (again,) = counting.drain(clock())
    clock.advance(10)
    counting.record(stand(), "answered", cost_micros=1, latency_ms=1.0, queued_ms=None)
    (later,) = counting.drain(clock())

    assert (first["requests"], again["requests"], later["requests"]) == (1, 2, 1)
    assert (again["bucket"], later["bucket"]) == (first["bucket"], first["bucket"] + 10)


def test_load_is_the_highest_of_what_the_fleet_read_and_counts_attempts_once(counting, clock):
    """What is under way adds up over workers, ages and shares do not, and attempts are what grew since a turn ago."""
    busy = told(100, 5, in_flight={"free": 30}, queue_age_seconds=2.0, gauges={"gpu": 0.5}, requests_per_second=4.0)
    calm = told(40, 0, in_flight={"vip": 12}, quota_utilisation=0.3)

    see(counting, {"a": busy, "b": calm})
    see(counting, {"a": told(110, 6), "b": told(41, 0), "c": told(7, 7)}, level=2, generation=5)
    see(counting, {"a": told(111, 6), "c": told(9, 8)}, level=1, generation=6)

    (load,) = counting.drain_loads(clock())
    assert (load["surface"], load["level"], load["generation"], load["is_alone"]) == ("web-chat", 2, 6, False)
    assert load["values"] == {
        "in_flight": 42.0,
        "requests_per_second": 4.0,
        "backlog_age_seconds": None,
        "queue_age_seconds": 2.0,
        "quota_utilisation": 0.3,
        "breakers_open_share": None,
        "gauges": {"gpu": 0.5},
        "attempts": 14,
        "failures": 2,
    }
    assert load["values"].keys() == {*VALUES, "gauges", "attempts", "failures"}


def test_who_does_not_lead_tells_nothing_and_goes_on_where_the_leader_was(counting, clock):
    """Else a load would be told as often as there are workers; its first turn as leader counts only what is new."""
    see(counting, {"a": told(100)}, leads=False)
    assert counting.drain_loads(clock()) == []

    see(counting, {"a": told(103)})

    (load,) = counting.drain_loads(clock())
    assert load["values"]["attempts"] == 3


def test_worker_that_was_not_heard_is_not_counted_when_it_is_back(counting, clock):
    """What it tried meanwhile, it told of itself."""
    see(counting, {"a": told(10), "b": told(10)})
    see(counting, {"a": told(11), "b": told(11)}, counted={"a": told(11)}, is_alone=True)

    see(counting, {"a": told(12), "b": told(500)})

    (load,) = counting.drain_loads(clock())
    assert (load["values"]["attempts"], load["is_alone"]) == (2, True)


async def test_rows_and_loads_are_shipped_in_batches(counting, clock, tmp_path):
    """With the other reports of the worker."""
    sent = []

    class Sink:
        async def send(self, batches, *, urgent=False):
            sent.extend(map(json.loads, batches))

        async def close(self):
            pass

    settings = ReportSettings(redis_url=None, spool_dir=tmp_path, interval_seconds=3600)
    shipper = ReportShipper(worker="h/gateway-0", kind="gateway", host="h", settings=settings, sink=Sink(), wall=clock)
    shipper.surfaces = counting
    counting.record(stand(), "answered", cost_micros=1, latency_ms=1.0, queued_ms=None)
    see(counting, {"a": told()})
    await shipper.start()
    await shipper.flush()
    await shipper.stop()

    told_of = [batch for batch in sent if batch["surfaces"]]
    assert [len(batch["surface_readings"]) for batch in told_of] == [1]
    assert {row["outcome"] for row in told_of[0]["surfaces"]} <= set(OUTCOMES)
