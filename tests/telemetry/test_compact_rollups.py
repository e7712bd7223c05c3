from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.telemetry.models import LaneRollup, MinuteRollup, Rollup, Source, WorkerEvent
from controlplane.telemetry.operations import KEEP_BUCKETS, KEEP_MINUTES, compact_rollups, merge_rollups, record_events
from controlplane.telemetry.traffic import fleet_traffic
from tests.worker_reports import NOON, report, rollup

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)
LATER = NOON + MINUTE + timedelta(seconds=15)
AFTER_RETENTION = NOON + KEEP_BUCKETS + 2 * MINUTE


def minutes_total():
    """What minutes count, by series; by lane it is the same, since every request here made one attempt."""
    total = sum(MinuteRollup.objects.values_list("requests", flat=True))
    lanes = LaneRollup.objects.values_list("attempts", "latency_ms__count")
    assert [sum(column) for column in zip((0, 0), *lanes, strict=True)] == [total, total]
    return total


def test_a_closed_minute_becomes_one_row_per_series():
    """Workers and buckets disappear into the fleet's minute; its sketch is the merge of theirs."""
    merge_rollups(
        [
            report(rollup(NOON, latencies=(10.0, 20.0), requests=2), worker="a"),
            report(rollup(NOON + timedelta(seconds=50), latencies=(30.0,)), worker="b"),
        ],
        now=NOON,
    )

    done = compact_rollups(now=LATER)

    row = MinuteRollup.objects.get()
    assert done.folded_minutes == 1
    assert (row.requests, row.latency_ms["count"], row.latency_ms["max"]) == (3, 3, 30.0)


def test_a_minute_under_way_is_left_alone():
    """Its workers still have something to say."""
    merge_rollups([report(rollup(NOON))], now=NOON)

    compact_rollups(now=NOON + MINUTE + timedelta(seconds=5))

    assert not MinuteRollup.objects.exists()


def test_a_second_run_finds_nothing_to_do():
    """Compaction is idempotent."""
    merge_rollups([report(rollup(NOON))], now=NOON)
    compact_rollups(now=LATER)

    again = compact_rollups(now=LATER)

    assert again.folded_minutes == 0
    assert minutes_total() == 1


def test_a_late_arrival_is_folded_into_its_minute():
    """A worker that was cut off delivers its minute afterwards; the minute is computed again, not added to."""
    merge_rollups([report(rollup(NOON, requests=5), worker="a"), report(rollup(NOON), worker="b")], now=NOON)
    compact_rollups(now=LATER)
    merge_rollups([report(rollup(NOON, requests=9), worker="a", seq=2)], now=LATER)

    compact_rollups(now=LATER)

    assert minutes_total() == 10


def sealed_minute():
    """A minute of two workers, both of which have gone on since; its 10 s rows are past their retention."""
    for worker in ("a", "b"):
        merge_rollups([report(rollup(NOON, requests=5), worker=worker)], now=NOON)
        merge_rollups([report(rollup(NOON + MINUTE, requests=1), worker=worker, seq=2)], now=NOON + MINUTE)
    compact_rollups(now=AFTER_RETENTION)


def test_old_rows_are_deleted_and_their_minute_stays():
    """After two hours the 10 s rows are gone; only the newest bucket of each boot stays, since it may not be final."""
    sealed_minute()

    assert sorted(Rollup.objects.values_list("bucket_at", "worker")) == [(NOON + MINUTE, "a"), (NOON + MINUTE, "b")]
    assert minutes_total() == 12


def test_a_repetition_of_what_was_deleted_changes_nothing():
    """A spool that resends hours-old batches does not count them twice."""
    sealed_minute()

    merge_rollups([report(rollup(NOON, requests=5), worker="a")], now=AFTER_RETENTION)
    compact_rollups(now=AFTER_RETENTION)

    assert minutes_total() == 12


def test_another_workers_arrival_after_the_deletion_adds_up():
    """A worker that was cut off for hours still brings its share of a minute whose other rows are gone."""
    sealed_minute()

    merge_rollups([report(rollup(NOON, requests=7), worker="c")], now=AFTER_RETENTION)
    compact_rollups(now=AFTER_RETENTION)

    assert minutes_total() == 19


def test_a_bucket_cut_in_half_by_an_outage_is_completed_hours_later():
    """The first half arrived, the rest was spooled for three hours: the bucket's final word replaces its first."""
    merge_rollups([report(rollup(NOON, requests=50), worker="a", seq=5)], now=NOON)
    compact_rollups(now=NOON + timedelta(hours=3))

    merge_rollups([report(rollup(NOON, requests=100), worker="a", seq=6)], now=NOON + timedelta(hours=3))
    compact_rollups(now=NOON + timedelta(hours=3))

    assert minutes_total() == 100


def test_minutes_and_events_past_their_retention_are_deleted():
    """Nothing grows for ever."""
    sealed_minute()
    record_events([report(events=({"at": NOON.timestamp(), "kind": "reports.delayed", "data": {}},))])

    for _ in range(2):
        compact_rollups(now=NOON + KEEP_MINUTES + timedelta(hours=3))

    assert not Rollup.objects.exists()
    assert not MinuteRollup.objects.exists()
    assert not LaneRollup.objects.exists()
    assert not WorkerEvent.objects.exists()
    assert not Source.objects.exists()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_whatever_is_repeated_late_or_compacted_between_every_request_counts_once(data):
    """Workers deliver in order, with repetitions, over hours, compaction in between: nothing is lost or doubled."""
    for model in (Rollup, MinuteRollup, LaneRollup, Source):
        model.objects.all().delete()
    scripts = {
        worker: [
            report(rollup(NOON + timedelta(seconds=10 * (n // 2)), requests=n + 1), worker=worker, seq=n + 1)
            for n in range(4)
        ]
        for worker in ("a", "b")
    }
    delivered = {"a": 0, "b": 0}
    now = NOON + timedelta(seconds=30)
    for _ in range(data.draw(st.integers(1, 12))):
        act = data.draw(st.sampled_from(["deliver a", "deliver b", "repeat a", "repeat b", "compact", "wait"]))
        worker = act[-1]
        if act.startswith("deliver"):
            merge_rollups(scripts[worker][delivered[worker] : delivered[worker] + 1], now=now)
            delivered[worker] = min(delivered[worker] + 1, 4)
        elif act.startswith("repeat") and delivered[worker]:
            merge_rollups([scripts[worker][data.draw(st.integers(0, delivered[worker] - 1))]], now=now)
        elif act == "compact":
            compact_rollups(now=now)
        else:
            now += data.draw(st.sampled_from([MINUTE, KEEP_BUCKETS + MINUTE]))
    now += 2 * MINUTE

    compact_rollups(now=now)

    # Each pair of reports is one bucket, of which the last one delivered counts.
    expected = sum(
        scripts[worker][index]["rollups"][0]["requests"]
        for worker, count in delivered.items()
        for index in range(count)
        if index % 2 == 1 or index == count - 1
    )
    assert minutes_total() == expected
    total = fleet_traffic(since=NOON, until=now, step=MINUTE).arms["fleet"].totals["requests"]
    assert total.n == expected
