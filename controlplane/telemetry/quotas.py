"""What accounts may ask of their providers now, and who waits for it, as the workers that are heard of say."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, Final

from django.contrib.postgres.fields import ArrayField
from django.db.models import Count, F, FloatField, Func, Max, Min, Sum

from controlplane.telemetry.models import QuotaState
from controlplane.telemetry.traffic import lane_health
from dataplane.policies import QUOTA_LIMITS, QuotaPolicy
from dataplane.routing import Lane, RoutingTable

# Who waits.
CLASSES: Final = ("interactive", "batch")
# What is counted of attempts and of their 429s is of so long.
COUNTED: Final = timedelta(minutes=15)

# How busy a worker is; the greatest of many is found without sorting the rows of thousands of workers. The last one is
# whose row it is, the one that was heard of first where nothing else tells two apart.
_BUSY: Final = Func(
    F("in_flight"),
    F("granted"),
    Func(F("reported_at"), template="extract(epoch FROM %(expressions)s)"),
    -F("pk"),
    template="ARRAY[%(expressions)s]::double precision[]",
    output_field=ArrayField(FloatField()),
)


@dataclass(frozen=True, slots=True)
class QuotaStanding:
    """How one pool stands: the quota that lanes of one account with the same policy share.

    Attributes:
        limits, learned: In effect, and as the provider's headers said; name of QUOTA_LIMITS -> number.
        paused_seconds: The longest that a worker still sends nothing; 0: not paused.
        ramp: Share (0..1) of the limits that is open; of those of a worker that is alone, if less of these is.
        waiting, eta_seconds: By class: how many wait, and how long one who comes now will; None: nobody knows.
        in_flight: Of all workers.
        used_share: Of the scarcest limit, over its last window.
        workers, alone: How many tell of it, and how many of these cannot ask the others.
    """

    pool: str
    account: str
    policy: str
    limits: Mapping[str, float]
    learned: Mapping[str, float]
    paused_seconds: float
    ramp: float
    waiting: Mapping[str, int]
    eta_seconds: Mapping[str, float | None]
    in_flight: int
    used_share: float
    workers: int
    alone: int

    def to_json(self) -> dict[str, Any]:
        """Shape: {"pool", "account", "policy": str, "limits", "learned": {"<limit>": number}, "paused_seconds", "ramp",
        "used_share": float, "waiting": {"interactive", "batch": int}, "eta_seconds": {"interactive", "batch": float or
        null}, "in_flight", "workers", "alone": int}.
        """
        names = ("pool", "account", "policy", "paused_seconds", "ramp", "in_flight", "used_share", "workers", "alone")
        mappings = ("limits", "learned", "waiting", "eta_seconds")
        return {
            **{name: getattr(self, name) for name in names},
            **{name: dict(getattr(self, name)) for name in mappings},
        }


def quota_states(now: datetime) -> dict[str, QuotaStanding]:
    """How each pool stands now, by its name; two queries. A pool that no fresh worker tells of is absent.

    What is of the whole fleet is as the busiest worker says that can ask it: one with nothing to do asks seldom, so its
    word may be old. Workers that are alone only know what waits with themselves, so that is added.
    """
    fresh = QuotaState.objects.fresh(now)
    groups = (
        fresh.values("pool", "is_alone")
        .annotate(
            workers=Count("pk"),
            until=Max("paused_until_at"),
            least=Min("ramp"),
            under_way=Sum("in_flight"),
            used=Max("used_share"),
            busiest=Max(_BUSY),
            **{f"{name}_waits": Sum(f"waiting_{name}") for name in CLASSES},
            **{f"{name}_eta": Max(f"eta_{name}_seconds") for name in CLASSES},
        )
        .order_by("pool", "is_alone")
    )
    told = {pool: list(of_pool) for pool, of_pool in groupby(groups, key=lambda group: str(group["pool"]))}
    # Those that can ask the fleet come before those that are alone.
    chosen = [-int(of_pool[0]["busiest"][-1]) for of_pool in told.values()]
    busiest = {row.pool: row for row in QuotaState.objects.filter(pk__in=chosen)}
    # Between the two queries a worker may have gone.
    return {pool: _standing(busiest[pool], of_pool, now) for pool, of_pool in told.items() if pool in busiest}


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool of a routing table, with what is known of it. `standing` None: no worker tells of it.

    `attempts` and `throttled`, of these those answered 429, are of its lanes in the last 15 min.
    """

    name: str
    account: str
    policy: QuotaPolicy
    lanes: tuple[str, ...]
    standing: QuotaStanding | None
    attempts: int
    throttled: int

    @property
    def limits(self) -> dict[str, float]:
        """Those in effect as workers say; before any does, those declared. In the order of QUOTA_LIMITS."""
        known = self.policy.limits() if self.standing is None else self.standing.limits
        return {name: known[name] for name in QUOTA_LIMITS if name in known}

    def learned(self, name: str) -> float | None:
        """What the provider's headers said of a limit, where that is what is kept to; None: what was declared."""
        said = None if self.standing is None else self.standing.learned.get(name)
        declared = self.policy.limits().get(name)
        return said if said is not None and (declared is None or said < declared) else None

    def to_json(self) -> dict[str, Any]:
        """Shape: {"pool", "account", "policy": str, "lanes": [str], "window_seconds": float, "limits": {"<limit>":
        {"value": float, "is_learned": bool, "declared": float or null}}, "attempts", "throttled": int, "standing": see
        `QuotaStanding.to_json`, or null}.
        """
        declared = self.policy.limits()
        return {
            "pool": self.name,
            "account": self.account,
            "policy": self.policy.slug,
            "lanes": list(self.lanes),
            "window_seconds": self.policy.window_seconds.value,
            "limits": {
                name: {
                    "value": value,
                    "is_learned": self.learned(name) is not None,
                    "declared": declared.get(name),
                }
                for name, value in self.limits.items()
            },
            "attempts": self.attempts,
            "throttled": self.throttled,
            "standing": None if self.standing is None else self.standing.to_json(),
        }


def pools(table: RoutingTable, *, now: datetime) -> list[Pool]:
    """Every pool of the table by its name; as many queries however many there are: at most five."""
    lanes: dict[str, list[Lane]] = {}
    for lane in table.lanes.values():
        if lane.quota is not None:
            lanes.setdefault(lane.quota_pool, []).append(lane)
    if not lanes:
        return []
    standings = quota_states(now)
    health = {one.lane: one.totals["throttle_rate"] for one in lane_health(since=now - COUNTED, until=now)}
    found = []
    for name, of_pool in sorted(lanes.items()):
        rates = [health[lane.id] for lane in of_pool if lane.id in health]
        found.append(
            Pool(
                name=name,
                account=of_pool[0].account,
                policy=table.quotas[name.rpartition("/")[2]],
                lanes=tuple(lane.id for lane in of_pool),
                standing=standings.get(name),
                attempts=sum(rate.n for rate in rates),
                throttled=sum(round((rate.value or 0.0) * rate.n) for rate in rates),
            )
        )
    return found


def workers_of(pool: str, *, now: datetime, most: int) -> list[QuotaState]:
    """What each worker that is heard of says of one pool, those that are alone first; one query."""
    return list(QuotaState.objects.fresh(now).filter(pool=pool).order_by("-is_alone", "worker")[:most])


def _standing(busiest: QuotaState, groups: list[Any], now: datetime) -> QuotaStanding:
    alone = [group for group in groups if group["is_alone"]]
    shared = not busiest.is_alone
    until = max((group["until"] for group in groups if group["until"] is not None), default=None)
    waiting, etas = {}, {}
    for name in CLASSES:
        known = getattr(busiest, f"waiting_{name}") if shared else 0
        waiting[name] = known + sum(group[f"{name}_waits"] for group in alone)
        longest = max((eta for group in alone if (eta := group[f"{name}_eta"]) is not None), default=None)
        etas[name] = getattr(busiest, f"eta_{name}_seconds") if shared else longest
    return QuotaStanding(
        pool=busiest.pool,
        account=busiest.account,
        policy=busiest.policy,
        limits=busiest.limits,
        learned=busiest.learned,
        paused_seconds=0.0 if until is None else max((until - now).total_seconds(), 0.0),
        ramp=min([busiest.ramp, *(group["least"] for group in alone)]),
        waiting=waiting,
        eta_seconds=etas,
        in_flight=sum(group["under_way"] for group in groups),
        used_share=busiest.used_share
        if shared
        else max((group["used"] for group in alone), default=busiest.used_share),
        workers=sum(group["workers"] for group in groups),
        alone=sum(group["workers"] for group in alone),
    )
