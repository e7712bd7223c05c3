"""How a gateway process learns what was ordered on its host: it watches one file, and believes none of it unverified.

The file is written by `python -m dataplane engage` and `stand-down`, which need no other part of Ballast: see
`emergency`. Whatever is wrong with it, requests are served as if nothing were ordered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dataplane.documents import ReleaseRefused, parse_json
from dataplane.events import Event, LadderOrdered
from dataplane.ladder.activations import Activation
from dataplane.ladder.emergency import Given, OrderRefused, by_surface, obeyed, parse_given
from dataplane.release import Release
from dataplane.sandboxes import TrustedKeys
from dataplane.stores.files import Stamp, stamp_of

log = logging.getLogger("ballast.ladder")

FILE_NAME: Final = "emergency.json"
MAX_FILE_BYTES: Final = 256 * 1024

Obey = Callable[[Mapping[str, tuple[Activation, ...]]], None]


def orders_file(release_file: Path) -> Path:
    """Where what is ordered on a host is kept: beside its release."""
    return release_file.with_name(FILE_NAME)


class HostOrders:
    """See the module. One per process, on one event loop."""

    def __init__(
        self,
        *,
        file: Path,
        trusted: TrustedKeys,
        obey: Obey,
        report: Callable[[Event], None],
        wall: Callable[[], float],
        poll_seconds: float = 1.0,
    ) -> None:
        """`trusted` gives the public keys, by their ids, that orders may be signed with; `wall` epoch seconds."""
        self._file = file
        self._trusted = trusted
        self._obey = obey
        self._report = report
        self._wall = wall
        self._poll_seconds = poll_seconds
        self._release: Release | None = None
        self._given: tuple[Given, ...] = ()
        self._stamp: Stamp = None
        self._keys: Mapping[str, Ed25519PublicKey] = {}
        # What may be engaged once its time has come, and what of it is.
        self._good: tuple[Activation, ...] = ()
        self._engaged: tuple[Activation, ...] = ()
        self._reported: set[str] = set()
        self._complaint = ""
        self._refused: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None

    def adopt(self, release: Release) -> None:
        """Follow another release, which may have other words for what is ordered; never waits."""
        self._release = release
        self._verify()
        self._engage()

    def poll(self) -> None:
        """Look at the file, the keys and the clock once, here and now."""
        stamp = stamp_of(self._file)
        is_other = stamp != self._stamp
        if is_other:
            self._given, self._stamp = self._read(stamp)
        keys = self._trusted()
        if is_other or keys is not self._keys:
            self._keys = keys
            self._verify()
        self._engage()

    async def start(self) -> None:
        """Obey what is on disk, then watch until `stop`."""
        self._look()
        self._task = asyncio.create_task(self._watch(), name="watch-orders")

    async def stop(self) -> None:
        """Watch no longer; what is engaged stays so to its end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            self._look()

    def _look(self) -> None:
        try:
            self.poll()
        except Exception:  # a watcher that died would obey an order for ever, or none
            log.exception("emergency orders %s could not be examined", self._file)

    def _read(self, stamp: Stamp) -> tuple[tuple[Given, ...], Stamp]:
        """What is in the file, and the state in which it need not be read again: none while it cannot be, since who may
        read it is no part of its state.
        """
        complaint = ""
        given: tuple[Given, ...] = ()
        try:
            if stamp is not None and stamp[2] > MAX_FILE_BYTES:
                complaint = f"{stamp[2]} bytes; at most {MAX_FILE_BYTES}"
            elif stamp is not None:
                given = parse_given(parse_json(self._file.read_bytes()))
        except FileNotFoundError:
            pass  # stood down between two looks
        except OSError as exc:
            complaint, stamp = f"it cannot be read: {exc}", None
        except (ReleaseRefused, UnicodeError) as exc:
            complaint = str(exc)
        if complaint and complaint != self._complaint:
            log.error("emergency orders %s: %s; nothing of it is obeyed", self._file, complaint)
        self._complaint = complaint
        return given, stamp

    def _verify(self) -> None:
        """Settle which of the orders given are good for the release that is being served."""
        good: list[Activation] = []
        refused: dict[str, str] = {}
        release = self._release
        if release is None:
            return
        for given in self._given:
            try:
                good.append(obeyed(given, trusted=self._keys, release=release))
            except (ReleaseRefused, OrderRefused) as exc:
                refused[given.id] = f"{exc.code}: {exc}"
        for key, why in refused.items():
            if self._refused.get(key) != why:
                log.error("emergency order %s is not obeyed: %s", key, why)
        self._good, self._refused = tuple(good), refused

    def _engage(self) -> None:
        now = datetime.fromtimestamp(self._wall(), UTC)
        engaged = tuple(one for one in self._good if one.since <= now < one.until)
        if engaged == self._engaged:
            return
        self._engaged = engaged
        self._obey(by_surface(engaged))
        for one in engaged:
            if one.id not in self._reported:
                self._reported.add(one.id)
                log.warning("emergency order %s engages rung %d of %s", one.id, one.rung, one.surface)
                self._report(
                    LadderOrdered(
                        at=self._wall(),
                        id=one.id,
                        surface=one.surface,
                        rung=one.rung,
                        until=one.until.timestamp(),
                        reason=one.reason,
                        by=one.by,
                    )
                )
