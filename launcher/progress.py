"""The calm terminal: one line per step, and a process's last words when it dies."""

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

TITLE_WIDTH = 14
TAIL_LINES = 20
TAIL_BYTES = 64 * 1024


class Outcome:
    """What a step prints when it is through."""

    __slots__ = ("text",)

    def __init__(self) -> None:
        self.text = "done"


class Progress:
    """Writes progress lines to one stream; a closed terminal is not a reason to stop working."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._open_step = False

    def _write(self, text: str) -> None:
        # A launcher started in a window that was closed must still stop its children in order.
        with contextlib.suppress(OSError, ValueError):
            self._out.write(text)
            self._out.flush()

    def say(self, text: str = "") -> None:
        """Print one line (or several), closing an unfinished step line first."""
        prefix = "\n" if self._open_step else ""
        self._open_step = False
        self._write(f"{prefix}{text}\n")

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Outcome]:
        """Print `title …`, then what came of it and how long it took, in seconds, on the same line."""
        outcome = Outcome()
        started = time.monotonic()
        self._write(f"  {title.ljust(TITLE_WIDTH)} … ")
        self._open_step = True
        try:
            yield outcome
        except BaseException:
            if self._open_step:
                self.say()
            raise
        elapsed = time.monotonic() - started
        lead = "" if self._open_step else f"  {title.ljust(TITLE_WIDTH)} … "
        self._open_step = False
        self._write(f"{lead}{outcome.text} ({elapsed:.1f} s)\n")

    def show_tail(self, name: str, log_path: Path, *, since_byte: int = 0) -> None:
        """Print the last lines of a process's log, from `since_byte` on, each prefixed with its name."""
        for line in tail(log_path, since_byte=since_byte):
            self.say(f"    {name} | {line}")


def tail(log_path: Path, *, lines: int = TAIL_LINES, since_byte: int = 0) -> list[str]:
    """Return the last `lines` lines of a log from `since_byte` on; none when it cannot be read.

    At most 64 KiB is looked at.
    """
    try:
        with log_path.open("rb") as log:
            log.seek(0, 2)
            size = log.tell()
            since_byte = since_byte if since_byte <= size else 0  # the log was shortened meanwhile
            log.seek(max(since_byte, size - TAIL_BYTES))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return []
    return list(deque(text.splitlines(), maxlen=lines))
