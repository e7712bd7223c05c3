"""`manage.py capture`: take the changes of corpora out of the outboxes of their sources.

Any number of these may run at once. Each source has a thread and connections of its own, so one that hangs or is away
holds up no other; what waits there meanwhile is that corpus' lag, and its row says why.
"""

import logging
import signal
import threading
from collections.abc import Callable
from datetime import datetime
from random import Random
from typing import Any, Final

import psycopg
from django.core.management.base import BaseCommand
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from controlplane.corpora import capturing
from controlplane.corpora.policies import promises
from controlplane.corpora.sources import Address, SourceUnavailable, connect
from controlplane.vitals import serve_vitals
from dataplane.pulse import Pulse
from dataplane.retry import backoff

# An outbox is looked at so often, told of a change or not; what is known of it is never older.
POLL_SECONDS: Final = 1.0
# After so long a policy that came into force is heeded.
REFRESH_SECONDS: Final = 5.0
BASE_SECONDS: Final = 1.0
CAP_SECONDS: Final = 15.0
# A batch takes no longer. A source that has fallen silent in the middle of one is asked anew by a new process.
TAP_SECONDS: Final = 600.0

logger = logging.getLogger(__name__)

_AWAY: Final = (OperationalError, InterfaceError)


class Tap:
    """One source. `run` takes from it until told to stop; an outage is waited out, and logged once."""

    def __init__(
        self,
        address: Address,
        *,
        rng: Random,
        now: Callable[[], datetime] = timezone.now,
        poll: float = POLL_SECONDS,
        pulse: Pulse | None = None,
    ) -> None:
        self.address = address
        self.stop = threading.Event()
        self._rng = rng
        self._now = now
        self._poll = poll
        self._failures = 0
        self._pulse = pulse or Pulse(within_seconds=TAP_SECONDS)
        self._thread = threading.Thread(target=self.run, name=f"capture-{address}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait until it has stopped, which takes no longer than the batch that it has."""
        self._thread.join()

    def run(self) -> None:
        """See the class."""
        try:
            while not self.stop.is_set():
                self._pulse.beat()
                try:
                    self._take()
                except Exception as exc:  # noqa: BLE001 - whatever it is, the next try comes later, and others go on
                    self._wait_out(exc)
        finally:
            self._pulse.rest()
            connection.close()

    def _take(self) -> None:
        """Take what there is, and what comes, until told to stop."""
        with connect(self.address) as source:
            capturing.listen(source)
            while not self.stop.is_set():
                capturing.capture_all(source, self.address, now=self._now, stop=self._is_stopped)
                if self._failures:
                    logger.warning("source %s is back after %d attempts", self.address, self._failures)
                    self._failures = 0
                for _ in source.notifies(timeout=self._poll, stop_after=1):
                    pass

    def _is_stopped(self) -> bool:
        """Asked between batches, of which a long outage leaves many."""
        self._pulse.beat()
        return self.stop.is_set()

    def _wait_out(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            is_known = isinstance(error, psycopg.Error | SourceUnavailable | OperationalError | InterfaceError)
            logger.warning("source %s cannot be captured: %s", self.address, error, exc_info=not is_known)
        try:
            capturing.note_failure(self.address, error, now=self._now())
        except _AWAY as exc:
            logger.info("nor can that be written: %s", exc)
        connection.close()
        self.stop.wait(max(BASE_SECONDS, backoff(self._failures, base=BASE_SECONDS, cap=CAP_SECONDS, rng=self._rng)))


class Capture:
    """The taps of all sources that the policy in force names."""

    def __init__(self, *, make: Callable[[Address], Tap]) -> None:
        self._make = make
        self.taps: dict[str, Tap] = {}

    def refresh(self) -> None:
        """Begin with sources that are new, and leave those that are no longer named, or stand elsewhere by now."""
        named = [
            Address(slug, name, source.dsn_variable)
            for slug, corpus in promises().items()
            for name, source in corpus.sources.items()
        ]
        addresses = {str(address): address for address in named}
        left = {name: tap for name, tap in self.taps.items() if addresses.get(name) != tap.address}
        self._end(left)
        for name, address in addresses.items():
            if name not in self.taps:
                self.taps[name] = self._make(address)
                self.taps[name].start()
        capturing.forget_others(named)

    def close(self) -> None:
        """Stop all."""
        self._end(dict(self.taps))

    def _end(self, taps: dict[str, Tap]) -> None:
        for tap in taps.values():
            tap.stop.set()
        for name, tap in taps.items():
            tap.join()
            del self.taps[name]


class Command(BaseCommand):
    help = "Take changes out of the outboxes of corpora's sources until SIGTERM."
    requires_system_checks = ()  # those of `migrate` came before, and would load every page's code here

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        vitals = serve_vitals()
        pulse = vitals.pulse("sources", within_seconds=TAP_SECONDS)
        capture = Capture(
            make=lambda address: Tap(
                address,
                rng=Random(),  # noqa: S311 - jitter, not a secret
                pulse=vitals.pulse(f"source {address}", within_seconds=TAP_SECONDS),
            )
        )
        vitals.begin()
        try:
            while not stop.is_set():
                pulse.beat()
                try:
                    capture.refresh()
                except _AWAY as exc:
                    logger.warning("which sources there are cannot be read now: %s", exc)
                    connection.close()
                stop.wait(REFRESH_SECONDS)
        finally:
            capture.close()
