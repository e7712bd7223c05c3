"""The fleet as a page shows it: every worker beside the current release."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from controlplane.releases.models import GONE_AFTER, Ack, Convergence, Release, Worker

# A worker that has not been heard of for so long is history, not fleet.
FORGOTTEN_AFTER: Final = timedelta(hours=24)


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
        return self.convergence.value.replace(" ", "-")

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
        counts = Counter(one.convergence for one in self.expected)
        return {
            "expected": len(self.expected),
            "in_sync": counts[Convergence.IN_SYNC],
            "behind": counts[Convergence.BEHIND],
            "refused": counts[Convergence.REFUSED],
            "silent": counts[Convergence.SILENT],
        }

    def picture(self) -> str:
        """What this fleet looks like, see `picture_of`."""
        return picture_of(self.current.revision if self.current else None, **self.counts())

    def to_json(self, names: Collection[str] | None = None) -> dict[str, Any]:
        """What the live topic "fleet" carries; the counts are of the whole fleet, the workers only those of `names`.

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
            "workers": [one.to_json() for one in self.workers if names is None or one.worker.name in names],
        }


def picture_of(revision: int | None, *, expected: int, in_sync: int, behind: int, refused: int, silent: int) -> str:
    """A text that is another one as soon as the release or a count is: pages compare it with what they were made of.

    Args:
        expected, in_sync, behind, refused, silent: As `Fleet.counts` counts them.
    """
    return "/".join(str(part) for part in (revision or 0, expected, in_sync, behind, refused, silent))


def fleet(*, now: datetime) -> Fleet:
    """Every worker heard of within a day, agents too, by name; three queries."""
    current = Release.objects.defer("document").first()
    latencies = (
        {}
        if current is None
        else {
            (worker, boot): latency
            for worker, boot, latency in Ack.objects.filter(
                revision=current.revision, verdict="ack", digest=current.digest
            ).values_list("worker", "boot", "latency_ms")
        }
    )
    return Fleet(
        current,
        tuple(
            WorkerStanding(worker, worker.convergence(current, now=now), latencies.get((worker.name, worker.boot)))
            for worker in Worker.objects.filter(last_seen_at__gt=now - FORGOTTEN_AFTER)
        ),
        now,
    )
