"""Take in where workers say that ladders stand, which steps these took, and what was ordered on a host."""

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from django.db import connection

from controlplane.audit import operations as audit
from controlplane.ladder.models import surface_name
from controlplane.releases.models import GONE_AFTER
from controlplane.telemetry.ladder_reports import is_move, is_order
from controlplane.telemetry.models import LadderMove, LadderOrder, LadderState
from controlplane.telemetry.operations import (
    DELETIONS_PER_RUN,
    SOURCE_COLUMNS,
    newest_states,
    take_states,
    taken_states,
)
from dataplane.events import LadderMoved, LadderOrdered
from dataplane.ladder.emergency import ID_PREFIX

# When rungs were on is asked about for longer than what was measured meanwhile.
KEEP_LOG: Final = timedelta(days=400)
# Workers say every second what is in force; one that was late is no order that was stood down.
SEEN_SECONDS: Final = 5.0
_MOST_AUDITED: Final = 100

logger = logging.getLogger(__name__)

_COLUMNS: Final = {
    **SOURCE_COLUMNS,
    "surface": "text",
    "level": "smallint",
    **dict.fromkeys(("engaged", "ids", "readings", "reserved"), "jsonb"),
    "generation": "bigint",
    "is_alone": "boolean",
}
_FACTS: Final = ("level", "engaged", "ids", "generation", "is_alone")
_TAKE: Final = take_states(
    LadderState._meta.db_table,
    _COLUMNS,
    key="surface",
    differs=" OR ".join(f"b.{name} IS DISTINCT FROM t.{name}" for name in _FACTS),
)
_SEE_ORDERS: Final = f"""
UPDATE {LadderOrder._meta.db_table} o SET last_seen_at = s.at
FROM json_to_recordset(%(seen)s::json) AS s(name text, at timestamptz)
WHERE o.name = s.name AND o.last_seen_at < s.at - %(late)s
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters


def record_ladder_states(reports: Iterable[Mapping[str, Any]], *, now: datetime) -> set[str]:
    """Take in how workers hold ladders; otherwise as `telemetry.operations.record_lane_states`.

    One statement, however many workers and surfaces, and one more while orders are in force.

    Returns:
        The surfaces whose ladders stand differently now: another rung, engaged for others, or by something else; a
        worker alone or not; new, or gone. What was read is no news, since that changes every second.
    """
    heard, said = newest_states(reports, "ladders", key="surface", columns=_columns, now=now)
    seen: dict[str, datetime] = {}
    for row in said:
        for name in row["ids"]:
            if name.startswith(ID_PREFIX):
                seen[name] = max(seen.get(name, row["reported_at"]), row["reported_at"])
    if seen:
        rows = [{"name": name, "at": at} for name, at in sorted(seen.items())]
        with connection.cursor() as cursor:
            # Not with every report: a row that is written each second by each worker is one that all wait for.
            asked: dict[str, Any] = {"seen": orjson.dumps(rows).decode(), "late": timedelta(seconds=SEEN_SECONDS / 2)}
            cursor.execute(_SEE_ORDERS, asked)
    return taken_states(_TAKE, heard, said)


def _columns(state: Mapping[str, Any], _: datetime) -> dict[str, Any]:
    return {name: state[name] for name in _COLUMNS if name not in SOURCE_COLUMNS}


def record_ladder_events(reports: Iterable[Mapping[str, Any]]) -> set[str]:
    """Keep the steps that ladders took, and what was ordered on hosts, however often they are told.

    At most two statements. An event that does not have the shape of its kind is left out here; what is kept of every
    event keeps it.

    Returns:
        The surfaces that something was told of.
    """
    moves: list[LadderMove] = []
    orders: dict[str, LadderOrder] = {}
    for report in reports:
        for event in report["events"]:
            data = event["data"]
            at = datetime.fromtimestamp(event["at"], UTC)
            if event["kind"] == LadderMoved.kind and is_move(data):
                moves.append(_move(report, at, data))
            elif event["kind"] == LadderOrdered.kind and is_order(data):
                order = _order(report["worker"], at, data)
                known = orders.get(order.name)
                orders[order.name] = order if known is None or order.at < known.at else known
    if moves:
        moves.sort(key=lambda one: (one.surface, one.generation, one.worker, one.boot))
        LadderMove.objects.bulk_create(moves, ignore_conflicts=True)
    if orders:
        LadderOrder.objects.bulk_create([one for _, one in sorted(orders.items())], ignore_conflicts=True)
    return {one.surface for one in moves} | {one.surface for one in orders.values()}


_MOVE: Final = ("surface", "before", "after", "cause", "trigger", "reading", "readings", "generation")


def _move(report: Mapping[str, Any], at: datetime, data: Mapping[str, Any]) -> LadderMove:
    return LadderMove(at=at, worker=report["worker"], boot=report["boot"], **{name: data[name] for name in _MOVE})


def _order(worker: str, at: datetime, data: Mapping[str, Any]) -> LadderOrder:
    return LadderOrder(
        name=data["id"],
        surface=data["surface"],
        rung=data["rung"],
        at=at,
        until=datetime.fromtimestamp(data["until"], UTC),
        reason=data["reason"],
        by=data["by"],
        worker=worker,
        last_seen_at=at,
    )


def orders_in_force(key_id: str, switched_at: datetime, now: datetime) -> list[str]:
    """Rungs that are engaged on hosts by orders that the key may have signed: see `releases.trust`.

    Nobody says which key it was, so each counts.
    """
    rows = LadderOrder.objects.filter(until__gt=now, last_seen_at__gt=now - GONE_AFTER).order_by("name")
    return [
        f"emergency order {one.name} is in force on a host until {one.until:%H:%M:%S} UTC; stand it down, or wait"
        for one in rows
    ]


def audit_orders(*, now: datetime) -> int:
    """Write into the record what was ordered on hosts since the last time, each order once; returns how many."""
    if not LadderOrder.objects.filter(audited_at=None).exists():  # as good as always: no lock is taken
        return 0
    return _audit_orders(now=now)


@audit.operation
def _audit_orders(*, now: datetime) -> int:
    orders = list(
        LadderOrder.objects.select_for_update().filter(audited_at=None).order_by("at", "name")[:_MOST_AUDITED]
    )
    for order in orders:
        audit.record(
            "rung.ordered_on_host",
            actor=f"worker:{order.worker}",
            target=surface_name(order.surface),
            at=now,
            data={
                "order": order.name,
                "rung": order.rung,
                "by": order.by,
                "reason": order.reason,
                "since": order.at.isoformat(),
                "until": order.until.isoformat(),
            },
        )
        order.audited_at = now
    LadderOrder.objects.bulk_update(orders, ["audited_at"])
    return len(orders)


def forget_ladders(*, now: datetime) -> int:
    """Delete what is past its time, at most so many rows of each; returns how many."""
    deleted: int = LadderState.objects.filter(reported_at__lt=now - GONE_AFTER).delete()[0]
    moves = LadderMove.objects.filter(at__lt=now - KEEP_LOG).order_by("at")
    deleted += LadderMove.objects.filter(pk__in=moves.values("pk")[:DELETIONS_PER_RUN]).delete()[0]
    orders = LadderOrder.objects.filter(at__lt=now - KEEP_LOG).order_by("at")
    return deleted + LadderOrder.objects.filter(pk__in=orders.values("pk")[:DELETIONS_PER_RUN]).delete()[0]
