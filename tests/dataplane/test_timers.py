"""Time-outs on a wheel: never early, never after they were cancelled, and a deadline that keeps foreign
cancellations apart.
"""

from __future__ import annotations

import asyncio
import gc

import pytest

from dataplane.timers import TimerWheel
from tests.dataplane.virtual_time import in_virtual_time


@in_virtual_time
async def test_timers_fire_in_order_and_not_early():
    """Each fires once its time has passed, the earlier one first."""
    wheel = TimerWheel(tick_seconds=0.001)
    loop = asyncio.get_running_loop()
    started = loop.time()
    fired: list[tuple[str, float]] = []
    done = asyncio.Event()

    wheel.set(0.02, lambda: (fired.append(("late", loop.time() - started)), done.set()))
    wheel.set(0.005, lambda: fired.append(("early", loop.time() - started)))
    await asyncio.wait_for(done.wait(), 60)

    assert [name for name, _ in fired] == ["early", "late"]
    assert fired[0][1] >= 0.005
    assert fired[1][1] >= 0.02


@in_virtual_time
async def test_cancelled_timer_never_fires():
    """Neither one cancelled beforehand, nor one that a timer of the same tick cancels."""
    wheel = TimerWheel(tick_seconds=0.001)
    fired: list[str] = []
    done = asyncio.Event()
    first = wheel.set(0.002, lambda: fired.append("first"))
    first.cancel()
    first.cancel()
    pair = []
    pair.append(wheel.set(0.002, lambda: (fired.append("pair"), pair[1].cancel())))
    pair.append(wheel.set(0.002, lambda: (fired.append("pair"), pair[0].cancel())))
    wheel.set(0.02, done.set)

    await asyncio.wait_for(done.wait(), 60)

    assert fired == ["pair"]


async def test_timer_that_was_cancelled_lets_go_of_who_set_it():
    """Who sets a timer holds it and is held by it: a ring that would keep a request until the collector comes by."""
    wheel = TimerWheel()

    class Waiting:
        def __init__(self):
            self.timer = wheel.set(60, self.give_up)

        def give_up(self):
            raise AssertionError("nobody waits any more")

    gc.collect()
    Waiting().timer.cancel()
    with wheel.deadline(60):
        pass

    assert gc.collect() == 0


async def test_wheel_rests_and_starts_again():
    """After the last timer it stops ticking; the next one wakes it."""
    wheel = TimerWheel(tick_seconds=0.001)
    for _ in range(2):
        done = asyncio.Event()
        wheel.set(0.001, done.set)
        await asyncio.wait_for(done.wait(), 60)


@pytest.mark.parametrize("seconds", [0.005, 0, -1])
async def test_deadline_turns_into_a_timeout(seconds):
    """What runs longer is cancelled and raises TimeoutError; the task itself is not left cancelled."""
    wheel = TimerWheel(tick_seconds=0.001)

    with pytest.raises(TimeoutError), wheel.deadline(seconds):
        await asyncio.Event().wait()

    assert asyncio.current_task().cancelling() == 0


async def test_deadline_that_is_met_changes_nothing():
    """Leaving in time cancels the timer."""
    wheel = TimerWheel(tick_seconds=0.001)

    with wheel.deadline(0.003):
        pass

    await asyncio.sleep(0.01)


async def test_foreign_cancellation_passes_a_deadline():
    """A caller who leaves is not mistaken for a deadline."""
    wheel = TimerWheel(tick_seconds=0.001)
    inside = asyncio.Event()

    async def wait() -> None:
        with wheel.deadline(60):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await inside.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
