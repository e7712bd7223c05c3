"""A small disk of the world's own, for spool and releases, that can be filled up and emptied again."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import psutil

# Each process of the data plane that asks providers has 10 of them from its start, for usage rows and attempts.
SIZE_MEGABYTES: Final = 64
_BLOCK: Final = bytes(64 * 1024)
_LIMITED_BYTES: Final = 1


class Disk:
    """A tmpfs where this account may mount one; elsewhere a directory, and a limit on what processes may write."""

    def __init__(self, directory: Path, *, may_mount: bool = True) -> None:
        self.directory = directory
        self._may_mount = may_mount
        self._is_mounted = False
        self._limited: list[tuple[int, tuple[int, int]]] = []

    @property
    def how(self) -> str:
        """How it is full, in words for the report."""
        return f"a tmpfs of {SIZE_MEGABYTES} MB" if self._is_mounted else "RLIMIT_FSIZE: no room on any disk"

    def open(self) -> None:
        """Make it."""
        self.directory.mkdir(mode=0o711)
        command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MEGABYTES}m,mode=711", "tmpfs", str(self.directory)]
        if self._may_mount:
            with contextlib.suppress(OSError):
                mounted = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - ours, no request's
                self._is_mounted = mounted.returncode == 0

    def fill(self, writers: Iterable[psutil.Process]) -> None:
        """Leave no byte of it, or none to `writers`.

        Raises:
            RuntimeError: there is room all the same.
        """
        if not self._is_mounted:
            for writer in writers:
                soft, hard = resource.prlimit(writer.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(writer.pid, resource.RLIMIT_FSIZE, (_LIMITED_BYTES, hard))
                self._limited.append((writer.pid, (soft, hard)))
            return
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for block in (_BLOCK, b"\0"):
                with contextlib.suppress(OSError):
                    while True:
                        os.write(descriptor, block)
        finally:
            os.close(descriptor)
        try:
            (self.directory / "room").write_bytes(b"\0")
        except OSError as exc:
            if exc.errno == errno.ENOSPC:
                return
            raise
        raise RuntimeError(f"{str(self.directory)!r} cannot be filled up")

    def empty(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)
        (self.directory / "room").unlink(missing_ok=True)
        for pid, limits in self._limited:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        self._limited.clear()

    def close(self) -> None:
        """Let go of it."""
        if self._is_mounted:
            subprocess.run(["umount", "--lazy", str(self.directory)], check=False)  # noqa: S603, S607 - where mount was
            self._is_mounted = False

    @property
    def _ballast(self) -> Path:
        return self.directory / "ballast"
