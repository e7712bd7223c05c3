"""Whom one worker takes its turns with: the pool of the fleet, or, while that cannot be asked, one of its own with its
part of the limits. Times are monotonic milliseconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from dataplane.quota import Hearing, QuotaPool, Telling, Terms
from dataplane.stores.quota import QuotaStore, QuotaStoreUnavailable

log = logging.getLogger("ballast.quota")

RETURN_SECONDS: Final = 1.0


class Counterpart:
    """See the module. Belongs to one event loop.

    Attributes:
        terms, own_terms: Of the whole pool, and of the worker's part; whoever takes turns follows the policy with them.
    """

    def __init__(
        self,
        name: str,
        *,
        worker: str,
        store: QuotaStore | None,
        terms: Terms,
        own_terms: Terms,
        now: Callable[[], float],
        on_alone: Callable[[str], None],
        on_return: Callable[[Hearing, float], None],
    ) -> None:
        """Without a `store` the worker is on its own from the start.

        Args:
            on_alone: Called with the reason, once the fleet cannot be asked.
            on_return: Called once it can be again, with what it said, and when it was asked.
        """
        self.terms = terms
        self.own_terms = own_terms
        self._name = name
        self._worker = worker
        self._store = store
        self._now = now
        self._on_alone = on_alone
        self._on_return = on_return
        self._own: QuotaPool | None = None if store is not None else QuotaPool(now=now(), is_empty=True)
        self._unheard: Telling | None = None
        self._returning: asyncio.Task[None] | None = None

    @property
    def is_alone(self) -> bool:
        """True while the fleet cannot be asked."""
        return self._own is not None

    @property
    def is_away(self) -> bool:
        """True while there is a fleet, and it cannot be asked."""
        return self._own is not None and self._store is not None

    async def turn(self, tell: Callable[[], Telling]) -> tuple[Hearing, float] | None:
        """Tell and hear, with when it was told; what could not be told is told again. None: the fleet could not be
        asked, just now.
        """
        if self._own is not None:
            told_at = self._now()
            return self._own.turn("", tell(), self.own_terms, now=told_at), told_at
        store = self._store
        if store is None:
            raise RuntimeError("there is no store, and no pool of its own")
        told = self._unheard = self._unheard or tell()
        told_at = self._now()
        try:
            heard = await store.turn(self._name, self._worker, told, self.terms)
        except QuotaStoreUnavailable as exc:
            self._own = QuotaPool(now=self._now(), is_empty=True)
            self._returning = asyncio.create_task(self._try_to_return(), name=f"quota {self._name} return")
            self._on_alone(str(exc))
            return None
        self._unheard = None
        return heard, told_at

    async def stop(self) -> None:
        """Look for the fleet no more."""
        if self._returning is not None:
            self._returning.cancel()
            await asyncio.gather(self._returning, return_exceptions=True)
            self._returning = None

    async def _try_to_return(self) -> None:
        store = self._store
        while store is not None and self._unheard is not None:
            await asyncio.sleep(RETURN_SECONDS)
            told_at = self._now()
            try:
                heard = await store.turn(self._name, self._worker, self._unheard, self.terms)
            except QuotaStoreUnavailable:
                continue
            except Exception:
                log.exception("quota %r could not be shared again", self._name)
                continue
            self._unheard, self._own = None, None
            self._on_return(heard, told_at)
