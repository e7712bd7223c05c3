"""Idempotency keys as files: a line for each step that a list shows, and everything that is known of one key."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final
from uuid import UUID

from controlplane.console.spreadsheets import csv_line
from controlplane.ledger.evidence import verify_chain
from controlplane.ledger.idempotency import IdempotencyEvidence, IdempotencyEvidenceQuerySet
from controlplane.ledger.keys import KeyLife, billed_for, lives_of
from dataplane.idempotency import EVIDENCE

_AT_ONCE: Final = 500
_LISTED: Final = (
    "key",
    "tenant",
    "record",
    "at",
    "event",
    "request_id",
    "first_at",
    "first_request_id",
    "state",
    "executions",
    "completed_at",
    "status",
    "served",
    "not_kept",
    "mismatches",
    "last_event",
    "last_at",
    "stream_id",
    "body_sha256",
)
_BILLED: Final = ("attempts", "input_tokens", "output_tokens", "cost_micros")
# In the file of one key: what each line is about. A step has all that its hash covers, so that it can be taken anew.
_FACTS: Final = ("what", *EVIDENCE, "hash", *_BILLED, "words")


def keys_csv(rows: IdempotencyEvidenceQuerySet) -> Iterator[str]:
    """One line per step, newest first, with the key that it is a step of as it stands now."""
    yield csv_line(_LISTED)
    left = rows.newest().iterator(chunk_size=_AT_ONCE)
    while some := list(islice(left, _AT_ONCE)):
        lives = lives_of(some)
        for row in some:
            listed = _listed(row, lives[row.record])
            yield csv_line(_cell(listed[name]) for name in _LISTED)


def _listed(row: IdempotencyEvidence, life: KeyLife) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in ("key", "tenant", "record", "at", "event", "request_id")},
        "first_at": life.first.at,
        "first_request_id": life.first.request_id,
        "state": life.state,
        "executions": life.executions,
        "completed_at": life.completed_at,
        "status": life.last.status,
        "served": life.served,
        "not_kept": life.not_kept,
        "mismatches": life.mismatches,
        "last_event": life.last.event,
        "last_at": life.last.at,
        "stream_id": life.last.stream_id,
        "body_sha256": life.last.body_sha256,
    }


def key_csv(record: UUID, life: KeyLife) -> Iterator[str]:
    """Every step of one key with its hash, what its requests were billed, and what a walk over the chain says."""
    yield csv_line(_FACTS)
    for fact in _facts(record, life):
        yield csv_line(_cell(fact.get(name)) for name in _FACTS)


def _facts(record: UUID, life: KeyLife) -> Iterator[dict[str, Any]]:
    for row in IdempotencyEvidence.objects.of_record(record).iterator(chunk_size=1000):
        yield {"what": "step", **{name: getattr(row, name) for name in (*EVIDENCE, "hash")}}
    for one in billed_for(life):
        words = f"execution {one.epoch}" if one.epoch else "executed nothing"
        yield {"what": "billed", "tenant": life.first.tenant, **asdict(one), "words": words}
    verified = verify_chain(record)
    for finding in verified.findings:
        yield {"what": "chain", "seq": finding.seq, "words": finding.problem}
    if not verified.findings:
        ended = "closed" if verified.is_closed else "open"
        yield {"what": "chain", "record": record, "words": f"whole: {verified.rows} steps, {ended}"}


def _cell(value: Any) -> Any:
    """Times as the hash covers them; nothing for what is not known."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    return "" if value is None else value
