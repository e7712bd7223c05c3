"""Idempotency keys as the data plane moves them: its own statements, in the transaction of a test."""

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from django.db import connection
from django.utils import timezone

from controlplane.accounts.models import Tenant
from controlplane.ledger.idempotency import IdempotencyEvidence, IdempotencyRecord
from controlplane.ledger.operations import record_usage
from controlplane.ledger.streams import record_streams
from dataplane.idempotency import MIN_TTL_SECONDS, Event, full_user_hash
from dataplane.stores import idempotency_sql as sql
from tests.factories import make_tenant
from tests.worker_reports import stream_row, usage_row

BODY = b"Within 14 days"
OWNER = "host-a/gateway-0/3f1c"
STREAM = "5" * 32


def run(statement: str, **parameters: Any) -> list[Any]:
    """Run what the data plane runs."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall()


def claim(
    key: str = "k",
    *,
    request: str = "r1",
    user: str = "zoe",
    tenant: str = "acme",
    fingerprint: str = "f",
    repeatable: bool = True,
) -> UUID:
    """Show the key; returns the record that this moved."""
    rows = run(
        sql.CLAIM,
        record=uuid4(),
        tenant=tenant,
        user_hash=full_user_hash(user),
        key=key,
        fingerprint=fingerprint * 64,
        fields=f'{{"model": "{fingerprint}"}}',
        is_repeatable=repeatable,
        owner=OWNER,
        request_id=request,
        lease_seconds=600,  # longer than a test pauses; `forsake` lets it run out
        ttl_seconds=MIN_TTL_SECONDS,
    )
    record: UUID = rows[0][1]
    return record


def open_stream(record: UUID, stream: str) -> None:
    """Let the owner say that its answer is a stream."""
    _own(sql.STREAM, record, stream_id=stream, detail="")


def complete(record: UUID, body: bytes | None = BODY, *, stream: str = "") -> None:
    """Let the owner give its answer; None for one that is too long to be kept."""
    whole = b"much" if body is None else body
    _own(
        sql.COMPLETE,
        record,
        status=200,
        headers="[]",
        media="application/json",
        body=body,
        body_bytes=len(whole),
        body_sha256=hashlib.sha256(whole).hexdigest(),
        usage='{"total_tokens": 3}',
        stream_id=stream,
        detail='{"total_tokens":3}',
    )


def release(record: UUID) -> None:
    """Let the owner give up, with nothing to keep."""
    _own(sql.RELEASE, record, detail="")


def abandon(record: UUID) -> None:
    """Let the owner say that it does not know what it did."""
    _own(sql.ABANDON, record, detail="")


def forsake(record: UUID) -> None:
    """Let the owner's lease run out."""
    IdempotencyRecord.objects.filter(pk=record).update(lease_until="2026-01-01T00:00:00Z")


def expire() -> None:
    """Let the time of all keys be over."""
    IdempotencyRecord.objects.update(expires_at="2026-01-01T00:00:00Z", lease_until="2026-01-01T00:00:00Z")
    run(sql.EXPIRE, limit=99)


@dataclass(frozen=True, slots=True)
class Keys:
    """Records of keys, by what became of them."""

    tenant: Tenant
    streamed: UUID
    taken: UUID
    free: UUID
    running: UUID
    other: UUID
    old: UUID


def make_keys() -> Keys:
    """Four keys of acme just now, streamed and repeated, taken over, free again, running; the first of them also of
    globex, and of acme long ago. With what was billed for them.
    """
    acme, _ = make_tenant("acme"), make_tenant("globex")
    now = timezone.now()
    streamed = claim("order-1", request="r1")
    open_stream(streamed, STREAM)
    claim("order-1", request="r2")
    complete(streamed, stream=STREAM)
    claim("order-1", request="r3")
    claim("order-1", request="r4", fingerprint="g")
    taken = claim("order-2", request="r5", user="bob-77")
    claim("order-2", request="r6", user="bob-77")
    forsake(taken)
    claim("order-2", request="r7", user="bob-77")
    complete(taken)
    free = claim("order-3", request="r8", user="")
    release(free)
    running = claim("order-4", request="r9", user="bob-77")
    other = claim("order-1", request="r10", tenant="globex")
    old = IdempotencyEvidence.objects.create(
        record=uuid4(),
        seq=1,
        at=now - timedelta(days=90),
        event=Event.CREATED,
        tenant="acme",
        user_hash=full_user_hash("zoe"),
        key="order-1",
        request_id="r11",
        owner=OWNER,
        epoch=1,
        fingerprint="f" * 64,
        status=0,
        previous_hash=sql.GENESIS,
    )
    record_usage(
        [
            usage_row("a1", request_id="r1", at=now, outcome="upstream_timeout"),
            usage_row("a2", request_id="r1", at=now, attempt=2, kind="retry"),
            usage_row("a3", request_id="r5", at=now),
            usage_row("a4", request_id="r7", at=now),
        ]
    )
    record_streams(streams=[stream_row(STREAM, at=now, request_id="r1")], deliveries=[])
    return Keys(acme, streamed, taken, free, running, other, old.record)


def _own(statement: str, record: UUID, **written: Any) -> None:
    epoch = IdempotencyRecord.objects.values_list("epoch", flat=True).get(pk=record)
    assert run(statement, record=record, epoch=epoch, owner=OWNER, **written), "the owner could not take this step"
