from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.telemetry.models import COUNTS, SERIES, SKETCHES, Rollup, Source, WorkerEvent
from controlplane.telemetry.operations import merge_rollups, record_events
from tests.worker_reports import NOON, report, rollup

pytestmark = pytest.mark.django_db


def stored():
    columns = ("bucket_at", "worker", "boot", *SERIES, "seq", *COUNTS, *SKETCHES)
    return sorted(map(repr, Rollup.objects.values_list(*columns)))


def history(workers=2, seconds=4):
    """What two workers say over some seconds: cumulative in a bucket, two series, a new bucket in the middle."""
    return [
        report(
            rollup(NOON + timedelta(seconds=10 * (second // 2)), requests=second + 1, cohort=cohort),
            worker=f"host-a/gateway-{worker}",
            seq=second + 1,
        )
        for worker in range(workers)
        for second in range(seconds)
        for cohort in ("canary",)
    ]


def test_a_newer_report_of_a_bucket_replaces_the_older_one():
    """Rollups are cumulative: what counts is the last word of the worker on that bucket."""
    merge_rollups([report(rollup(requests=3), seq=1)], now=NOON)
    merge_rollups([report(rollup(requests=8), seq=2)], now=NOON)

    row = Rollup.objects.get()

    assert (row.requests, row.seq, row.latency_ms["count"]) == (8, 2, 8)


def test_an_older_report_that_comes_late_changes_nothing():
    """A report that overtook another one wins, in one batch and across batches."""
    merge_rollups([report(rollup(requests=8), seq=2), report(rollup(requests=3), seq=1)], now=NOON)
    merge_rollups([report(rollup(requests=3), seq=1)], now=NOON)

    assert Rollup.objects.get().requests == 8


def test_two_boots_of_a_worker_are_told_apart():
    """A worker that restarted within a bucket starts at zero; the counts of both lives add up."""
    merge_rollups(
        [report(rollup(requests=5), boot="b1", seq=90), report(rollup(requests=2), boot="b2", seq=1)], now=NOON
    )

    assert sorted(Rollup.objects.values_list("requests", flat=True)) == [2, 5]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_order_and_any_repetition_gives_the_same_table(data):
    """However often, late or shuffled reports are delivered, and however they are batched, the table is the same."""
    reports = history()
    Rollup.objects.all().delete()
    Source.objects.all().delete()
    merge_rollups(reports, now=NOON)
    expected = stored()
    Rollup.objects.all().delete()
    Source.objects.all().delete()
    extra = data.draw(st.lists(st.sampled_from(range(len(reports))), max_size=8))
    order = data.draw(st.permutations([*range(len(reports)), *extra]))
    size = data.draw(st.integers(1, len(order)))

    for start in range(0, len(order), size):
        merge_rollups([reports[index] for index in order[start : start + size]], now=NOON)

    assert stored() == expected


def test_the_number_of_statements_does_not_depend_on_the_number_of_rows():
    """A hundred workers cost as many statements as one."""
    with CaptureQueriesContext(
        connection,
    ) as one:
        merge_rollups([report(rollup())], now=NOON)
    many = [report(*(rollup(tier=tier) for tier in ("vip", "standard", "free")), worker=f"w{n}") for n in range(100)]

    with CaptureQueriesContext(connection) as hundred:
        merge_rollups(many, now=NOON)

    assert len(hundred) == len(one)
    assert Rollup.objects.count() == 301


def test_a_clock_that_runs_ahead_is_named_and_left_out():
    """A bucket of the future would hide where no reader looks; its worker is reported instead."""
    merged = merge_rollups([report(rollup(NOON + timedelta(minutes=6))), report(rollup(), worker="b", seq=2)], now=NOON)

    assert merged.clock_ahead == {"host-a/gateway-0"}
    assert Rollup.objects.get().worker == "b"


def test_what_was_touched_is_told_by_canary():
    """Pages are told of the canaries whose series changed, and from which bucket on."""
    earlier = NOON - timedelta(minutes=3)

    merged = merge_rollups([report(rollup(NOON), rollup(earlier), rollup(NOON, canary="other"))], now=NOON)

    assert merged.canaries == {"support-answer-v13": earlier, "other": NOON}
    assert merged.since == earlier


def test_an_event_is_kept_once():
    """Reports are delivered at least once; a timeline shows what happened once."""
    batch = [report(events=({"at": NOON.timestamp(), "kind": "reports.dropped", "data": {"batches": 2, "bytes": 9}},))]

    record_events(batch)
    record_events(batch)

    assert WorkerEvent.objects.get().data == {"batches": 2, "bytes": 9}
