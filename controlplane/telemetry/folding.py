"""Fold what processes reported into minutes of the fleet, so that the past stays small: shadows and surfaces alike.

Rollups have their own way, `operations.compact_rollups`: each minute in its own transaction, and into lanes beside.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from django.db import connection, transaction
from django.db.models import Exists, Model, OuterRef, Q, QuerySet
from django.db.models.functions import TruncMinute

from controlplane.telemetry.models import MINUTE
from controlplane.telemetry.operations import CLOSING_GRACE, DELETIONS_PER_RUN, KEEP_BUCKETS, MINUTES_PER_RUN
from controlplane.telemetry.reported import MinuteRow, ReportedRow, ReportingSource


class Adding(Protocol):
    """What several rows counted together."""

    def add(self, other: Self) -> None:
        """Add another; it stays as it is."""


T = TypeVar("T", bound=Adding)


@dataclass(frozen=True, slots=True)
class Folding(Generic[T]):
    """How rows of one kind are folded.

    Attributes:
        lock: The number of its advisory lock. Any would do; it only has to be the same in every process of this
            deployment, and no other's.
        rows, minutes, sources: What was reported, what it is folded into, and who reported.
        keep: How long minutes are kept, and sources that tell of nothing.
        series: What is told apart; its fields are columns of both tables.
        measured: The columns of a minute that are counted.
        tally: An empty tally.
        tally_of: What a row of either table has counted.
        columns: A tally, as the columns `measured`.
        also_old: What else of this kind is past its time at a moment.
        also_write: What is derived of minutes that were written, in the same transaction.
    """

    lock: int
    rows: type[ReportedRow]
    minutes: type[MinuteRow]
    sources: type[ReportingSource]
    keep: timedelta
    series: type[NamedTuple]
    measured: tuple[str, ...]
    tally: Callable[[], T]
    tally_of: Callable[[Any], T]
    columns: Callable[[T], dict[str, Any]]
    also_old: Callable[[datetime], Iterable[QuerySet[Any]]] = lambda _: ()
    also_write: Callable[[Iterable[datetime]], None] = lambda _: None

    @transaction.atomic
    def compact(self, *, now: datetime) -> int:
        """Fold closed minutes, seal and delete 10 s rows after 2 h, delete minutes after `keep`; returns how many were
        folded. Idempotent, and bounded: what is left over is done by the next run. Does nothing while another is under
        way.
        """
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [self.lock])
            if not cursor.fetchone()[0]:
                return 0
        closed = (now - CLOSING_GRACE).replace(second=0, microsecond=0)
        folded = _minutes(self.rows._default_manager.filter(folded=False, bucket_at__lt=closed))
        for minute in folded:
            self._fold(minute)
        sealed = _minutes(self._final(now))
        for minute in sealed:
            self._seal(minute, now=now)
        self.also_write([*folded, *sealed])
        self._forget(now)
        return len(folded)

    def _in(self, minute: datetime) -> QuerySet[ReportedRow]:
        return self.rows._default_manager.filter(bucket_at__gte=minute, bucket_at__lt=minute + MINUTE)

    def _fold(self, minute: datetime) -> None:
        """Compute the minute's unsealed part from the 10 s rows that are there. One that is replaced meanwhile keeps
        its mark, because its number has grown.
        """
        rows = list(self._in(minute))
        self._write(minute, self._tallied(rows), sealed=False)
        with connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {self.rows._meta.db_table} r SET folded = true"  # noqa: S608 - names are constants of ours
                " FROM unnest(%s::bigint[], %s::bigint[]) AS f(id, seq) WHERE r.id = f.id AND r.seq = f.seq",
                [[row.pk for row in rows], [row.seq for row in rows]],
            )

    def _final(self, now: datetime) -> QuerySet[ReportedRow]:
        """Rows that nothing newer can come for: old, in their minute's row, and of a process that has told of a later
        bucket, or was not heard of for as long as anything is kept.
        """
        old = now - KEEP_BUCKETS
        later = self.sources._default_manager.filter(worker=OuterRef("worker"), boot=OuterRef("boot")).filter(
            Q(newest_bucket_at__gt=OuterRef("bucket_at")) | Q(changed_at__lt=now - self.keep)
        )
        return self.rows._default_manager.filter(Exists(later), bucket_at__lt=old, changed_at__lt=old, folded=True)

    def _seal(self, minute: datetime, *, now: datetime) -> None:
        """Add what is final of a minute to its sealed part, and delete it.

        Sources are locked first, so that no repetition of a row slips in between its deletion and the mark that refuses
        it.
        """
        rows, minutes, known = self.rows._default_manager, self.minutes._default_manager, self.sources._default_manager
        who = set(self._in(minute).values_list("worker", "boot").distinct())
        of_these = Q(worker__in=[worker for worker, _ in who], boot__in=[boot for _, boot in who])
        sources = {
            (source.worker, source.boot): source
            for source in known.select_for_update().filter(of_these).order_by("worker", "boot")
        }
        final = list(self._final(now).filter(bucket_at__gte=minute, bucket_at__lt=minute + MINUTE).select_for_update())
        if not final:
            return
        tallies = self._tallied(final)
        for part in minutes.filter(bucket_at=minute, sealed=True):
            tallies[self._series_of(part)].add(self.tally_of(part))
        self._write(minute, tallies, sealed=True)
        minutes.filter(bucket_at=minute, sealed=False).delete()
        rest = list(self._in(minute).exclude(pk__in=[row.pk for row in final]).select_for_update())
        self._write(minute, self._tallied(rest), sealed=False)
        rows.filter(pk__in=[row.pk for row in final]).delete()
        rows.filter(pk__in=[row.pk for row in rest]).update(folded=True)
        for row in final:
            source = sources[row.worker, row.boot]
            source.sealed_through_at = max(source.sealed_through_at or row.bucket_at, row.bucket_at)
        known.bulk_update(sources.values(), ["sealed_through_at"])

    def _forget(self, now: datetime) -> None:
        """Delete what is past its time. A source outlives its rows: its mark tells a repetition from news."""
        horizon = now - self.keep
        _delete_oldest(self.minutes._default_manager.filter(bucket_at__lt=horizon))
        for old in self.also_old(now):
            _delete_oldest(old)
        stale = self.sources._default_manager.filter(changed_at__lt=horizon - MINUTE)
        rows = self.rows._default_manager.filter(worker__in=stale.values("worker"))
        held = set(rows.values_list("worker", "boot").distinct())
        gone = [source.pk for source in stale[:DELETIONS_PER_RUN] if (source.worker, source.boot) not in held]
        self.sources._default_manager.filter(pk__in=gone).delete()

    def _series_of(self, row: Model) -> Any:
        return self.series._make(getattr(row, name) for name in self.series._fields)

    def _tallied(self, rows: Iterable[Model]) -> defaultdict[Any, T]:
        tallies: defaultdict[Any, T] = defaultdict(self.tally)
        for row in rows:
            tallies[self._series_of(row)].add(self.tally_of(row))
        return tallies

    def _write(self, minute: datetime, tallies: defaultdict[Any, T], *, sealed: bool) -> None:
        """Write one part of a minute; `tallies` is all that this part has counted."""
        self.minutes._default_manager.bulk_create(
            [
                self.minutes(bucket_at=minute, sealed=sealed, **series._asdict(), **self.columns(tally))
                for series, tally in sorted(tallies.items(), key=lambda item: item[0])
            ],
            update_conflicts=True,
            unique_fields=["bucket_at", *self.series._fields, "sealed"],
            update_fields=list(self.measured),
            batch_size=500,
        )


def _minutes(rows: QuerySet[ReportedRow]) -> list[datetime]:
    """The oldest minutes of these rows."""
    minutes = rows.annotate(minute=TruncMinute("bucket_at")).order_by("minute").values_list("minute", flat=True)
    return list(minutes.distinct()[:MINUTES_PER_RUN])


def _delete_oldest(rows: QuerySet[Any]) -> None:
    """Delete the oldest of these rows, as many as one run may."""
    oldest = rows.order_by("bucket_at").values("pk")[:DELETIONS_PER_RUN]
    rows.model._default_manager.filter(pk__in=oldest).delete()
