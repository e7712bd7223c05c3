"""A bounded queue of lines on local disk: what a worker could not deliver yet, in order, across its own death.

Lines go to numbered segment files, one `write` each time. A process that is killed in the middle of a write leaves at
most one line without its newline, at the end of a segment; such a tail is never read, and a new process never appends
to an old segment. What was written survives the death of the process (not a power cut: there is no fsync, because
telemetry is not worth one per second). Reading is at least once: a process killed during replay reads its oldest
segment again.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SEGMENTS: Final = 8
_SUFFIX: Final = ".jsonl"


class SpoolBusy(OSError):
    """Another live process owns this spool: two workers were started under the same id."""

    def __init__(self, directory: Path) -> None:
        super().__init__(f"spool {str(directory)!r} belongs to another running process; give each worker its own slot")
        self.directory = directory


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines that `peek` gave, and where they stand: `remove` forgets them only if they still stand there."""

    lines: list[bytes]
    segment: int
    end: int


class Spool:
    """The spool in `directory`, which this process owns until `close`.

    Not thread-safe. Writing blocks for the time of a page-cache write.
    """

    def __init__(self, directory: Path, *, max_bytes: int) -> None:
        """Open it, creating the directory.

        Args:
            max_bytes: Of all segments together; beyond it the oldest segment (an eighth) is dropped and counted.
        Raises:
            SpoolBusy: another process holds it.
            OSError: the directory cannot be made or locked.
        """
        self._directory = directory
        self._segment_bytes = max(max_bytes // _SEGMENTS, 1)
        self._max_bytes = max_bytes
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._lock)
            raise SpoolBusy(directory) from exc
        self._segments = {number: self._path(number).stat().st_size for number in self._numbers()}
        self._next = max(self._segments, default=0) + 1
        self._writer: int | None = None
        self._read_offset = 0
        self._dropped_batches = 0
        self._dropped_bytes = 0

    @property
    def is_empty(self) -> bool:
        """True when there is nothing left to replay."""
        return not self._segments

    @property
    def pending_bytes(self) -> int:
        """Bytes on disk that have not been replayed."""
        return sum(self._segments.values()) - self._read_offset

    def append(self, lines: list[bytes]) -> None:
        """Add lines, none of which holds a newline. All of them are written, or none.

        Raises:
            OSError: the disk is full or gone; nothing was added.
        """
        data = b"".join(line + b"\n" for line in lines)
        if self._writer is None or self._segments[self._next - 1] + len(data) > self._segment_bytes:
            self._writer = self._rotate()
        writer = self._writer
        number = self._next - 1
        start = self._segments[number]
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(writer, view) :]
        except OSError:
            os.ftruncate(writer, start)
            raise
        self._segments[number] = start + len(data)
        while len(self._segments) > 1 and sum(self._segments.values()) > self._max_bytes:
            self._drop_oldest()

    def peek(self, max_bytes: int) -> Chunk | None:
        """The oldest lines: at most about `max_bytes` of them, but at least one. None when the spool is empty."""
        while self._segments:
            oldest = min(self._segments)
            with self._path(oldest).open("rb") as file:
                file.seek(self._read_offset)
                data = file.read(max_bytes)
                if b"\n" not in data:
                    data += file.readline()
            length = data.rfind(b"\n") + 1
            if length:
                return Chunk(data[: length - 1].split(b"\n"), oldest, self._read_offset + length)
            # Only a torn tail, or nothing, is left of this segment. The one being written has no torn tail.
            self._remove(oldest)
        return None

    def remove(self, chunk: Chunk) -> None:
        """Forget lines that have been delivered. If they were dropped in the meantime, nothing happens."""
        if chunk.segment not in self._segments:
            return
        self._read_offset = chunk.end
        if self._read_offset >= self._segments[chunk.segment]:
            self._remove(chunk.segment)

    def take_dropped(self) -> tuple[int, int]:
        """How many lines, and bytes, were dropped since this was last asked."""
        dropped = (self._dropped_batches, self._dropped_bytes)
        self._dropped_batches = self._dropped_bytes = 0
        return dropped

    def close(self) -> None:
        """Let go of the directory; what it holds stays for the next process."""
        if self._writer is not None:
            os.close(self._writer)
            self._writer = None
        os.close(self._lock)

    def _numbers(self) -> list[int]:
        stems = (path.name.removesuffix(_SUFFIX) for path in self._directory.glob(f"*{_SUFFIX}"))
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:010d}{_SUFFIX}"

    def _rotate(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL | os.O_CLOEXEC
        writer = os.open(self._path(self._next), flags, 0o600)
        if self._writer is not None:
            os.close(self._writer)
        self._segments[self._next] = 0
        self._next += 1
        return writer

    def _drop_oldest(self) -> None:
        oldest = min(self._segments)
        with self._path(oldest).open("rb") as file:
            file.seek(self._read_offset)
            self._dropped_batches += file.read().count(b"\n")
        self._dropped_bytes += self._segments[oldest] - self._read_offset
        self._remove(oldest)

    def _remove(self, number: int) -> None:
        if number == self._next - 1 and self._writer is not None:
            os.close(self._writer)
            self._writer = None
        self._path(number).unlink(missing_ok=True)
        del self._segments[number]
        self._read_offset = 0
