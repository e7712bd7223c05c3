"""Three ways to count what an account may use, and an account's books, at times that the test chooses."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.simulator.limits import NEVER, AccountLimiter, Charge, Limit, LimitKind, make_meter

BUCKET, FIXED, SLIDING = LimitKind.TOKEN_BUCKET, LimitKind.FIXED_WINDOW, LimitKind.SLIDING_WINDOW
# A multiple of every window used here.
START = 1_700_000_000.0
WINDOW = 10.0
LIMIT = 20
# Far longer than a double is off at such times, far shorter than anything counted here.
MOMENT = 1e-5
# Quarters of a second have no rounding.
GAPS = st.integers(0, 24).map(lambda quarters: quarters / 4)


def take(meter, units, now):
    """Take the units if they are free; else None."""
    return meter.take(units, now) if meter.wait_seconds(units, now) == 0 else None


def limiter(kind=SLIDING, *, window_seconds=WINDOW, **limits):
    return AccountLimiter(Limit("sk-main", None, kind, window_seconds, limits), "sk-main", now=START)


@pytest.mark.parametrize(
    ("kind", "after", "free"),
    [
        # 20 units at second 7 of a window, and so many free so many seconds later.
        (BUCKET, 0, 0),
        (BUCKET, 3, 6),
        (BUCKET, 10, 20),
        (BUCKET, 60, 20),
        (FIXED, 0, 0),
        (FIXED, 2.75, 0),
        (FIXED, 3, 20),
        (SLIDING, 3, 0),
        (SLIDING, 9.75, 0),
        (SLIDING, 10, 20),
    ],
)
def test_what_was_used_up_comes_back_as_its_kind_says(kind, after, free):
    """A bucket refills evenly, a fixed window begins by the clock, a sliding one forgets what is a window old."""
    meter = make_meter(kind, LIMIT, WINDOW)
    meter.take(LIMIT, START + 7)

    assert meter.left(START + 7 + after) == free


@pytest.mark.parametrize(
    ("kind", "units", "wait", "reset"),
    [(BUCKET, 5, 2.5, 10), (FIXED, 5, 3, 3), (SLIDING, 5, 8, 10), (SLIDING, 13, 10, 10)],
)
def test_waits_are_as_long_as_they_must_be(kind, units, wait, reset):
    """Until the units asked for are free, until everything is, and never for more than there is."""
    meter = make_meter(kind, LIMIT, WINDOW)
    meter.take(0, START)
    for at, taken in ((5, 12), (7, 8)) if kind is SLIDING else ((7, 20),):
        meter.take(taken, START + at)

    assert meter.wait_seconds(units, START + 7) == pytest.approx(wait)
    assert meter.reset_seconds(START + 7) == pytest.approx(reset)
    assert meter.wait_seconds(LIMIT + 1, START + 7) == NEVER


@given(st.sampled_from(LimitKind), st.lists(st.tuples(GAPS, st.integers(1, LIMIT)), min_size=1, max_size=60))
def test_no_window_ever_has_more_than_the_limit(kind, asked):
    """Whatever is asked for when: each kind keeps its promise, and a wait is neither too short nor too long."""
    meter, now, admitted = make_meter(kind, LIMIT, WINDOW), START, []
    for gap, units in asked:
        now += gap
        wait = meter.wait_seconds(units, now)
        if wait:
            assert meter.wait_seconds(units, now + 0.9 * wait) > 0
            now += wait + MOMENT
        assert take(meter, units, now) is not None
        admitted.append((now, units))

    for at, _ in admitted:
        if kind is FIXED:
            index = math.floor(at / WINDOW)
            assert sum(units for other, units in admitted if math.floor(other / WINDOW) == index) <= LIMIT
        elif kind is SLIDING:
            assert sum(units for other, units in admitted if at - WINDOW + MOMENT < other <= at) <= LIMIT
        else:
            for until, _ in admitted:
                used = sum(units for other, units in admitted if at <= other <= until)
                assert used <= LIMIT + LIMIT / WINDOW * max(0.0, until - at) + MOMENT


@given(
    st.sampled_from([FIXED, SLIDING]),
    st.lists(st.tuples(GAPS, st.integers(1, LIMIT), st.integers(0, LIMIT), st.booleans()), max_size=60),
)
def test_correction_counts_what_was_used_from_the_time_of_admission(kind, steps):
    """Units given back, or used beyond what had been taken, are as if they had been known at once."""
    meter, now, taken = make_meter(kind, LIMIT, WINDOW), START, []
    for gap, units, used, corrects in steps:
        now += gap
        if corrects and taken:
            meter.correct(taken[used % len(taken)], used, now)
        elif (entry := take(meter, units, now)) is not None:
            taken.append(entry)

        if kind is FIXED:
            counted = [one.units for one in taken if math.floor(one.at / WINDOW) == math.floor(now / WINDOW)]
        else:
            counted = [one.units for one in taken if one.at > now - WINDOW]
        assert meter.left(now) == LIMIT - sum(counted)


@given(st.lists(st.tuples(GAPS, st.integers(1, LIMIT), st.integers(0, LIMIT)), max_size=60))
def test_corrected_bucket_gives_no_more_than_it_held_and_was_refilled(steps):
    """What is given back is never more than was taken, and the bucket never holds more than the limit."""
    meter, now, used_in_all, under_way = make_meter(BUCKET, LIMIT, WINDOW), START, 0, []
    for gap, units, used in steps:
        now += gap
        if (entry := take(meter, units, now)) is not None:
            under_way.append((entry, min(used, units)))
        if under_way and used % 2:
            entry, used = under_way.pop(0)
            used_in_all += used
            meter.correct(entry, used, now)

        assert meter.left(now) <= LIMIT
        assert used_in_all <= LIMIT + LIMIT / WINDOW * (now - START) + MOMENT


def test_account_is_charged_its_prompt_and_answer_beforehand_and_what_it_used_afterwards():
    """Input, output and both together are counted each by itself; the request stays one."""
    account = limiter(requests=5, tokens=100, input_tokens=60, output_tokens=50)

    entry = account.take(Charge(20, 40), now=START)
    before = {one.dimension: one.left for one in account.standings(now=START)}
    account.finish(entry, Charge(20, 5), now=START + 1)
    after = {one.dimension: one.left for one in account.standings(now=START + 1)}

    assert before == {"requests": 4, "tokens": 40, "input_tokens": 40, "output_tokens": 10}
    assert after == {"requests": 4, "tokens": 75, "input_tokens": 40, "output_tokens": 45}


def test_shortage_is_the_one_that_lasts_longest_and_changes_nothing():
    """Asked as often as one likes, a refused request leaves everything as it was."""
    account = limiter(BUCKET, requests=10, tokens=100)
    account.take(Charge(50, 50), now=START)

    shortages = [account.shortage(Charge(10, 20), now=START) for _ in range(3)]

    assert shortages[0] == shortages[2]
    assert (shortages[0].dimension, shortages[0].used, shortages[0].asked) == ("tokens", 100, 30)
    assert shortages[0].wait_seconds == pytest.approx(3)
    assert account.shortage(Charge(60, 60), now=START).wait_seconds == NEVER
    assert account.shortage(Charge(10, 20), now=START + 3 + MOMENT) is None


def test_so_many_are_under_way_at_once_and_no_more():
    """A finished answer lets the next one begin; the wait is told by how long answers take."""
    account = limiter(concurrency=2)
    entries = [account.take(Charge(1, 1), now=START) for _ in range(2)]

    refused = account.shortage(Charge(1, 1), now=START)
    account.finish(entries[0], Charge(1, 1), now=START + 4)

    assert (refused.dimension, refused.used, refused.limit) == ("concurrency", 2, 2)
    assert 0 < refused.wait_seconds <= 1
    assert account.shortage(Charge(1, 1), now=START + 4) is None
    assert account.to_json(now=START + 4)["peak"] == 2


def test_books_tell_the_units_of_each_whole_window():
    """Windows are the clock's; one in which nothing was used is there too, and the one that runs is not."""
    account = limiter(requests=5, tokens=100)
    for at, tokens in ((0, 10), (9, 20), (25, 40), (31, 1)):
        account.finish(account.take(Charge(tokens, 50), now=START + at), Charge(tokens, 0), now=START + at)

    books = account.to_json(now=START + 32)

    assert books["left"] == {"requests": 3, "tokens": 59}
    assert books["used"] == {"requests": 4, "tokens": 71, "input_tokens": 71, "output_tokens": 0}
    assert [(one["start"] - START, one["requests"], one["tokens"]) for one in books["windows"]] == [
        (0, 2, 30),
        (10, 0, 0),
        (20, 1, 40),
    ]


def test_clock_that_is_set_back_forgets_nothing():
    """What was used stays used until as much time has really passed."""
    for kind in LimitKind:
        account = limiter(kind, requests=1)
        account.take(Charge(1, 1), now=START + 15)

        assert account.shortage(Charge(1, 1), now=START + 3) is not None
