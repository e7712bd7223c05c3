"""What dead processes leave behind: streams without an end, and ended ones whose row nobody has sent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import orjson

from dataplane.envelope import error_body
from dataplane.errors.streams import OwnerLost
from dataplane.frames import Ending, text_of
from dataplane.policies import KEEP
from dataplane.stores.streams import Append, Standing, StoredStream, StreamLog
from dataplane.stream_rows import finished_row, orphan_rows, with_delivery
from dataplane.stream_writer import LEASE_SECONDS

log = logging.getLogger("ballast.streams")

MAX_CLAIMS: Final = 50
OWED_GRACE_SECONDS: Final = 30.0
# Rows are with the log of reports, or in the spool, at most two of its rounds after they were handed over.
SETTLE_TICKS: Final = 4


class OrphanReports(Protocol):
    """Where the rows of orphans go, such as `ReportShipper`."""

    def add_usage(self, row: Mapping[str, Any]) -> None:
        """Take over one usage row; must not wait."""

    def add_stream(self, row: Mapping[str, Any]) -> None:
        """Take over one stream's row; must not wait."""


class Unsettled:
    """Streams whose rows this process handed over, and which the log still holds to be owed. `ticks` counts rounds."""

    def __init__(self, store: StreamLog) -> None:
        self._store = store
        self._streams: list[tuple[int, str]] = []
        self.ticks = 0

    def __contains__(self, stream: str) -> bool:
        return any(stream == mine for _, mine in self._streams)

    def add(self, stream: str) -> None:
        """Note that its row was handed over just now."""
        self._streams.append((self.ticks, stream))

    async def settle(self) -> None:
        """Say of rows that are out for long enough that nobody owes them.

        Raises:
            StreamLogUnavailable: they are said to be next time.
        """
        due = {stream for tick, stream in self._streams if self.ticks - tick >= SETTLE_TICKS}
        if due:
            await self._store.settle(list(due))
            self._streams = [entry for entry in self._streams if entry[1] not in due]


class Orphans:
    """Ends what others cannot end any more."""

    def __init__(
        self,
        *,
        store: StreamLog,
        owner: str,
        reports: OrphanReports,
        unsettled: Unsettled,
        endings: dict[str, int],
        cursor: Callable[[str, StoredStream, int], str],
        wall: Callable[[], float],
    ) -> None:
        """`endings` counts streams by how they ended; `cursor` signs a place in a stored stream; `wall` is epoch
        seconds.
        """
        self._store = store
        self._owner = owner
        self._reports = reports
        self._unsettled = unsettled
        self._endings = endings
        self._cursor = cursor
        self._wall = wall

    async def end(self, *, is_ours: Callable[[str], bool]) -> None:
        """End streams whose owner is gone, and send the rows that it owes. `is_ours` knows those of this process.

        Raises:
            StreamLogUnavailable: the rest is done next time.
        """
        claimed = await self._store.claim_orphans(owner=self._owner, lease_seconds=LEASE_SECONDS, limit=MAX_CLAIMS)
        for stream, epoch in claimed.items():
            stored = await self._store.read(stream, after=0)
            if stored is not None and stored.about:
                await self._end_one(stream, epoch, stored)
        for stream in await self._store.claim_owed(grace_seconds=OWED_GRACE_SECONDS, limit=MAX_CLAIMS):
            if stream in self._unsettled or is_ours(stream):
                continue
            stored = await self._store.read(stream, after=0)
            if stored is None or not stored.about:
                await self._store.settle([stream])  # it is kept no more, so nobody can tell of it
            else:
                self._report(stream, stored)

    async def _end_one(self, stream: str, epoch: int, stored: StoredStream) -> None:
        about = orjson.loads(stored.about)
        identity = about["identity"]
        segments, usage = orphan_rows(
            about["segments"], about["usage"], stored.payloads, output_price=about["output_price"]
        )
        after = len(stored.payloads) + 1
        body = error_body(
            OwnerLost(),
            request_id=identity["request_id"],
            code="upstream_interrupted",
            resume_cursor=self._cursor(stream, stored, after),
        )
        payloads = [*stored.payloads, body]
        row = finished_row(
            identity,
            at=self._wall(),
            ending=Ending.INTERRUPTED,
            code="upstream_interrupted",
            segments=segments,
            usage=usage,
            payloads=payloads,
            words="".join(map(text_of, stored.payloads)),
            transcript=about["transcript"],
        )
        about |= {"segments": segments, "usage": usage, "row": {**row, "transcript": None}}
        append = Append(
            stream=stream,
            epoch=epoch,
            first=after,
            payloads=[body],
            keep_seconds=about["retention_seconds"],
            about=orjson.dumps(about),
            ending=Ending.INTERRUPTED,
        )
        [answer] = await self._store.append([append], owner=self._owner, lease_seconds=LEASE_SECONDS)
        if answer.standing is not Standing.OK:
            return  # whoever claimed it after us does it
        log.warning("stream %s of request %s was left behind by its owner", stream, identity["request_id"])
        self._endings[Ending.INTERRUPTED] = self._endings.get(Ending.INTERRUPTED, 0) + 1
        ended = await self._store.read(stream, after=0)
        if ended is not None:
            self._report(stream, ended)

    def _report(self, stream: str, stored: StoredStream) -> None:
        about = orjson.loads(stored.about)
        row = about.get("row")
        if row is None:
            return
        if about["transcript"] == KEEP:
            row["transcript"] = [payload.decode() for payload in stored.payloads]
        checkpoint = stored.checkpoint
        for usage in about["usage"]:
            self._reports.add_usage(usage)
        self._reports.add_stream(
            with_delivery(row, stored.payloads, delivered=checkpoint.delivered, acked=checkpoint.acked)
        )
        self._unsettled.add(stream)
