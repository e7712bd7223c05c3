"""What a process has under way, in a file that outlives it: slots of one size, memory-mapped.

A slot is taken when something begins and freed when it has ended, each by copies into the page cache, without a system
call. So whatever still stands in one when its process is dead was under way then. The length is written last, in one
store: a process that is killed in the middle of a copy leaves a slot that is free, and what it was to guard had not
begun.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path
from struct import Struct
from typing import Any, Final

NONE: Final = -1
SLOT_BYTES: Final = 1024
_MAGIC: Final = b"ballast slots 1\0"
_AREA_AT: Final = 64
# The length of what stands in a slot; 0 is a free one.
_LENGTH: Final = Struct("@Q")
_LENGTH_BYTES: Final = 8
MAX_RECORD_BYTES: Final = SLOT_BYTES - _LENGTH_BYTES


class Slots:
    """The slots in `path`, which this process owns until `close`; whoever opens it sees to that, such as by a lock.

    Not thread-safe.
    """

    def __init__(self, path: Path, *, number: int) -> None:
        """Open it, creating it where there is none; a file of another format or number is replaced.

        Raises:
            OSError: it can be neither opened nor made, such as for want of room.
        """
        size = _AREA_AT + number * SLOT_BYTES
        file = _open(path, size)
        try:
            # A page that has no block would kill the process that writes it once the disk is full.
            os.posix_fallocate(file, 0, size)
            self._map = mmap.mmap(file, size)
        finally:
            os.close(file)
        taken = [slot for slot in range(number) if self._record(slot) is not None]
        self._left = {slot: self._record(slot) or b"" for slot in taken}
        # The last that was freed is taken first, so a quiet process goes on using the few pages that it has touched.
        self._free = [slot for slot in reversed(range(number)) if slot not in self._left]

    @property
    def left(self) -> dict[int, bytes]:
        """What the last owner had under way when it died, by slot; each stays until it is freed."""
        return dict(self._left)

    def take(self, own: Struct, values: tuple[Any, ...], shared: bytes) -> int:
        """Put what `own` makes of these values, and `shared` behind it, into a free slot, and return which; NONE where
        none is free, or where they are too long.
        """
        begin, length = own.size, own.size + len(shared)
        if length > MAX_RECORD_BYTES or not self._free:
            return NONE
        slot = self._free.pop()
        at = _AREA_AT + slot * SLOT_BYTES
        record = at + _LENGTH_BYTES
        own.pack_into(self._map, record, *values)
        self._map[record + begin : record + length] = shared
        _LENGTH.pack_into(self._map, at, length)
        return slot

    def free(self, slot: int) -> None:
        """Let another have it."""
        _LENGTH.pack_into(self._map, _AREA_AT + slot * SLOT_BYTES, 0)
        self._free.append(slot)

    def close(self) -> None:
        """Let go of the file; what it holds stays for the next process."""
        self._map.close()

    def _record(self, slot: int) -> bytes | None:
        at = _AREA_AT + slot * SLOT_BYTES
        length = _LENGTH.unpack_from(self._map, at)[0]
        if not 0 < length <= MAX_RECORD_BYTES:
            return None
        record: bytes = self._map[at + _LENGTH_BYTES : at + _LENGTH_BYTES + length]
        return record


def _open(path: Path, size: int) -> int:
    with contextlib.suppress(FileNotFoundError):
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if os.fstat(file).st_size == size and os.pread(file, len(_MAGIC), 0) == _MAGIC:
            return file
        os.close(file)
    # Under another name until it is whole: half of it would be replaced the next time, and hold nothing.
    unfinished = path.with_name(f"{path.name}.new")
    file = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(file, 0, size)
        os.pwrite(file, _MAGIC, 0)
        unfinished.replace(path)
    except OSError:
        os.close(file)
        unfinished.unlink(missing_ok=True)
        raise
    return file
