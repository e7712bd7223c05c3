"""Keep the record of usage."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import orjson
from django.db import connection, transaction

from controlplane.ledger.models import EVAL, UNASKED, UNFAILED, UsageDay, UsageRow
from controlplane.ledger.sums import LANE_DAY, SUM_KEY, TENANT_DAY, TENANT_HOUR, UsageSum, midnight

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
_FAILED: Final = f"outcome NOT IN ({', '.join(repr(outcome) for outcome in UNFAILED)})"
_ASKED: Final = f"kind NOT IN ({', '.join(repr(kind) for kind in UNASKED)})"
_SUMS: Final = {
    "attempts": "count(*)",
    "requests": f"count(*) FILTER (WHERE attempt = 1 AND {_ASKED})",
    "failed": f"count(*) FILTER (WHERE {_FAILED})",
    "input_tokens": "sum(input_tokens)",
    "output_tokens": "sum(output_tokens)",
    "cost_micros": "sum(cost_micros)",
    "failed_cost_micros": f"coalesce(sum(cost_micros) FILTER (WHERE {_FAILED}), 0)",
}
_DAYS: Final = UsageDay._meta.db_table
_DAY_KEY: Final = ("day", "tenant", "lane", "route", "kind", "cause")
_KEY: Final = ", ".join(_DAY_KEY)
_UTC_DAY: Final = "(at AT TIME ZONE 'UTC')::date AS day"
# What rows come to, by day; sorted, so that two processes which count into the same days never wait in a circle.
_COUNT_INTO_DAYS: Final = f"""
INSERT INTO {_DAYS} AS d ({_KEY}, {", ".join(_SUMS)})
SELECT {_KEY}, {", ".join(_SUMS.values())} FROM {{rows}} AS u GROUP BY {_KEY} ORDER BY {_KEY}
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters
_COARSER: Final = UsageSum._meta.db_table
_FIRST: Final = f"attempt = 1 AND {_ASKED}"
_COARSER_COUNTS: Final = {
    "attempts": "count(*)",
    "requests": f"count(*) FILTER (WHERE {_FIRST})",
    "extra_attempts": f"count(*) FILTER (WHERE NOT ({_FIRST}) AND kind <> '{EVAL}')",
    "input_tokens": "sum(input_tokens)",
    "output_tokens": "sum(output_tokens)",
    "cost_micros": "sum(cost_micros)",
    "asked_attempts": f"count(*) FILTER (WHERE {_ASKED})",
    "asked_retries": "count(*) FILTER (WHERE kind = 'retry')",
    "asked_failed": f"count(*) FILTER (WHERE {_ASKED} AND {_FAILED})",
    "asked_cost_micros": f"coalesce(sum(cost_micros) FILTER (WHERE {_ASKED}), 0)",
    "asked_failed_cost_micros": f"coalesce(sum(cost_micros) FILTER (WHERE {_ASKED} AND {_FAILED}), 0)",
}
_COARSER_KEY: Final = ", ".join(SUM_KEY)
_KEYED: Final = ", ".join(f"k.{name}" for name in SUM_KEY)
# Each row counts into one sum of each kind; sorted, as above.
_COUNT_INTO_SUMS: Final = f"""
INSERT INTO {_COARSER} AS d ({_COARSER_KEY}, {", ".join(_COARSER_COUNTS)})
SELECT {_KEYED}, {", ".join(_COARSER_COUNTS.values())} FROM {{rows}} AS u CROSS JOIN LATERAL (VALUES
    ('{TENANT_HOUR}', date_trunc('hour', u.at, 'UTC'), u.tenant, '', ''),
    ('{TENANT_DAY}', date_trunc('day', u.at, 'UTC'), u.tenant, '', ''),
    ('{LANE_DAY}', date_trunc('day', u.at, 'UTC'), '', u.lane, u.cause)
) AS k({_COARSER_KEY}) GROUP BY {_KEYED} ORDER BY {_KEYED}
"""  # noqa: S608 - as above


def _added(key: str, counts: Iterable[str]) -> str:
    return f"ON CONFLICT ({key}) DO UPDATE SET {', '.join(f'{name} = d.{name} + excluded.{name}' for name in counts)}"


# One parameter, however many rows; sorted, so that two processes that take in the same rows never wait in a circle.
# Only what comes back is new and counts for its day, so a row counts once, however often it is delivered. Sums are
# written behind the days, in every process alike: PostgreSQL runs what nobody reads from once the statement is done.
_RECORD: Final = f"""
WITH fresh AS (
    INSERT INTO {UsageRow._meta.db_table} ({_QUOTED})
    SELECT {_QUOTED} FROM json_to_recordset(%s::json) AS r({_TYPED})
    ORDER BY attempt_id
    ON CONFLICT (attempt_id) DO NOTHING
    RETURNING {_UTC_DAY}, *
), counted AS (
    {_COUNT_INTO_SUMS.format(rows="fresh")} {_added(_COARSER_KEY, _COARSER_COUNTS)}
)
{_COUNT_INTO_DAYS.format(rows="fresh")} {_added(_KEY, _SUMS)}
"""  # noqa: S608 - as above
_OF_DAY: Final = f"(SELECT {_UTC_DAY}, * FROM {UsageRow._meta.db_table} WHERE at >= %s AND at < %s)"  # noqa: S608 - as above


def record_usage(rows: Iterable[Mapping[str, Any]]) -> int:
    """Add the usage rows that are not known yet, and count them into their days and sums; one that was delivered before
    changes nothing. One statement. Returns how many came.

    At most once in a transaction: a second statement could wait for a day that another process holds, while that one
    waits for a day of the first.

    Args:
        rows: As workers report them.
    Shape of a row: {"attempt_id", "request_id", "tenant", "tier", "route", "lane", "prompt", "canary", "cohort",
        "kind", "outcome", "user": str, "at": epoch seconds, "version", "attempt", "status", "input_tokens",
        "output_tokens", "cost_micros": int, "latency_ms": float, "ttft_ms": float or null, "stream": bool,
        "key_id", "cause": str (both optional: older workers do not tell them), "trace_id": str (optional: where the
        attempt is part of a trace that is kept)}.
    """
    usage = [_columns(row) for row in rows]
    if usage:
        with connection.cursor() as cursor:
            cursor.execute(_RECORD, [orjson.dumps(usage).decode()])
    return len(usage)


@transaction.atomic
def rebuild_usage_days(day: date) -> int:
    """Count one UTC day anew from its usage rows, whatever its days and sums said before. Returns how many days there
    are now.

    Rows are taken in again when it is done; reading goes on.
    """
    begins, ends = midnight(day), midnight(day + timedelta(days=1))
    with connection.cursor() as cursor:
        # Whoever takes rows in holds ROW EXCLUSIVE on this table until they commit: none of theirs is half counted.
        cursor.execute(f"LOCK TABLE {_DAYS} IN EXCLUSIVE MODE")
        cursor.execute(f"DELETE FROM {_DAYS} WHERE day = %s", [day])  # noqa: S608 - a constant of ours
        cursor.execute(f"DELETE FROM {_COARSER} WHERE begins_at >= %s AND begins_at < %s", [begins, ends])  # noqa: S608 - as above
        cursor.execute(_COUNT_INTO_SUMS.format(rows=_OF_DAY), [begins, ends])
        cursor.execute(_COUNT_INTO_DAYS.format(rows=_OF_DAY), [begins, ends])
        return int(cursor.rowcount)


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: row[name] for name in _COLUMNS if name not in ("at", "key", "cause", "trace_id")},
        "at": datetime.fromtimestamp(row["at"], UTC),
        "key": row.get("key_id", ""),
        "cause": row.get("cause", ""),
        "trace_id": row.get("trace_id", ""),
    }
