"""What became of checks of answers, added up over the steps that charts have, so that a day is not read by minute.

A rollup is one system, one version of a prompt and one lane, in one span of time; a total is the same whatever the
prompt. Each span is computed from the one that is finer, and the finest from minutes, in the transaction that folds a
minute: at every moment a span contains exactly the minutes that are folded, however late one of them is folded again.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any, Final, NamedTuple

from django.db import connection, transaction

from controlplane.telemetry.models import MINUTE, MinuteRollup
from controlplane.telemetry.outcomes import ALL_LANES, OutcomeRollup, OutcomeTotal

# A span, or MINUTE, and where what is counted by it begins and ends.
Tile = tuple[timedelta, datetime, datetime]
# The steps of `traffic.step_for` from a quarter of an hour on, and a day; each is a multiple of the one before.
SPANS: Final = (timedelta(minutes=15), timedelta(hours=1), timedelta(hours=6), timedelta(days=1))


class Change(NamedTuple):
    """By how much more (or less) was counted than before, of one key at one place."""

    system: str
    prompt: str
    version: int
    lane: str
    key: str
    number: int


_TABLE: Final = OutcomeRollup._meta.db_table
_TOTALS: Final = OutcomeTotal._meta.db_table
_MINUTES: Final = MinuteRollup._meta.db_table
_AT: Final = "date_bin(%(span)s, bucket_at, 'epoch')"
_IN_RANGE: Final = "bucket_at >= %(since)s AND bucket_at < %(until)s"
# What was counted in minutes, taken apart. A key that does not have four parts is none of ours.
_PARTED: Final = f"""
    SELECT split_part(k.key, ':', 1) AS system, {{at}} AS at, prompt, version, lane,
           substr(k.key, strpos(k.key, ':') + 1) AS key, k.value::bigint AS number
    FROM {_MINUTES} {{narrow}}, jsonb_each_text(outputs) AS k(key, value)
    WHERE {_IN_RANGE} AND NOT (outputs = '{{{{}}}}'::jsonb) AND cardinality(string_to_array(k.key, ':')) = 4"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters

# --- rollups, by place -----------------------------------------------------------------------------------------------
# Sorted, so that two who write never wait for each other in a circle; what is as it was is not written.
_WRITE: Final = f"""
INSERT INTO {_TABLE} AS o (system, span, bucket_at, prompt, version, lane, outputs)
SELECT system, %(span)s, at, prompt, version, lane, jsonb_object_agg(key, number)
FROM ({{counted}}) c GROUP BY system, at, prompt, version, lane ORDER BY system, at, prompt, version, lane
ON CONFLICT (system, prompt, version, lane, span, bucket_at) DO UPDATE SET outputs = excluded.outputs
WHERE o.outputs <> excluded.outputs
"""  # noqa: S608 - as above
_SUMMED: Final = """SELECT system, at, prompt, version, lane, key, sum(number)::bigint AS number
    FROM ({rows}) r GROUP BY 1, 2, 3, 4, 5, 6"""
_FROM_MINUTES: Final = _WRITE.format(counted=_SUMMED.format(rows=_PARTED.format(at=_AT, narrow="")))
_FINER: Final = f"""
    SELECT system, {_AT} AS at, prompt, version, lane, k.key, k.value::bigint AS number
    FROM {_TABLE} {{narrow}}, jsonb_each_text(outputs) AS k(key, value) WHERE span = %(finer)s AND {_IN_RANGE}"""  # noqa: S608 - as above
_FROM_FINER: Final = _WRITE.format(counted=_SUMMED.format(rows=_FINER.format(narrow="")))
_FROM_FINER_AT_PLACES: Final = _WRITE.format(
    counted=_SUMMED.format(
        rows=_FINER.format(
            narrow="""JOIN unnest(%(systems)s::text[], %(prompts)s::text[], %(versions)s::int[], %(lanes)s::text[])
                AS changed(system, prompt, version, lane) USING (system, prompt, version, lane)"""
        )
    )
)
# The finest span that a minute lies in, at the minute's places alone. `known` is read as it was before the statement.
_FOLD_MINUTE: Final = f"""
WITH places AS (
    SELECT DISTINCT prompt, version, lane FROM {_MINUTES}
    WHERE bucket_at = %(minute)s AND NOT (outputs = '{{}}'::jsonb)
), counted AS MATERIALIZED (
    {_SUMMED.format(rows=_PARTED.format(at=_AT, narrow="JOIN places USING (prompt, version, lane)"))}
), known AS MATERIALIZED (
    SELECT system, bucket_at AS at, prompt, version, lane, k.key, k.value::bigint AS number
    FROM {_TABLE} JOIN places USING (prompt, version, lane), jsonb_each_text(outputs) AS k(key, value)
    WHERE span = %(span)s AND bucket_at = %(since)s
), written AS (
    {_WRITE.format(counted="SELECT * FROM counted")}
)
SELECT system, prompt, version, lane, key, (coalesce(counted.number, 0) - coalesce(known.number, 0))::bigint
FROM counted FULL JOIN known USING (system, at, prompt, version, lane, key)
WHERE coalesce(counted.number, 0) <> coalesce(known.number, 0)
"""  # noqa: S608 - as above

# --- totals, by lane and of all lanes --------------------------------------------------------------------------------
_WRITE_TOTALS: Final = f"""
INSERT INTO {_TOTALS} AS o (system, span, bucket_at, lane, outputs)
SELECT system, %(span)s, at, lane, jsonb_object_agg(key, number)
FROM ({{counted}}) c GROUP BY system, at, lane ORDER BY system, at, lane
ON CONFLICT (system, lane, span, bucket_at) DO UPDATE SET outputs = excluded.outputs
WHERE o.outputs <> excluded.outputs
"""  # noqa: S608 - as above
_TOTALS_OF_MINUTES: Final = _WRITE_TOTALS.format(
    counted=f"""
    SELECT system, at, CASE WHEN grouping(lane) = 1 THEN %(all_lanes)s ELSE lane END AS lane, key,
           sum(number)::bigint AS number
    FROM ({_PARTED.format(at="bucket_at", narrow="")}) r
    GROUP BY GROUPING SETS ((system, at, lane, key), (system, at, key))"""  # noqa: S608 - as above
)
_TOTALS_FROM_FINER: Final = _WRITE_TOTALS.format(
    counted=f"""
    SELECT system, {_AT} AS at, lane, k.key, sum(k.value::bigint)::bigint AS number
    FROM {_TOTALS}, jsonb_each_text(outputs) AS k(key, value)
    WHERE span = %(finer)s AND {_IN_RANGE} GROUP BY 1, 2, 3, 4"""  # noqa: S608 - as above
)


def fold_outcomes(minute: datetime) -> list[Change]:
    """Compute the spans that a minute lies in anew; called where the minute's rows are written, in that transaction.

    Returns:
        What is counted differently since.
    """
    finest = SPANS[0]
    since = span_start(minute, finest)
    changes = [Change(*row) for row in ask(_FOLD_MINUTE, minute=minute, span=finest, since=since, until=since + finest)]
    if changes:
        _fold_coarser(minute, changes)
        _total(minute, minute + MINUTE, around=True)
    return changes


def _fold_coarser(minute: datetime, changes: Iterable[Change]) -> None:
    places = sorted({(one.system, one.prompt, one.version, one.lane) for one in changes})
    names = ("systems", "prompts", "versions", "lanes")
    changed = {name: list(column) for name, column in zip(names, zip(*places, strict=True), strict=True)}
    for finer, span in pairwise(SPANS):
        since = span_start(minute, span)
        run(_FROM_FINER_AT_PLACES, span=span, finer=finer, since=since, until=since + span, **changed)


@transaction.atomic
def rebuild_outcomes(day: date) -> int:
    """Compute the spans of one UTC day anew from its minutes, whatever they said before; returns how many rollups there
    are now. Of a day whose minutes are deleted nothing is left. Windows are not: see `outcome_windows.rebuild_windows`.

    A minute that is folded meanwhile waits until it is done; reading goes on.
    """
    since = datetime.combine(day, time(), UTC)
    until = since + timedelta(days=1)
    with connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {_TABLE}, {_TOTALS} IN EXCLUSIVE MODE")
    rows = OutcomeRollup._default_manager.filter(bucket_at__gte=since, bucket_at__lt=until)
    rows.delete()
    OutcomeTotal._default_manager.filter(bucket_at__gte=since, bucket_at__lt=until).delete()
    run(_FROM_MINUTES, span=SPANS[0], since=since, until=until)
    for finer, span in pairwise(SPANS):
        run(_FROM_FINER, span=span, finer=finer, since=since, until=until)
    _total(since, until, around=False)
    return rows.count()


def _total(since: datetime, until: datetime, *, around: bool) -> None:
    """Compute totals of a range's minutes, and of its spans; `around`: of the spans that it lies in."""
    run(_TOTALS_OF_MINUTES, span=MINUTE, since=since, until=until, all_lanes=ALL_LANES)
    for finer, span in pairwise((MINUTE, *SPANS)):
        begins, ends = (span_start(since, span), span_start(since, span) + span) if around else (since, until)
        run(_TOTALS_FROM_FINER, span=span, finer=finer, since=begins, until=ends)


def span_start(moment: datetime, span: timedelta) -> datetime:
    """When the span begins that a moment lies in."""
    seconds = int(span.total_seconds())
    return datetime.fromtimestamp(int(moment.timestamp()) // seconds * seconds, UTC)


def tiles(since: datetime, until: datetime, *, step: timedelta) -> list[Tile]:
    """A range as whole spans of at most `step`, the longest that fit, and minutes at its edges.

    Oldest first, and together the range.
    """
    return _tiled(since, until, [span for span in SPANS if span <= step])


def _tiled(since: datetime, until: datetime, spans: Sequence[timedelta]) -> list[Tile]:
    if since >= until:
        return []
    if not spans:
        return [(MINUTE, since, until)]
    *finer, span = spans
    first, last = span_start(since + span - timedelta(microseconds=1), span), span_start(until, span)
    if first >= last:
        return _tiled(since, until, finer)
    return [*_tiled(since, first, finer), (span, first, last), *_tiled(last, until, finer)]


def read_tiles(ranges: Iterable[Tile], *, minutes: str, spans: str, **named: str) -> tuple[list[str], dict[str, Any]]:
    """A query for each tile, and the parameters of all.

    Args:
        minutes, spans: How minutes and spans are read: a query with `{place}` in it, behind `since`, `until` and, of
            spans, `span`, as they stand in the names of its parameters.
        named: What else stands in braces.
    """
    parts: list[str] = []
    asked: dict[str, Any] = {}
    for place, (span, since, until) in enumerate(ranges):
        parts.append((minutes if span == MINUTE else spans).format(place=place, **named))
        asked |= {f"span{place}": span, f"since{place}": since, f"until{place}": until}
    return parts, asked


def ask(statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        found: list[tuple[Any, ...]] = cursor.fetchall()
    return found


def run(statement: str, **parameters: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
