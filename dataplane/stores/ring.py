"""Rows that a process has not handed over yet, in a file that outlives it: a bounded ring of records, memory-mapped.

A row is written when it comes, by copying it into the page cache, without a system call. So it survives the death of
the process, however sudden (not a power cut: as with the spool, there is no fsync). A process that is killed in the
middle of a copy leaves a record whose checksum is wrong; it is where reading ends. Reading is at least once: what was
handed over just before the process died is given again.

A position counts bytes since the ring was made. A record lies in one piece, on one lap; its checksum knows the lap, so
what an earlier lap left at the same place is never taken for a record of this one.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from struct import Struct
from typing import Final
from zlib import crc32

_MAGIC: Final = b"ballast rows 1\n\0"
# What the file says of itself, and from which position on it holds rows. The position is native, so it is one store: a
# killed process never leaves half of it.
_HEADER: Final = Struct("@16sQQ")
_TAIL: Final = Struct("@Q")
_TAIL_AT: Final = 24
_AREA_AT: Final = 64
# Length and checksum of the row that follows.
_RECORD: Final = Struct("@II")
_RECORD_BYTES: Final = 8
_MASK: Final = 0xFFFFFFFF


class Ring:
    """The ring in `path`, which this process owns until `close`; whoever opens it sees to that, such as by a lock.

    Not thread-safe. `end` is the position behind the newest row; `set_aside` is the file that stood in the way of
    this one, under the name that it has now; None: there was none.
    """

    def __init__(self, path: Path, *, size_bytes: int) -> None:
        """Open it, creating it where there is none. A file that is no ring of this size is renamed to `.unread`, in the
        place of one that was so before.

        Args:
            size_bytes: Of all rows together, each with 8 bytes more.
        Raises:
            OSError: it can be neither opened nor made, such as for want of room.
        """
        self._size = size_bytes
        self.set_aside: Path | None = None
        file = self._open(path)
        try:
            # A page that has no block would kill the process that writes it once the disk is full.
            os.posix_fallocate(file, 0, _AREA_AT + size_bytes)
            self._map = mmap.mmap(file, _AREA_AT + size_bytes)
        finally:
            os.close(file)
        self._tail: int = _TAIL.unpack_from(self._map, _TAIL_AT)[0]
        self.end = self._tail
        self.end = self._read()[1]

    def rows(self) -> list[bytes]:
        """What was written and not forgotten, in order: when it was just opened, what its last owner left."""
        return self._read()[0]

    def write(self, row: bytes) -> bool:
        """Add a row of at least one byte; False, and nothing was added, where there is no room."""
        size, begin = self._size, self.end
        needed = _RECORD_BYTES + len(row)
        lap, at = divmod(begin, size)
        if at + needed > size:
            lap, at = lap + 1, 0
            begin = lap * size
        if needed > size or begin + needed - self._tail > size:
            return False
        record = _RECORD.pack(len(row), crc32(row, lap & _MASK)) + row
        at += _AREA_AT
        self._map[at : at + needed] = record
        self.end = begin + needed
        return True

    def forget(self, until: int) -> None:
        """Forget the rows before `until`, which was the `end` once. An empty ring begins anew at its first page, so a
        quiet process goes on using the few that it has touched.
        """
        if until == self.end and until % self._size:
            until += self._size - until % self._size
            self.end = until
        if until > self._tail:
            _TAIL.pack_into(self._map, _TAIL_AT, until)
            self._tail = until

    def close(self) -> None:
        """Let go of the file; what it holds stays for the next process."""
        self._map.close()

    def _open(self, path: Path) -> int:
        """Open a ring of the right size, or make one."""
        with contextlib.suppress(FileNotFoundError):
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            if self._is_ours(file):
                return file
            os.close(file)
            self.set_aside = path.with_name(f"{path.name}.unread")
            path.replace(self.set_aside)
        # Under another name until it is whole: half of a ring would be set aside the next time.
        unfinished = path.with_name(f"{path.name}.new")
        file = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, _AREA_AT + self._size)
            os.pwrite(file, _HEADER.pack(_MAGIC, self._size, 0), 0)
            unfinished.replace(path)
        except OSError:
            os.close(file)
            unfinished.unlink(missing_ok=True)
            raise
        return file

    def _is_ours(self, file: int) -> bool:
        header = os.pread(file, _TAIL_AT, 0)
        expected = _HEADER.pack(_MAGIC, self._size, 0)[:_TAIL_AT]
        return header == expected and os.fstat(file).st_size == _AREA_AT + self._size

    def _read(self) -> tuple[list[bytes], int]:
        """The rows from the oldest on, and the position behind the last."""
        rows: list[bytes] = []
        position = self._tail
        while position - self._tail < self._size:
            row = self._row_at(position)
            if row is None:
                # The next row may not have fitted into the rest of the lap.
                next_lap = position + self._size - position % self._size
                row = self._row_at(next_lap) if position % self._size else None
                if row is None:
                    break
                position = next_lap
            rows.append(row)
            position += _RECORD_BYTES + len(row)
        return rows, position

    def _row_at(self, position: int) -> bytes | None:
        lap, at = divmod(position, self._size)
        if at + _RECORD_BYTES > self._size:
            return None
        length, checksum = _RECORD.unpack_from(self._map, _AREA_AT + at)
        if not 0 < length <= self._size - at - _RECORD_BYTES:
            return None
        begin = _AREA_AT + at + _RECORD_BYTES
        row = self._map[begin : begin + length]
        return row if crc32(row, lap & _MASK) == checksum else None
