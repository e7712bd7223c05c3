"""What a back-test of breaker policies reads: per minute of a lane, how many attempts were beyond each policy's limits.

Counted in the database. To bring the sketches of 30 days here and to read them takes most of a minute; in nearly all of
them nothing is beyond any limit, which their largest and smallest values tell at once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from django.db import connection

from controlplane.telemetry.lanes import lane_minutes
from controlplane.telemetry.traffic import unfolded_since
from dataplane.backtest import counts_of, vector
from dataplane.breaker import Counts
from dataplane.policies import BreakerPolicy
from dataplane.sketches import first_bin_above

# As `Sketch.share_above`: by the largest and the smallest value where they tell. In an empty sketch both are null, and
# null compares with nothing.
_BEYOND: Final = """
    CASE WHEN ({sketch} ->> 'max')::float8 <= %(limit{place})s THEN 0
         WHEN ({sketch} ->> 'min')::float8 > %(limit{place})s THEN ({sketch} ->> 'count')::bigint
         ELSE (SELECT COALESCE(SUM(n::bigint), 0) FROM jsonb_each_text({sketch} -> 'bins') AS b (i, n)
               WHERE i::int >= %(first{place})s) END"""


@dataclass(slots=True)
class _Columns:
    """The columns of the query that count beyond a limit; equal ones of several policies are counted once."""

    sql: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    _places: dict[tuple[str, float], int] = field(default_factory=dict)

    def place(self, sketch: str, limit: float) -> int:
        """Where in a row the count is found."""
        if (sketch, limit) not in self._places:
            place = self._places[sketch, limit] = len(self.sql)
            self.sql.append(_BEYOND.format(sketch=sketch, place=place))
            self.parameters |= {f"limit{place}": limit, f"first{place}": first_bin_above(limit)}
        return self._places[sketch, limit]


def counted_minutes(
    lane: str, policies: Sequence[BreakerPolicy], *, since: datetime, until: datetime
) -> Iterator[tuple[datetime, list[Counts]]]:
    """The minutes in which the lane was tried, oldest first, each with its counts under every policy.

    As `dataplane.backtest.backtest` takes them; at most five queries.
    """
    fresh_since = unfolded_since(since)
    columns = _Columns()
    places = [
        (
            columns.place("latency_ms", policy.latency_p95_ms.value),
            columns.place("ttft_ms", policy.ttft_p95_ms.value),
            columns.place("drain_tps", policy.drain_tokens_per_second.value),
        )
        for policy in policies
    ]
    names = [f"beyond{place}" for place in range(len(columns.sql))]
    beyond_each = ", ".join(f"{sql} AS {name}" for sql, name in zip(columns.sql, names, strict=True))
    beyond_sums = ", ".join(f"SUM({name})::bigint" for name in names)
    # Numbers first, sums after: a minute has two rows at most, and to sort whole sketches for them takes the longest.
    # The names are ours, the limits are parameters.
    sql = f"""
        WITH parts AS MATERIALIZED (
            SELECT bucket_at, attempts - throttled AS tried, failures, timeouts,
                   (ttft_ms ->> 'count')::bigint AS streams, (drain_tps ->> 'count')::bigint AS drained, {beyond_each}
            FROM telemetry_lanerollup WHERE lane = %(lane)s AND bucket_at >= %(since)s AND bucket_at < %(until)s
        )
        SELECT bucket_at, SUM(tried)::bigint, SUM(failures)::bigint, SUM(timeouts)::bigint, SUM(streams)::bigint,
               SUM(drained)::bigint, {beyond_sums}
        FROM parts GROUP BY bucket_at ORDER BY bucket_at
    """  # noqa: S608 - see above
    with connection.cursor() as cursor:
        cursor.execute(sql, columns.parameters | {"lane": lane, "since": since, "until": min(until, fresh_since)})
        rows = cursor.fetchall()
    for at, attempts, failures, timeouts, streams, drained, *beyond in rows:
        yield (
            at,
            [
                vector(
                    attempts=attempts,
                    failures=failures,
                    timeouts=timeouts,
                    slow=beyond[slow],
                    streams=streams,
                    late=beyond[late],
                    drained=drained,
                    dragging=drained - beyond[fast],
                )
                for slow, late, fast in places
            ],
        )
    if fresh_since < until:
        for minute in lane_minutes(lane, since=fresh_since, until=until):
            yield minute.at, [counts_of(policy, minute) for policy in policies]
