"""How long releases took to reach the workers: from the click to each worker's first ACK."""

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db import connection
from django.db.models import Exists, OuterRef

from controlplane.releases.models import Ack, Reach, Release, Worker


@dataclass(frozen=True, slots=True)
class Propagation:
    """One release's way to the gateways, in milliseconds; None: nobody was reached.

    `acked` counts every gateway that took it, `reached` those that were there at the click and so can be timed.
    """

    acked: int = 0
    refused: int = 0
    reached: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    last_ms: float | None = None


# A worker counts once per release, by its first ACK; a gateway that took it in the end did not refuse it. The quantiles
# are of the nearest rank: latencies that were really seen, as a small fleet's p99 should be.
_REACHED: Final = f"""
WITH firsts AS MATERIALIZED (
    SELECT revision, worker, bool_or(verdict = 'ack') AS acked, min(latency_ms) FILTER (WHERE verdict = 'ack') AS ms
    FROM {Ack._meta.db_table} a
    WHERE revision = ANY(%s)
      AND NOT EXISTS (SELECT FROM {Worker._meta.db_table} w WHERE w.name = a.worker AND w.kind <> 'gateway')
    GROUP BY revision, worker
)
SELECT revision, count(*) FILTER (WHERE acked), count(*) FILTER (WHERE NOT acked), count(ms),
    percentile_disc(0.5) WITHIN GROUP (ORDER BY ms), percentile_disc(0.99) WITHIN GROUP (ORDER BY ms), max(ms)
FROM firsts GROUP BY revision
"""  # noqa: S608 - both names are constants of ours
# So long after another took its place, nobody takes a release any more; who does is not counted.
SETTLED_AFTER: Final = timedelta(hours=1)
SETTLED_PER_RUN: Final = 50


def propagation(revisions: Iterable[int]) -> dict[int, Propagation]:
    """Per revision; two queries. ACKs are read of those alone that are not settled yet."""
    wanted = set(revisions)
    kept = Reach.objects.filter(release__in=wanted)
    found = {
        one.release_id: Propagation(one.acked, one.refused, one.reached, one.p50_ms, one.p99_ms, one.last_ms)
        for one in kept
    }
    found |= _reached(wanted - found.keys())
    return {revision: found.get(revision, Propagation()) for revision in wanted}


def settle(*, now: datetime) -> int:
    """Keep how releases reached the gateways that were replaced an hour ago; returns how many, at most 50 a time."""
    replaced = Release.objects.filter(revision__gt=OuterRef("revision"), clicked_at__lt=now - SETTLED_AFTER)
    open_yet = Release.objects.filter(Exists(replaced), reach=None).order_by("revision")
    revisions = list(open_yet.values_list("revision", flat=True)[:SETTLED_PER_RUN])
    found = _reached(revisions)
    rows = [Reach(release_id=one, **asdict(found.get(one, Propagation()))) for one in revisions]
    Reach.objects.bulk_create(rows, ignore_conflicts=True)
    return len(rows)


def _reached(revisions: Collection[int]) -> dict[int, Propagation]:
    if not revisions:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(_REACHED, [sorted(revisions)])
        return {revision: Propagation(*figures) for revision, *figures in cursor.fetchall()}
