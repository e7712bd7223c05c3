"""Where checks of answers went worst in the last hour, day, week and month, added up, so that no page reads a month.

A standing is what was counted under one name at one place since its window begins. What a minute adds is added in the
transaction that folds it, whatever is late included; what has become too old is taken out as windows slide, every
minute. So a standing is at every moment the sum of the folded minutes of its window, and finding the worst costs as
much for a month as for an hour: it grows with the versions and lanes that were used, and never with traffic.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction

from controlplane.telemetry.models import MINUTE, MinuteRollup
from controlplane.telemetry.outcome_spans import SPANS, Change, Tile, read_tiles, run, span_start, tiles
from controlplane.telemetry.outcomes import (
    NO_MODE,
    REPAIR,
    VALIDATOR,
    WHOLE,
    OutcomePlace,
    OutcomeRollup,
    OutcomeStanding,
    OutcomeWindow,
)
from controlplane.telemetry.traffic import step_for
from dataplane.repair.labels import Rung
from dataplane.validators.values import ANSWER, Verdict

HOURS: Final = (1, 24, 168, 744)
# A window that was not slid for longer is added up anew: spans that have to be taken out may be deleted already.
MOST_TAKEN_OUT: Final = timedelta(days=1)

_MINUTES: Final = MinuteRollup._meta.db_table
_SPANS: Final = OutcomeRollup._meta.db_table
_PLACES: Final = OutcomePlace._meta.db_table
_STANDINGS: Final = OutcomeStanding._meta.db_table
_WINDOWS: Final = OutcomeWindow._meta.db_table
_MEANT: Final = {
    "repair": REPAIR,
    "failed": Rung.FAILED.value,
    "no_mode": NO_MODE,
    "validator": VALIDATOR,
    "answer": ANSWER,
    "block": Verdict.BLOCK.value,
    "abstain": Verdict.ABSTAIN.value,
    "whole": WHOLE,
}
# Of rows (system, prompt, version, lane, key, number), which may be negative: added to the standings of windows.
# A place that is not known yet has to be written before.
_ADD: Final = f"""
WITH changed (system, prompt, version, lane, key, number) AS ({{rows}}), parted AS (
    SELECT system, prompt, version, lane, string_to_array(key, ':') AS parts, sum(number)::bigint AS number
    FROM changed WHERE system IN (%(repair)s, %(validator)s) GROUP BY 1, 2, 3, 4, 5
), named AS (
    SELECT system, id AS place_id, parts[1] AS name, parts[2] AS outcome, parts[3] AS label, number
    FROM parted JOIN {_PLACES} USING (prompt, version, lane)
), counted AS (
    SELECT system, place_id, name, number, outcome || ':' || label AS key,
           CASE WHEN system = %(repair)s THEN outcome = %(failed)s
                ELSE outcome = %(block)s OR (outcome = %(abstain)s AND label = %(block)s) END AS is_bad,
           system = %(validator)s AND outcome = %(abstain)s AS is_unsure
    FROM named WHERE name <> CASE WHEN system = %(repair)s THEN %(no_mode)s ELSE %(answer)s END
    UNION ALL
    SELECT system, place_id, %(whole)s, sum(number)::bigint, %(whole)s, false, false
    FROM named WHERE system = %(repair)s OR name = %(answer)s GROUP BY 1, 2
), summed AS (
    SELECT system, place_id, name, sum(number)::bigint AS counted,
           coalesce(sum(number) FILTER (WHERE is_bad), 0)::bigint AS bad,
           coalesce(sum(number) FILTER (WHERE is_unsure), 0)::bigint AS unsure,
           jsonb_object_agg(key, number) AS outcomes
    FROM counted GROUP BY 1, 2, 3
)
INSERT INTO {_STANDINGS} AS s (hours, system, place_id, name, counted, bad, unsure, outcomes)
SELECT w.hours, system, place_id, name, counted, bad, unsure, outcomes
FROM summed, {_WINDOWS} w WHERE {{of}} ORDER BY 1, 2, 3, 4
ON CONFLICT (hours, system, place_id, name) DO UPDATE SET
    counted = s.counted + excluded.counted, bad = s.bad + excluded.bad, unsure = s.unsure + excluded.unsure,
    outcomes = (
        SELECT jsonb_object_agg(key, number) FROM (
            SELECT e.key, sum(e.value::bigint)::bigint AS number
            FROM (SELECT * FROM jsonb_each_text(s.outcomes) UNION ALL SELECT * FROM jsonb_each_text(excluded.outcomes)
            ) AS e(key, value)
            GROUP BY e.key
        ) added)
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters
_OF_CHANGES: Final = """
    SELECT * FROM unnest(%(systems)s::text[], %(prompts)s::text[], %(versions)s::int[], %(lanes)s::text[],
                         %(keys)s::text[], %(numbers)s::bigint[]) AS c(system, prompt, version, lane, key, number)"""
_OF_SPAN: Final = f"""
    SELECT system, prompt, version, lane, k.key, {{sign}} k.value::bigint AS number
    FROM {_SPANS}, jsonb_each_text(outputs) AS k(key, value)
    WHERE span = %(span{{place}})s AND bucket_at >= %(since{{place}})s AND bucket_at < %(until{{place}})s"""  # noqa: S608 - as above
_OF_MINUTES: Final = f"""
    SELECT split_part(k.key, ':', 1), prompt, version, lane, substr(k.key, strpos(k.key, ':') + 1),
           {{sign}} k.value::bigint
    FROM {_MINUTES}, jsonb_each_text(outputs) AS k(key, value)
    WHERE bucket_at >= %(since{{place}})s AND bucket_at < %(until{{place}})s
          AND NOT (outputs = '{{{{}}}}'::jsonb) AND cardinality(string_to_array(k.key, ':')) = 4"""  # noqa: S608 - as above
_WRITE_PLACES: Final = f"""
INSERT INTO {_PLACES} (prompt, version, lane) SELECT DISTINCT prompt, version, lane FROM ({{rows}}) r
ORDER BY 1, 2, 3 ON CONFLICT DO NOTHING
"""  # noqa: S608 - as above


def add_changes(minute: datetime, changes: Iterable[Change]) -> None:
    """Add to every window that the minute lies in what it counts differently; in the transaction that folds it."""
    columns = zip(*changes, strict=True)
    names = ("systems", "prompts", "versions", "lanes", "keys", "numbers")
    asked = {name: list(column) for name, column in zip(names, columns, strict=False)}
    if asked:
        OutcomeWindow.objects.filter(until__lte=minute).update(until=minute + MINUTE)
        run(_WRITE_PLACES.format(rows=_OF_CHANGES), **asked)
        run(_ADD.format(rows=_OF_CHANGES, of="w.since <= %(minute)s"), **_MEANT, **asked, minute=minute)


def slide_windows(*, now: datetime, until: datetime) -> None:
    """Take out what has become too old, window by window, each in its transaction.

    Args:
        until: Up to here minutes are folded.
    """
    for hours in HOURS:
        _slide(hours, now=now, until=until)


def rebuild_windows(*, now: datetime) -> None:
    """Add all windows up anew from the spans, whatever they said before; a minute that is folded meanwhile waits."""
    with transaction.atomic():
        run(f"LOCK TABLE {_SPANS} IN EXCLUSIVE MODE")
        known = {window.hours: window.until for window in OutcomeWindow.objects.select_for_update().order_by("hours")}
        for hours in HOURS:
            since = _begin(hours, now)
            _add_up(hours, since=since, until=max(since, known.get(hours, since)))


@transaction.atomic
def _slide(hours: int, *, now: datetime, until: datetime) -> None:
    since = _begin(hours, now)
    window = OutcomeWindow.objects.select_for_update().filter(hours=hours).first()
    if window is None or since - window.since > MOST_TAKEN_OUT:
        _add_up(hours, since=since, until=until)
        return
    if since > window.since:
        ranges = tiles(window.since, since, step=SPANS[-1])
        rows, asked = _rows(ranges, sign="-")
        run(_ADD.format(rows=rows, of="w.hours = %(hours)s"), **_MEANT, **asked, hours=hours)
        OutcomeStanding.objects.filter(hours=hours, counted=0).delete()
    window.since, window.until = max(since, window.since), max(until, window.until)
    window.save(update_fields=["since", "until"])


def _add_up(hours: int, *, since: datetime, until: datetime) -> None:
    """Compute one window anew."""
    OutcomeStanding.objects.filter(hours=hours).delete()
    OutcomeWindow.objects.update_or_create(hours=hours, defaults={"since": since, "until": until})
    # Whole spans to the end: one that is under way contains just what is folded.
    longest = SPANS[-1]
    ranges = tiles(since, span_start(since + timedelta(hours=hours), longest) + 2 * longest, step=longest)
    rows, asked = _rows(ranges, sign="")
    run(_WRITE_PLACES.format(rows=rows), **asked)
    run(_ADD.format(rows=rows, of="w.hours = %(hours)s"), **_MEANT, **asked, hours=hours)


def _begin(hours: int, now: datetime) -> datetime:
    """Where a window begins: as the charts of the same hours do."""
    start = now - timedelta(hours=hours)
    return span_start(start, max(step_for(start, now), MINUTE))


def _rows(ranges: Iterable[Tile], *, sign: str) -> tuple[str, dict[str, Any]]:
    """What the ranges counted, as a query, and its parameters."""
    parts, asked = read_tiles(ranges, minutes=_OF_MINUTES, spans=_OF_SPAN, sign=sign)
    return " UNION ALL ".join(parts), asked
