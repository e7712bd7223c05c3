"""Calls that may never return."""

from __future__ import annotations

import asyncio
import threading

import pytest

from dataplane.health.watchdog import Hung, Watchdog


@pytest.fixture
def release():
    event = threading.Event()
    yield event
    event.set()


async def test_call_returns_what_it_returns_and_raises_what_it_raises():
    """In a thread of its own."""
    dog = Watchdog("dog")

    def fail() -> None:
        raise KeyError("x")

    assert await dog.call(threading.get_ident, deadline_seconds=60) != threading.get_ident()
    with pytest.raises(KeyError):
        await dog.call(fail, deadline_seconds=60)
    dog.close()


async def test_call_that_does_not_return_is_left_alone_and_no_other_is_made(release):
    """While one hangs, the next is not even begun; once it is back, all is as before."""
    dog, made = Watchdog("nvml"), []

    def hang() -> str:
        made.append("hung")
        release.wait()
        return "late"

    with pytest.raises(Hung, match="nvml has not returned for"):
        await dog.call(hang, deadline_seconds=0.01)
    with pytest.raises(Hung):
        await dog.call(lambda: made.append("second"), deadline_seconds=60)
    release.set()
    while True:
        try:
            found = await dog.call(lambda: "fresh", deadline_seconds=60)
            break
        except Hung:
            await asyncio.sleep(0)

    assert (made, found) == (["hung"], "fresh")
    dog.close()


async def test_time_out_of_the_call_itself_is_its_own():
    """A TimeoutError that the work raises is no hang."""
    dog = Watchdog("dog")

    def fail() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        await dog.call(fail, deadline_seconds=60)
    dog.close()
