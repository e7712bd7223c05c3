"""How far streams of others were delivered here: told to the log, for their owners, and to the ledger at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import orjson

from dataplane.journey import new_id
from dataplane.productions import View
from dataplane.stores.streams import StreamLog
from dataplane.stream_rows import tokens_through


class DeliveryReports(Protocol):
    """Where deliveries go, such as `ReportShipper`."""

    def add_delivery(self, row: Mapping[str, Any]) -> None:
        """Take over one row; must not wait."""


class Deliveries:
    """See the module."""

    def __init__(self, *, store: StreamLog, reports: DeliveryReports, wall: Callable[[], float]) -> None:
        """`wall` is epoch seconds."""
        self._store = store
        self._reports = reports
        self._wall = wall

    async def tell(self, view: View) -> None:
        """Tell of one stream that is read here.

        Raises:
            StreamLogUnavailable: it is told again.
        """
        is_dirty, view.is_dirty = view.is_dirty, False
        try:
            reading = view.readers > 0 and not view.buffer.is_over
            checkpoint = await self._store.touch(view.id, delivered=view.delivered, acked=view.acked, reading=reading)
            if checkpoint is None:
                view.lose()
            # Once it is over its owner may have sent the row, which takes no notice of what comes later.
            is_over = view.buffer.is_over or (checkpoint is not None and checkpoint.ending is not None)
            if is_dirty and is_over:
                self._reports.add_delivery(await self._row_of(view))
        except BaseException:
            view.is_dirty = view.is_dirty or is_dirty
            raise

    async def _row_of(self, view: View) -> dict[str, Any]:
        payloads = list(view.buffer.payloads)
        if "row" not in view.about or not view.buffer.is_over:  # it ended after it was read here first
            stored = await self._store.read(view.id, after=len(payloads))
            if stored is not None:
                view.about = orjson.loads(stored.about)
                payloads += stored.payloads
        segments = view.about.get("row", view.about).get("segments", ())
        return {
            "delivery_id": new_id(self._wall()),
            "stream_id": view.id,
            "tenant": view.tenant,
            "at": self._wall(),
            "delivered": view.delivered,
            "acked": view.acked,
            "delivered_tokens": tokens_through(segments, payloads, view.delivered),
            "acked_tokens": tokens_through(segments, payloads, view.acked),
            "reader": view.moved_by,
        }
