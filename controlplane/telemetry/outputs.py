"""What became of checks of answers: over time, where it went worst, and place by place.

Over time it is counted in the database from totals, and from the spans of `outcome_spans` where a prompt narrows it;
from minutes at the edges, and from 10 s rows where nothing is folded yet. The worst places are the standings of
`outcome_windows`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final, NamedTuple

import orjson

from controlplane.telemetry.models import MINUTE, MinuteRollup, Rollup
from controlplane.telemetry.outcome_spans import SPANS, Tile, ask, read_tiles, span_start, tiles
from controlplane.telemetry.outcomes import (
    ALL_LANES,
    WHOLE,
    OutcomePlace,
    OutcomeRollup,
    OutcomeStanding,
    OutcomeTotal,
    OutcomeWindow,
)
from controlplane.telemetry.traffic import step_for


class Key(NamedTuple):
    """Under what an outcome is counted, without the system: see `dataplane.aggregation.output_key`."""

    name: str
    outcome: str
    label: str


class Place(NamedTuple):
    """Whose answers: those to one version of a prompt, of one lane. `prompt` "" and `version` 0: no managed prompt."""

    prompt: str
    version: int
    lane: str


Counts = Mapping[Key, int]


@dataclass(frozen=True)
class Outputs:
    """What one system counted over a range. `points` runs beside `times`, each the start of a step; empty where nothing
    was checked. The last step may be under way.
    """

    since: datetime
    until: datetime
    step_seconds: int
    times: tuple[datetime, ...]
    points: tuple[Counts, ...]

    @cached_property
    def total(self) -> Counter[Key]:
        """All of it together."""
        total: Counter[Key] = Counter()
        for counts in self.points:
            total.update(counts)
        return total


@dataclass(frozen=True, slots=True)
class Standing:
    """What was counted under one name at one place.

    Attributes:
        counted: How often; `answers`: of how many there, None where nobody counted those.
        bad, unsure: Of `counted`, see `outcome_windows`.
        outcomes: By (outcome, label).
    """

    place: Place
    name: str
    counted: int
    answers: int | None
    bad: int
    unsure: int
    outcomes: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Worst:
    """The worst standings of a window, the worst first; None: nothing was ever folded."""

    since: datetime | None
    until: datetime | None
    rows: tuple[Standing, ...]
    is_all: bool


# --- over time -------------------------------------------------------------------------------------------------------
_OF: Final = "bucket_at >= %(since{place})s AND bucket_at < %(until{place})s"
_NARROW: Final = """AND (%(prompt)s = '' OR prompt = %(prompt)s) AND (%(lane)s = '' OR lane = %(lane)s)"""
_OF_TOTAL: Final = f"""
    SELECT bucket_at, k.key, k.value::bigint AS number
    FROM {OutcomeTotal._meta.db_table}, jsonb_each_text(outputs) AS k(key, value)
    WHERE system = %(system)s AND lane = %(total_of)s AND span = %(span{{place}})s AND {_OF}"""  # noqa: S608 - names are constants of ours
_OF_SPAN: Final = f"""
    SELECT bucket_at, k.key, k.value::bigint AS number
    FROM {OutcomeRollup._meta.db_table}, jsonb_each_text(outputs) AS k(key, value)
    WHERE system = %(system)s AND prompt = %(prompt)s AND (%(lane)s = '' OR lane = %(lane)s)
          AND span = %(span{{place}})s AND {_OF}"""  # noqa: S608 - as above
_OF_KEYS: Final = f"""
    SELECT bucket_at, substr(k.key, length(%(system)s) + 2), k.value::bigint AS number
    FROM {{table}}, jsonb_each_text(outputs) AS k(key, value)
    WHERE NOT (outputs = '{{{{}}}}'::jsonb) AND starts_with(k.key, %(system)s || ':') AND {_OF} {_NARROW}"""  # noqa: S608 - as above
_OF_MINUTES: Final = _OF_KEYS.replace("{table}", MinuteRollup._meta.db_table)
_OF_BUCKETS: Final = _OF_KEYS.replace("{table}", Rollup._meta.db_table)
# Where minutes end and 10 s rows begin is found in the same statement: what is folded meanwhile would count twice.
_NOT_FOLDED: Final = f"""
    bucket_at >= (SELECT coalesce(max(bucket_at) + '1 minute', '-infinity') FROM {MinuteRollup._meta.db_table})"""  # noqa: S608 - as above
_UNFOLDED: Final = f"{_OF_BUCKETS} AND {_NOT_FOLDED}"
# Added up by whole keys first, and taken apart where few are left. A key that does not have its parts is none of ours.
_BY_MOMENT: Final = """
WITH rows (bucket_at, key, number) AS ({rows}), counted AS (
    SELECT date_bin(%(step)s, bucket_at, 'epoch') AS at, string_to_array(key, ':') AS parts,
           sum(number)::bigint AS number
    FROM rows GROUP BY 1, key
)
SELECT at, parts[1], parts[2], parts[3], number FROM counted WHERE cardinality(parts) = 3
"""
_TOGETHER: Final = """
WITH rows (bucket_at, key, number) AS ({rows}), counted AS (
    SELECT string_to_array(key, ':') AS parts, sum(number)::bigint AS number FROM rows GROUP BY key
)
SELECT parts[1], parts[2], parts[3], number FROM counted WHERE cardinality(parts) = 3
"""


def read_outputs(
    system: str,
    *,
    since: datetime,
    until: datetime,
    prompt: str = "",
    lane: str = "",
    step: timedelta | None = None,
) -> Outputs:
    """What a system counted in a range; one query.

    Args:
        system: As keys name it: REPAIR, VALIDATOR or VALIDATOR_TIME.
        until: Usually now; the step under way is counted up to here.
        prompt, lane: Only those; "": all.
        step: As for `traffic.compare`.
    """
    step = step or step_for(since, until)
    seconds = int(step.total_seconds())
    start = span_start(since, step)
    points: dict[datetime, dict[Key, int]] = {}
    ranges = tiles(start, until, step=step) if step >= MINUTE else []
    narrow = {"system": system, "prompt": prompt, "lane": lane, "step": step}
    for at, *key, number in _rows(_BY_MOMENT, narrow, ranges, start, until):
        points.setdefault(at, {})[Key(*key)] = number
    starts = range(int(start.timestamp()), int(-(-until.timestamp() // 1)), seconds)
    times = tuple(datetime.fromtimestamp(at, UTC) for at in starts)
    return Outputs(
        since=start,
        until=until,
        step_seconds=seconds,
        times=times,
        points=tuple(points.get(at, {}) for at in times),
    )


def read_total(system: str, *, since: datetime, until: datetime, prompt: str = "", lane: str = "") -> Counter[Key]:
    """`read_outputs(...).total`, for whom it is enough: from the longest spans that fit; one query."""
    step = step_for(since, until)
    start = outcome_start(since, until)
    narrow = {"system": system, "prompt": prompt, "lane": lane}
    ranges = tiles(start, until, step=SPANS[-1]) if step >= MINUTE else []
    return Counter({Key(*key): number for *key, number in _rows(_TOGETHER, narrow, ranges, start, until)})


def outcome_start(since: datetime, until: datetime) -> datetime:
    """From where a range is counted: its start, rounded down to the step that it is counted by."""
    return span_start(since, step_for(since, until))


def _rows(
    statement: str, parameters: Mapping[str, Any], ranges: Sequence[Tile], start: datetime, until: datetime
) -> list[tuple[Any, ...]]:
    """What a statement says of the ranges, and of what is not folded; with no ranges, of 10 s rows alone."""
    asked = {**parameters, "total_of": parameters["lane"] or ALL_LANES, "sincefresh": start, "untilfresh": until}
    minutes, spans = (_OF_MINUTES, _OF_SPAN) if parameters["prompt"] else (_OF_TOTAL, _OF_TOTAL)
    parts, of_tiles = read_tiles(ranges, minutes=minutes, spans=spans)
    parts.append((_UNFOLDED if ranges else _OF_BUCKETS).format(place="fresh"))
    return ask(statement.format(rows=" UNION ALL ".join(parts)), **asked, **of_tiles)


# --- where it went worst ---------------------------------------------------------------------------------------------
# What standings can be ordered by. An answer may be wrong without anybody having counted answers: then all were.
ORDERS: Final = {
    "counted": "s.counted",
    "bad": "s.bad",
    "unsure": "s.unsure",
    "bad_share": "s.bad::float8 / s.counted",
    "share": "s.counted::float8 / coalesce(whole.counted, s.counted)",
}
_STANDINGS: Final = OutcomeStanding._meta.db_table
_WITH_WHOLE: Final = f"""
    LEFT JOIN {_STANDINGS} whole ON whole.hours = s.hours AND whole.system = s.system AND whole.place_id = s.place_id
                                    AND whole.name = %(whole)s"""
# Ranked by what is narrow; the rest of a row is read of those that are shown.
_RANKED: Final = f"""(
    SELECT s.id, {{order}} AS rank FROM {_STANDINGS} s {{whole}}
    WHERE s.hours = %(hours)s AND s.system = %(system)s AND s.name <> %(whole)s AND s.counted > 0 {{of}}
    ORDER BY rank DESC, s.counted DESC, s.place_id, s.name LIMIT %(limit)s
)"""  # noqa: S608 - as above
_WORST: Final = f"""
WITH ranked AS (SELECT * FROM ({{ranked}}) r LIMIT %(limit)s)
SELECT p.prompt, p.version, p.lane, s.name, s.counted, whole.counted, s.bad, s.unsure, s.outcomes
FROM ranked JOIN {_STANDINGS} s USING (id) JOIN {OutcomePlace._meta.db_table} p ON p.id = s.place_id {_WITH_WHOLE}
ORDER BY rank DESC, s.counted DESC, s.place_id, s.name
"""  # noqa: S608 - as above
_OF_PLACES: Final = f"""AND s.place_id IN (
    SELECT id FROM {OutcomePlace._meta.db_table}
    WHERE (%(prompt)s = '' OR prompt = %(prompt)s) AND (%(lane)s = '' OR lane = %(lane)s))"""  # noqa: S608 - as above
_OF_NAMES: Final = "AND starts_with(s.name, %(name)s)"


def read_worst(
    system: str, *, hours: int, order: str, limit: int, prompt: str = "", lane: str = "", name: str = ""
) -> Worst:
    """Where it went worst in one of `outcome_windows.HOURS`; two queries, which cost as much for each of these.

    Args:
        system: REPAIR or VALIDATOR.
        order: One of ORDERS.
        prompt, lane, name: Only those, and only names that begin so; "": all.
    """
    window = OutcomeWindow.objects.filter(hours=hours).first()
    if window is None:
        return Worst(None, None, (), is_all=True)
    of = (_OF_PLACES if prompt or lane else "") + (_OF_NAMES if name else "")
    asked = {"system": system, "hours": hours, "whole": WHOLE, "limit": limit + 1}
    asked |= {"prompt": prompt, "lane": lane, "name": name}
    expression = ORDERS[order]
    whole = _WITH_WHOLE if "whole." in expression else ""
    # The rest comes behind those of which some are bad, which are few and have an index; read only if it is shown.
    parts = ["AND s.bad > 0", "AND s.bad = 0"] if expression.startswith("s.bad") else [""]
    ranked = " UNION ALL ".join(_RANKED.format(order=expression, whole=whole, of=f"{of} {part}") for part in parts)
    found = ask(_WORST.format(ranked=ranked), **asked)
    rows = tuple(
        Standing(Place(*place), name, counted, answers, bad, unsure, _parted(outcomes))
        for *place, name, counted, answers, bad, unsure, outcomes in found[:limit]
    )
    return Worst(window.since, window.until, rows, is_all=len(found) <= limit)


def _parted(outcomes: str) -> dict[tuple[str, str], int]:
    parted = ((key.partition(":"), number) for key, number in orjson.loads(outcomes).items() if number)
    return {(outcome, label): number for (outcome, _, label), number in parted}


# --- place by place --------------------------------------------------------------------------------------------------
_OF_PAGE: Final = "JOIN page USING (prompt, version, lane)"
_PLACED_SPAN: Final = f"""
    SELECT prompt, version, lane, k.key, k.value::bigint AS number
    FROM {OutcomeRollup._meta.db_table} {_OF_PAGE}, jsonb_each_text(outputs) AS k(key, value)
    WHERE system = %(system)s AND span = %(span{{place}})s AND {_OF}"""  # noqa: S608 - as above
_PLACED_KEYS: Final = f"""
    SELECT prompt, version, lane, substr(k.key, length(%(system)s) + 2), k.value::bigint AS number
    FROM {{table}} {_OF_PAGE}, jsonb_each_text(outputs) AS k(key, value)
    WHERE NOT (outputs = '{{{{}}}}'::jsonb) AND starts_with(k.key, %(system)s || ':') AND {_OF}"""  # noqa: S608 - as above
_PLACED_MINUTES: Final = _PLACED_KEYS.replace("{table}", MinuteRollup._meta.db_table)
_PLACED_BUCKETS: Final = _PLACED_KEYS.replace("{table}", Rollup._meta.db_table)
_AFTER: Final = f"""(prompt, version, lane) > (%(after_prompt)s, %(after_version)s, %(after_lane)s) {_NARROW}
    ORDER BY prompt, version, lane LIMIT %(limit)s"""
_FOLDED_PLACES: Final = f"""
    SELECT prompt, version, lane FROM {OutcomePlace._meta.db_table} p WHERE EXISTS (
        SELECT FROM {OutcomeRollup._meta.db_table} r
        WHERE r.system = %(system)s AND r.prompt = p.prompt AND r.version = p.version AND r.lane = p.lane
              AND r.span = %(finest)s AND r.bucket_at >= %(first)s AND r.bucket_at < %(untilfresh)s
    ) AND {_AFTER}"""  # noqa: S608 - as above
_FRESH_PLACES: Final = f"""
    SELECT DISTINCT prompt, version, lane FROM {Rollup._meta.db_table}
    WHERE NOT (outputs = '{{{{}}}}'::jsonb) AND bucket_at >= %(sincefresh)s AND bucket_at < %(untilfresh)s {{unfolded}}
          AND {_AFTER}"""  # noqa: S608 - as above
_BY_PLACE: Final = """
WITH page AS MATERIALIZED (
    SELECT prompt, version, lane FROM ({places}) p ORDER BY prompt, version, lane LIMIT %(limit)s
), rows (prompt, version, lane, key, number) AS ({rows}), counted AS (
    SELECT prompt, version, lane, string_to_array(key, ':') AS parts, sum(number)::bigint AS number
    FROM rows GROUP BY 1, 2, 3, key
)
SELECT prompt, version, lane, parts, number FROM page LEFT JOIN counted USING (prompt, version, lane)
ORDER BY prompt, version, lane, parts
"""


def read_places(
    system: str,
    *,
    since: datetime,
    until: datetime,
    limit: int,
    after: Place | None = None,
    prompt: str = "",
    lane: str = "",
) -> Mapping[Place, Counts]:
    """What a system counted in a range of the next places, in their order; one query, by a page's places.

    Args:
        since, until: As for `read_outputs`, and rounded the same.
        limit: So many places at most. One of which little is known may turn out to have counted nothing.
        after: The last place that was read; None: from the first.
        prompt, lane: Only those; "": all.
    """
    step = step_for(since, until)
    start = outcome_start(since, until)
    ranges = tiles(start, until, step=SPANS[-1]) if step >= MINUTE else []
    last = after or Place("", -1, "")
    asked: dict[str, Any] = {"system": system, "prompt": prompt, "lane": lane, "limit": limit, "finest": SPANS[0]}
    asked |= {"sincefresh": start, "untilfresh": until, "first": span_start(start, SPANS[0])}
    asked |= {f"after_{name}": value for name, value in last._asdict().items()}
    rows, of_tiles = read_tiles(ranges, minutes=_PLACED_MINUTES, spans=_PLACED_SPAN)
    unfolded = f"AND {_NOT_FOLDED}" if ranges else ""
    rows.append(f"{_PLACED_BUCKETS.format(place='fresh')} {unfolded}")
    places = [_FRESH_PLACES.format(unfolded=unfolded), *([_FOLDED_PLACES] if ranges else [])]
    statement = _BY_PLACE.format(places=" UNION ".join(f"({one})" for one in places), rows=" UNION ALL ".join(rows))
    found: dict[Place, dict[Key, int]] = {}
    for *where, parts, number in ask(statement, **asked, **of_tiles):
        counts = found.setdefault(Place(*where), {})
        if parts is not None and len(parts) == len(Key._fields):
            counts[Key(*parts)] = number
    return found
