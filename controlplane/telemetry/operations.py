"""Take in what workers measured, and keep the past small."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from django.db import connection, transaction
from django.db.models import Model

from controlplane.releases.models import GONE_AFTER
from controlplane.telemetry import evidence
from controlplane.telemetry.models import (
    COUNTS,
    LANE_COUNTS,
    MINUTE,
    SERIES,
    SKETCHES,
    TEXTS,
    LaneRollup,
    LaneState,
    MinuteRollup,
    QuotaState,
    Rollup,
    Source,
    WorkerEvent,
)
from controlplane.telemetry.outcome_spans import fold_outcomes
from controlplane.telemetry.outcome_windows import add_changes, slide_windows
from controlplane.telemetry.outcomes import OutcomeRollup, OutcomeTotal
from controlplane.telemetry.reported import MAX_CLOCK_AHEAD, intake, row_key, take_rows
from controlplane.telemetry.tally import Tally

KEEP_BUCKETS: Final = timedelta(hours=2)
KEEP_MINUTES: Final = timedelta(days=35)
# A worker reports a bucket for the last time within a second of its end; a minute waits this long before it is folded.
CLOSING_GRACE: Final = timedelta(seconds=10)
MINUTES_PER_RUN: Final = 240
DELETIONS_PER_RUN: Final = 20_000
# Remaining seconds, and the report's way, are measured: a breaker that is open until later than this is open anew.
MOVED_SECONDS: Final = 2.0
# A share of a limit that moves by less is no news.
MOVED_SHARE: Final = 0.05
# Any constant would do; it only has to be the same in every process of this deployment.
_COMPACTION_LOCK: Final = 0x0BA11A58


# --- taking in -------------------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Merged:
    """What a batch of reports touched: how many rollups were offered, whether any tells of checks of answers, and per
    canary the oldest bucket of theirs.
    """

    rows: int = 0
    since: datetime | None = None
    canaries: dict[str, datetime] = field(default_factory=dict)
    clock_ahead: set[str] = field(default_factory=set)
    has_outputs: bool = False

    def note(self, bucket_at: datetime, canary: str) -> None:
        """Count one rollup."""
        self.rows += 1
        self.since = min(self.since or bucket_at, bucket_at)
        if canary:
            self.canaries[canary] = min(self.canaries.get(canary, bucket_at), bucket_at)


# What a newer state of a row replaces.
_MEASURED: Final = (*COUNTS, *SKETCHES, "outputs")
_INTAKE: Final = intake(
    Rollup,
    Source,
    series=SERIES,
    measured=_MEASURED,
    types={
        "version": "integer",
        **dict.fromkeys(COUNTS, "bigint"),
        **dict.fromkeys((*SKETCHES, "outputs"), "jsonb"),
    },
)


def merge_rollups(reports: Iterable[Mapping[str, Any]], *, now: datetime) -> Merged:
    """Take in the rollups of a batch of reports: each row replaces an older state of itself, and nothing else.

    Rollups are cumulative in their bucket, so delivery twice, late or out of order gives the same table.
    Two statements, however many rows.

    Args:
        reports: Each with `worker`, `boot`, `seq` and `rollups`, as `telemetry.reports.parse_report` returns them.
        now: When they were received. Buckets over 5 min ahead of it are left out, and so are those older than 35 days.
    """
    merged = Merged()
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for report in reports:
        worker, boot, seq = report["worker"], report["boot"], report["seq"]
        for rollup in report["rollups"]:
            bucket_at = datetime.fromtimestamp(rollup["bucket"], UTC)
            if bucket_at > now + MAX_CLOCK_AHEAD:
                merged.clock_ahead.add(worker)
                continue
            if bucket_at < now - KEEP_MINUTES:
                continue
            merged.note(bucket_at, rollup["canary"])
            merged.has_outputs = merged.has_outputs or bool(rollup["outputs"])
            # One statement may touch a row once only, so the newest of the batch is found here.
            key = (rollup["bucket"], worker, boot, *(rollup[name] for name in SERIES))
            known = rows.get(key)
            if known is None or seq > known["seq"]:
                counted = {name: rollup[name] for name in (*SERIES, *_MEASURED)}
                rows[key] = {"worker": worker, "boot": boot, "seq": seq, "bucket_at": bucket_at, **counted}
    if rows:
        with transaction.atomic():
            take_rows(_INTAKE, list(rows.values()), now=now)
    return merged


SOURCE_COLUMNS: Final = {"worker": "text", "started_at": "timestamptz", "seq": "bigint", "reported_at": "timestamptz"}
_LANE_COLUMNS: Final = {
    **SOURCE_COLUMNS,
    "lane": "text",
    "state": "text",
    "open_until_at": "timestamptz",
    "probes": "integer",
    "attempts": "bigint",
    "failures": "bigint",
    "cause": "text",
    "wait_ms": "double precision",
}
_QUOTA_COLUMNS: Final = {
    **SOURCE_COLUMNS,
    **dict.fromkeys(("pool", "account", "policy"), "text"),
    **dict.fromkeys(("limits", "learned"), "jsonb"),
    "paused_until_at": "timestamptz",
    "is_alone": "boolean",
    "in_flight": "integer",
    **dict.fromkeys(("waiting_interactive", "waiting_batch", "granted", "throttled"), "bigint"),
    **dict.fromkeys(("ramp", "eta_interactive_seconds", "eta_batch_seconds", "used_share"), "double precision"),
    **dict.fromkeys(("waited_ms_p50", "waited_ms_p95"), "double precision"),
}


def take_states(table: str, columns: Mapping[str, str], *, key: str, differs: str) -> str:
    """The statement that takes in what workers say of things: lanes, or pools.

    What is older than the report, by the worker's boot and the number within it, gives way to it, and what it does not
    name is not there any more. The last SELECT sees the table as it was before. Sorted, so that two processes
    never wait for each other in a circle.

    Args:
        key: The column that names the thing.
        differs: Whether it stands differently now: `t` is the new row, `b` the one before, nulls where there was none.
    """
    names = ", ".join(columns)
    return f"""
WITH heard AS (
    SELECT * FROM json_to_recordset(%(heard)s::json) AS h(worker text, started_at timestamptz, seq bigint)
), said AS (
    SELECT * FROM json_to_recordset(%(said)s::json) AS r({", ".join(f"{k} {v}" for k, v in columns.items())})
), gone AS (
    DELETE FROM {table} s USING heard h
    WHERE s.worker = h.worker AND (s.started_at, s.seq) < (h.started_at, h.seq)
    AND NOT EXISTS (SELECT 1 FROM said r WHERE r.worker = s.worker AND r.{key} = s.{key})
    RETURNING s.{key}
), taken AS (
    INSERT INTO {table} AS s ({names})
    SELECT {names} FROM said r
    WHERE NOT EXISTS (
        SELECT 1 FROM {table} n WHERE n.worker = r.worker AND (n.started_at, n.seq) > (r.started_at, r.seq)
    )
    ORDER BY r.worker, r.{key}
    ON CONFLICT (worker, {key}) DO UPDATE SET
        {", ".join(f"{name} = excluded.{name}" for name in columns if name not in ("worker", key))}
    WHERE (excluded.started_at, excluded.seq) > (s.started_at, s.seq)
    RETURNING s.*
)
SELECT t.{key} FROM taken t LEFT JOIN {table} b ON b.worker = t.worker AND b.{key} = t.{key}
WHERE {differs}
UNION SELECT {key} FROM gone
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters


_TAKE_LANE_STATES: Final = take_states(
    LaneState._meta.db_table,
    _LANE_COLUMNS,
    key="lane",
    differs="""
    b.state IS DISTINCT FROM t.state OR abs(extract(epoch FROM t.open_until_at - b.open_until_at)) > %(moved)s""",
)
_QUOTA_FACTS: Final = ("limits", "learned", "ramp", "is_alone", "waiting_interactive", "waiting_batch")
_TAKE_QUOTA_STATES: Final = take_states(
    QuotaState._meta.db_table,
    _QUOTA_COLUMNS,
    key="pool",
    differs=f"""
    {" OR ".join(f"b.{name} IS DISTINCT FROM t.{name}" for name in _QUOTA_FACTS)}
    OR (b.paused_until_at IS NULL) <> (t.paused_until_at IS NULL)
    OR abs(extract(epoch FROM t.paused_until_at - b.paused_until_at)) > %(moved)s
    OR abs(t.used_share - b.used_share) > %(moved_share)s""",
)
_States = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def record_lane_states(reports: Iterable[Mapping[str, Any]], *, now: datetime) -> set[str]:
    """Take in how workers hold their lanes: the newest report of each that tells of them replaces what is known.

    A worker that has stopped holds none. One statement, however many workers and lanes.

    Args:
        reports: As for `merge_rollups`, with `sent_at` and `state`.
        now: When they were received.
    Returns:
        The lanes that stand differently now: in another state, open until another moment, new, or gone.
    """
    heard, said = newest_states(reports, "lanes", key="lane", columns=_lane_state, now=now)
    return taken_states(_TAKE_LANE_STATES, heard, said)


def record_quota_states(reports: Iterable[Mapping[str, Any]], *, now: datetime) -> set[str]:
    """Take in what workers know of their pools; otherwise as `record_lane_states`.

    Returns:
        The pools that stand differently now: their limits, what waits, paused or open until another moment, a worker
        alone or not, a share used that has moved by 5 %, new, or gone.
    """
    heard, said = newest_states(reports, "quotas", key="pool", columns=_quota_state, now=now)
    return taken_states(_TAKE_QUOTA_STATES, heard, said)


def newest_states(
    reports: Iterable[Mapping[str, Any]],
    member: str,
    *,
    key: str,
    columns: Callable[[Mapping[str, Any], datetime], dict[str, Any]],
    now: datetime,
) -> _States:
    """Of each worker that tells of `member`, which report is its newest, and the rows that it says."""
    newest: dict[str, Mapping[str, Any]] = {}
    for report in reports:
        if member in report["state"] or report["state"]["status"] == "stopped":
            known = newest.get(report["worker"])
            if known is None or _age(report) > _age(known):
                newest[report["worker"]] = report
    heard: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    for worker, report in newest.items():
        state = report["state"]
        source = {
            "worker": worker,
            "started_at": datetime.fromtimestamp(state["started_at"], UTC),
            "seq": report["seq"],
        }
        heard.append(source)
        if state["status"] == "stopped":
            continue
        # A spool replayed after an outage must not give out an old state as that of now.
        reported_at = min(now, datetime.fromtimestamp(report["sent_at"], UTC))
        things = {thing[key]: thing for thing in state[member]}
        said += [{**source, "reported_at": reported_at, **columns(thing, reported_at)} for thing in things.values()]
    return heard, said


def taken_states(statement: str, heard: list[dict[str, Any]], said: list[dict[str, Any]]) -> set[str]:
    if not heard:
        return set()
    parameters: dict[str, str | float] = {
        "heard": orjson.dumps(heard).decode(),
        "said": orjson.dumps(said).decode(),
        "moved": MOVED_SECONDS,
        "moved_share": MOVED_SHARE,
    }
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return {name for (name,) in cursor.fetchall()}


def _age(report: Mapping[str, Any]) -> tuple[float, int]:
    return report["state"]["started_at"], report["seq"]


def _lane_state(lane: Mapping[str, Any], reported_at: datetime) -> dict[str, Any]:
    seconds = lane["open_for_seconds"]
    return {
        "open_until_at": None if seconds is None else reported_at + timedelta(seconds=seconds),
        **{name: lane[name] for name in ("lane", "state", "probes", "attempts", "failures", "cause")},
        "wait_ms": lane.get("wait_ms"),
    }


_QUOTA_MEMBERS: Final = (
    *("pool", "account", "policy", "limits", "learned", "ramp", "is_alone", "in_flight", "used_share"),
    *("granted", "throttled", "waited_ms_p50", "waited_ms_p95"),
)


def _quota_state(quota: Mapping[str, Any], reported_at: datetime) -> dict[str, Any]:
    seconds, waiting, etas = quota["paused_seconds"], quota["waiting"], quota["eta_seconds"]
    return {
        **{name: quota[name] for name in _QUOTA_MEMBERS},
        "paused_until_at": reported_at + timedelta(seconds=seconds) if seconds else None,
        "waiting_interactive": waiting["interactive"],
        "waiting_batch": waiting["batch"],
        "eta_interactive_seconds": etas["interactive"],
        "eta_batch_seconds": etas["batch"],
    }


def record_events(reports: Iterable[Mapping[str, Any]]) -> int:
    """Keep what happened in workers, each event once however often it is delivered. Returns how many came."""
    events = [
        WorkerEvent(
            at=datetime.fromtimestamp(event["at"], UTC),
            worker=report["worker"],
            kind=event["kind"],
            data=event["data"],
            boot=report["boot"],
            seq=report["seq"],
            position=position,
        )
        for report in reports
        for position, event in enumerate(report["events"])
    ]
    events.sort(key=lambda event: (event.worker, event.boot, event.seq, event.position))
    WorkerEvent.objects.bulk_create(events, ignore_conflicts=True)
    return len(events)


def record_refused_entry(*, entry: str, problem: str, size_bytes: int, now: datetime) -> None:
    """Keep that an entry of the reports stream was no report. Its content is not kept: nobody knows what it was."""
    milliseconds, _, number = entry.partition("-")
    WorkerEvent.objects.bulk_create(
        [
            WorkerEvent(
                at=now,
                kind="ingest.refused",
                data={"entry": entry, "problem": problem[:500], "bytes": size_bytes},
                boot="ingest",
                seq=int(milliseconds),
                position=min(int(number or 0), 2**31 - 1),
            )
        ],
        ignore_conflicts=True,
    )


def record_clock_ahead(workers: Iterable[str], *, now: datetime) -> None:
    """Keep that workers report buckets of the future, which are left out: at most one event in ten minutes each."""
    WorkerEvent.objects.bulk_create(
        [
            WorkerEvent(
                at=now,
                worker=worker,
                kind="clock.ahead",
                data={"limit_seconds": MAX_CLOCK_AHEAD.total_seconds()},
                boot="ingest",
                seq=int(now.timestamp()) // 600,
                position=0,
            )
            for worker in sorted(workers)
        ],
        ignore_conflicts=True,
    )


# --- keeping the past small ------------------------------------------------------------------------------------------
@dataclass(slots=True)
class Compacted:
    """What one run did: minutes folded and sealed, rows deleted for their age."""

    folded_minutes: int = 0
    sealed_minutes: int = 0
    deleted_rows: int = 0


def compact_rollups(*, now: datetime) -> Compacted:
    """Fold closed minutes into one row per series, seal and delete 10 s rows after 2 h, delete minutes after 35 days.

    Idempotent, and bounded: what is left over is done by the next run. A minute for which something arrives later is
    folded again. Does nothing while another run is under way.
    """
    done = Compacted()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [_COMPACTION_LOCK])
        if not cursor.fetchone()[0]:
            return done
    try:
        minutes = _minutes_to_fold(now)
        for minute in minutes:
            _fold(minute)
            done.folded_minutes += 1
        is_all = len(minutes) < MINUTES_PER_RUN
        slide_windows(now=now, until=_closed(now) if is_all else minutes[-1] + MINUTE)
        for minute in _minutes_to_seal(now):
            done.sealed_minutes += _seal(minute, now=now)
        done.deleted_rows = _delete_old(now)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [_COMPACTION_LOCK])
    return done


def _minutes_to_fold(now: datetime) -> list[datetime]:
    """Closed minutes with something that their row does not contain, oldest first, so that folded time has one edge."""
    return _minutes(
        f"SELECT DISTINCT date_trunc('minute', bucket_at) AS minute FROM {Rollup._meta.db_table}"  # noqa: S608 - as above
        " WHERE NOT folded AND bucket_at < %s ORDER BY minute LIMIT %s",
        [_closed(now), MINUTES_PER_RUN],
    )


def _closed(now: datetime) -> datetime:
    """Up to where minutes are over, and everything punctual has been told."""
    return _floor(now - CLOSING_GRACE)


def _minutes_to_seal(now: datetime) -> list[datetime]:
    return _minutes(
        f"SELECT DISTINCT date_trunc('minute', r.bucket_at) AS minute FROM {Rollup._meta.db_table} r"  # noqa: S608 - as above
        f" JOIN {Source._meta.db_table} s ON s.worker = r.worker AND s.boot = r.boot"
        " WHERE r.bucket_at < %(old)s AND r.changed_at < %(old)s AND r.folded"
        " AND (r.bucket_at < s.newest_bucket_at OR s.changed_at < %(ancient)s) ORDER BY minute LIMIT %(limit)s",
        {"old": now - KEEP_BUCKETS, "ancient": now - KEEP_MINUTES, "limit": MINUTES_PER_RUN},
    )


def _minutes(sql: str, parameters: Any) -> list[datetime]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return [minute for (minute,) in cursor.fetchall()]


@transaction.atomic
def _fold(minute: datetime) -> None:
    """Compute the minute's unsealed part from the 10 s rows that are there.

    No lock: a row that changes meanwhile keeps its mark, because its number has grown, and the next run folds it.
    """
    tallies: defaultdict[tuple[Any, ...], Tally] = defaultdict(Tally)
    ids: list[int] = []
    seqs: list[int] = []
    rows = Rollup.objects.between(minute, minute + MINUTE).order_by().with_texts()
    columns = ("pk", "seq", "outputs", *SERIES, *COUNTS, *TEXTS)
    for pk, seq, outputs, *values in rows.values_list(*columns).iterator(chunk_size=2000):
        tally = tallies[tuple(values[: len(SERIES)])]
        tally.add_values(values[len(SERIES) : -len(TEXTS)], values[-len(TEXTS) :])
        tally.add_outputs(outputs)
        ids.append(pk)
        seqs.append(seq)
    _write(minute, tallies, sealed=False)
    add_changes(minute, fold_outcomes(minute))
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {Rollup._meta.db_table} r SET folded = true"  # noqa: S608 - as above
            " FROM unnest(%s::bigint[], %s::bigint[]) AS f(id, seq)"
            " WHERE r.id = f.id AND r.seq = f.seq AND NOT r.folded",
            [ids, seqs],
        )


@transaction.atomic
def _seal(minute: datetime, *, now: datetime) -> bool:
    """Add to the minute's sealed part what of it is old and final, and delete that; False when there is nothing yet.

    Source rows are locked, so that no repetition of a row slips in between its deletion and the mark that refuses it.
    """
    in_minute = Rollup.objects.between(minute, minute + MINUTE)
    workers = set(in_minute.values_list("worker", "boot").distinct())
    sources = {
        (source.worker, source.boot): source
        for source in Source.objects.select_for_update()
        .filter(worker__in=[worker for worker, _ in workers], boot__in=[boot for _, boot in workers])
        .order_by("worker", "boot")
    }
    final: list[Rollup] = []
    rest: list[Rollup] = []
    for row in in_minute.select_for_update().order_by(*row_key(SERIES)):
        source = sources.get((row.worker, row.boot))
        ordered = source is not None and (
            row.bucket_at < source.newest_bucket_at or source.changed_at < now - KEEP_MINUTES
        )
        (final if ordered and row.changed_at < now - KEEP_BUCKETS else rest).append(row)
    if not final:
        return False
    tallies = _by_series(final)
    for known in MinuteRollup.objects.filter(bucket_at=minute, sealed=True):
        tallies[_series_of(known)].add(known)
    _write(minute, tallies, sealed=True)
    for model in (MinuteRollup, LaneRollup):
        model._default_manager.filter(bucket_at=minute, sealed=False).delete()
    _write(minute, _by_series(rest), sealed=False)
    add_changes(minute, fold_outcomes(minute))
    Rollup.objects.filter(pk__in=[row.pk for row in final]).delete()
    for row in final:
        source = sources[row.worker, row.boot]
        source.sealed_through_at = max(source.sealed_through_at or row.bucket_at, row.bucket_at)
    Source.objects.bulk_update(
        [sources[key] for key in sorted({(row.worker, row.boot) for row in final})], ["sealed_through_at"]
    )
    # What stays was computed into the new unsealed part just now, as it stands.
    Rollup.objects.filter(pk__in=[row.pk for row in rest]).update(folded=True)
    return True


def _by_series(rows: Iterable[Rollup]) -> defaultdict[tuple[Any, ...], Tally]:
    tallies: defaultdict[tuple[Any, ...], Tally] = defaultdict(Tally)
    for row in rows:
        tallies[_series_of(row)].add(row)
    return tallies


def _series_of(row: Rollup | MinuteRollup) -> tuple[Any, ...]:
    return tuple(getattr(row, name) for name in SERIES)


def _write(minute: datetime, tallies: Mapping[tuple[Any, ...], Tally], *, sealed: bool) -> None:
    """Write one part of a minute, by series and by lane; `tallies` is all that this part has counted."""
    MinuteRollup.objects.bulk_create(
        [
            MinuteRollup(bucket_at=minute, sealed=sealed, **dict(zip(SERIES, series, strict=True)), **tally.columns())
            for series, tally in sorted(tallies.items(), key=lambda item: item[0])
        ],
        update_conflicts=True,
        unique_fields=["bucket_at", *SERIES, "sealed"],
        update_fields=list(_MEASURED),
        batch_size=500,
    )
    lanes: defaultdict[str, Tally] = defaultdict(Tally)
    for series, tally in tallies.items():
        lanes[series[SERIES.index("lane")]].add(tally)
    LaneRollup.objects.bulk_create(
        [
            LaneRollup(
                bucket_at=minute,
                sealed=sealed,
                lane=lane,
                **{name: value for name, value in tally.columns().items() if name in (*LANE_COUNTS, *SKETCHES)},
            )
            for lane, tally in sorted(lanes.items())
            if lane and tally.attempts
        ],
        update_conflicts=True,
        unique_fields=["lane", "bucket_at", "sealed"],
        update_fields=[*LANE_COUNTS, *SKETCHES],
        batch_size=500,
    )


def _delete_old(now: datetime) -> int:
    """Delete what is past its retention, oldest first and at most so many rows of each table."""
    horizon = now - KEEP_MINUTES
    # A worker that is gone took its breakers with it, and its part of every quota.
    deleted = sum(
        model._default_manager.filter(reported_at__lt=now - GONE_AFTER).delete()[0] for model in (LaneState, QuotaState)
    )
    targets: Sequence[tuple[type[Model], str]] = (
        (MinuteRollup, "bucket_at"),
        (LaneRollup, "bucket_at"),
        (OutcomeRollup, "bucket_at"),
        (OutcomeTotal, "bucket_at"),
        (WorkerEvent, "at"),
    )
    for model, column in targets:
        old = model._default_manager.filter(**{f"{column}__lt": horizon}).order_by(column)
        deleted += model._default_manager.filter(pk__in=old.values("pk")[:DELETIONS_PER_RUN]).delete()[0]
    # A source outlives its rows: while one is left, its mark is what tells a repetition from news.
    stale = Source.objects.filter(changed_at__lt=horizon - MINUTE)
    alive = Rollup.objects.filter(worker__in=stale.values("worker")).values_list("worker", "boot").distinct()
    held = set(alive)
    gone = [source.pk for source in stale[:DELETIONS_PER_RUN] if (source.worker, source.boot) not in held]
    deleted += Source.objects.filter(pk__in=gone).delete()[0]
    return deleted + evidence.forget_evidence(now=now, limit=DELETIONS_PER_RUN)


def _floor(moment: datetime) -> datetime:
    return moment.replace(second=0, microsecond=0)
