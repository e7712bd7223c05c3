"""Where calls get their part of a day's budget, and where the fleet's word on killed policies is told and heard.

Without Redis nothing is reserved. What could not be told is told again; all of it may be told twice.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Final
from uuid import uuid4

from dataplane.records import record
from dataplane.shadow.budget import Amounts, limits_of
from dataplane.shadow.policy import ShadowPolicy
from dataplane.shadow.switch import Move, Switch
from dataplane.stores.shadow_budget import Killed, Reserved, ShadowStore, ShadowStoreUnavailable, Spent

log = logging.getLogger("ballast.shadow")

# What is beyond stays reserved until the day is over.
MAX_UNSETTLED: Final = 10_000


@record
class Reservation:
    """A part of the UTC day `day` that one call may take, by its name in the store."""

    digest: str
    day: str
    name: str


@record
class Unknown:
    """Nobody can say what is left, so no call may be made."""


class BudgetDesk:
    """See the module. One per process, on its event loop."""

    def __init__(self, store: ShadowStore | None) -> None:
        self._store = store
        self._unsettled: deque[tuple[Reservation, Amounts]] = deque(maxlen=MAX_UNSETTLED)
        self._epoch = ""

    async def reserve(
        self, policy: ShadowPolicy, amounts: Amounts, *, day: str
    ) -> Reservation | Spent | Killed | Unknown:
        """Set aside what a call may take of a policy's day."""
        if self._store is None:
            return Unknown()
        reservation = Reservation(policy.digest, day, uuid4().hex)
        try:
            said = await self._store.reserve(
                policy.digest, day=day, reservation=reservation.name, amounts=amounts, limits=limits_of(policy)
            )
        except ShadowStoreUnavailable as exc:
            log.info("the budget of shadow %r cannot be asked for: %s", policy.slug, exc)
            return Unknown()
        return reservation if isinstance(said, Reserved) else said

    def settle_nowait(self, reservation: Reservation, amounts: Amounts) -> None:
        """Note what a call took in the end; the store is told by `settle`."""
        self._unsettled.append((reservation, amounts))

    async def settle(self) -> None:
        """Tell the store what calls took, as far as it listens."""
        while self._store is not None and self._unsettled:
            reservation, amounts = self._unsettled.popleft()
            try:
                await self._store.settle(
                    reservation.digest, day=reservation.day, reservation=reservation.name, amounts=amounts
                )
            except BaseException as exc:
                self._unsettled.appendleft((reservation, amounts))
                if not isinstance(exc, ShadowStoreUnavailable):
                    raise
                return

    async def exchange(self, switches: Sequence[tuple[str, Switch]]) -> list[tuple[str, Move]]:
        """Tell the fleet which policies, by digest, were killed here, and hear of those that were elsewhere, or lifted.
        Returns the moves that follow.
        """
        if self._store is None or not switches:
            return []
        try:
            await _tell(self._store, switches)
            standing = await self._store.look([digest for digest, _ in switches])
        except ShadowStoreUnavailable as exc:
            log.info("the fleet cannot be asked about shadows: %s", exc)
            return []
        # Another epoch: either we have only begun to listen, or it has lost what it was told, which lifts nothing.
        is_told, self._epoch = standing.epoch == self._epoch, standing.epoch
        moves = []
        for digest, switch in switches:
            reason = standing.killed.get(digest)
            if reason is None and not is_told:
                switch.forgotten()
            elif (move := switch.hear(reason)) is not None:
                moves.append((digest, move))
        return moves

    async def close(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            await self._store.close()


async def _tell(store: ShadowStore, switches: Sequence[tuple[str, Switch]]) -> None:
    for digest, switch in switches:
        if switch.is_untold:
            await store.kill(digest, switch.reason)
            switch.told()
