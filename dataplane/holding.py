"""What a worker could neither deliver nor spool: batches in memory, the newest of them, and how many were let go."""

from __future__ import annotations

from collections.abc import Sequence


class Holding:
    """Batches in order, bounded by their bytes. They are lost with the process."""

    __slots__ = ("_dropped_batches", "_dropped_bytes", "_max_bytes", "batches")

    def __init__(self, *, max_bytes: int) -> None:
        self.batches: list[bytes] = []
        self._max_bytes = max_bytes
        self._dropped_batches = 0
        self._dropped_bytes = 0

    def hold(self, batches: Sequence[bytes]) -> int:
        """Hold these and nothing else, the newest that fit; return how many were dropped."""
        over = sum(map(len, batches)) - self._max_bytes
        dropped = size = 0
        while size < over:
            size += len(batches[dropped])
            dropped += 1
        self.batches = list(batches[dropped:])
        self._dropped_batches += dropped
        self._dropped_bytes += size
        return dropped

    def peek(self, max_bytes: int) -> list[bytes]:
        """The oldest batches: at most about `max_bytes` of them, but at least one, if there is any."""
        first: list[bytes] = []
        size = 0
        for batch in self.batches:
            if first and size + len(batch) > max_bytes:
                break
            first.append(batch)
            size += len(batch)
        return first

    def remove(self, batches: Sequence[bytes]) -> None:
        """Forget batches that `peek` gave, as far as they are still held."""
        gone = set(map(id, batches))  # two batches may say the same
        self.batches = [batch for batch in self.batches if id(batch) not in gone]

    def take_dropped(self) -> tuple[int, int]:
        """How many batches, and bytes, were dropped since this was last asked."""
        dropped = (self._dropped_batches, self._dropped_bytes)
        self._dropped_batches = self._dropped_bytes = 0
        return dropped
