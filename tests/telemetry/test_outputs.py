"""What became of checks of answers: taken in, kept while the past is made small, read for pages, and told to them."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.telemetry.models import MinuteRollup, Rollup, Source
from controlplane.telemetry.operations import KEEP_BUCKETS, compact_rollups, merge_rollups
from controlplane.telemetry.outcomes import REPAIR, OutcomeRollup, OutcomeStanding, OutcomeTotal, OutcomeWindow
from controlplane.telemetry.outputs import Key, Place, read_outputs, read_places
from dataplane.aggregation import output_key
from tests.worker_reports import NOON, report, rollup

pytestmark = pytest.mark.django_db

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
AFTER_RETENTION = NOON + KEEP_BUCKETS + 2 * MINUTE
STRICT = Key("none", "r0_strict", "lossless")
FENCED = Key("fenced", "r1_extract", "lossless")
FAILED = Key("missing_field", "r7_failed", "")
AZURE = "azure/eu-west/eu/gpt-4o"
HERE = Place("support-answer", 12, "openai/eu-west/main/gpt-4o")


def repairs(**numbers):
    """The outputs of a rollup: how many of STRICT, FENCED and FAILED."""
    keys = {"strict": STRICT, "fenced": FENCED, "failed": FAILED}
    return {
        output_key(REPAIR, key.name, key.outcome, key.label): numbers[name]
        for name, key in keys.items()
        if name in numbers
    }


def read(since=NOON, until=NOON + 2 * MINUTE, **asked):
    return read_outputs(REPAIR, since=since, until=until, **asked)


def places(since=NOON, until=NOON + 2 * MINUTE, limit=50, **asked):
    return read_places(REPAIR, since=since, until=until, limit=limit, **asked)


def test_last_word_of_a_worker_on_a_bucket_replaces_what_it_said_before():
    """Outcomes are cumulative in their bucket like every count: twice, late or out of order gives the same."""
    first = report(rollup(outputs=repairs(strict=3)), seq=1)
    second = report(rollup(outputs=repairs(strict=8, fenced=1)), seq=2)

    merged = [merge_rollups(batch, now=NOON) for batch in ([first], [second, first], [second], [first])]

    assert Rollup.objects.get().outputs == repairs(strict=8, fenced=1)
    assert all(one.has_outputs for one in merged)
    assert not merge_rollups([report(rollup(lane="x"))], now=NOON).has_outputs


def test_outcomes_are_read_over_time_and_by_place():
    """The same counts twice: by the moment of a chart, and by prompt version and lane; no other system is in them."""
    validator = {output_key("validator", "no-cards@3", "block"): 9, "repair:odd": 5}
    merge_rollups(
        [
            report(
                rollup(NOON, outputs=repairs(strict=5, fenced=2) | validator),
                rollup(NOON, outputs=repairs(strict=1), cohort="canary"),
                rollup(NOON + 20 * SECOND, outputs=repairs(failed=1), lane=AZURE, version=13),
                rollup(NOON + 20 * SECOND, outputs=repairs(failed=1), prompt="", version=0),
                worker="a",
            ),
            report(rollup(NOON, outputs=repairs(strict=10)), worker="b"),
        ],
        now=NOON,
    )

    found = read(until=NOON + 30 * SECOND)

    assert found.times == (NOON, NOON + 10 * SECOND, NOON + 20 * SECOND)
    assert found.points == ({STRICT: 16, FENCED: 2}, {}, {FAILED: 2})
    assert list(places(until=NOON + 30 * SECOND).items()) == [
        (Place("", 0, HERE.lane), {FAILED: 1}),
        (HERE, {STRICT: 16, FENCED: 2}),
        (Place("support-answer", 13, AZURE), {FAILED: 1}),
    ]
    assert found.total == {STRICT: 16, FENCED: 2, FAILED: 2}
    assert read_outputs("validator", since=NOON, until=NOON + MINUTE).total == {Key("no-cards@3", "block", ""): 9}


def test_outcomes_are_read_of_one_prompt_and_one_lane():
    """Over time and by place alike."""
    merge_rollups(
        [
            report(
                rollup(outputs=repairs(strict=5)),
                rollup(outputs=repairs(strict=7), lane=AZURE),
                rollup(outputs=repairs(strict=9), prompt="refund-policy"),
            )
        ],
        now=NOON,
    )

    assert read(prompt="refund-policy").total == {STRICT: 9}
    assert read(lane=AZURE).points[0] == {STRICT: 7}
    assert read(prompt="support-answer").total == {STRICT: 12}
    assert list(places(prompt="support-answer")) == [HERE._replace(lane=AZURE), HERE]
    assert not places(prompt="refund-policy", lane=AZURE)


def test_minutes_and_hours_are_read_from_what_was_folded_and_what_was_not_yet():
    """Each row counts once, wherever it stands by now."""
    merge_rollups([report(rollup(NOON + at * MINUTE, outputs=repairs(strict=1))) for at in range(3)], now=NOON)
    compact_rollups(now=NOON + 2 * MINUTE + 15 * SECOND)
    assert MinuteRollup.objects.count() == 2

    found = read(until=NOON + 3 * MINUTE, step=MINUTE)

    assert found.points == ({STRICT: 1}, {STRICT: 1}, {STRICT: 1})
    assert read(until=NOON + 3 * MINUTE, step=60 * MINUTE).points == ({STRICT: 3},)


def test_reading_takes_one_query_whatever_was_counted(django_assert_num_queries):
    """However long the range, and however many lanes and versions there are."""
    many = [rollup(lane=f"lane-{at}", version=at, outputs=repairs(strict=1, failed=at)) for at in range(40)]
    merge_rollups([report(*many)], now=NOON)

    for narrow in ({}, {"prompt": "support-answer"}, {"lane": "lane-1"}):
        with django_assert_num_queries(1):
            read(until=NOON + timedelta(days=31), **narrow)
    with django_assert_num_queries(1):
        assert len(places(until=NOON + timedelta(days=31))) == 40


def test_places_are_read_in_pages_and_each_is_in_one_of_them():
    """Those of folded minutes and those of fresh rows, in one order; a page goes on behind the last place."""
    spread = [rollup(NOON + at % 3 * MINUTE, lane=f"l-{at}", outputs=repairs(strict=at + 1)) for at in range(9)]
    merge_rollups([report(*spread)], now=NOON)
    compact_rollups(now=NOON + MINUTE + 15 * SECOND)
    since, until = NOON - timedelta(hours=1), NOON + 20 * MINUTE

    pages, last = [], None
    while page := places(since, until, limit=4, after=last):
        pages.append(page)
        last = list(page)[-1]

    assert [len(page) for page in pages] == [4, 4, 1]
    assert {place.lane: counts for page in pages for place, counts in page.items()} == {
        f"l-{at}": {STRICT: at + 1} for at in range(9)
    }


def test_late_outcomes_add_up_across_the_deletion_of_old_rows():
    """A minute whose 10 s rows are gone keeps their sum, and takes in what a worker that was cut off brings later."""
    for worker in ("a", "b"):
        merge_rollups([report(rollup(NOON, outputs=repairs(strict=5, failed=1)), worker=worker)], now=NOON)
        merge_rollups([report(rollup(NOON + MINUTE), worker=worker, seq=2)], now=NOON + MINUTE)
    compact_rollups(now=AFTER_RETENTION)
    merge_rollups([report(rollup(NOON, outputs=repairs(strict=5, failed=1)), worker="a")], now=AFTER_RETENTION)
    merge_rollups([report(rollup(NOON, outputs=repairs(fenced=7)), worker="c")], now=AFTER_RETENTION)

    compact_rollups(now=AFTER_RETENTION)

    assert not Rollup.objects.filter(bucket_at=NOON, worker__in=["a", "b"]).exists()
    assert read(step=MINUTE).points[0] == {STRICT: 10, FAILED: 2, FENCED: 7}


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_whatever_is_late_repeated_or_compacted_between_counts_once(data):
    """Workers deliver in order, with repetitions, over hours, compaction in between: every outcome counts once."""
    for model in (Rollup, MinuteRollup, Source, OutcomeRollup, OutcomeTotal, OutcomeStanding, OutcomeWindow):
        model.objects.all().delete()
    scripts = {
        worker: [
            report(
                rollup(NOON + timedelta(seconds=10 * (n // 2)), outputs=repairs(strict=n + 1, failed=n % 2)),
                worker=worker,
                seq=n + 1,
            )
            for n in range(4)
        ]
        for worker in ("a", "b")
    }
    delivered = dict.fromkeys(scripts, 0)
    now = NOON
    while any(count < 4 for count in delivered.values()):
        worker = data.draw(st.sampled_from([name for name, count in delivered.items() if count < 4]))
        again = data.draw(st.integers(0, delivered[worker]))
        merge_rollups([scripts[worker][delivered[worker]], scripts[worker][again]], now=now)
        delivered[worker] += 1
        now += timedelta(minutes=data.draw(st.sampled_from([0, 2, 150])))
        if data.draw(st.booleans()):
            compact_rollups(now=now)
    compact_rollups(now=now + 2 * MINUTE)

    assert read(step=MINUTE).total == {STRICT: 2 * (2 + 4), FAILED: 2 * (1 + 1)}
    assert read(step=MINUTE, prompt="support-answer").total == read(step=MINUTE).total
    month = OutcomeStanding.objects.filter(hours=744).values_list("name", "counted", "bad")
    assert set(month) == {("", 16, 0), ("missing_field", 4, 4)}


@pytest.mark.django_db(transaction=True)
def test_pages_are_told_that_answers_were_checked_at_most_every_five_seconds(line, clock):
    """The first at once; those that come meanwhile together; reports without outcomes are no news."""
    ingest = line.ingest()

    def beat(seq, **numbers):
        line.add(report(rollup(NOON, outputs=repairs(**numbers)), worker="w", seq=seq, sent_at=clock.now))
        ingest.round()

    beat(1, strict=1)
    for seq in (2, 3):
        clock.advance(1)
        beat(seq, strict=seq)
    assert len(line.messages("answers")) == 1
    clock.advance(10)
    ingest.round()
    assert line.messages("answers")[-1] == {"now": clock.now.isoformat()}
    clock.advance(10)
    beat(4)

    assert len(line.messages("answers")) == 2
