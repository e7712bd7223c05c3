"""Who watches for callers that hang up: begins after a moment, stops with the request and keeps nothing of it."""

from __future__ import annotations

import asyncio
import gc

from dataplane.asgi_request import CallerWatch
from dataplane.timers import TimerWheel


async def test_watch_over_a_slow_request_leaves_nothing_for_the_garbage_collector():
    """By then it looks in a task of its own, which must not hold on to the request once that is over."""
    looking = asyncio.Event()

    async def receive():
        looking.set()
        await asyncio.Event().wait()

    async def request():
        watch = CallerWatch(receive, TimerWheel())
        await looking.wait()
        watch.stop()

    gc.collect()
    await asyncio.create_task(request())
    await asyncio.sleep(0)  # the task that looked hears that it is cancelled

    assert gc.collect() == 0
