"""`manage.py ingest`: take what workers report from Redis into PostgreSQL, and tell the pages that show it.

Any number of these may run at once. Entries leave the stream only once they are committed, and taking one in twice
changes nothing, so an outage of either store, or a killed process, costs delay and no data.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import redis
from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import DatabaseError, InterfaceError, OperationalError, connection, transaction
from django.db.models import Q
from django.utils import timezone

from controlplane import live
from controlplane.accounts import operations as accounts
from controlplane.ledger import operations as ledger
from controlplane.ledger import streams
from controlplane.releases import operations as releases
from controlplane.releases.fleet import fleet_message, worker_states
from controlplane.rollouts.models import Canary
from controlplane.telemetry import evidence, ladder_states, samples, shadows, surface_rows
from controlplane.telemetry import operations as telemetry
from controlplane.telemetry.feed import CanaryFeed, OverviewFeed, ladders_message, lanes_message, quotas_message
from controlplane.telemetry.reports import MalformedReport, Report, parse_report
from controlplane.telemetry.stream import Entry, ReportStream
from controlplane.vitals import reports_redis, serve_vitals

ENTRIES_PER_BATCH: Final = 500
# What one batch should hold: entries of a replayed spool are large, and fewer of them are taken at a time.
BATCH_BYTES: Final = 8 * 1024 * 1024
MIN_ENTRIES: Final = 10
MAX_WAIT_SECONDS: Final = 0.5
TAKE_OVER_SECONDS: Final = 5.0
MAX_BACKOFF_SECONDS: Final = 5.0
# A turn, or one transaction of a large one, takes no longer than this; else something in it waits for ever.
TURN_SECONDS: Final = 180.0
FLEET_SECONDS: Final = 1.0
# Verdicts are told at once; those that follow the first of a release closely are told together, so that the telling
# does not hold up the taking in.
FLEET_NEWS_SECONDS: Final = 0.05
OVERVIEW_SECONDS: Final = 1.0
# The first breaker that moves is told at once, and a fleet whose workers follow within a second in few messages.
LANES_SECONDS: Final = 0.25
# Who engaged a rung looks at the page until every worker has.
LADDERS_SECONDS: Final = 0.25
# While callers wait, their number changes with every report.
QUOTAS_SECONDS: Final = 1.0
# Pages of answers are read anew by whoever hears of one, over hours and days, on which a few seconds change little.
ANSWERS_SECONDS: Final = 5.0
# Nobody is kept waiting by a shadow, and its figures are of hours.
SHADOWS_SECONDS: Final = 5.0
# With the second that a worker waits before it reports, a point is on the page within two.
CANARY_SECONDS: Final = 0.75
# The last reports of a canary that has just ended still belong on its page.
ENDED_CANARY_GRACE: Final = timedelta(seconds=60)

logger = logging.getLogger(__name__)

# The database is away or restarting, or chose us as the victim of a deadlock: all worth another try.
_AWAY: Final = (OperationalError, InterfaceError)

Notify = Callable[[str, dict[str, Any]], bool]


@dataclass(slots=True)
class Touched:
    """What pages have not been told yet: workers heard of, lanes, pools and ladders that stand differently, whether
    answers were checked or shadows counted, and the oldest bucket that changed, in all and by canary.
    """

    workers: set[str] = field(default_factory=set)
    lanes: set[str] = field(default_factory=set)
    pools: set[str] = field(default_factory=set)
    ladders: set[str] = field(default_factory=set)
    answers: bool = False
    shadows: bool = False
    since: datetime | None = None
    canaries: dict[str, datetime] = field(default_factory=dict)

    def add(self, merged: telemetry.Merged) -> None:
        """Add what a batch touched."""
        if merged.since is not None:
            self.since = min(self.since or merged.since, merged.since)
        self.answers = self.answers or merged.has_outputs
        for slug, bucket_at in merged.canaries.items():
            self.canaries[slug] = min(self.canaries.get(slug, bucket_at), bucket_at)


@dataclass(frozen=True, slots=True)
class Refused:
    """An entry that was no report, and why."""

    entry: Entry
    problem: str


class Ingest:
    """One consumer. `round` does one turn: take, store, tell; `run` turns until `stop` is set."""

    def __init__(
        self,
        stream: ReportStream,
        *,
        notify: Notify,
        stop: threading.Event,
        now: Callable[[], datetime] = timezone.now,
        monotonic: Callable[[], float] = time.monotonic,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """`beat` is called at each turn, and before each transaction."""
        self._stream = stream
        self._beat = beat
        self._notify = notify
        self._stop = stop
        self._now = now
        self._monotonic = monotonic
        self._touched = Touched()
        self._standings: dict[str, tuple[Any, ...]] = {}
        self._states: dict[str, str] = {}
        self._overview = OverviewFeed()
        self._canaries: dict[str, CanaryFeed] = {}
        self._sent: dict[str, float] = {}
        self._fleet_has_news = False
        self._take_over_at = 0.0
        self._count = ENTRIES_PER_BATCH
        self._outages: dict[str, int] = {}

    def run(self) -> None:
        """Turn until told to stop; an outage is waited out, and logged once."""
        while not self._stop.is_set():
            self._beat()
            try:
                self.round()
            except redis.RedisError as exc:
                self._wait_out("redis", exc)
            else:
                self._recovered("redis")

    def round(self) -> int:
        """Take what is there, or wait for it a little; store it; tell the pages. Returns how many entries were done.

        Raises:
            redis.RedisError: Redis is away; nothing is lost, an entry that was stored may come again.
        """
        entries: list[Entry] = []
        if self._monotonic() >= self._take_over_at:
            entries = self._stream.take_over(count=self._count)
            # While something was left over, there may be more; then look again at once.
            self._take_over_at = self._monotonic() + (0.0 if entries else TAKE_OVER_SECONDS)
        entries = entries or self._stream.take(count=self._count, wait_ms=self._wait_ms())
        if entries and not self._store(entries):
            return 0
        self._stream.done(entries)
        self._guarded(self._tell)
        return len(entries)

    # --- storing ---
    def _store(self, entries: Sequence[Entry]) -> bool:
        """Store a batch, however long the database is away; False when told to stop before that."""
        size_bytes = sum(len(entry.batch or b"") for entry in entries)
        self._count = min(max(BATCH_BYTES * len(entries) // max(size_bytes, 1), MIN_ENTRIES), ENTRIES_PER_BATCH)
        reports, refused = _parse(entries)
        while not self._stop.is_set():
            try:
                self._store_acceptable(reports, refused)
            except _AWAY as exc:
                connection.close()
                self._wait_out("database", exc)
            else:
                self._recovered("database")
                return True
        return False

    def _store_acceptable(self, reports: Sequence[tuple[Entry, Report]], refused: Sequence[Refused]) -> None:
        """Store all of it but the report that cannot be stored, so that it stands in nobody's way."""
        try:
            self._store_reports(reports, refused)
        except _AWAY:
            raise
        except Exception as exc:
            if not reports:
                raise
            if len(reports) == 1:
                ((entry, _),) = reports
                logger.exception("the report of stream entry %s cannot be stored and was skipped", entry.id)
                self._store_reports((), [*refused, Refused(entry, f"cannot be stored: {exc}")])
                return
            half = len(reports) // 2
            self._store_acceptable(reports[:half], refused)
            self._store_acceptable(reports[half:], ())

    def _store_reports(self, reports: Sequence[tuple[Entry, Report]], refused: Sequence[Refused]) -> None:
        self._beat()
        now = self._now()
        batch = [report for _, report in reports]
        urgent = self._has_news(batch)
        if urgent:
            # Convergence is measured to here: it does not wait for the rollups of the same batch.
            names = releases.record_reports(batch, now=now)
            self._touched.workers.update(names)
            self._fleet_has_news = True
            if self._is_due(live.FLEET, FLEET_NEWS_SECONDS):
                self._guarded(self._tell_fleet)
        with transaction.atomic():
            merged = telemetry.merge_rollups(batch, now=now)
            evidence.record_evidence(batch, now=now)
            counted = shadows.record_shadows(batch, now=now)
            surface_rows.record_surfaces(batch, now=now)
            telemetry.record_events(batch)
            ladders = ladder_states.record_ladder_events(batch)
            ladders |= ladder_states.record_ladder_states(batch, now=now)
            lanes = telemetry.record_lane_states(batch, now=now)
            pools = telemetry.record_quota_states(batch, now=now)
            usage = [row for report in batch for row in report["usage"]]
            if usage:
                ledger.record_usage(usage)
                used = sorted((row["at"], row["key_id"]) for row in usage if row.get("key_id"))
                accounts.record_key_use({key_id: at for at, key_id in used})
            # Never before the usage: whoever holds the streams must wait for nobody who waits for them.
            streams.record_streams(
                streams=[row for report in batch for row in report["streams"]],
                deliveries=[row for report in batch for row in report["deliveries"]],
            )
            samples.record_samples(batch)
            if not urgent:
                self._touched.workers.update(releases.record_reports(batch, now=now))
            if merged.clock_ahead:
                telemetry.record_clock_ahead(merged.clock_ahead, now=now)
            for one in refused:
                telemetry.record_refused_entry(
                    entry=one.entry.id, problem=one.problem, size_bytes=len(one.entry.batch or b""), now=now
                )
        self._touched.add(merged)
        self._touched.lanes |= lanes
        self._touched.pools |= pools
        self._touched.ladders |= ladders
        self._touched.shadows = self._touched.shadows or bool(counted)

    def _has_news(self, batch: Sequence[Report]) -> bool:
        """Whether pages should hear of it before anything else: a verdict, or a worker that changed what it does."""
        news = False
        for report in batch:
            state = report["state"]
            standing = (report["boot"], state["status"], state["digest"])
            if report["acks"] or self._standings.get(report["worker"], standing) != standing:
                news = True
            self._standings[report["worker"]] = standing
        return news

    # --- telling ---
    def _tell(self) -> None:
        """Send what is due; what is not stays for the next round."""
        if self._is_due(live.FLEET, FLEET_NEWS_SECONDS if self._fleet_has_news else FLEET_SECONDS):
            self._tell_fleet()
        if self._touched.lanes and self._is_due(live.LANES, LANES_SECONDS):
            lanes, self._touched.lanes = self._touched.lanes, set()
            self._send(live.LANES, lanes_message(lanes, now=self._now()))
        if self._touched.pools and self._is_due(live.QUOTAS, QUOTAS_SECONDS):
            pools, self._touched.pools = self._touched.pools, set()
            self._send(live.QUOTAS, quotas_message(pools, now=self._now()))
        if self._touched.ladders and self._is_due(live.LADDERS, LADDERS_SECONDS):
            ladders, self._touched.ladders = self._touched.ladders, set()
            self._send(live.LADDERS, ladders_message(ladders, now=self._now()))
        if self._touched.answers and self._is_due(live.ANSWERS, ANSWERS_SECONDS):
            self._touched.answers = False
            self._send(live.ANSWERS, {"now": self._now().isoformat()})
        if self._touched.shadows and self._is_due(live.SHADOWS, SHADOWS_SECONDS):
            self._touched.shadows = False
            self._send(live.SHADOWS, {"now": self._now().isoformat()})
        if self._touched.since is not None and self._is_due(live.OVERVIEW, OVERVIEW_SECONDS):
            since, self._touched.since = self._touched.since, None
            self._send(live.OVERVIEW, self._overview.message(now=self._now(), touched=since))
        self._tell_canaries()

    def _tell_fleet(self) -> None:
        """Send the workers that were heard of, and those whose state changed without a word: they fell silent."""
        now = self._now()
        states = worker_states(now=now)
        changed = {name for name, state in states.items() if self._states.get(name) != state}
        names = self._touched.workers | changed
        self._states = states
        self._touched.workers = set()
        self._fleet_has_news = False
        if names:
            self._send(live.FLEET, fleet_message(names, now=now))
        else:
            self._sent[live.FLEET] = self._monotonic()

    def _tell_canaries(self) -> None:
        due = [slug for slug in self._touched.canaries if self._is_due(live.canary_topic(slug), CANARY_SECONDS)]
        if not due:
            return
        now = self._now()
        shown = set(
            Canary.objects.filter(Q(state="running") | Q(ended_at__gte=now - ENDED_CANARY_GRACE)).values_list(
                "slug", flat=True
            )
        )
        self._canaries = {slug: feed for slug, feed in self._canaries.items() if slug in shown}
        for slug in due:
            since = self._touched.canaries.pop(slug)
            if slug in shown:
                feed = self._canaries.setdefault(slug, CanaryFeed(slug))
                self._send(live.canary_topic(slug), feed.message(now=now, touched=since))

    def _send(self, topic: str, data: dict[str, Any]) -> None:
        self._notify(topic, data)
        self._sent[topic] = self._monotonic()

    def _is_due(self, topic: str, seconds: float) -> bool:
        return self._monotonic() - self._sent.get(topic, -seconds) >= seconds

    def _wait_ms(self) -> int:
        """How long to wait for entries: not past the moment when something held back is due."""
        waits = [MAX_WAIT_SECONDS]
        if self._fleet_has_news:
            waits.append(self._seconds_until(live.FLEET, FLEET_NEWS_SECONDS))
        if self._touched.lanes:
            waits.append(self._seconds_until(live.LANES, LANES_SECONDS))
        if self._touched.pools:
            waits.append(self._seconds_until(live.QUOTAS, QUOTAS_SECONDS))
        if self._touched.ladders:
            waits.append(self._seconds_until(live.LADDERS, LADDERS_SECONDS))
        if self._touched.answers:
            waits.append(self._seconds_until(live.ANSWERS, ANSWERS_SECONDS))
        if self._touched.shadows:
            waits.append(self._seconds_until(live.SHADOWS, SHADOWS_SECONDS))
        if self._touched.since is not None:
            waits.append(self._seconds_until(live.OVERVIEW, OVERVIEW_SECONDS))
        waits += [self._seconds_until(live.canary_topic(slug), CANARY_SECONDS) for slug in self._touched.canaries]
        return max(int(min(waits) * 1000), 1)

    def _seconds_until(self, topic: str, seconds: float) -> float:
        return self._sent.get(topic, -seconds) + seconds - self._monotonic()

    # --- outages ---
    def _guarded(self, tell: Callable[[], None]) -> None:
        """Telling is worth no retry: pages poll, and the next round tells again."""
        try:
            tell()
        except DatabaseError as exc:
            logger.warning("pages were not told: %s", exc)
            connection.close()

    def _wait_out(self, what: str, exc: Exception) -> None:
        failures = self._outages[what] = self._outages.get(what, 0) + 1
        if failures == 1:
            logger.warning("%s is away, reports wait in the stream: %s", what, exc)
        self._stop.wait(min(0.1 * 2 ** min(failures - 1, 10), MAX_BACKOFF_SECONDS))

    def _recovered(self, what: str) -> None:
        failures = self._outages.pop(what, 0)
        if failures:
            logger.warning("%s is back after %d attempts", what, failures)


def _parse(entries: Sequence[Entry]) -> tuple[list[tuple[Entry, Report]], list[Refused]]:
    reports: list[tuple[Entry, Report]] = []
    refused: list[Refused] = []
    for entry in entries:
        try:
            if entry.batch is None:
                raise MalformedReport("$", "an entry with the field 'batch'")
            reports.append((entry, parse_report(entry.batch)))
        except MalformedReport as exc:
            logger.error("stream entry %s is no report and was skipped: %s", entry.id, exc)
            refused.append(Refused(entry, str(exc)))
    return reports, refused


class Command(BaseCommand):
    help = "Take workers' reports from Redis into PostgreSQL, and tell live pages, until SIGTERM."
    requires_system_checks = ()  # those of `migrate` came before, and would load every page's code here

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        stream = ReportStream(
            settings.REDIS_URL, stream=settings.REPORTS_STREAM, consumer=f"{socket.gethostname()}-{os.getpid()}"
        )
        vitals = serve_vitals(needs=[reports_redis()])
        pulse = vitals.pulse("ingest", within_seconds=TURN_SECONDS)
        notifier = live.Notifier()
        logger.info("ingest %s takes reports from %r", stream.consumer, settings.REPORTS_STREAM)
        try:
            vitals.begin()
            Ingest(stream, notify=notifier.notify, stop=stop, beat=pulse.beat).run()
        finally:
            notifier.close()
            stream.close()
        logger.info("ingest %s stopped", stream.consumer)
