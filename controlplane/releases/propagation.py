"""How long releases took to reach the workers: from the click to each worker's first ACK."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from controlplane.releases.models import Ack, Worker


@dataclass(frozen=True, slots=True)
class Propagation:
    """One release's way to the gateways, or several releases' together, in milliseconds; None: nobody was reached.

    `acked` counts every gateway that took it, `reached` those that were there at the click and so can be timed.
    """

    acked: int = 0
    refused: int = 0
    reached: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    last_ms: float | None = None


def propagation(revisions: Iterable[int]) -> tuple[dict[int, Propagation], Propagation]:
    """Per revision, and over all of them together; two queries. A worker counts once per release, by its first ACK."""
    wanted = set(revisions)
    others = set(Worker.objects.exclude(kind="gateway").values_list("name", flat=True))
    acked: dict[int, dict[str, list[float]]] = {revision: {} for revision in wanted}
    refused: dict[int, set[str]] = {revision: set() for revision in wanted}
    rows = Ack.objects.filter(revision__in=wanted).values_list("revision", "worker", "verdict", "latency_ms")
    for revision, worker, verdict, latency_ms in rows:
        if worker in others:
            continue
        if verdict == "nack":
            refused[revision].add(worker)
        else:
            acked[revision].setdefault(worker, []).extend([] if latency_ms is None else [latency_ms])
    each = {revision: _of(acked[revision], refused[revision]) for revision in wanted}
    latencies = sorted(min(times) for workers in acked.values() for times in workers.values() if times)
    total = sum(one.acked for one in each.values())
    return each, _timed(latencies, acked=total, refused=sum(one.refused for one in each.values()))


def _of(acked: dict[str, list[float]], refused: set[str]) -> Propagation:
    latencies = sorted(min(times) for times in acked.values() if times)
    return _timed(latencies, acked=len(acked), refused=len(refused - set(acked)))


def _timed(latencies: list[float], *, acked: int, refused: int) -> Propagation:
    if not latencies:
        return Propagation(acked, refused)
    p50_ms, p99_ms = _quantile(latencies, 0.5), _quantile(latencies, 0.99)
    return Propagation(acked, refused, len(latencies), p50_ms, p99_ms, latencies[-1])


def _quantile(ordered: list[float], q: float) -> float:
    """The nearest-rank quantile: a latency that was really seen, as a small fleet's p99 should be."""
    return ordered[max(ceil(q * len(ordered)) - 1, 0)]
