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
        watch.body_is_here()
        await looking.wait()
        watch.stop()

    gc.collect()
    await asyncio.create_task(request())
    await asyncio.sleep(0)  # the task that looked hears that it is cancelled

    assert gc.collect() == 0


async def test_caller_of_a_late_body_is_watched_from_then_on():
    """Until it is here, to hang up is to break it off, which whoever reads it hears; no minute runs on after that."""
    messages = asyncio.Queue()
    timers = TimerWheel(tick_seconds=0.001)
    late, taken = asyncio.Event(), asyncio.Event()

    async def request():
        watch = CallerWatch(messages.get, timers, body_seconds=0.2)
        timers.set(0.08, late.set)
        body = await watch.read_body(limit_bytes=10)
        taken.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return body, watch.caller_left
        finally:
            watch.stop()

    asking = asyncio.create_task(request())
    await late.wait()
    messages.put_nowait({"type": "http.request", "body": b"{}"})
    await taken.wait()
    messages.put_nowait({"type": "http.disconnect"})

    assert await asking == (b"{}", True)
