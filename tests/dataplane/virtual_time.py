"""An event loop on which waiting takes no time: when nothing can run, its clock moves to whatever is due next."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

T = TypeVar("T")


class _NoWaiting(selectors.DefaultSelector):
    """Never waits for files; it tells the loop how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: VirtualLoop | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and self.loop is not None:
            if timeout is None:
                raise RuntimeError("everybody waits for something that never comes")
            self.loop.seconds += max(0.0, timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """See the module. `seconds` is its time."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        selector = _NoWaiting()
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        return self.seconds


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the test on a loop on which waiting takes no time."""

    @wraps(test)
    def tested(**given: Any) -> None:
        run(test(**given))

    # pytest would take what is wrapped for the test, and await it.
    del tested.__wrapped__  # type: ignore[attr-defined]
    tested.__signature__ = signature(test)  # type: ignore[attr-defined]
    return tested
