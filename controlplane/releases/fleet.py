"""The fleet as a page shows it: every worker beside the current release."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db.models import Case, CharField, Count, DateTimeField, OuterRef, QuerySet, Subquery, When

from controlplane.compiled import compiled
from controlplane.releases.models import (
    GONE_AFTER,
    Ack,
    Convergence,
    Release,
    Worker,
    WorkerQuerySet,
    newest_release,
    standing_by,
    standing_to,
    worker_counts,
)

# A worker that has not been heard of for so long is history, not fleet.
FORGOTTEN_AFTER: Final = timedelta(hours=24)
# A grid of more cells tells nobody anything: then those that are not in sync are listed, and the rest is counted.
MOST_CELLS: Final = 200
MOST_LISTED: Final = 100
STATES: Final = {one: one.value.replace(" ", "-") for one in Convergence}
_WORST_FIRST: Final = (Convergence.REFUSED, Convergence.BEHIND, Convergence.SILENT)


@dataclass(frozen=True, slots=True)
class WorkerStanding:
    """One worker: what it is, what it serves, how it stands.

    `ack_ms`: from the click to its ACK of the current release; None until then.
    """

    worker: Worker
    convergence: Convergence
    ack_ms: float | None

    @property
    def state(self) -> str:
        """The convergence as a page's class name: in-sync, behind, refused, silent or stopped."""
        return STATES[self.convergence]

    @property
    def reason(self) -> str:
        """Why it refused; empty unless it does refuse the current release."""
        return self.worker.refused_reason if self.convergence is Convergence.REFUSED else ""

    def to_json(self) -> dict[str, Any]:
        """For messages and the API; `state` is one of in-sync, behind, refused, silent, stopped.

        Shape: {"name", "kind", "host", "status", "state", "digest", "reason", "seen_at": str, "pid", "in_flight": int,
                "revision": int or null, "ack_ms": float or null}.
        """
        return {
            "name": self.worker.name,
            "kind": self.worker.kind,
            "host": self.worker.host,
            "pid": self.worker.pid,
            "status": self.worker.status,
            "state": self.state,
            "revision": self.worker.revision,
            "digest": self.worker.digest,
            "in_flight": self.worker.in_flight,
            "seen_at": self.worker.last_seen_at.isoformat(),
            "ack_ms": self.ack_ms,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Fleet:
    """The current release and everybody who should serve it. `current` None: nothing was released yet."""

    current: Release | None
    workers: tuple[WorkerStanding, ...]
    at: datetime

    @property
    def expected(self) -> tuple[WorkerStanding, ...]:
        """Gateways that count towards convergence; see `WorkerQuerySet.expected`."""
        return tuple(
            one
            for one in self.workers
            if one.worker.kind == "gateway"
            and one.convergence is not Convergence.STOPPED
            and one.worker.last_seen_at > self.at - GONE_AFTER
        )

    def counts(self) -> dict[str, int]:
        """How many of the expected gateways stand how.

        Shape: {"expected", "in_sync", "behind", "refused", "silent": int}.
        """
        return named_counts(Counter(one.convergence for one in self.expected))

    def picture(self) -> str:
        """What this fleet looks like, see `picture_of`."""
        return picture_of(self.current.revision if self.current else None, **self.counts())

    def to_json(self) -> dict[str, Any]:
        """For pages and the API.

        Shape: {"now": ISO-8601, "current": {"revision": int, "digest": str, "clicked_at": ISO-8601} or null,
                "counts": see `counts`, "picture": see `picture_of`, "workers": [see `WorkerStanding.to_json`]}.
        """
        current = self.current
        return {
            "now": self.at.isoformat(),
            "current": current
            and {
                "revision": current.revision,
                "digest": current.digest,
                "clicked_at": current.clicked_at.isoformat(),
            },
            "counts": self.counts(),
            "picture": self.picture(),
            "workers": [one.to_json() for one in self.workers],
        }


def picture_of(revision: int | None, *, expected: int, in_sync: int, behind: int, refused: int, silent: int) -> str:
    """A text that is another one as soon as the release or a count is: pages compare it with what they were made of.

    Args:
        expected, in_sync, behind, refused, silent: As `Fleet.counts` counts them.
    """
    return "/".join(str(part) for part in (revision or 0, expected, in_sync, behind, refused, silent))


def fleet(*, now: datetime) -> Fleet:
    """Every worker heard of within a day, agents too, by name; three queries."""
    current = newest_release()
    return Fleet(current, _standings(_heard(now), current, now=now), now)


def worker_states(*, now: datetime) -> dict[str, str]:
    """How each worker heard of within a day stands, by its name, as `WorkerStanding.state` says it; two queries."""
    current = newest_release()
    found = _states(current is None, digest=current.digest if current else "", now=now)
    return {name: STATES[Convergence(standing)] for name, standing in found}


@compiled(digest=CharField(), now=DateTimeField())
def _states(is_any: bool, *, digest: str, now: datetime) -> QuerySet[Worker, tuple[str, str]]:
    return _heard(now).values_list("name", standing_by(digest, is_any=is_any, now=now)).order_by("name")


def fleet_message(names: Collection[str], *, now: datetime) -> dict[str, Any]:
    """What the live topic "fleet" carries, as `Fleet.to_json`: the counts of the whole fleet, and of its workers those
    that are named; four queries.
    """
    found = fleet_of(_heard(now).filter(name__in=names).order_by("name"), now=now)
    counts = named_counts(worker_counts(found.current, now=now))
    revision = found.current.revision if found.current else None
    return found.to_json() | {"counts": counts, "picture": picture_of(revision, **counts)}


def heard_by_name(*, now: datetime, after: str = "") -> WorkerQuerySet:
    """Every worker heard of within a day, agents too, by name; those after the one called `after`."""
    return _heard(now).filter(name__gt=after).order_by("name")


def fleet_of(workers: Iterable[Worker], *, now: datetime) -> Fleet:
    """These workers beside the current release; two queries. What it counts is of them alone."""
    current = newest_release()
    return Fleet(current, _standings(workers, current, now=now), now)


def waited_ms(current: Release, *, now: datetime) -> list[float]:
    """How long the expected gateways took from the click to their ACK of the current release, in ascending order; one
    query. One that started after the click did not wait for it, so it is left out.
    """
    said = Ack.objects.filter(revision=current.revision, digest=current.digest, verdict="ack")
    own = said.filter(worker=OuterRef("name"), boot=OuterRef("boot")).values("latency_ms")
    ran = Worker.objects.expected(now).filter(started_at__lte=current.clicked_at).annotate(ack_ms=Subquery(own[:1]))
    return list(ran.filter(ack_ms__isnull=False).order_by("ack_ms").values_list("ack_ms", flat=True))


@dataclass(frozen=True, slots=True)
class Region:
    """How many of the expected gateways of one region stand how; region "": they tell of none."""

    name: str
    counts: Mapping[Convergence, int]

    @property
    def expected(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    @property
    def in_sync(self) -> int:
        return self.counts.get(Convergence.IN_SYNC, 0)

    @property
    def refused(self) -> int:
        return self.counts.get(Convergence.REFUSED, 0)

    @property
    def behind(self) -> int:
        return self.counts.get(Convergence.BEHIND, 0)

    @property
    def silent(self) -> int:
        return self.counts.get(Convergence.SILENT, 0)


@dataclass(frozen=True, slots=True)
class FleetPage:
    """The fleet as one page has room for it.

    Attributes:
        fleet: Of a small fleet everybody; of a large one those gateways that are expected and not in sync, worst first,
            at most MOST_LISTED of them. Asked for by a word: whose names have it in them.
        counts: As `Fleet.counts`, always of the whole fleet.
        is_large: Not everybody is in `fleet`.
        regions: Of a large fleet.
    """

    fleet: Fleet
    counts: Mapping[str, int]
    is_large: bool
    regions: tuple[Region, ...] = ()

    @property
    def picture(self) -> str:
        """See `picture_of`."""
        return picture_of(self.fleet.current.revision if self.fleet.current else None, **self.counts)

    @property
    def not_listed(self) -> int:
        """How many that are not in sync the list has no room for."""
        return max(self.counts["expected"] - self.counts["in_sync"] - len(self.fleet.workers), 0)

    def to_json(self) -> dict[str, Any]:
        """As `Fleet.to_json`, with these workers and the counts of all."""
        return self.fleet.to_json() | {"counts": dict(self.counts), "picture": self.picture}


def fleet_page(*, now: datetime, word: str = "") -> FleetPage:
    """What a page shows; at most six queries, and no more rows than it has room for, however large the fleet is."""
    heard = _heard(now)
    if heard[MOST_CELLS : MOST_CELLS + 1].exists():
        return _large(heard, now=now, word=word)
    found = fleet(now=now)
    return FleetPage(found, found.counts(), is_large=False)


def _large(heard: WorkerQuerySet, *, now: datetime, word: str) -> FleetPage:
    current = newest_release()
    expected = Worker.objects.expected(now).annotate(standing=standing_to(current, now=now))
    groups = expected.order_by("region").values_list("region", "standing")
    regions: dict[str, Counter[Convergence]] = {}
    for region, name, count in groups.annotate(count=Count("pk")):
        regions.setdefault(region, Counter())[Convergence(name)] += count
    if word:
        listed = heard.filter(name__icontains=word)[:MOST_LISTED]
    else:
        severity = Case(*(When(standing=one.value, then=rank) for rank, one in enumerate(_WORST_FIRST)))
        lagging = expected.filter(standing__in=_WORST_FIRST)
        listed = lagging.order_by(severity, "name")[:MOST_LISTED]
    return FleetPage(
        Fleet(current, _standings(listed, current, now=now), now),
        named_counts(sum(regions.values(), Counter())),
        is_large=True,
        regions=tuple(Region(name, counts) for name, counts in regions.items()),
    )


def _heard(now: datetime) -> WorkerQuerySet:
    return Worker.objects.filter(last_seen_at__gt=now - FORGOTTEN_AFTER)


def _standings(workers: Iterable[Worker], current: Release | None, *, now: datetime) -> tuple[WorkerStanding, ...]:
    found = list(workers)
    latencies: dict[tuple[str, str], float | None] = {}
    if current is not None:
        # The empty name is nobody's, and asks when there is nobody too.
        names = ["", *(worker.name for worker in found)] if len(found) <= MOST_CELLS else None
        acks = Ack.objects.filter(revision=current.revision, verdict="ack", digest=current.digest)
        acks = acks if names is None else acks.filter(worker__in=names)
        latencies = {(name, boot): ms for name, boot, ms in acks.values_list("worker", "boot", "latency_ms")}
    return tuple(
        WorkerStanding(worker, worker.convergence(current, now=now), latencies.get((worker.name, worker.boot)))
        for worker in found
    )


def named_counts(counts: Mapping[Convergence, int]) -> dict[str, int]:
    """As `Fleet.counts` says them."""
    return {
        "expected": sum(counts.values()),
        "in_sync": counts.get(Convergence.IN_SYNC, 0),
        "behind": counts.get(Convergence.BEHIND, 0),
        "refused": counts.get(Convergence.REFUSED, 0),
        "silent": counts.get(Convergence.SILENT, 0),
    }
