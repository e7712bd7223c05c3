"""Keep the record of usage."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from controlplane.ledger.models import UsageRow

_ROWS_PER_STATEMENT: Final = 1000


def record_usage(rows: Iterable[Mapping[str, Any]]) -> int:
    """Add the usage rows that are not known yet; one that was delivered before changes nothing. Returns how many came.

    Args:
        rows: As workers report them.
    Shape of a row: {"attempt_id", "request_id", "tenant", "tier", "route", "lane", "prompt", "canary", "cohort",
        "kind", "outcome", "user": str, "at": epoch seconds, "version", "attempt", "status", "input_tokens",
        "output_tokens", "cost_micros": int, "latency_ms": float, "ttft_ms": float or null, "stream": bool,
        "key_id": str (optional)}.
    """
    usage = [_row(row) for row in rows]
    # Sorted, so that two processes that take in the same rows wait for each other instead of deadlocking.
    usage.sort(key=lambda row: row.attempt_id)
    UsageRow.objects.bulk_create(usage, ignore_conflicts=True, batch_size=_ROWS_PER_STATEMENT)
    return len(usage)


def _row(row: Mapping[str, Any]) -> UsageRow:
    return UsageRow(
        attempt_id=row["attempt_id"],
        request_id=row["request_id"],
        at=datetime.fromtimestamp(row["at"], UTC),
        tenant=row["tenant"],
        tier=row["tier"],
        key=row.get("key_id", ""),
        route=row["route"],
        lane=row["lane"],
        prompt=row["prompt"],
        version=row["version"],
        canary=row["canary"],
        cohort=row["cohort"],
        kind=row["kind"],
        attempt=row["attempt"],
        outcome=row["outcome"],
        status=row["status"],
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cost_micros=row["cost_micros"],
        latency_ms=row["latency_ms"],
        ttft_ms=row["ttft_ms"],
        stream=row["stream"],
        user=row["user"],
    )
