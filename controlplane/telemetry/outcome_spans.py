"""What became of checks of answers, added up over the steps that charts have, so that a day is not read by minute.

A row is one system, one version of a prompt and one lane, in one span of time. Each span is computed from the one that
is finer, and the finest from minutes, in the transaction that folds a minute: at every moment a span contains exactly
the minutes that are folded, however late one of them is folded again.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from django.db import connection, transaction

from controlplane.telemetry.models import MINUTE, MinuteRollup, OutcomeRollup

# A span, or MINUTE, and where what is counted by it begins and ends.
Tile = tuple[timedelta, datetime, datetime]
# The steps of `traffic.step_for` from a quarter of an hour on; each is a multiple of the one before.
SPANS: Final = (timedelta(minutes=15), timedelta(hours=1), timedelta(hours=6))

_TABLE: Final = OutcomeRollup._meta.db_table
# A key that does not have four parts is none of ours. Sorted, so that two who write never wait for each other in a
# circle; what is as it was is not written.
_WRITE: Final = f"""
INSERT INTO {_TABLE} AS o (system, span, bucket_at, prompt, version, lane, outputs)
SELECT system, %(span)s, at, prompt, version, lane, jsonb_object_agg(key, number)
FROM ({{counted}}) c GROUP BY system, at, prompt, version, lane ORDER BY system, at, prompt, version, lane
ON CONFLICT (system, span, bucket_at, prompt, version, lane) DO UPDATE SET outputs = excluded.outputs
WHERE o.outputs <> excluded.outputs
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters
_AT: Final = "date_bin(%(span)s, bucket_at, 'epoch')"
_IN_RANGE: Final = "bucket_at >= %(since)s AND bucket_at < %(until)s"
_FROM_MINUTES: Final = _WRITE.format(
    counted=f"""
    SELECT split_part(k.key, ':', 1) AS system, {_AT} AS at, prompt, version, lane,
           substr(k.key, strpos(k.key, ':') + 1) AS key, sum(k.value::bigint)::bigint AS number
    FROM {MinuteRollup._meta.db_table}, jsonb_each_text(outputs) AS k(key, value)
    WHERE {_IN_RANGE} AND NOT (outputs = '{{}}'::jsonb) AND cardinality(string_to_array(k.key, ':')) = 4
    GROUP BY 1, 2, prompt, version, lane, k.key"""  # noqa: S608 - as above
)
_FROM_FINER: Final = _WRITE.format(
    counted=f"""
    SELECT system, {_AT} AS at, prompt, version, lane, k.key, sum(k.value::bigint)::bigint AS number
    FROM {_TABLE}, jsonb_each_text(outputs) AS k(key, value)
    WHERE span = %(finer)s AND {_IN_RANGE} GROUP BY system, 2, prompt, version, lane, k.key"""  # noqa: S608 - as above
)


def fold_outcomes(minute: datetime) -> None:
    """Compute the spans that a minute lies in anew; called where the minute's rows are written, in that transaction."""
    for place, span in enumerate(SPANS):
        since = span_start(minute, span)
        _fold(place, since, since + span)


@transaction.atomic
def rebuild_outcomes(day: date) -> int:
    """Compute the spans of one UTC day anew from its minutes, whatever they said before; returns how many rows there
    are now. Of a day whose minutes are deleted nothing is left.

    A minute that is folded meanwhile waits until it is done; reading goes on.
    """
    since = datetime.combine(day, time(), UTC)
    until = since + timedelta(days=1)
    with connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLE {_TABLE} IN EXCLUSIVE MODE")
    rows = OutcomeRollup._default_manager.filter(bucket_at__gte=since, bucket_at__lt=until)
    rows.delete()
    for place in range(len(SPANS)):
        _fold(place, since, until)
    return rows.count()


def span_start(moment: datetime, span: timedelta) -> datetime:
    """When the span begins that a moment lies in."""
    seconds = int(span.total_seconds())
    return datetime.fromtimestamp(int(moment.timestamp()) // seconds * seconds, UTC)


def tiles(since: datetime, until: datetime, *, step: timedelta) -> list[Tile]:
    """A range as whole spans of at most `step`, the longest that fit, and minutes at its edges.

    Oldest first, and together the range.
    """
    return _tiled(since, until, [span for span in SPANS if span <= step])


def _tiled(since: datetime, until: datetime, spans: list[timedelta]) -> list[Tile]:
    if since >= until:
        return []
    if not spans:
        return [(MINUTE, since, until)]
    *finer, span = spans
    first, last = span_start(since + span - timedelta(microseconds=1), span), span_start(until, span)
    if first >= last:
        return _tiled(since, until, finer)
    return [*_tiled(since, first, finer), (span, first, last), *_tiled(last, until, finer)]


def _fold(place: int, since: datetime, until: datetime) -> None:
    parameters: dict[str, Any] = {"span": SPANS[place], "since": since, "until": until}
    with connection.cursor() as cursor:
        if place:
            cursor.execute(_FROM_FINER, parameters | {"finer": SPANS[place - 1]})
        else:
            cursor.execute(_FROM_MINUTES, parameters)
