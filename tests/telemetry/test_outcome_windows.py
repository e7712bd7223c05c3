"""Where checks of answers went worst is kept added up, over the last hour, day, week and month, whatever comes late."""

from datetime import timedelta

import pytest
from django.db.models import Sum
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.telemetry.models import MinuteRollup, Rollup, Source
from controlplane.telemetry.operations import compact_rollups, merge_rollups
from controlplane.telemetry.outcome_windows import HOURS, rebuild_windows
from controlplane.telemetry.outcomes import (
    REPAIR,
    VALIDATOR,
    OutcomeRollup,
    OutcomeStanding,
    OutcomeTotal,
    OutcomeWindow,
)
from controlplane.telemetry.outputs import Place, read_worst
from dataplane.aggregation import output_key
from dataplane.validators.values import ANSWER
from tests.worker_reports import NOON, report, rollup

pytestmark = pytest.mark.django_db

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
AZURE = "azure/eu-west/eu/gpt-4o"
HERE = Place("support-answer", 12, "openai/eu-west/main/gpt-4o")


def repairs(*, right=0, fenced=0, failed=0):
    keys = {("none", "r0_strict", "lossless"): right, ("fenced", "r1_extract", "lossless"): fenced}
    keys[("missing_field", "r7_failed", "")] = failed
    return {output_key(REPAIR, *key): number for key, number in keys.items() if number}


def count(outputs, *, ago=2 * MINUTE, now=NOON, worker="w", **series):
    """A worker counted this so long before NOON; it is folded as beat does it at `now`."""
    merge_rollups([report(rollup(NOON - ago, outputs=outputs, **series), worker=worker)], now=now)
    compact_rollups(now=now)


def worst(hours, system=REPAIR, order="counted", limit=50, **narrow):
    found = read_worst(system, hours=hours, order=order, limit=limit, **narrow)
    return [(one.place.lane, one.name, one.counted) for one in found.rows]


def standings(hours):
    return set(OutcomeStanding.objects.filter(hours=hours).values_list("name", "counted", "bad"))


def test_what_a_minute_counted_is_in_each_window_that_it_lies_in():
    """As soon as it is folded; what was right is in the sum of answers alone."""
    for ago, worker in ((2 * MINUTE, "a"), (3 * HOUR, "b"), (3 * DAY, "c"), (20 * DAY, "d")):
        count(repairs(right=7, fenced=2, failed=1), ago=ago, worker=worker)

    assert {hours: standings(hours) for hours in HOURS} == {
        hours: {("", 10 * times, 0), ("fenced", 2 * times, 0), ("missing_field", times, times)}
        for times, hours in enumerate(HOURS, start=1)
    }


def test_what_has_become_too_old_is_taken_out_though_nothing_new_comes():
    """Nothing is left of it, neither a row nor a zero; longer windows hold it still."""
    count(repairs(fenced=2))
    window = OutcomeWindow.objects.get(hours=1)

    compact_rollups(now=NOON + HOUR)

    assert not standings(1)
    assert standings(24) == {("", 2, 0), ("fenced", 2, 0)}
    assert OutcomeWindow.objects.get(hours=1).since - window.since == HOUR
    assert OutcomeWindow.objects.get(hours=1).until == NOON + HOUR - MINUTE


def test_what_comes_late_is_added_where_its_minute_is_in_the_window():
    """To the day, and no more to the hour that is over."""
    count(repairs(fenced=2), ago=90 * MINUTE, now=NOON - 88 * MINUTE)
    count(repairs(fenced=5), ago=90 * MINUTE, worker="late")

    assert [standings(hours) for hours in (1, 24)] == [set(), {("", 7, 0), ("fenced", 7, 0)}]


def test_windows_that_were_left_alone_for_long_are_added_up_anew():
    """As after days without beat: what they held is taken out whole, what they lie over is counted."""
    count(repairs(fenced=2), ago=DAY - HOUR)
    later = NOON + 6 * DAY
    merge_rollups([report(rollup(later - 10 * MINUTE, outputs=repairs(failed=3)), worker="w", seq=2)], now=later)

    compact_rollups(now=later)

    new = {("", 3, 0), ("missing_field", 3, 3)}
    assert [standings(hours) for hours in (1, 24)] == [new, new]
    assert standings(744) == {("", 5, 0), ("fenced", 2, 0), ("missing_field", 3, 3)}


def test_worst_are_told_by_the_order_that_is_asked_for():
    """Share is of the answers there; equals come by how many there were."""
    count(repairs(right=90, fenced=10))
    count(repairs(right=10, fenced=6, failed=4), lane=AZURE, worker="b")

    assert worst(1) == [(HERE.lane, "fenced", 10), (AZURE, "fenced", 6), (AZURE, "missing_field", 4)]
    assert worst(1, order="share") == [(AZURE, "fenced", 6), (AZURE, "missing_field", 4), (HERE.lane, "fenced", 10)]
    assert worst(1, order="bad") == [(AZURE, "missing_field", 4), (HERE.lane, "fenced", 10), (AZURE, "fenced", 6)]
    first = read_worst(REPAIR, hours=1, order="counted", limit=1)
    assert ([row.answers for row in first.rows], first.is_all) == ([100], False)
    assert first.rows[0].outcomes == {("r1_extract", "lossless"): 10}


def test_worst_are_told_of_one_prompt_lane_or_name():
    """Names by how they begin: every version of a rule."""
    rule = {output_key(VALIDATOR, f"no-mail@{version}", "block"): version for version in (1, 2)}
    other = {output_key(VALIDATOR, "no-mail-at-all@1", "pass"): 4, output_key(VALIDATOR, ANSWER, "block"): 3}
    count(rule | other)
    count(repairs(fenced=1), lane=AZURE, prompt="refunds", worker="b")

    assert worst(24, VALIDATOR, name="no-mail@") == [(HERE.lane, "no-mail@2", 2), (HERE.lane, "no-mail@1", 1)]
    assert worst(24, prompt="refunds") == worst(24, lane=AZURE) == [(AZURE, "fenced", 1)]
    assert worst(24, prompt="refunds", lane=HERE.lane) == []


def test_a_validator_that_cannot_say_is_unsure_and_bad_where_it_withholds():
    """By what follows from it; of other systems nothing is kept."""
    said = {("pass", ""): 6, ("abstain", "block"): 2, ("abstain", "warn"): 1, ("block", ""): 1}
    keys = {output_key(VALIDATOR, "no-mail@1", *key): number for key, number in said.items()}
    count(keys | {output_key("validator_time", "no-mail@1", "50"): 9})

    (row,) = read_worst(VALIDATOR, hours=1, order="bad_share", limit=5).rows

    assert (row.counted, row.bad, row.unsure, row.answers, row.outcomes) == (10, 3, 3, None, said)
    assert not OutcomeStanding.objects.filter(system="validator_time").exists()


def test_worst_of_a_month_takes_as_many_queries_as_of_an_hour(django_assert_num_queries):
    """However many places there are; and none but one where nothing was ever folded."""
    with django_assert_num_queries(1):
        assert read_worst(REPAIR, hours=744, order="bad", limit=5).until is None
    count(repairs(failed=1))
    for version in range(20):
        count(repairs(failed=1), version=version, worker=str(version))

    for hours in HOURS:
        with django_assert_num_queries(2):
            assert len(worst(hours)) == 20


def test_windows_are_added_up_anew_by_a_command_whatever_they_said():
    """From the spans; they end where they ended."""
    count(repairs(right=3, fenced=2), ago=50 * MINUTE)
    count(repairs(failed=1), ago=7 * HOUR, worker="b")
    right = {hours: standings(hours) for hours in HOURS}
    ends = set(OutcomeWindow.objects.values_list("hours", "since", "until"))
    OutcomeStanding.objects.update(counted=99)

    rebuild_windows(now=NOON)

    assert {hours: standings(hours) for hours in HOURS} == right
    assert set(OutcomeWindow.objects.values_list("hours", "since", "until")) == ends


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 14, 15, 61, 300, 1500, 9000, 40_000]),  # minutes that beat is away
            st.lists(st.tuples(st.integers(0, 50_000), st.integers(1, 5)), max_size=3),  # minutes ago, and how many
        ),
        min_size=1,
        max_size=6,
    )
)
def test_windows_are_at_every_moment_the_sum_of_their_minutes(steps):
    """Whatever comes, however late, and however long beat is away."""
    for model in (Rollup, MinuteRollup, Source, OutcomeRollup, OutcomeTotal, OutcomeStanding, OutcomeWindow):
        model.objects.all().delete()
    now, told = NOON, 0
    for away, rows in steps:
        now += away * MINUTE
        for ago, number in rows:
            told += 1
            merge_rollups(
                [report(rollup(now - ago * MINUTE - 2 * MINUTE, outputs=repairs(failed=number)), worker=f"w{told}")],
                now=now,
            )
        compact_rollups(now=now)

        for window in OutcomeWindow.objects.all():
            minutes = MinuteRollup.objects.filter(bucket_at__gte=window.since)
            expected = sum(sum(outputs.values()) for outputs in minutes.values_list("outputs", flat=True))
            found = OutcomeStanding.objects.filter(hours=window.hours, name="").aggregate(n=Sum("counted"))["n"] or 0
            assert found == expected, (window, now)
