"""Whether an engine gets on, by its own numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dataplane.health.heartbeat import Beat, Heartbeat
from dataplane.health.observations import Ask, EngineReading, Reach
from tests.dataplane.health.health_world import POLICY, answer, reading, unseen


def beats(*readings: EngineReading) -> list[Beat]:
    heartbeat = Heartbeat(now=0)
    return [heartbeat.observe(one) for one in readings]


def test_any_sign_that_changes_is_progress():
    """Tokens that grow, or a gauge that falls, prove a step; the same numbers do not."""
    before = replace(reading(0), signs={"tokens": 5.0, "kv": 0.5})

    found = beats(
        before,
        replace(before, at=2),
        replace(before, at=4, signs={"tokens": 6.0, "kv": 0.5}),
        replace(before, at=6, signs={"tokens": 6.0, "kv": 0.4}),
    )

    assert found == [Beat.UNKNOWN, Beat.STILL, Beat.MOVED, Beat.MOVED]


def test_look_that_brought_nothing_is_neither_progress_nor_silence():
    """What was seen before the gap is what the next look is compared with."""
    found = beats(reading(0, tokens=5), unseen(2, Reach.SLOW), reading(4, tokens=5), reading(6, tokens=6))

    assert found == [Beat.UNKNOWN, Beat.UNKNOWN, Beat.STILL, Beat.MOVED]


def test_engine_that_shows_no_numbers_is_unknown():
    """Absent is not zero: nothing can be said to stand still."""
    bare = EngineReading(0, Reach.OK, loaded=True)

    assert beats(bare, replace(bare, at=2)) == [Beat.UNKNOWN, Beat.UNKNOWN]
    assert bare.is_busy is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (reading(0, tokens=900), reading(2, tokens=3)),
        (reading(0, tokens=9, started=100.0), reading(2, tokens=9, started=160.0)),
        (reading(0, finished=7), reading(2, finished=0)),
    ],
    ids=["fewer tokens", "another start", "fewer finished"],
)
def test_totals_that_fall_are_another_process(before, after):
    """Counters only grow within one process, and its start does not move."""
    assert beats(before, after)[-1] is Beat.RESTARTED


def test_same_start_outweighs_totals_that_fall():
    """An engine that says it is the same process is, even if one of its totals is reset."""
    assert beats(reading(0, tokens=9, started=100.0), reading(2, tokens=3, started=100.0))[-1] is Beat.MOVED


def test_slowest_of_the_last_measurements_bounds_the_patience():
    """Totals of prompts and of the seconds they took give a rate; the first, slow pass is forgotten in the end."""
    heartbeat = Heartbeat(now=0)
    unmeasured = heartbeat.kill_bound(POLICY)
    heartbeat.answered(answer(Ask.WARM_UP, 10, seconds=10, prompt_tokens=512))
    first = heartbeat.kill_bound(POLICY)
    for number in range(20):
        heartbeat.observe(reading(number, prompt_tokens=4000.0 * number, prompt_seconds=1.0 * number))

    later = heartbeat.kill_bound(POLICY)

    assert unmeasured == POLICY.kill_unmeasured_seconds
    assert first == pytest.approx(32_768 / 51.2 * 2)
    assert later == POLICY.kill_floor_seconds


def test_few_tokens_measure_nothing():
    """A prompt of a word takes as long as it takes to begin."""
    heartbeat = Heartbeat(now=0)

    heartbeat.answered(answer(Ask.CANARY, 10, seconds=1, prompt_tokens=2))
    heartbeat.observe(reading(11, prompt_tokens=0, prompt_seconds=0))
    heartbeat.observe(reading(12, prompt_tokens=100, prompt_seconds=9))

    assert heartbeat.slowest_prefill is None


def test_steps_that_take_long_are_waited_for_up_to_a_limit():
    """One step of 8,192 tokens at 780 a second may take 21 s with its margin; at 100 the promise wins."""
    heartbeat = Heartbeat(now=0)
    quick = heartbeat.ready_bound(POLICY)
    heartbeat.answered(answer(Ask.WARM_UP, 10, seconds=1, prompt_tokens=780))
    slow = heartbeat.ready_bound(POLICY)
    heartbeat.answered(answer(Ask.WARM_UP, 20, seconds=10, prompt_tokens=1000))

    assert (quick, round(slow), heartbeat.ready_bound(POLICY)) == (20, 21, 22)


def test_rates_are_those_of_the_last_minute():
    """Tokens a second, over a window that moves."""
    heartbeat = Heartbeat(now=0)
    for at in range(0, 200, 2):
        heartbeat.observe(reading(at, tokens=at * 10, finished=at / 4))

    assert heartbeat.tokens_per_second() == pytest.approx(10)
    assert heartbeat.finished_per_second() == pytest.approx(0.25)
