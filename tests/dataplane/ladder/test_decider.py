"""When a ladder moves by itself: one step up under pressure that lasts, one down after calm that lasts, else not."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dataplane.ladder.decider import Cause, LadderDecider, Moved, Standing
from dataplane.ladder.policy import MAINTENANCE, Ladder, Surface
from tests.dataplane.conftest import threshold
from tests.ladders import rungs, surface, trigger

STEP, DWELL, CALM, LONGEST, SUSTAIN = 20, 60, 30, 240, 10
HOT, BETWEEN, COOL = {"load": 150.0}, {"load": 80.0}, {"load": 10.0}
ALL = frozenset(f"rung-{number}" for number in range(1, 7)) | {"help-answers"}


def make_surface(*, signed: Any = ALL, **changes: Any) -> Surface:
    return Ladder.parse({"web-chat": surface(**changes)}).with_words(signed)["web-chat"]


def make(**changes: Any) -> LadderDecider:
    return LadderDecider(make_surface(**changes))


def run(decider: LadderDecider, readings: Any, *, start: int, seconds: int, ceiling: int = MAINTENANCE) -> list[Moved]:
    """Judge once a second; return what moved."""
    moved = (decider.judge(readings, now=1000.0 + at, ceiling=ceiling) for at in range(start, start + seconds))
    return [one for one in moved if one is not None]


def test_pressure_that_lasts_takes_one_rung_after_the_other_up_to_the_triggers_highest() -> None:
    """Not before it has lasted, and each rung is given time to work before the next."""
    decider = make()

    early = run(decider, HOT, start=0, seconds=SUSTAIN)
    first = run(decider, HOT, start=SUSTAIN, seconds=1)
    rest = run(decider, HOT, start=SUSTAIN + 1, seconds=500)

    assert early == []
    assert first == [Moved(0, 1, Cause.PRESSED, "load", 150.0, 1)]
    assert [(one.before, one.after) for one in rest] == [(1, 2), (2, 3), (3, 4)]
    assert decider.standing.raised_at == 1000.0 + SUSTAIN + 3 * STEP


def test_pressure_that_does_not_last_moves_nothing() -> None:
    """A reading that is below for one moment begins anew."""
    decider = make()

    for at in range(0, 200, SUSTAIN):
        assert run(decider, HOT, start=at, seconds=SUSTAIN - 1) == []
        assert run(decider, BETWEEN, start=at + SUSTAIN - 1, seconds=1) == []

    assert decider.standing == Standing()


def test_calm_that_lasts_lets_one_rung_go_at_a_time() -> None:
    """Each needs its own calm, and no rung goes before it has stood as long as it must."""
    decider = make()
    run(decider, HOT, start=0, seconds=SUSTAIN + STEP + 1)

    moved = run(decider, COOL, start=SUSTAIN + STEP + 1, seconds=400)

    assert [(one.before, one.after, one.cause) for one in moved] == [(2, 1, Cause.EASED), (1, 0, Cause.EASED)]
    assert decider.standing.level == 0
    assert decider.seconds_until_down(now=2000.0) is None


def test_between_the_two_thresholds_nothing_moves_either_way() -> None:
    """That is what they are two for."""
    decider = make()
    run(decider, HOT, start=0, seconds=SUSTAIN + 1)

    assert run(decider, BETWEEN, start=SUSTAIN + 1, seconds=5000) == []
    assert decider.standing.level == 1


def test_ladder_that_relieves_what_presses_it_swings_ever_more_slowly() -> None:
    """Pressure that is back soon after a rung was let go doubles the calm which the next step down takes."""
    decider = make(triggers={"load": trigger(highest=1)})
    lowered: list[float] = []
    readings = HOT
    for at in range(20_000):
        moved = decider.judge(readings, now=1000.0 + at)
        readings = COOL if decider.standing.level else HOT
        if moved is not None and moved.cause is Cause.EASED:
            lowered.append(at)

    gaps = [later - earlier for earlier, later in pairwise(lowered)]
    assert gaps[:4] == sorted(gaps[:4])
    assert gaps[-1] >= LONGEST
    assert decider.standing.relapses > 2


def test_pressure_that_is_back_only_after_the_longest_calm_is_another_one() -> None:
    """The ladder then lets go as soon as the first time."""
    decider = make()
    run(decider, HOT, start=0, seconds=SUSTAIN + 1)
    run(decider, COOL, start=SUSTAIN + 1, seconds=DWELL + CALM)

    run(decider, COOL, start=200, seconds=LONGEST)
    run(decider, HOT, start=200 + LONGEST, seconds=SUSTAIN + 1)

    assert decider.standing.level == 1
    assert decider.standing.relapses == 0


def test_reading_that_is_lost_presses_nobody_and_lets_nobody_down() -> None:
    """What was read last counts where calm is asked for, so a metric that breaks under load does not end the help."""
    decider = make()
    assert run(decider, {"load": None}, start=0, seconds=100) == []
    run(decider, HOT, start=100, seconds=SUSTAIN + 1)

    assert run(decider, {"load": None}, start=100 + SUSTAIN + 1, seconds=5000) == []
    assert run(decider, {}, start=6000, seconds=100) == []
    assert decider.standing.level == 1


def test_rungs_without_signed_words_are_stepped_over() -> None:
    """Up and down: nobody reads words that nobody signed."""
    decider = make(signed=ALL - {"rung-2"})

    up = run(decider, HOT, start=0, seconds=SUSTAIN + STEP + 1)
    down = run(decider, COOL, start=SUSTAIN + STEP + 1, seconds=400)

    assert [one.after for one in up] == [1, 3]
    assert [one.after for one in down] == [1, 0]


def test_rung_whose_words_are_withdrawn_is_left_at_once() -> None:
    """For the next one below it that has words, whatever presses."""
    decider = make()
    run(decider, HOT, start=0, seconds=SUSTAIN + 2 * STEP + 1)

    decider.adopt(make_surface(signed=ALL - {"rung-3", "rung-2"}))
    moved = decider.judge(HOT, now=2000.0)

    assert moved == Moved(3, 1, Cause.UNSIGNED, "load", None, 4)


def test_without_any_signed_words_nothing_is_ever_engaged() -> None:
    """Not by the worst of readings."""
    decider = make(signed=())

    assert run(decider, HOT, start=0, seconds=1000) == []


def test_people_hold_a_ladder_down_at_once_and_it_climbs_again_one_rung_at_a_time() -> None:
    """Holding is no pressure and no calm: once they let go, what presses has to press again rung by rung."""
    decider = make()
    run(decider, HOT, start=0, seconds=200)

    held = run(decider, HOT, start=200, seconds=100, ceiling=1)
    free = run(decider, HOT, start=300, seconds=41)

    assert [(one.before, one.after, one.cause) for one in held] == [(4, 1, Cause.HELD)]
    assert [(one.before, one.after) for one in free] == [(1, 2), (2, 3), (3, 4)]
    assert decider.standing.relapses == 0


def test_whoever_takes_over_goes_on_where_the_ladder_stands() -> None:
    """It has seen the readings all along, so a change of who decides neither adds a step nor loses the calm so far."""
    first, second = make(), make()
    for at in range(SUSTAIN + 5):
        first.judge(HOT, now=1000.0 + at)
        second.observe(HOT, now=1000.0 + at)
        second.follow(first.standing)

    later = run(second, HOT, start=SUSTAIN + 5, seconds=STEP)

    assert [(one.before, one.after) for one in later] == [(1, 2)]
    assert second.standing.raised_at == 1000.0 + SUSTAIN + STEP


def test_another_policy_keeps_what_was_read_of_triggers_that_are_still_there() -> None:
    """A new number is no reason to wait for pressure all over again."""
    decider = make()
    run(decider, HOT, start=0, seconds=SUSTAIN - 1)

    decider.adopt(make_surface(triggers={"load": trigger(highest=2), "age": trigger(signal="queue_age_seconds")}))

    assert [one.trigger for one in run(decider, HOT, start=SUSTAIN - 1, seconds=2)] == ["load"]


@settings(max_examples=200)
@given(
    readings=st.lists(st.none() | st.sampled_from([0.0, 59.9, 60.0, 60.1, 99.9, 100.0, 1e6]), max_size=400),
    ceilings=st.lists(st.integers(0, 6), min_size=1, max_size=5),
)
def test_whatever_is_read_the_ladder_takes_one_signed_step_at_a_time_and_keeps_its_pace(
    readings: list[float | None], ceilings: list[int]
) -> None:
    """Every step up is to the next signed rung, at least `step_seconds` after the last; every step down by itself is
    to the next below, at least `dwell_seconds` after the last move and `calm_seconds` after it was last not calm.
    """
    decider = make(signed=ALL - {"rung-2"})
    signed = [1, 3, 4, 5, 6]
    last_moved = last_raised = -1e9
    not_calm = 0.0
    for at, value in enumerate(readings):
        now = 1000.0 + at
        ceiling = ceilings[at % len(ceilings)] if at % 50 > 40 else MAINTENANCE
        before = decider.standing.level
        moved = decider.judge({"load": value}, now=now, ceiling=ceiling)
        if value is not None and value > 60.0:
            not_calm = now
        if moved is None:
            assert decider.standing.level == before
            continue
        assert moved.before == before
        assert moved.after == decider.standing.level
        if moved.cause is Cause.PRESSED:
            assert moved.after == min(one for one in signed if one > before) <= min(4, ceiling)
            assert before == 0 or now - last_raised >= STEP
            last_raised = now
        elif moved.cause is Cause.EASED:
            assert moved.after == max((one for one in signed if one < before), default=0)
            assert now - last_moved >= DWELL
            assert now - not_calm >= CALM
        else:
            assert moved.cause is Cause.HELD
            assert moved.after <= ceiling < before
        last_moved = now


@settings(max_examples=100)
@given(st.lists(st.floats(0, 200), min_size=50, max_size=300), st.integers(1, 20))
def test_noise_around_the_thresholds_does_not_make_it_flap(noise: list[float], factor: int) -> None:
    """However a reading jumps about, a surface moves down at most once per calm, so its users see few changes."""
    decider = make()
    moves = [
        moved
        for at in range(len(noise) * factor)
        if (moved := decider.judge({"load": noise[at % len(noise)]}, now=1000.0 + at)) is not None
    ]

    downs = [one for one in moves if one.cause is Cause.EASED]
    assert len(downs) <= len(noise) * factor / max(DWELL, CALM)


@settings(max_examples=100)
@given(
    low=st.lists(st.floats(0, 200), min_size=1, max_size=300),
    extra=st.lists(st.floats(0, 100), min_size=300, max_size=300),
)
def test_more_pressure_never_engages_the_first_rung_later(low: list[float], extra: list[float]) -> None:
    """Monotone: where every reading is at least as high, the ladder is off at most as long."""

    def engaged_at(readings: list[float]) -> int | None:
        decider = make()
        moved = (at for at, value in enumerate(readings) if decider.judge({"load": value}, now=1000.0 + at) is not None)
        return next(moved, None)

    first = engaged_at(low)
    second = engaged_at([value + more for value, more in zip(low, extra, strict=False)])

    assert first is None or (second is not None and second <= first)


class AnyLife(RuleBasedStateMachine):
    """A ladder through pressure, calm, lost readings, holds, other policies and other leaders."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.signed = set(ALL)
        self.decider = make()
        self.moves: list[tuple[float, Moved]] = []
        self.generation = 0

    @rule(seconds=st.integers(1, 90), value=st.none() | st.floats(0, 200), ceiling=st.integers(0, 6))
    def pass_time(self, seconds: int, value: float | None, ceiling: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            moved = self.decider.judge({"load": value}, now=self.now, ceiling=ceiling)
            if moved is not None:
                self.moves.append((self.now, moved))

    @rule(number=st.integers(1, 6))
    def sign_or_withdraw(self, number: int) -> None:
        self.signed ^= {f"rung-{number}"}
        self.decider.adopt(make_surface(signed=self.signed))

    @rule(enter=st.integers(61, 200), highest=st.integers(1, 6))
    def adopt_other_numbers(self, enter: int, highest: int) -> None:
        triggers = {"load": trigger(highest=highest) | {"enter": threshold(enter)}}
        self.decider.adopt(make_surface(signed=self.signed, triggers=triggers, rungs=rungs()))

    @rule()
    def hand_over(self) -> None:
        successor = LadderDecider(self.decider.surface, Standing())
        successor.follow(self.decider.standing)
        self.decider = successor

    @invariant()
    def every_move_is_counted_once(self) -> None:
        assert self.decider.standing.generation == len(self.moves)
        assert [one.generation for _, one in self.moves] == list(range(1, len(self.moves) + 1))

    @invariant()
    def it_goes_up_one_engageable_rung_at_a_time(self) -> None:
        for (earlier, _), (later, moved) in pairwise(self.moves):
            if moved.cause is Cause.PRESSED and moved.before:
                raised = [at for at, one in self.moves if one.cause is Cause.PRESSED and at < later]
                assert later - max(raised, default=0.0) >= STEP
            if moved.cause is Cause.EASED:
                assert later - earlier >= DWELL


TestAnyLife = AnyLife.TestCase


@pytest.mark.parametrize("level", range(7))
def test_next_step_down_is_told_ahead(level: int) -> None:
    """So that a page can say when a rung goes if all stays calm."""
    decider = make()
    decider.follow(Standing(level=level, generation=3, moved_at=1000.0, raised_at=1000.0))

    assert decider.judge(COOL, now=1001.0) is None
    left = decider.seconds_until_down(now=1001.0)

    assert left == (None if level == 0 else DWELL - 1)
