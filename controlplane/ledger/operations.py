"""Keep the record of usage."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from django.db import connection

from controlplane.ledger.models import UsageRow

_TYPES: Final = {
    "at": "timestamptz",
    "version": "integer",
    "attempt": "integer",
    "status": "integer",
    "input_tokens": "bigint",
    "output_tokens": "bigint",
    "cost_micros": "bigint",
    "latency_ms": "double precision",
    "ttft_ms": "double precision",
    "stream": "boolean",
}
_COLUMNS: Final = tuple(field.attname for field in UsageRow._meta.concrete_fields)
_QUOTED: Final = ", ".join(f'"{name}"' for name in _COLUMNS)
_TYPED: Final = ", ".join(f'"{name}" {_TYPES.get(name, "text")}' for name in _COLUMNS)
# One parameter, however many rows; sorted, so that two processes that take in the same rows never wait in a circle.
_RECORD: Final = f"""
INSERT INTO {UsageRow._meta.db_table} ({_QUOTED})
SELECT {_QUOTED} FROM json_to_recordset(%s::json) AS r({_TYPED})
ORDER BY attempt_id
ON CONFLICT (attempt_id) DO NOTHING
"""  # noqa: S608 - every name in it is a column of ours; the values are one parameter


def record_usage(rows: Iterable[Mapping[str, Any]]) -> int:
    """Add the usage rows that are not known yet; one that was delivered before changes nothing. Returns how many came.

    Args:
        rows: As workers report them.
    Shape of a row: {"attempt_id", "request_id", "tenant", "tier", "route", "lane", "prompt", "canary", "cohort",
        "kind", "outcome", "user": str, "at": epoch seconds, "version", "attempt", "status", "input_tokens",
        "output_tokens", "cost_micros": int, "latency_ms": float, "ttft_ms": float or null, "stream": bool,
        "key_id": str (optional)}.
    """
    usage = [_columns(row) for row in rows]
    if usage:
        with connection.cursor() as cursor:
            cursor.execute(_RECORD, [orjson.dumps(usage).decode()])
    return len(usage)


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in _COLUMNS if name not in ("at", "key")},
        "at": datetime.fromtimestamp(row["at"], UTC),
        "key": row.get("key_id", ""),
    }
