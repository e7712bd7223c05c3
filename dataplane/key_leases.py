"""What a process owns under idempotency keys: it holds the leases, stops what it may not go on with, and writes how
each execution ended, later if the store is away.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from dataplane.errors import GatewayError
from dataplane.errors.idempotency import IdempotencyUnavailable
from dataplane.errors.streams import OwnerLost
from dataplane.idempotency import Event, LeaseLost, Outcome, Owned, settle
from dataplane.journey import Journey
from dataplane.outcomes import Capture, broke_off, outcome_of, outcome_of_stream
from dataplane.productions import Production, View
from dataplane.stores.idempotency import IdempotencyStore

log = logging.getLogger("ballast.idempotency")

LEASE_SECONDS: Final = 15.0
# Who cannot renew stops this long before others may take over: the store may take two of them to say no.
MARGIN_SECONDS: Final = 3.0
EXPIRED_AT_ONCE: Final = 500


class Watch:
    """Tells the store how one execution goes. It is the only one that writes about its epoch."""

    def __init__(
        self, leases: KeyLeases, owned: Owned, journey: Journey, *, is_repeatable: bool, asked_at: float
    ) -> None:
        """`asked_at`, monotonic seconds, is when the lease was asked for: it began at that time or later."""
        self.owned = owned
        self.renewed_at = asked_at
        self.is_lost = False
        self.settled: tuple[Event, Outcome | None] | None = None
        # The stream of an owner that is held to be dead, as long as it may be the answer.
        self.adopted = owned.stream_before
        self._leases = leases
        self._journey = journey
        self._is_repeatable = is_repeatable
        self._has_begun = False
        self._stop: Callable[[], object] | None = None

    def began(self, stop: Callable[[], object]) -> None:
        """Note that it is being executed, in a task of its own, which `stop` ends."""
        self._has_begun = True
        self._stop = stop
        self._journey.is_detached = True

    async def opened(self, stream: str) -> None:
        """Let duplicates attach to the stream.

        Raises:
            OwnerLost: it is somebody else's to execute now.
        """
        try:
            await self._leases.store.note_stream(self.owned, stream)
        except LeaseLost as exc:
            raise OwnerLost from exc
        except IdempotencyUnavailable:
            log.warning("duplicates of stream %s cannot attach to it: the store of keys is away", stream)

    async def ended(self, reply: Production | Capture) -> None:
        """Keep the outcome, or let the key go, as far as the store can be asked; what is left is tried again later."""
        self._stop = None
        if self.is_lost:
            return
        journey = self._journey
        error = journey.error
        if error is None and journey.outcome != "ok":
            error = GatewayError("the execution was ended before it was complete")
        was_sent = any(attempt.sent_bytes for attempt in journey.attempts)
        event = settle(error, is_repeatable=self._is_repeatable, was_sent=was_sent)
        self.settled = (event, outcome_of(reply, journey) if event is Event.COMPLETED else None)
        await self._leases.settle(self)

    @property
    def tenant(self) -> str:
        """Whose request it is."""
        return "" if self._journey.tenant is None else self._journey.tenant.slug

    async def adopt(self, view: View) -> None:
        """Keep the stream of an owner before as the answer, once it is complete; if it broke off, the key is free."""
        if view.buffer.is_over and self.settled is None:
            is_free = broke_off(view)
            self.settled = (Event.RELEASED, None) if is_free else (Event.COMPLETED, outcome_of_stream(view))
            await self._leases.settle(self)

    def lose(self) -> None:
        """Stop: the epoch is over."""
        self.is_lost = True
        if self._stop is not None:
            self._stop()

    def forsake(self) -> None:
        """Let the key go, unless it is being executed or has been: whoever was to begin does not."""
        if self._has_begun or self.is_lost or self.settled:
            return
        if self.adopted:
            self._leases.see_out(self)
        else:
            self.settled = (Event.RELEASED, None)
            self._leases.put_off(self)


class KeyLeases:
    """All leases of one process."""

    def __init__(self, store: IdempotencyStore, *, clock: Callable[[], float]) -> None:
        """`clock` is monotonic seconds."""
        self.store = store
        self._clock = clock
        # Those whose lease is held; of them those that wait for the end of an adopted stream, and those whose own end
        # is still to be written, in the order to try.
        self._watches: set[Watch] = set()
        self.adopting: set[Watch] = set()
        self._unwritten: dict[Watch, None] = {}

    @property
    def held(self) -> int:
        """How many leases are held."""
        return len(self._watches)

    def hold(self, watch: Watch) -> None:
        """Renew a lease from now on, until it is known how its execution ended."""
        self._watches.add(watch)

    def let_go(self, watch: Watch) -> None:
        """Let a lease run out."""
        self._watches.discard(watch)
        self.adopting.discard(watch)
        self._unwritten.pop(watch, None)

    def see_out(self, watch: Watch) -> None:
        """Hold a lease until the stream that was adopted is over."""
        self.adopting.add(watch)

    def put_off(self, watch: Watch) -> None:
        """Have the end of an execution written with the next turn."""
        self._unwritten[watch] = None

    async def settle(self, watch: Watch) -> None:
        """Write how an execution ended; if the store is away, it is tried again with every turn."""
        try:
            await self._write(watch)
        except IdempotencyUnavailable:
            log.warning("how %s ended cannot be written yet: the store of keys is away", watch.owned.record_id)

    async def catch_up(self) -> None:
        """Write what the store could not be told when it happened.

        Raises:
            IdempotencyUnavailable: it still cannot.
        """
        for watch in list(self._unwritten):
            await self._write(watch)

    async def _write(self, watch: Watch) -> None:
        """Write how an execution ended, and let go of its lease.

        Raises:
            IdempotencyUnavailable: the store cannot be asked now; the next turn tries again.
        """
        if watch.settled is None:
            return
        event, outcome = watch.settled
        self._unwritten.pop(watch, None)
        try:
            if event is Event.COMPLETED and outcome is not None:
                await self.store.complete(watch.owned, outcome)
            elif event is Event.RELEASED:
                await self.store.release(watch.owned)
            else:
                await self.store.abandon(watch.owned)
        except LeaseLost:
            watch.is_lost = True
            log.warning("how %s ended is not kept: another process took its key over", watch.owned.record_id)
        except (IdempotencyUnavailable, asyncio.CancelledError):
            self.put_off(watch)
            raise
        except Exception:  # it would be the same the next time; the lease runs out
            log.exception("how %s ended cannot be kept", watch.owned.record_id)
        self.let_go(watch)

    async def renew(self) -> None:
        """Hold on to what is executed here, and stop what is not held any more.

        Raises:
            IdempotencyUnavailable: the store cannot be asked now.
        """
        self._stop_unrenewed()
        now = self._clock()
        due = [watch for watch in self._watches if now - watch.renewed_at > LEASE_SECONDS / 3]
        if not due:
            return
        try:
            held = await self.store.renew([watch.owned for watch in due], lease_seconds=LEASE_SECONDS)
        finally:
            self._stop_unrenewed()
        for watch in due:
            if watch.owned in held:
                watch.renewed_at = now
            else:
                self._lose(watch)

    def _stop_unrenewed(self) -> None:
        """Stop what others may take over in a moment."""
        now = self._clock()
        for watch in [one for one in self._watches if now - one.renewed_at > LEASE_SECONDS - MARGIN_SECONDS]:
            self._lose(watch)

    def _lose(self, watch: Watch) -> None:
        if watch.settled is None:  # else its end is being written, and is refused if it must be
            log.warning("the lease of idempotency record %s is lost; its execution stops", watch.owned.record_id)
            self.let_go(watch)
            watch.lose()

    async def expire(self) -> None:
        """Forget the keys whose time is over.

        Raises:
            IdempotencyUnavailable: the store cannot be asked now.
        """
        while await self.store.expire(limit=EXPIRED_AT_ONCE) == EXPIRED_AT_ONCE:
            continue
