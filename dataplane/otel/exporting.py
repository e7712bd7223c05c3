"""How spans leave: bounded, counted, and without anything that could be somebody's words.

Spans wait in a bounded queue; a thread of the SDK's sends them. What does not fit is dropped and counted, so whoever is
traced never waits for whoever collects.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Status

log = logging.getLogger("ballast.traces")

# Libraries note exceptions with their words, and addresses with their queries: both may hold what nobody is to read.
WORDS: Final = frozenset({"exception.message", "exception.stacktrace", "url.query", "db.query.parameters"})
ADDRESSES: Final = frozenset({"http.url", "http.target", "url.full"})


class Outbox(SpanProcessor):
    """See the module. `exported`, `failed` and `dropped` count spans."""

    def __init__(self, exporter: SpanExporter, *, most: int, every_seconds: float = 1.0) -> None:
        """`most` is how many spans wait at a time; they are sent `every_seconds`, or when there are many."""
        self.exported = 0
        self.failed = 0
        self.dropped = 0
        self._most = most
        self._waiting = 0
        self._lock = threading.Lock()
        # Its own queue is never full: what does not fit was dropped here.
        self._sender = BatchSpanProcessor(
            _Counted(exporter, self),
            max_queue_size=2 * most,
            max_export_batch_size=min(512, most),
            schedule_delay_millis=every_seconds * 1000,
        )
        self._is_failing = False

    @property
    def waiting(self) -> int:
        """How many spans wait to be sent."""
        return self._waiting

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        """Nothing: only spans that have ended are sent."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span over; never waits."""
        with self._lock:
            if self._waiting >= self._most:
                self.dropped += 1
                return
            self._waiting += 1
        self._sender.on_end(scrubbed(span))

    def _sent(self, spans: int, *, is_delivered: bool) -> None:
        with self._lock:
            self._waiting -= spans
            if is_delivered:
                self.exported += spans
            else:
                self.failed += spans
        if is_delivered == self._is_failing:
            self._is_failing = not is_delivered
            if self._is_failing:
                log.warning("traces cannot be delivered; they are dropped and counted until they can")
            else:
                log.info("traces are delivered again; %d spans were lost", self.failed + self.dropped)

    def shutdown(self) -> None:
        """Send what waits, for as long as the exporter takes: see `close`."""
        self._sender.shutdown()  # type: ignore[no-untyped-call]  # the SDK leaves it so

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what waits now."""
        return self._sender.force_flush(timeout_millis)

    def close(self, *, seconds: float) -> bool:
        """Send what waits, within so many seconds; False: some of it was not sent. Idempotent."""
        # A thread that ends with the process: the exporter's own patience is longer than ours.
        closing = threading.Thread(target=self.shutdown, name="last-traces", daemon=True)
        closing.start()
        closing.join(seconds)
        with self._lock:
            left, self._waiting = self._waiting, 0
            self.dropped += left
        return not left


class _Counted(SpanExporter):
    """Says of each batch what became of it."""

    def __init__(self, exporter: SpanExporter, outbox: Outbox) -> None:
        self._exporter = exporter
        self._outbox = outbox

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self._outbox._sent(len(spans), is_delivered=result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def scrubbed(span: ReadableSpan) -> ReadableSpan:
    """The span without words that libraries found, of exceptions and in addresses; itself, if it has none."""
    has_words = bool(span.status.description) or any(_is_wordy(event.attributes) for event in span.events)
    if not has_words and not _is_wordy(span.attributes):
        return span
    events = [type(event)(event.name, _without_words(event.attributes), event.timestamp) for event in span.events]
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_without_words(span.attributes),
        events=events,
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _is_wordy(attributes: Mapping[str, Any] | None) -> bool:
    return attributes is not None and any(name in WORDS or name in ADDRESSES for name in attributes)


def _without_words(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        name: str(value).partition("?")[0] if name in ADDRESSES else value
        for name, value in (attributes or {}).items()
        if name not in WORDS
    }
