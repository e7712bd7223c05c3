"""Keep the record of streams: their rows, what was delivered later, what is given back, and what all of it comes to."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

import orjson
import pgtrigger
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import Model

from controlplane.accounts.models import Operator
from controlplane.audit import operations as audit
from controlplane.ledger.refunds import credit_of
from controlplane.ledger.stream_rows import (
    DAY_KEY,
    DAY_SUMS,
    RESUMED,
    StreamCredit,
    StreamDay,
    StreamDelivery,
    StreamRow,
    StreamStanding,
    StreamTranscript,
)

# Any constant would do; it only has to be the same in every process of this deployment.
STREAMS_LOCK: Final = 0x0BA11A59
# What one step of forgetting holds the audit chain for; and of deciding, the streams.
FORGOTTEN_PER_STEP: Final = 5_000
DECIDED_PER_STEP: Final = 1_000

logger = logging.getLogger(__name__)

_SQL_TYPES: Final = {
    "BigIntegerField": "bigint",
    "BooleanField": "boolean",
    "DateField": "date",
    "DateTimeField": "timestamptz",
    "IntegerField": "integer",
    "JSONField": "jsonb",
}


def _columns(model: type[Model]) -> dict[str, str]:
    """The columns that are written, and their types; a key that counts by itself is not."""
    return {
        field.attname: _SQL_TYPES.get(field.get_internal_type(), "text")
        for field in model._meta.concrete_fields
        if field.get_internal_type() != "BigAutoField"
    }


def _insert(model: type[Model], *, ordered_by: str) -> str:
    """Insert what the parameter named like the model holds as JSON; sorted, so that nobody waits in a circle."""
    columns = _columns(model)
    names = ", ".join(f'"{name}"' for name in columns)
    typed = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
    return (
        f"INSERT INTO {model._meta.db_table} AS t ({names}) SELECT {names}"  # noqa: S608 - every name is ours
        f" FROM json_to_recordset(%({model.__name__})s::json) AS r({typed}) ORDER BY {ordered_by}"
    )


_STANDING: Final = ("delivered", "acked", "delivered_tokens", "acked_tokens", "resumed", "in_order")
_DAY: Final = ", ".join(DAY_KEY)
# One statement, however many rows.
_RECORD: Final = f"""
WITH streams AS ({_insert(StreamRow, ordered_by="stream_id")}),
transcripts AS ({_insert(StreamTranscript, ordered_by="stream_id")}),
deliveries AS ({_insert(StreamDelivery, ordered_by="delivery_id")} ON CONFLICT DO NOTHING),
credits AS ({_insert(StreamCredit, ordered_by="stream_id")}),
standings AS (
    {_insert(StreamStanding, ordered_by="stream_id")}
    ON CONFLICT (stream_id) DO UPDATE SET
        {", ".join(f"{name} = excluded.{name}" for name in (*_STANDING, "credit_micros"))}
)
{_insert(StreamDay, ordered_by=_DAY)}
ON CONFLICT ({_DAY}) DO UPDATE SET {", ".join(f"{name} = t.{name} + excluded.{name}" for name in DAY_SUMS)}
"""  # noqa: S608 - as above
_SUMS: Final = {
    "streams": "count(*)",
    "resumed": "count(*) FILTER (WHERE is_resumed)",
    "drifted": "count(*) FILTER (WHERE NOT is_in_order)",
    **{name: f"sum({name})" for name in ("billed_tokens", "generated_tokens", "buffered_tokens")},
    "delivered_tokens": "sum(delivered_tokens_now)",
    "acked_tokens": "sum(acked_tokens_now)",
    "cost_micros": "sum(cost_micros)",
    "refund_micros": "sum(credit)",
}
_MOVING: Final = ("delivered", "acked", "delivered_tokens", "acked_tokens")
# What `_merged`, `_counted` and the credits' sum come to, for the streams of a period.
_REBUILD: Final = f"""
WITH known AS (
    SELECT r.*, {", ".join(f"greatest(r.{name}, d.{name}) AS {name}_now" for name in _MOVING)},
        r.resumed OR coalesce(d.resumed, false) AS is_resumed, coalesce(c.credit, 0) AS credit
    FROM {StreamRow._meta.db_table} r
    LEFT JOIN LATERAL (
        SELECT {", ".join(f"max({name}) AS {name}" for name in _MOVING)}, bool_or(reader = '{RESUMED}') AS resumed
        FROM {StreamDelivery._meta.db_table} WHERE stream_id = r.stream_id
    ) d ON true
    LEFT JOIN LATERAL (
        SELECT sum(change_micros) AS credit FROM {StreamCredit._meta.db_table} WHERE stream_id = r.stream_id
    ) c ON true
    WHERE r.at >= %(since)s AND r.at < %(until)s
), judged AS (
    SELECT *, billed_tokens >= generated_tokens AND generated_tokens >= buffered_tokens
        AND buffered_tokens >= delivered_tokens_now AND delivered_tokens_now >= acked_tokens_now AS is_in_order
    FROM known
), standings AS (
    INSERT INTO {StreamStanding._meta.db_table} AS s (stream_id, {", ".join(_STANDING)}, credit_micros)
    SELECT stream_id, {", ".join(f"{name}_now" for name in _MOVING)}, is_resumed, is_in_order, credit
    FROM judged ORDER BY stream_id
    ON CONFLICT (stream_id) DO UPDATE SET
        {", ".join(f"{name} = excluded.{name}" for name in _STANDING)},
        credit_micros = CASE WHEN s.credit_micros IS NOT NULL THEN excluded.credit_micros END
)
INSERT INTO {StreamDay._meta.db_table} ({_DAY}, {", ".join(_SUMS)})
SELECT (at AT TIME ZONE 'UTC')::date AS day, tenant, route, outcome, {", ".join(_SUMS.values())}
FROM judged GROUP BY {_DAY} ORDER BY {_DAY}
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters


# --- taking in -------------------------------------------------------------------------------------------------------
@transaction.atomic
def record_streams(*, streams: Sequence[Mapping[str, Any]], deliveries: Sequence[Mapping[str, Any]]) -> int:
    """Add what is not known yet of streams and their deliveries, and count it into the days on which they ended; what
    was told before changes nothing. Returns how many rows of both came.

    A stream is as it was first told. What was delivered or acknowledged of it is the most that its row or any delivery
    tells, whichever comes first, and whatever changes its credit leaves a row of that.

    Four statements, however many rows. One process at a time, until it commits: what a delivery adds depends on what
    is known of its stream, which may just be arriving elsewhere. Days are shared rows in any case.

    Args:
        streams, deliveries: As workers report them.
    Shape of a stream: {"stream_id", "request_id", "tenant", "tier", "key_id", "user", "route", "prompt", "canary",
        "cohort", "policy", "on_cut", "refund", "outcome", "code", "continues", "digest", "text_digest": str,
        "started_at", "at": epoch seconds, "version", "frames", "bytes", "billed_tokens", "generated_tokens",
        "buffered_tokens", "delivered_tokens", "acked_tokens", "delivered", "acked", "cost_micros": int,
        "segments": see `StreamRow`, "transcript": [payload, ...] or null, "resumed": bool (optional)}.
    Shape of a delivery: {"delivery_id", "stream_id", "tenant", "reader": str, "at": epoch seconds, "delivered",
        "acked", "delivered_tokens", "acked_tokens": int}.
    """
    if streams or deliveries:
        with connection.cursor() as cursor:
            _hold(cursor)
            _take(cursor, streams, deliveries, {row["stream_id"] for row in (*streams, *deliveries)})
    return len(streams) + len(deliveries)


@transaction.atomic
def decide_credits(*, after: str = "") -> str:
    """Decide the credits that could not be: their rule was not registered, or failed.

    At most so many at a time, of streams with an id after that one. Returns the last of them, to go on from; empty when
    there were none.
    """
    with connection.cursor() as cursor:
        _hold(cursor)
        beyond = StreamStanding.objects.undecided().filter(stream__gt=after).order_by("stream_id")
        names = list(beyond.values_list("stream_id", flat=True)[:DECIDED_PER_STEP])
        if names:
            _take(cursor, (), (), set(names))
    return names[-1] if names else ""


@transaction.atomic
def rebuild_stream_days(day: date) -> int:
    """Count one UTC day anew from the record of its streams, and how each of them stands; whatever was said before.
    Returns how many days of tenants, routes and outcomes there are now. Credits stay as they were decided.

    Streams are taken in again when it is done; reading goes on.
    """
    begins = datetime.combine(day, time(), UTC)
    with connection.cursor() as cursor:
        _hold(cursor)
        StreamDay.objects.filter(day=day).delete()
        cursor.execute(_REBUILD, {"since": begins, "until": begins + timedelta(days=1)})
        return int(cursor.rowcount)


def _hold(cursor: CursorWrapper) -> None:
    cursor.execute("SELECT pg_advisory_xact_lock(%s)", [STREAMS_LOCK])


def _take(
    cursor: CursorWrapper,
    streams: Sequence[Mapping[str, Any]],
    deliveries: Sequence[Mapping[str, Any]],
    names: set[str],
) -> None:
    """Write what is new, and what follows from it for the streams of these names; whoever calls holds them all."""
    stored = StreamRow.objects.in_bulk(names)
    standings = StreamStanding.objects.in_bulk(names)
    fresh: dict[str, tuple[StreamRow, Mapping[str, Any]]] = {}
    for told in streams:
        if told["stream_id"] not in stored:
            fresh.setdefault(told["stream_id"], (_row(told), told))
    later: dict[str, list[Mapping[str, Any]]] = {}
    for delivery in deliveries:
        later.setdefault(delivery["stream_id"], []).append(delivery)

    credits: list[StreamCredit] = []
    days: dict[tuple[Any, ...], dict[str, int]] = {}
    after: list[StreamStanding] = []
    for name in sorted(names):
        row = fresh[name][0] if name in fresh else stored.get(name)
        before = standings.get(name)
        now = _merged(name, row, before, later.get(name, ()))
        after.append(now)
        if row is None:
            continue
        moments = [datetime.fromtimestamp(delivery["at"], UTC) for delivery in later.get(name, ())]
        credits += _credit(row, now, before, at=max([row.at, *moments]))
        counted = _counted(row, before) if name in stored and before is not None else dict.fromkeys(DAY_SUMS, 0)
        day = days.setdefault(_day_of(row), dict.fromkeys(DAY_SUMS, 0))
        for one, value in _counted(row, now).items():
            day[one] += value - counted[one]
    told_now = {
        StreamRow: [_written(row) for row, _ in fresh.values()],
        StreamTranscript: [_transcript(told) for row, told in fresh.values() if row.kept_transcript],
        StreamDelivery: [{**told, "at": datetime.fromtimestamp(told["at"], UTC)} for told in deliveries],
        StreamCredit: [_written(one) for one in credits],
        StreamStanding: [_written(one) for one in after],
        StreamDay: [dict(zip(DAY_KEY, key, strict=True)) | sums for key, sums in days.items() if any(sums.values())],
    }
    cursor.execute(_RECORD, {model.__name__: orjson.dumps(rows).decode() for model, rows in told_now.items()})


def _merged(
    name: str, row: StreamRow | None, before: StreamStanding | None, deliveries: Iterable[Mapping[str, Any]]
) -> StreamStanding:
    """How a stream stands by all that is told of it. Its credit is not decided yet."""
    known = ({one: getattr(source, one) for one in _MOVING} for source in (row, before) if source is not None)
    told: list[Mapping[str, Any]] = [*known, *deliveries]
    most = {one: max(source[one] for source in told) for one in _MOVING} if told else {}
    resumed = any(source.resumed for source in (row, before) if source is not None)
    now = StreamStanding(stream_id=name, resumed=resumed or any(one["reader"] == RESUMED for one in deliveries), **most)
    if row is not None:
        now.in_order = row.figures(delivered=now.delivered_tokens, acked=now.acked_tokens).in_order
    return now


def _credit(row: StreamRow, now: StreamStanding, before: StreamStanding | None, *, at: datetime) -> list[StreamCredit]:
    """Decide the credit of a stream as it stands now. Returns the row of what that changes, if it changes anything."""
    known = (before.credit_micros if before is not None else None) or 0
    figures = row.figures(delivered=now.delivered_tokens, acked=now.acked_tokens)
    try:
        now.credit_micros = credit_of(row.bill(figures), rule=row.refund)
    except Exception as exc:  # noqa: BLE001 - a company's rule may raise anything, and the record must not wait for it
        logger.error("the credit of stream %s is not decided: %s: %s", row.stream_id, type(exc).__name__, exc)
        # What was decided when less was delivered stands.
        now.credit_micros = None if before is None else before.credit_micros
        return []
    if now.credit_micros == known:
        return []
    return [
        StreamCredit(
            stream_id=row.stream_id,
            tenant=row.tenant,
            at=at,
            rule=row.refund,
            change_micros=now.credit_micros - known,
            delivered_tokens=now.delivered_tokens,
            acked_tokens=now.acked_tokens,
        )
    ]


def _counted(row: StreamRow, standing: StreamStanding) -> dict[str, int]:
    """What a stream adds to its day."""
    return {
        "streams": 1,
        "resumed": int(standing.resumed),
        "drifted": int(not standing.in_order),
        "billed_tokens": row.billed_tokens,
        "generated_tokens": row.generated_tokens,
        "buffered_tokens": row.buffered_tokens,
        "delivered_tokens": standing.delivered_tokens,
        "acked_tokens": standing.acked_tokens,
        "cost_micros": row.cost_micros,
        "refund_micros": standing.credit_micros or 0,
    }


def _day_of(row: StreamRow) -> tuple[date, str, str, str]:
    return row.at.astimezone(UTC).date(), row.tenant, row.route, row.outcome


def _row(told: Mapping[str, Any]) -> StreamRow:
    renamed = {
        "key": told["key_id"],
        "size_bytes": told["bytes"],
        "started_at": datetime.fromtimestamp(told["started_at"], UTC),
        "at": datetime.fromtimestamp(told["at"], UTC),
        "resumed": told.get("resumed", False),
        "kept_transcript": told["transcript"] is not None,
    }
    return StreamRow(**{name: told[name] for name in _columns(StreamRow) if name not in renamed}, **renamed)


def _transcript(told: Mapping[str, Any]) -> dict[str, Any]:
    at = datetime.fromtimestamp(told["at"], UTC)
    return {"stream_id": told["stream_id"], "tenant": told["tenant"], "at": at, "frames": told["transcript"]}


def _written(row: Model) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _columns(type(row))}


# --- transcripts -----------------------------------------------------------------------------------------------------
@audit.operation
def read_transcript(*, row: StreamRow, actor: Operator, now: datetime) -> list[str] | None:
    """The payloads of the stream's frames, or None where they are not kept (any more). Who reads them is recorded."""
    transcript = StreamTranscript.objects.filter(pk=row.pk).first()
    if transcript is None:
        return None
    audit.record("transcript.read", actor=actor, target=row, at=now, data={"tenant": row.tenant})
    frames: list[str] = transcript.frames
    return frames


@audit.operation
def forget_transcripts(*, before: datetime, tenant: str = "", actor: Operator | str, reason: str, now: datetime) -> int:
    """Delete transcripts of streams that ended before then, the oldest first, of one tenant or of all; rows and digests
    stay. Returns how many; at most so many at a time, whoever calls goes on until there are none.
    """
    old = StreamTranscript.objects.filter(at__lt=before)
    if tenant:
        old = old.filter(tenant=tenant)
    names = list(old.order_by("at").values_list("pk", flat=True)[:FORGOTTEN_PER_STEP])
    if names:
        # This and `erase_transcripts` may: the trigger refuses everybody else.
        with pgtrigger.ignore("ledger.StreamTranscript:append_only"):
            StreamTranscript.objects.filter(pk__in=names).delete()
        data = {"transcripts": len(names), "before": before.isoformat(), "tenant": tenant, "reason": reason}
        audit.record("transcripts.forgotten", actor=actor, target="transcripts", at=now, data=data)
    return len(names)


def erase_transcripts(*, tenant: str, user: str, until: datetime | None = None) -> int:
    """Delete transcripts of the streams of one user of a tenant, in the caller's operation, which records it; with
    `until`, of those that had begun by then. Rows and digests stay. Returns how many there were.

    Args:
        user: As `StreamRow.user` has it.
    """
    rows = StreamTranscript.objects.filter(tenant=tenant, stream__tenant=tenant, stream__user=user)
    if until is not None:
        rows = rows.filter(stream__started_at__lte=until)
    with pgtrigger.ignore("ledger.StreamTranscript:append_only"):
        return rows.delete()[0]
