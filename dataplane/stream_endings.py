"""What is left to do for a stream that has ended where it was generated: its readers have it whole, the ledger its row,
and the log its end; then it is let go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from dataplane.errors.streams import StreamLogUnavailable
from dataplane.frames import Ending
from dataplane.productions import Production, View
from dataplane.stores.streams import StreamLog
from dataplane.stream_orphans import Unsettled
from dataplane.stream_rows import with_delivery
from dataplane.stream_writer import StreamWriter

# How long the row of a stream that has ended waits for its readers to have it whole.
ROW_PATIENCE_SECONDS: Final = 5.0
# So long, and so many, streams that ended while the log was away wait for it, of which it has nothing yet.
UNWRITTEN_SECONDS: Final = 60.0
MAX_UNWRITTEN: Final = 2000


class EndingReports(Protocol):
    """Where the rows of streams go, such as `ReportShipper`."""

    def add_stream(self, row: Mapping[str, Any]) -> None:
        """Take over one stream's row; must not wait."""


class StreamEndings:
    """See the module. One per process."""

    def __init__(
        self,
        *,
        store: StreamLog,
        reports: EndingReports,
        writer: StreamWriter,
        unsettled: Unsettled,
        productions: dict[str, Production],
        views: dict[str, View],
        ended_at: dict[str, float],
        endings: dict[str, int],
        clock: Callable[[], float],
    ) -> None:
        """`productions` are the streams that this process generates, `views` those that can be read here, and
        `ended_at` says when, by `clock`, a production ended; what is let go is taken out of all three. `endings` counts
        streams by how they ended. `clock` is monotonic seconds.
        """
        self._store = store
        self._reports = reports
        self._writer = writer
        self._unsettled = unsettled
        self._productions = productions
        self._views = views
        self._ended_at = ended_at
        self._endings = endings
        self._clock = clock

    async def see_to(self, *, everything: bool = False) -> None:
        """Send the rows of streams that have ended and been read, or that waited long enough, and let go of those whose
        end the log has; of `everything`, when nothing is waited for any more.
        """
        for stream, ended_at in list(self._ended_at.items()):
            production = self._productions[stream]
            waited_seconds = self._clock() - ended_at
            is_unwritten = production.is_unwritten and not self._writer.is_down
            if (production.readers or is_unwritten) and not everything and waited_seconds < ROW_PATIENCE_SECONDS:
                continue
            if production.headers and not production.is_fenced and not production.is_reported:
                production.is_reported = True
                await self._report(production)
            if production.is_unwritten and not everything and waited_seconds < self._patience(production):
                continue
            del self._ended_at[stream], self._productions[stream]
            if not production.headers:
                del self._views[stream]
            elif production.is_fenced and not production.is_handed_over:
                production.lose()
            elif production.is_reported and not production.is_unwritten:
                self._unsettled.add(stream)

    def _patience(self, production: Production) -> float:
        """How long a stream that has ended waits for the log to be written, in seconds."""
        if production.was_written:
            # The log has its beginning: without its end it would be taken for orphaned, and ended otherwise.
            return production.retention_seconds
        return UNWRITTEN_SECONDS if production.headers and len(self._ended_at) <= MAX_UNWRITTEN else 0.0

    async def _report(self, production: Production) -> None:
        delivered, acked = production.delivered, production.acked
        try:
            if not self._writer.is_down:
                checkpoint = await self._store.touch(production.id, delivered=delivered, acked=acked, reading=False)
                if checkpoint is not None:
                    production.deliver(checkpoint.delivered)
                    production.acknowledge(checkpoint.acked)
        except StreamLogUnavailable as exc:
            self._writer.lost(exc)
        payloads = production.buffer.payloads
        ending = production.buffer.ending or Ending.INTERRUPTED
        production.is_dirty = False
        production.about = production.describe(ending)
        row = production.row
        if row is None:
            raise RuntimeError("a stream that has ended has a row")
        self._reports.add_stream(with_delivery(row, payloads, delivered=production.delivered, acked=production.acked))
        self._endings[ending] = self._endings.get(ending, 0) + 1
