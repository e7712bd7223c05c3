"""What became of checks of answers: over time, and per prompt version and lane. Counted in the database, from the spans
of `outcome_spans`, from minutes at the edges, and from 10 s rows where nothing is folded yet.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from django.db import connection

from controlplane.telemetry.models import MINUTE, MinuteRollup, OutcomeRollup, Rollup
from controlplane.telemetry.outcome_spans import SPANS, Tile, span_start, tiles
from controlplane.telemetry.traffic import step_for

REPAIR: Final = "repair"
VALIDATOR: Final = "validator"
# How long rules took: the outcome is the bound of a class, see `dataplane.validators.pace`.
VALIDATOR_TIME: Final = "validator_time"


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


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one system counted over a range. `points` runs beside `times`, each the start of a step; empty where nothing
    was checked. The last step may be under way.
    """

    since: datetime
    until: datetime
    step_seconds: int
    times: tuple[datetime, ...]
    points: tuple[Counts, ...]
    places: Mapping[Place, Counts]

    @property
    def total(self) -> Counter[Key]:
        """All of it together."""
        total: Counter[Key] = Counter()
        for counts in self.places.values():
            total.update(counts)
        return total


# Added up by whole keys first, and taken apart where few are left. A key that does not have its parts is none of ours.
_OF: Final = """bucket_at >= %(since{place})s AND bucket_at < %(until{place})s
    AND (%(prompt)s = '' OR prompt = %(prompt)s) AND (%(lane)s = '' OR lane = %(lane)s)"""
_OF_SPAN: Final = f"""
    SELECT bucket_at, prompt, version, lane, k.key, k.value::bigint AS number
    FROM {OutcomeRollup._meta.db_table}, jsonb_each_text(outputs) AS k(key, value)
    WHERE system = %(system)s AND span = %(span{{place}})s AND {_OF}"""  # noqa: S608 - names are constants of ours
_OF_KEYS: Final = f"""
    SELECT bucket_at, prompt, version, lane, substr(k.key, length(%(system)s) + 2), k.value::bigint AS number
    FROM {{table}}, jsonb_each_text(outputs) AS k(key, value)
    WHERE NOT (outputs = '{{{{}}}}'::jsonb) AND starts_with(k.key, %(system)s || ':') AND {_OF}"""  # noqa: S608 - as above
_OF_MINUTES: Final = _OF_KEYS.replace("{table}", MinuteRollup._meta.db_table)
_OF_BUCKETS: Final = _OF_KEYS.replace("{table}", Rollup._meta.db_table)
# Where minutes end and 10 s rows begin is found in the same statement: what is folded meanwhile would count twice.
_UNFOLDED: Final = f"""{_OF_BUCKETS}
    AND bucket_at >= (SELECT coalesce(max(bucket_at) + '1 minute', '-infinity') FROM {MinuteRollup._meta.db_table})"""  # noqa: S608 - as above
_COUNTED: Final = """
WITH rows (bucket_at, prompt, version, lane, key, number) AS ({rows}), counted AS (
    SELECT date_bin(%(step)s, bucket_at, 'epoch') AS at, prompt, version, lane, key, sum(number) AS number
    FROM rows GROUP BY 1, prompt, version, lane, key
), parted AS (
    SELECT at, prompt, version, lane, string_to_array(key, ':') AS parts, number FROM counted
)
"""
# Each row twice, once for its moment and once for its place.
_BY_MOMENT_AND_PLACE: Final = f"""{_COUNTED}
SELECT at, prompt, version, lane, parts[1], parts[2], parts[3], sum(number)::bigint
FROM parted WHERE cardinality(parts) = 3
GROUP BY GROUPING SETS ((at, parts[1], parts[2], parts[3]), (prompt, version, lane, parts[1], parts[2], parts[3]))
"""  # noqa: S608 - as above
_TOGETHER: Final = """
WITH rows (bucket_at, prompt, version, lane, key, number) AS ({rows}), counted AS (
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
    places: dict[Place, dict[Key, int]] = {}
    narrow = {"system": system, "prompt": prompt, "lane": lane, "step": step}
    ranges = tiles(start, until, step=step) if step >= MINUTE else []
    for at, *place, name, outcome, label, number in _rows(_BY_MOMENT_AND_PLACE, narrow, ranges, start, until):
        into = places.setdefault(Place(*place), {}) if at is None else points.setdefault(at, {})
        into[Key(name, outcome, label)] = number
    starts = range(int(start.timestamp()), int(-(-until.timestamp() // 1)), seconds)
    times = tuple(datetime.fromtimestamp(at, UTC) for at in starts)
    return Outputs(
        since=start,
        until=until,
        step_seconds=seconds,
        times=times,
        points=tuple(points.get(at, {}) for at in times),
        places=places,
    )


def read_total(system: str, *, since: datetime, until: datetime, prompt: str = "", lane: str = "") -> Counter[Key]:
    """`read_outputs(...).total`, for whom it is enough: from the longest spans that fit; one query."""
    step = step_for(since, until)
    start = span_start(since, step)
    narrow = {"system": system, "prompt": prompt, "lane": lane}
    ranges = tiles(start, until, step=SPANS[-1]) if step >= MINUTE else []
    return Counter({Key(*key): number for *key, number in _rows(_TOGETHER, narrow, ranges, start, until)})


def _rows(
    statement: str, parameters: Mapping[str, Any], ranges: Sequence[Tile], start: datetime, until: datetime
) -> list[tuple[Any, ...]]:
    """What a statement says of the ranges, and of what is not folded; with no ranges, of 10 s rows alone."""
    asked = {**parameters, "sincefresh": start, "untilfresh": until}
    parts = []
    for place, (span, begins, ends) in enumerate(ranges):
        parts.append((_OF_MINUTES if span == MINUTE else _OF_SPAN).format(place=place))
        asked |= {f"span{place}": span, f"since{place}": begins, f"until{place}": ends}
    parts.append((_UNFOLDED if ranges else _OF_BUCKETS).format(place="fresh"))
    with connection.cursor() as cursor:
        cursor.execute(statement.format(rows=" UNION ALL ".join(parts)), asked)
        found: list[tuple[Any, ...]] = cursor.fetchall()
    return found
