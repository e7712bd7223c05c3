"""Signals become a flag that the launcher looks at between two steps, never an exception in the middle of one.

An exception raised inside a spawn could lose a child that nobody has written down yet.
"""

import signal
from types import FrameType

from launcher.errors import StopRequested

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Counts stop signals: the first asks for an orderly stop, the second for an immediate one."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def install(self) -> None:
        """Take over SIGINT, SIGTERM and SIGHUP for the rest of this process."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1

    @property
    def requested(self) -> bool:
        """True once anybody has asked for a stop."""
        return self.count > 0

    @property
    def impatient(self) -> bool:
        """True once somebody has asked twice."""
        return self.count > 1

    def check(self) -> None:
        """Return, or raise StopRequested when a stop was asked for."""
        if self.requested:
            raise StopRequested
