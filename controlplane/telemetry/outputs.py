"""What became of checks of answers: over time, and per prompt version and lane. Counted in the database."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from django.db import connection

from controlplane.telemetry.models import MINUTE, MinuteRollup, Rollup
from controlplane.telemetry.traffic import step_for, unfolded_since

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


# Added up by whole keys first, and taken apart where few are left; then each row twice, once for its moment and once
# for its place. A key that does not have four parts is none of ours.
_COUNTED: Final = f"""
WITH rows AS (
    SELECT bucket_at, prompt, version, lane, outputs FROM {MinuteRollup._meta.db_table}
    WHERE bucket_at >= %(since)s AND bucket_at < %(folded)s AND NOT (outputs = '{{}}'::jsonb)
    UNION ALL
    SELECT bucket_at, prompt, version, lane, outputs FROM {Rollup._meta.db_table}
    WHERE bucket_at >= %(fresh)s AND bucket_at < %(until)s AND NOT (outputs = '{{}}'::jsonb)
), placed AS (
    SELECT date_bin(%(step)s, bucket_at, 'epoch') AS at, prompt, version, lane, outputs FROM rows
    WHERE (%(prompt)s = '' OR prompt = %(prompt)s) AND (%(lane)s = '' OR lane = %(lane)s)
), counted AS (
    SELECT p.at, p.prompt, p.version, p.lane, k.key, sum(k.value::bigint) AS number
    FROM placed p, jsonb_each_text(p.outputs) AS k(key, value)
    WHERE starts_with(k.key, %(system)s) GROUP BY p.at, p.prompt, p.version, p.lane, k.key
), parted AS (
    SELECT at, prompt, version, lane, string_to_array(key, ':') AS parts, number FROM counted
)
SELECT at, prompt, version, lane, parts[2], parts[3], parts[4], sum(number)::bigint
FROM parted WHERE cardinality(parts) = 4
GROUP BY GROUPING SETS ((at, parts[2], parts[3], parts[4]), (prompt, version, lane, parts[2], parts[3], parts[4]))
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters


def read_outputs(
    system: str,
    *,
    since: datetime,
    until: datetime,
    prompt: str = "",
    lane: str = "",
    step: timedelta | None = None,
) -> Outputs:
    """What a system counted in a range; at most two queries.

    Args:
        system: As keys name it: REPAIR, VALIDATOR or VALIDATOR_TIME.
        until: Usually now; the step under way is counted up to here.
        prompt, lane: Only those; "": all.
        step: As for `traffic.compare`.
    """
    step = step or step_for(since, until)
    seconds = int(step.total_seconds())
    first = int(since.timestamp()) // seconds * seconds
    start = datetime.fromtimestamp(first, UTC)
    fresh = unfolded_since(start) if step >= MINUTE else start
    points: dict[datetime, dict[Key, int]] = {}
    places: dict[Place, dict[Key, int]] = {}
    asked = {"since": start, "folded": min(fresh, until), "fresh": fresh, "until": until, "step": step}
    narrow = {"system": f"{system}:", "prompt": prompt, "lane": lane}
    for at, *place, name, outcome, label, number in _rows(asked | narrow):
        into = places.setdefault(Place(*place), {}) if at is None else points.setdefault(at, {})
        into[Key(name, outcome, label)] = number
    starts = range(first, int(-(-until.timestamp() // 1)), seconds)
    times = tuple(datetime.fromtimestamp(at, UTC) for at in starts)
    return Outputs(
        since=start,
        until=until,
        step_seconds=seconds,
        times=times,
        points=tuple(points.get(at, {}) for at in times),
        places=places,
    )


def _rows(parameters: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(_COUNTED, parameters)
        yield from cursor.fetchall()
