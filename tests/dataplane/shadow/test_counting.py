"""What is counted of shadows: cumulative rows that grow with lanes and time, and how they are shipped."""

from __future__ import annotations

import json

import pytest

from dataplane.reports import ReportShipper
from dataplane.settings import ReportSettings
from dataplane.shadow.compare import Side, compare
from dataplane.shadow.counting import COUNTS, MAX_RULES, MOMENTS, ShadowCounting, ShadowSeries
from dataplane.shadow.offers import Given
from dataplane.sketches import Sketch

SERIES = ShadowSeries("trial", "d" * 64, "chat", "candidate", "lane")


@pytest.fixture
def counting(clock):
    return ShadowCounting(wall=clock)


def found(control="a b", shadow="a b c d", *, cost=(10, 20), latency=(100.0, 400.0)):
    """A comparison of two answers."""
    sides = [
        Side(Given("lane", text, (), "stop", False, micros, ms))
        for text, micros, ms in zip((control, shadow), cost, latency, strict=True)
    ]
    return compare(*sides)


def test_totals_of_the_process_grow_and_are_never_drained(counting, clock):
    """By policy alone; who discards everything has offered nothing, and says so."""
    counting.ask(SERIES, input_tokens=1, output_tokens=1, cost_micros=1, failure="")
    counting.ask(SERIES, input_tokens=1, output_tokens=0, cost_micros=0, failure="upstream_timeout")
    counting.drain(clock())
    counting.discard(SERIES, "queue_full")
    counting.discard(SERIES, "queue_full")
    silent = dict(counting.offered_by_policy)

    counting.offer(SERIES)

    assert (silent, counting.offered_by_policy) == ({"trial": 0}, {"trial": 1})
    assert counting.discarded_by_reason == {("trial", "queue_full"): 2}
    assert counting.calls_by_outcome == {("trial", "ok"): 1, ("trial", "upstream_timeout"): 1}


def test_row_has_every_count_and_adds_up(counting, clock):
    """Sums and sums of squares, so that means and their error can be worked out from all rows together."""
    for _ in range(2):
        counting.ask(SERIES, input_tokens=30, output_tokens=5, cost_micros=20, failure="")
        counting.compare(SERIES, found())
    counting.ask(SERIES, input_tokens=30, output_tokens=0, cost_micros=0, failure="upstream_timeout")
    counting.discard(SERIES, "residency")
    counting.offer(SERIES)

    (row,) = counting.drain(clock())

    assert {*COUNTS, *SERIES._fields, "bucket", "discarded", "failed", "rules", "moments"} <= row.keys()
    assert (row["asked"], row["answered"], row["offered"]) == (3, 2, 1)
    assert (row["input_tokens"], row["cost_micros"], row["control_cost_micros"]) == (90, 40, 20)
    assert (row["failed"], row["discarded"]) == ({"upstream_timeout": 1}, {"residency": 1})
    assert row["moments"].keys() == set(MOMENTS)
    assert row["moments"]["log2_length"] == [2, 2.0, 2.0]
    assert row["moments"]["log2_latency"] == [2, 4.0, 8.0]
    assert row["moments"]["overlap"] == [2, pytest.approx(4 / 3, abs=1e-5), pytest.approx(8 / 9, abs=1e-5)]
    assert row["moments"]["citations"] == [0, 0.0, 0.0]
    assert Sketch.from_json(row["latency_ms"]).max == 400
    assert Sketch.from_json(row["control_latency_ms"]).max == 100


def test_rows_are_cumulative_for_their_bucket_and_told_when_they_change(counting, clock):
    """One that is told twice says the same or more, and a bucket that is over is never begun again."""
    counting.offer(SERIES)
    first = counting.drain(clock())
    again = counting.drain(clock())
    counting.offer(SERIES)
    more = counting.drain(clock())

    clock.advance(10)
    counting.offer(SERIES)
    later = counting.drain(clock())
    clock.advance(-10)
    counting.offer(SERIES)
    set_back = counting.drain(clock())

    assert [row["offered"] for row in (*first, *again, *more)] == [1, 2]
    assert [(row["bucket"] - first[0]["bucket"], row["offered"]) for row in (*later, *set_back)] == [(10, 1), (10, 2)]


def test_rules_of_a_row_are_bounded(counting, clock):
    """However many rules a route is given, one row does not grow with them for ever."""
    for number in range(MAX_RULES + 50):
        one = found()
        object.__setattr__(one, "rules", ((f"rule-{number}@1", "pass", "block"),))
        counting.compare(SERIES, one)

    (row,) = counting.drain(clock())

    assert len(row["rules"]) == MAX_RULES


class Sink:
    """Keeps what is sent."""

    def __init__(self):
        self.batches = []

    async def send(self, batches, *, urgent=False):
        self.batches += [json.loads(batch) for batch in batches]

    async def close(self):
        pass


async def test_rows_and_samples_are_shipped(counting, clock, tmp_path):
    """Each in batches of its own kind, from a worker of the kind `shadow`."""
    settings = ReportSettings(redis_url=None, spool_dir=tmp_path, interval_seconds=3600)
    sink = Sink()
    shipper = ReportShipper(
        worker="host/shadow", kind="shadow", host="host", settings=settings, shadows=counting, sink=sink, wall=clock
    )
    await shipper.start()
    counting.offer(SERIES)
    shipper.add_shadow_sample({"request_id": "req_1"})

    await shipper.flush()
    await shipper.stop()

    rows = [row for batch in sink.batches for row in batch["shadow"]]
    samples = [row for batch in sink.batches for row in batch["shadow_samples"]]
    assert [(row["policy"], row["offered"]) for row in rows] == [("trial", 1)]
    assert samples == [{"request_id": "req_1"}]
    assert {batch["state"]["kind"] for batch in sink.batches} == {"shadow"}
