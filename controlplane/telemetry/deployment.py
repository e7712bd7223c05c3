"""How the deployment stands as a whole, in figures for whoever watches it: few queries, each over what is open."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Final

import redis
from django.conf import settings
from django.db.models import Count, Min, Q

from controlplane.approvals.models import BreakGlass, ChangeRequest
from controlplane.archive import operations as archive
from controlplane.deadletters.models import DeadLetter
from controlplane.figures import Figure
from controlplane.releases.fleet import named_counts
from controlplane.releases.models import Worker, newest_release, worker_counts
from controlplane.rollouts.models import Canary
from controlplane.verdicts.models import CanaryWatch
from controlplane.work.models import State, Task

REDIS_SECONDS: Final = 2.0
# What a canary is that nothing was said of yet.
NO_RULING: Final = "none"


def compute(*, now: datetime) -> list[Figure]:
    """All of `figures.KNOWN`, but for what is not known; some fifteen queries."""
    return [
        *_fleet(now),
        *_work(now),
        *_dead_letters(now),
        *_people(now),
        *_audit(now),
        *_reports(),
    ]


def _fleet(now: datetime) -> Iterator[Figure]:
    current = newest_release()
    for state, number in named_counts(worker_counts(current, now=now)).items():
        if state != "expected":
            yield Figure("ballast_fleet_workers", number, state)
    yield Figure("ballast_fleet_release_revision", 0 if current is None else current.revision)
    if current is not None:
        yield Figure("ballast_fleet_release_age_seconds", _seconds(current.clicked_at, now))
    heard = Worker.objects.order_by("-last_seen_at").values_list("last_seen_at", flat=True).first()
    if heard is not None:
        yield Figure("ballast_fleet_telemetry_age_seconds", _seconds(heard, now))


def _work(now: datetime) -> Iterator[Figure]:
    queued = Task.objects.filter(state=State.QUEUED)
    counts = queued.aggregate(due=Count("id", filter=Q(not_before__lte=now)), all=Count("id"), oldest=Min("not_before"))
    yield Figure("ballast_work_tasks", counts["due"], "due")
    yield Figure("ballast_work_tasks", counts["all"] - counts["due"], "later")
    yield Figure("ballast_work_tasks", Task.objects.filter(state=State.RUNNING).count(), "running")
    yield Figure("ballast_work_oldest_due_seconds", _seconds(counts["oldest"], now))


def _dead_letters(now: datetime) -> Iterator[Figure]:
    rows = DeadLetter.objects.open().order_by().values("kind").annotate(number=Count("id"), oldest=Min("created_at"))
    found = list(rows)
    for row in found:
        yield Figure("ballast_dead_letters_open", row["number"], row["kind"])
    oldest = min((row["oldest"] for row in found), default=None)
    yield Figure("ballast_dead_letters_oldest_seconds", _seconds(oldest, now))


def _people(now: datetime) -> Iterator[Figure]:
    running = set(Canary.objects.running().values_list("pk", flat=True))
    rulings = dict(CanaryWatch.objects.filter(canary__in=running).values_list("canary", "ruling"))
    for ruling, number in Counter(rulings.get(canary, NO_RULING) for canary in running).items():
        yield Figure("ballast_canaries_running", number, ruling)
    debts = list(BreakGlass.objects.unpaid().values_list("review_due_at", flat=True))
    overdue = sum(due < now for due in debts)
    yield Figure("ballast_break_glass_unpaid", len(debts) - overdue, "due")
    yield Figure("ballast_break_glass_unpaid", overdue, "overdue")
    waiting = ChangeRequest.objects.open().aggregate(number=Count("id"), oldest=Min("opened_at"))
    yield Figure("ballast_changes_waiting", waiting["number"])
    yield Figure("ballast_changes_oldest_seconds", _seconds(waiting["oldest"], now))


def _audit(now: datetime) -> Iterator[Figure]:
    if not settings.AUDIT_STORE:
        return  # all of the record waits, and would be counted again and again
    standing = archive.standing(now=now)
    yield Figure("ballast_audit_export_waiting", standing.waiting)
    yield Figure("ballast_audit_export_behind_seconds", _seconds(standing.behind_since, now))


def _reports() -> Iterator[Figure]:
    try:
        with redis.Redis.from_url(
            settings.REDIS_URL, socket_connect_timeout=REDIS_SECONDS, socket_timeout=REDIS_SECONDS
        ) as client:
            length = client.xlen(settings.REPORTS_STREAM)
    except redis.RedisError:
        return  # what is not known is not shown
    yield Figure("ballast_reports_waiting", int(length))


def _seconds(since: datetime | None, now: datetime) -> float:
    """For how long; 0 for nothing."""
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())
