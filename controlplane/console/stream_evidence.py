"""Streams as files: one line each of those that a list shows, and everything that is known of one."""

from collections.abc import Iterator
from typing import Any, Final

from controlplane.console.spreadsheets import csv_line
from controlplane.ledger.stream_rows import TOLD, StreamQuerySet, StreamRow

_STANDING: Final = (
    "delivered_tokens",
    "acked_tokens",
    "delivered",
    "acked",
    "resumed",
    "in_order",
    "credit_micros",
)
# In the file of one stream: what each line is about, and the figures that such a line has.
_FACTS: Final = (
    "what",
    "at",
    "words",
    "first_seq",
    "last_seq",
    "billed_tokens",
    "generated_tokens",
    "buffered_tokens",
    "delivered_tokens",
    "acked_tokens",
    "delivered",
    "acked",
    "cost_micros",
    "credit_micros",
    "digest",
    "text_digest",
)


def streams_csv(rows: StreamQuerySet) -> Iterator[str]:
    """One line per stream, newest first, with its digests, the five figures as known now, cost and credit."""
    yield csv_line((*TOLD, "models", *_STANDING))
    for row in rows.newest().select_related("standing").iterator(chunk_size=1000):
        models = " ".join(row.written_by)
        standing = (getattr(row.standing, name) for name in _STANDING)
        yield csv_line((*(_cell(getattr(row, name)) for name in TOLD), models, *map(_cell, standing)))


def stream_csv(row: StreamRow) -> Iterator[str]:
    """Everything that is known of one stream: its end, each segment, delivery and credit on a line of its own."""
    yield csv_line(_FACTS)
    for fact in _facts(row):
        yield csv_line(_cell(fact.get(name)) for name in _FACTS)


def _facts(row: StreamRow) -> Iterator[dict[str, Any]]:
    known = {name: getattr(row, name) for name in _FACTS if hasattr(row, name)}
    ended = f"{row.outcome} {row.code}".strip()
    yield {**known, "what": "stream", "words": f"{row.stream_id} of request {row.request_id}: {ended}"}
    for segment in row.segments:
        marks = [name for name in ("partial", "estimated") if segment[name]]
        words = " ".join([segment["lane"], segment["model"], segment["how"], *marks, segment["cause"]]).strip()
        yield {**segment, "what": "segment", "words": words}
    for delivery in row.deliveries.order_by("at", "delivery_id").iterator(chunk_size=1000):
        known = {name: getattr(delivery, name) for name in _FACTS if hasattr(delivery, name)}
        yield {**known, "what": "delivery", "words": delivery.reader}
    for credit in row.credits.all():
        known = {name: getattr(credit, name) for name in _FACTS if hasattr(credit, name)}
        yield {**known, "what": "credit", "words": credit.rule, "credit_micros": credit.change_micros}
    now = {name: getattr(row.standing, name) for name in _FACTS if hasattr(row.standing, name)}
    yield {**now, "what": "as known now", "words": "in order" if row.standing.in_order else "out of order"}


def _cell(value: Any) -> Any:
    """Times in ISO-8601 with their offset; nothing for what is not known."""
    return "" if value is None else value.isoformat() if hasattr(value, "isoformat") else value
