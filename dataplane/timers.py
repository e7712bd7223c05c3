"""Time-outs by the thousand: one timer of the event loop serves all waits of a process.

Nearly every time-out is cancelled long before it is due. A timer of the event loop costs a heap entry and, under
uvloop, a libuv handle each; here setting one and cancelling it are two operations on a dict. The price is precision:
a time-out fires up to TICK_SECONDS late, never early.

Source: Varghese, Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, cast

TICK_SECONDS: Final = 0.010


def _nothing() -> None:
    pass


class Timer:
    """One time-out that has been set. `cancel` may be called at any time, also after it has fired."""

    __slots__ = ("_bucket", "callback", "due_at")

    def __init__(self, callback: Callable[[], None], bucket: dict[Timer, None], due_at: float) -> None:
        self.callback = callback
        self.due_at = due_at
        self._bucket = bucket
        bucket[self] = None

    def cancel(self) -> None:
        """Make sure that the callback is not called any more."""
        self._bucket.pop(self, None)
        # Whoever sets a timer usually holds it, and is held by its callback: a ring that only the garbage collector
        # could take apart, with all that hangs on it. For a request that was a twentieth of its time.
        self.callback = _nothing


class TimerWheel:
    """All time-outs of one event loop. It ticks only while it holds some."""

    def __init__(self, *, tick_seconds: float = TICK_SECONDS) -> None:
        self._tick_seconds = tick_seconds
        self._buckets: dict[int, dict[Timer, None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticking = False
        self._position = 0

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop, asked for once: until Python 3.12 every question for the running one is a system call."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        return loop

    def set(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once `seconds` have passed. It must not wait and must not raise."""
        loop = self.loop
        now = loop.time()
        due_at = now + seconds
        if not self._ticking:
            self._ticking = True
            self._position = int(now / self._tick_seconds)
            loop.call_later(self._tick_seconds, self._tick)
        index = max(math.ceil(due_at / self._tick_seconds), self._position + 1)
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._buckets[index] = {}
        return Timer(callback, bucket, due_at)

    def deadline(self, seconds: float) -> Deadline:
        """Return a context that cancels what runs inside it after `seconds`, as `asyncio.timeout` does."""
        return Deadline(self, seconds)

    def _tick(self) -> None:
        loop = self.loop
        now = int(loop.time() / self._tick_seconds)
        if now - self._position > len(self._buckets):
            due = sorted(index for index in self._buckets if index <= now)  # after a long stall
        else:
            due = [index for index in range(self._position + 1, now + 1) if index in self._buckets]
        self._position = now
        for index in due:
            bucket = self._buckets.pop(index)
            while bucket:
                # One by one: a callback may cancel another that is due at the same time.
                timer, _ = bucket.popitem()
                timer.callback()
        if self._buckets:
            loop.call_later(self._tick_seconds, self._tick)
        else:
            self._ticking = False


class Deadline:
    """A context in which the current task may run for so long and no longer; over that, it raises TimeoutError.

    A cancellation that came from somewhere else passes through untouched. `expired` tells the two apart for whoever
    sees the cancellation first.
    """

    __slots__ = ("_cancelling", "_seconds", "_task", "_timer", "_wheel", "expired")

    def __init__(self, wheel: TimerWheel, seconds: float) -> None:
        self._wheel = wheel
        self._seconds = seconds
        self.expired = False

    def __enter__(self) -> Deadline:
        self._task = cast("asyncio.Task[Any]", asyncio.current_task(self._wheel.loop))
        self._cancelling = self._task.cancelling()
        self._timer = self._wheel.set(self._seconds, self._expire)
        return self

    @property
    def remaining_seconds(self) -> float:
        """What is left, in seconds; below zero once it is over."""
        return self._timer.due_at - self._wheel.loop.time()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self.expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _expire(self) -> None:
        self.expired = True
        self._task.cancel()
