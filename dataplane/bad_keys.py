"""Who shows keys that are none, by address: a decider with a bounded memory, of one process.

A good key is looked up before anything here is asked, so whoever has one is served from any address, whatever others do
from it. What a bad key costs is the look-up of its hash; beyond the limit its connection is closed with the answer, so
that each further guess costs the guesser a handshake, and a caller with a broken configuration is told when to come
back.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

# In a minute, of one address. An office whose applications all have an old key is told why; it is served none the less
# for the keys of it that are good.
LIMIT: Final = 120
WINDOW_SECONDS: Final = 60.0
# The addresses of who asked lately; beyond that the one that was quiet for longest is forgotten.
MAX_ADDRESSES: Final = 10_000


class BadKeys:
    """See the module."""

    def __init__(
        self, *, limit: int = LIMIT, window_seconds: float = WINDOW_SECONDS, max_addresses: int = MAX_ADDRESSES
    ) -> None:
        self._limit = limit
        self._window_seconds = window_seconds
        self._max_addresses = max_addresses
        # Address -> when its window began, in monotonic seconds, and how many there were in it; newest last.
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def note(self, address: str, *, now: float) -> float | None:
        """Count a bad key. None: it is refused as any; else these are too many, and seconds until there may be more."""
        began, count = self._windows.pop(address, (now, 0))
        if now - began >= self._window_seconds:
            began, count = now, 0
        self._windows[address] = (began, count + 1)
        if len(self._windows) > self._max_addresses:
            self._windows.popitem(last=False)
        if count < self._limit:
            return None
        return min(self._window_seconds, max(1.0, math.ceil(began + self._window_seconds - now)))

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._windows)
