"""How a gateway process comes by its release: it watches the file that the agent writes, and believes none of it
unverified.

The swap is one assignment. A request takes `watcher.current` once and keeps that object to its end, so it never sees a
mixture of two releases, however long it lasts.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from dataplane.release import Envelope, Release, ReleaseRefused, verify
from dataplane.reports import Verdict
from dataplane.stores.files import Stamp, stamp_of
from dataplane.trust import read_trusted, trust_file

log = logging.getLogger("ballast.watcher")

# A release up to this size, an envelope of some hundred prompts, is examined within a few milliseconds, right where
# the loop runs: a thread would hold the interpreter for just as long, and pass it to and fro on top of that.
INLINE_BYTES: Final = 64 * 1024

# Of the release, of the trusted keys, and of what statements made of these.
_Stamps = tuple[Stamp, Stamp, Stamp]


class Acknowledge(Protocol):
    """How a verdict leaves the process, such as `ReportShipper.ack`."""

    def __call__(self, *, revision: int, digest: str, verdict: Verdict, reason: str = "") -> None:
        """Report that this worker serves, or refuses, a release."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A file that was not accepted.

    `revision` is what it claims to be, 0 when it does not even claim; `content` is its hash.
    """

    revision: int
    digest: str
    reason: str
    content: bytes


class ReleaseWatcher:
    """Watches one release file. `current` is what this process serves: None until a first release has been verified.

    Everything runs on one event loop, except reading and verifying a large release, which a thread does so that
    requests are not held up.
    """

    def __init__(
        self,
        *,
        release_file: Path,
        trusted_keys_file: Path,
        acknowledge: Acknowledge,
        poll_seconds: float = 0.020,
    ) -> None:
        self.current: Release | None = None
        self._release_file = release_file
        self._trusted_keys_file = trusted_keys_file
        self._acknowledge = acknowledge
        self._poll_seconds = poll_seconds
        self._callbacks: list[Callable[[Release], None]] = []
        # The trusted keys count too: a release refused for an unknown key is looked at again when a key is added.
        self._seen: _Stamps | None = None
        self._trusted: tuple[tuple[Stamp, Stamp], Mapping[str, Ed25519PublicKey]] = ((None, None), {})
        self._refused: bytes | None = None
        self._task: asyncio.Task[None] | None = None

    def subscribe(self, callback: Callable[[Release], None]) -> None:
        """Call back with each release right after it has become `current`, on the event loop.

        Callbacks must not wait.
        """
        self._callbacks.append(callback)

    def poll(self) -> bool:
        """Look at the file once, here and now. True when `current` changed."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        return self._adopt(stamps, self._examine())

    def trusted_keys(self) -> Mapping[str, Ed25519PublicKey]:
        """The public keys, by their ids, that this host trusts now; none while their files cannot be used. These are
        read again when they have changed.
        """
        stamps = stamp_of(self._trusted_keys_file), stamp_of(trust_file(self._release_file))
        if stamps != self._trusted[0]:
            try:
                self._trusted = (stamps, read_trusted(self._trusted_keys_file, self._release_file))
            except (OSError, ValueError) as exc:
                log.error("trusted keys %s: %s", self._trusted_keys_file, exc)
                self._trusted = (stamps, {})
        return self._trusted[1]

    async def start(self) -> None:
        """Load what is on disk, if it is good, then watch until `stop`."""
        self.poll()
        self._task = asyncio.create_task(self._watch(), name="watch-release")

    async def stop(self) -> None:
        """Stop watching; `current` stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            stamps = self._stamps()
            if stamps == self._seen:
                continue
            try:
                is_small = stamps[0] is None or stamps[0][2] <= INLINE_BYTES
                self._adopt(stamps, self._examine() if is_small else await asyncio.to_thread(self._examine))
            except Exception:  # a watcher that died would serve an old release for ever and say nothing
                log.exception("release file %s could not be examined", self._release_file)
                self._seen = stamps

    def _stamps(self) -> _Stamps:
        return (
            stamp_of(self._release_file),
            stamp_of(self._trusted_keys_file),
            stamp_of(trust_file(self._release_file)),
        )

    def _examine(self) -> Release | Refusal | None:
        """Read and verify. None: there is no file. Changes nothing, so it may run in a thread."""
        try:
            data = self._release_file.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            return Refusal(0, "", f"release file cannot be read: {exc}", repr(exc).encode())
        envelope: Envelope | None = None
        try:
            envelope = Envelope.from_json(data)
            trusted = read_trusted(self._trusted_keys_file, self._release_file)
            return verify(envelope, trusted=trusted, current=self.current)
        except ReleaseRefused as exc:
            reason = f"{exc.code}: {exc}"
        except (OSError, ValueError) as exc:
            reason = f"trusted_keys: {exc}"
        if envelope is None:
            return Refusal(0, "", reason, hashlib.sha256(data).digest())
        return Refusal(claimed_revision(envelope), envelope.digest, reason, hashlib.sha256(data).digest())

    def _adopt(self, stamps: _Stamps, outcome: Release | Refusal | None) -> bool:
        # No await from here to the end: requests see the old release or the new one.
        self._seen = stamps
        if outcome is None:
            return False
        if isinstance(outcome, Refusal):
            seen_before = outcome.content + outcome.reason.encode()
            if seen_before != self._refused:
                self._refused = seen_before
                log.error("release refused, still serving %s: %s", self._describe(), outcome.reason)
                self._acknowledge(
                    revision=outcome.revision, digest=outcome.digest, verdict="nack", reason=outcome.reason
                )
            return False
        self._refused = None
        if outcome is self.current:
            return False
        self.current = outcome
        for callback in self._callbacks:
            try:
                callback(outcome)
            except Exception:  # one subscriber's mistake must not undo the swap or hide it from the others
                log.exception("a subscriber failed on release %d", outcome.revision)
        log.info("serving release %s", self._describe())
        self._acknowledge(revision=outcome.revision, digest=outcome.digest, verdict="ack")
        return True

    def _describe(self) -> str:
        return "nothing" if self.current is None else f"{self.current.revision} ({self.current.digest[:12]})"


def claimed_revision(envelope: Envelope) -> int:
    """The revision that a refused envelope says it has, for the report only; 0 when it says none.

    Nothing is believed.
    """
    try:
        revision = json.loads(envelope.document)["revision"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0
    return revision if isinstance(revision, int) and 0 < revision < 2**53 else 0
