"""What of a worker's attempts outlives its process: the rows of those that have ended, and which were under way.

Both stand in files from the moment at which they are known, without a system call: rows in a ring until they are with
Redis or in the spool (`stores.ring`), attempts under way in slots (`under_way`). The next process of the same worker
finds there what its predecessor took with it. Serving depends on neither.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from dataplane.stores.ring import Ring
from dataplane.under_way import UnderWay

RING_FILE: Final = "rows.ring"
SLOTS_FILE: Final = "attempts.slots"
# Within so long other processes tell of the streams of a dead one, which they hold dead after some six seconds.
KEPT_SECONDS: Final = 12.0

log = logging.getLogger("ballast.reports")


class Outliving:
    """The ring and the slots of one worker.

    Attributes:
        unguarded_rows: Rows that would be lost with the process: the ring was full, or cannot be used.
        unread_rings: Rings of a predecessor that could not be read.
    """

    def __init__(self, worker: str, *, ring_bytes: int) -> None:
        self.under_way = UnderWay()
        self.unguarded_rows = 0
        self.unread_rings = 0
        self._worker = worker
        self._ring_bytes = ring_bytes
        self._ring: Ring | None = None
        # Up to where its rows are in batches.
        self._drained = 0
        # Rows of attempts that a dead predecessor had under way, by their slots, until they are told of.
        self._lost: list[tuple[float, int, Mapping[str, Any]]] = []

    @property
    def unguarded_attempts(self) -> int:
        """How many attempts began for which there was no slot."""
        return self.under_way.unguarded

    def open(self, directory: Path, *, now: float) -> list[bytes]:
        """Begin to guard, and give the rows that a predecessor left, which stay in the ring until they have left.

        Args:
            now: Seconds since the epoch.
        """
        rows = self._open_ring(directory / RING_FILE)
        self._open_slots(directory / SLOTS_FILE, rows, now=now)
        return rows

    def close(self) -> None:
        """Let go of the files; what is in them stays."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self.under_way.close()

    def guard(self, row: bytes) -> None:
        """Write the row of an attempt that has ended."""
        if self._ring is None or not self._ring.write(row):
            self.unguarded_rows += 1

    def drain(self) -> None:
        """Every row that was guarded is in a batch now."""
        if self._ring is not None:
            self._drained = self._ring.end

    def forget_drained(self) -> None:
        """The batches of what was drained are where they outlive this process too."""
        if self._ring is not None:
            self._ring.forget(self._drained)

    def lost_rows(self, now: float) -> Iterator[Mapping[str, Any]]:
        """Those that are due of attempts that a predecessor took with it; each is handed over before the next is asked
        for, since its slot is free then.
        """
        if not self._lost:
            return
        due = [one for one in self._lost if one[0] <= now]
        self._lost = [one for one in self._lost if one[0] > now]
        for _, slot, row in due:
            yield row
            self.under_way.end(slot)

    def _open_ring(self, path: Path) -> list[bytes]:
        try:
            self._ring = Ring(path, size_bytes=self._ring_bytes)
        except OSError as exc:
            log.error("usage rows of %s would be lost with its process, %s cannot be used: %s", self._worker, path, exc)
            return []
        if self._ring.set_aside is not None:
            self.unread_rings += 1
            log.error("usage rows may be in %s, which %s cannot read", self._ring.set_aside, self._worker)
        if left := self._ring.rows():
            log.warning("%d usage rows of %s outlived the process that made them", len(left), self._worker)
        return left

    def _open_slots(self, path: Path, rows: list[bytes], *, now: float) -> None:
        """Guard attempts under way, and hold those that a killed predecessor took with it, unless it had made their
        rows. What a stream's readers are told of by others, these may tell of better, since they know what was sent of
        it; so for those it is waited, and the ledger keeps the first that comes.
        """
        try:
            left = self.under_way.open(path)
        except OSError as exc:
            log.error("attempts under way at %s would be lost with its process, %s: %s", self._worker, path, exc)
            return
        told = {orjson.loads(row)["attempt_id"] for row in rows} if left else set()
        for slot, row in left.items():
            if row["attempt_id"] in told:
                self.under_way.end(slot)
            else:
                is_kept = row.pop("is_kept")
                self._lost.append((now + KEPT_SECONDS if is_kept else now, slot, row))
        if self._lost:
            log.warning("%d attempts of %s were under way when its process died", len(self._lost), self._worker)
