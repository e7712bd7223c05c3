"""One thread for calls that may never return, each with a deadline: a driver that hangs must not take us along."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Hung(Exception):
    """A call has not returned for `seconds`; while it has not, no other is made."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(f"{name} has not returned for {seconds:.1f} s")
        self.seconds = seconds


class Watchdog:
    """Runs calls one after another in a thread of its own. Belongs to one event loop; `close` before that ends."""

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._running_since: float | None = None

    async def call(self, work: Callable[[], T], *, deadline_seconds: float) -> T:
        """Return what `work` returns, or raise what it raises.

        Raises:
            Hung: it took longer than its deadline, or an earlier one has not returned yet: then `work` is not called.
        """
        if self._running_since is not None:
            raise Hung(self._name, self._clock() - self._running_since)
        if self._thread is None:
            # A daemon: one that hangs in the kernel cannot be ended, and must not keep the process from ending.
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        began = self._running_since = self._clock()

        def settle(value: Any, error: BaseException | None) -> None:
            self._running_since = None
            if done.done():
                return
            if error is None:
                done.set_result(value)
            else:
                done.set_exception(error)

        def run() -> None:
            value: T | None = None
            error: BaseException | None = None
            try:
                value = work()
            except BaseException as exc:  # noqa: BLE001  # it is raised again, where it was called
                error = exc
            try:
                loop.call_soon_threadsafe(settle, value, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

        self._calls.put(run)
        try:
            async with asyncio.timeout(deadline_seconds):
                return await done
        except TimeoutError:
            if self._running_since is None:  # it was `work` that raised it
                raise
            raise Hung(self._name, self._clock() - began) from None

    def close(self) -> None:
        """Let the thread end once its call returns."""
        self._calls.put(None)

    def _run(self) -> None:
        while (work := self._calls.get()) is not None:
            work()
