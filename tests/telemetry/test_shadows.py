"""What shadows report, as the control plane keeps it, folds it, adds it up and forgets it."""

from datetime import timedelta

import orjson
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.accounts.models import Tenant
from controlplane.telemetry.operations import KEEP_BUCKETS
from controlplane.telemetry.reports import MalformedReport, parse_report
from controlplane.telemetry.shadow_minutes import compact_shadows
from controlplane.telemetry.shadow_sums import shadow_sums, shadow_timeline
from controlplane.telemetry.shadows import (
    KEEP_SHADOWS,
    ShadowMinute,
    ShadowRollup,
    ShadowRun,
    ShadowSample,
    ShadowSource,
    forget_shadow_samples,
    record_shadows,
)
from dataplane.shadow.counting import CANDIDATE, NOISE, ShadowCounting, ShadowSeries
from tests.factories import make_tenant
from tests.shadow_rows import CANDIDATE_LANE, DIGEST, NOISE_LANE, POLICY, shadow_row, shadow_sample
from tests.worker_reports import NOON, report

pytestmark = pytest.mark.django_db

SERIES = ShadowSeries(POLICY, DIGEST, "chat", CANDIDATE, CANDIDATE_LANE)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def take(*reports, now=NOON):
    return record_shadows(map(parse_report, map(orjson.dumps, reports)), now=now)


def sums(since=NOON - HOUR, until=NOON + HOUR):
    return shadow_sums(since=since, until=until)


def asked(**range_of_time):
    """How many calls of candidates are known of."""
    return sum(tally.counts["asked"] for series, tally in sums(**range_of_time).items() if series.arm == CANDIDATE)


@pytest.mark.parametrize("together", [True, False])
def test_newest_report_of_a_bucket_is_what_counts(together):
    """Rows are cumulative: delivered twice, late or out of order, they come to the same."""
    reports = [report(shadow=(shadow_row(asked=10 * seq),), seq=seq) for seq in (2, 3, 1, 3)]

    if together:
        take(*reports)
    else:
        for one in reports:
            take(one)

    assert asked() == 30
    assert ShadowRollup.objects.get().seq == 3


def test_a_batch_takes_as_many_statements_whatever_it_holds():
    """The ingest's time must not grow with policies and processes."""
    make_tenant(log_content=True)
    rows = [shadow_row(NOON + timedelta(seconds=10 * number), asked=1) for number in range(30)]
    samples = [shadow_sample(f"req_{number}") for number in range(30)]

    with CaptureQueriesContext(connection) as few:
        take(report(shadow=tuple(rows[:1]), shadow_samples=tuple(samples[:1])))
    with CaptureQueriesContext(connection) as many:
        take(*(report(shadow=tuple(rows), shadow_samples=tuple(samples), worker=f"h/s{n}") for n in range(5)))

    assert len(many) == len(few) <= 8
    with CaptureQueriesContext(connection) as none:
        take(report())
    assert len(none) == 0


def test_sums_hold_all_that_was_counted():
    """Counts, reasons, moments and sketches of every process come together, by series."""
    first = shadow_row(asked=4, failed={"timeout": 1}, rules={"r@1:pass:block": 2}, offered=9)
    second = shadow_row(asked=2, failed={"timeout": 2, "upstream_error": 1}, discarded={"killed": 5})
    take(report(shadow=(first,)), report(shadow=(second, shadow_row(arm=NOISE, asked=3)), worker="host-b/shadow"))

    found = sums()

    assert set(found) == {SERIES, ShadowSeries(POLICY, DIGEST, "chat", NOISE, NOISE_LANE)}
    tally = found[SERIES]
    assert (tally.counts["asked"], tally.counts["offered"], tally.counts["control_cost_micros"]) == (6, 9, 1200)
    assert (dict(tally.failed), dict(tally.discarded)) == ({"timeout": 3, "upstream_error": 1}, {"killed": 5})
    assert dict(tally.rules) == {"r@1:pass:block": 2}
    assert tally.moments["overlap"] == (6, pytest.approx(3.0), pytest.approx(1.56))
    assert tally.latency_ms.count == 6
    assert tally.latency_ms.quantile(0.5) == pytest.approx(100, rel=0.02)


def test_folding_sealing_and_repetition_change_no_sum():
    """However often it is folded, and whatever comes again after it was sealed, every call counts once."""
    row, later = shadow_row(asked=7), shadow_row(NOON + 2 * MINUTE, asked=5)
    take(report(shadow=(row,)), report(shadow=(later,), seq=2))
    before = sums()

    compact_shadows(now=NOON + MINUTE + timedelta(seconds=20))
    assert sums() == before
    take(report(shadow=(shadow_row(asked=8),), seq=3), now=NOON + 2 * MINUTE)
    assert asked() == 13
    long_after = NOON + KEEP_BUCKETS + 10 * MINUTE
    compact_shadows(now=long_after)
    compact_shadows(now=long_after)

    assert ShadowRollup.objects.count() == 1  # of the newest bucket, which more may come for
    assert ShadowMinute.objects.filter(sealed=True).count() == 1
    assert asked() == 13
    take(report(shadow=(shadow_row(asked=8),), seq=3), now=long_after)
    compact_shadows(now=long_after + MINUTE)
    assert asked() == 13


def test_late_bucket_of_a_sealed_minute_still_counts():
    """A process that was cut off for hours tells of its minutes when it is back, beside what others told then."""
    take(report(shadow=(shadow_row(asked=7), shadow_row(NOON + MINUTE, asked=1))))
    long_after = NOON + KEEP_BUCKETS + 10 * MINUTE
    compact_shadows(now=long_after)

    take(report(shadow=(shadow_row(asked=100),), worker="host-b/shadow"), now=long_after)
    assert asked() == 108
    compact_shadows(now=long_after + MINUTE)

    assert asked() == 108


def test_old_and_future_buckets_are_left_out():
    """Where no reader looks, nothing is kept."""
    take(
        report(
            shadow=(
                shadow_row(NOON - KEEP_SHADOWS - MINUTE, asked=1),
                shadow_row(NOON + timedelta(minutes=6), asked=1),
            )
        )
    )

    assert not ShadowRollup.objects.exists()
    assert not ShadowSource.objects.exists()


def test_minutes_are_forgotten_after_their_time():
    """Thirty-five days, as rollups; what ever ran is known for ever."""
    take(report(shadow=(shadow_row(asked=1), shadow_row(NOON + MINUTE, asked=1))))
    compact_shadows(now=NOON + KEEP_BUCKETS + 10 * MINUTE)
    compact_shadows(now=NOON + KEEP_SHADOWS + 10 * MINUTE)
    compact_shadows(now=NOON + KEEP_SHADOWS + 12 * MINUTE)

    assert not ShadowMinute.objects.exists()
    assert ShadowRun.objects.get().first_at == NOON


def test_only_candidates_that_were_asked_ever_ran():
    """An offer alone, and control asked once more, try nobody; the first time stays."""
    take(report(shadow=(shadow_row(lane="", offered=5), shadow_row(arm=NOISE, asked=5))))
    assert not ShadowRun.objects.exists()

    take(report(shadow=(shadow_row(NOON + MINUTE, asked=1),), seq=2))
    take(report(shadow=(shadow_row(NOON - MINUTE, asked=1),), worker="host-b/shadow"))

    assert ShadowRun.objects.get().first_at == NOON - MINUTE


def test_timeline_has_a_step_for_each_time_that_something_was_asked():
    """By arm, oldest first, with a gap where nothing was."""
    for number, minute in enumerate((0, 1, 20), start=1):
        take(report(shadow=(shadow_row(NOON + minute * MINUTE, asked=number),), seq=number), now=NOON + 30 * MINUTE)

    found = shadow_timeline(since=NOON, until=NOON + HOUR, step=10 * MINUTE, policy=POLICY)

    assert [(at, tally.counts["asked"]) for at, tally in found[CANDIDATE]] == [(NOON, 3), (NOON + 20 * MINUTE, 3)]
    assert found[NOISE] == []


def test_words_are_kept_only_where_they_may_be():
    """The compact diff is kept always, the words where the tenant lets them be at the moment they come."""
    make_tenant("acme", log_content=True)
    make_tenant("globex", log_content=False)
    samples = (shadow_sample(), shadow_sample("req_2", tenant="globex"), shadow_sample())

    take(report(shadow_samples=samples))
    take(report(shadow_samples=samples, seq=2))

    found = {sample.tenant: sample for sample in ShadowSample.objects.all()}
    assert set(found) == {"acme", "globex"}
    assert found["acme"].texts["shadow"] == "It left our house on Tuesday."
    assert found["globex"].texts is None
    assert found["globex"].diff["overlap"] == 0.5


def test_samples_are_forgotten_and_lose_their_words():
    """After their days, beyond the newest of a policy, and at once where consent is taken back."""
    make_tenant("acme", log_content=True)
    moments = [NOON - timedelta(days=31), NOON - timedelta(days=2), NOON - timedelta(days=1), NOON]
    take(report(shadow_samples=tuple(shadow_sample(f"req_{n}", at) for n, at in enumerate(moments))))

    assert forget_shadow_samples(now=NOON, keep_days=30, keep_per_policy=2) == 2
    Tenant.objects.update(log_content=False)
    forget_shadow_samples(now=NOON, keep_days=30)

    assert [(one.request_id, one.texts) for one in ShadowSample.objects.newest()] == [("req_3", None), ("req_2", None)]


def test_what_the_data_plane_counts_passes_the_checks():
    """Both planes speak of the same row."""
    counting = ShadowCounting(wall=NOON.timestamp)
    counting.offer(ShadowSeries(POLICY, DIGEST, "chat", CANDIDATE, ""))
    counting.ask(SERIES, input_tokens=1, output_tokens=2, cost_micros=3, failure="timeout")

    take(report(shadow=tuple(counting.drain(NOON.timestamp()))))

    assert (sums()[SERIES].counts["asked"], dict(sums()[SERIES].failed)) == (1, {"timeout": 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"asked": -1},
        {"arm": "control"},
        {"policy": ""},
        {"bucket": int(NOON.timestamp()) + 1},
        {"moments": {}},
        {"rules": {"r": -1}},
        {"latency_ms": {"count": 1}},
    ],
)
def test_malformed_row_is_refused(wrong):
    """Whatever passes fits the tables."""
    with pytest.raises(MalformedReport, match=r"\$\.shadow\[0\]"):
        take(report(shadow=(shadow_row() | wrong,)))


def test_malformed_sample_is_refused():
    """As rows of any other kind."""
    for wrong in ({"texts": {"question": 1}}, {"diff": None}, {"request_id": ""}):
        with pytest.raises(MalformedReport, match=r"\$\.shadow_samples\[0\]"):
            take(report(shadow_samples=(shadow_sample() | wrong,)))


def test_older_worker_reports_no_shadows():
    """During an upgrade both versions report."""
    old = report()
    del old["shadow"], old["shadow_samples"]

    assert take(old) == set()
