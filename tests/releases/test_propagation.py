"""How long releases took, from the click to the workers' ACKs."""

from datetime import timedelta

import pytest

from controlplane.releases.operations import current_release, record_reports
from controlplane.releases.propagation import Propagation, propagation
from tests.factories import NOW, make_policy, make_routing
from tests.worker_reports import ack, report


@pytest.fixture
def release(db):
    make_policy()
    make_routing()
    return current_release()


def acknowledge(release, worker, *, after_ms, started_at=NOW - timedelta(hours=1), **fields):
    at = release.clicked_at + timedelta(milliseconds=after_ms)
    acks = (ack(release.revision, digest=release.digest, at=at, **fields),)
    record_reports([report(worker=worker, boot=f"{worker}{after_ms}", started_at=started_at, acks=acks)], now=at)


def test_propagation_takes_each_workers_first_ack(release):
    """A worker that restarts and says it again later does not make the release look slow."""
    acknowledge(release, "a/gateway-0", after_ms=20)
    acknowledge(release, "a/gateway-1", after_ms=60)
    acknowledge(release, "a/gateway-1", after_ms=9000)

    each, together = propagation([release.revision])

    assert each[release.revision] == Propagation(acked=2, refused=0, reached=2, p50_ms=20, p99_ms=60, last_ms=60)
    assert together == each[release.revision]


def test_worker_that_started_after_the_click_is_counted_but_not_timed(release):
    """It took the release from its disk; it was not there to be reached."""
    acknowledge(release, "a/gateway-0", after_ms=5000, started_at=release.clicked_at + timedelta(seconds=4))

    each, _ = propagation([release.revision])

    assert each[release.revision] == Propagation(acked=1)


def test_refusal_counts_until_the_same_worker_takes_the_release(release):
    """A NACK that was followed by an ACK is history."""
    acknowledge(release, "a/gateway-0", after_ms=10, verdict="nack", reason="too old")
    refused, _ = propagation([release.revision])
    acknowledge(release, "a/gateway-0", after_ms=30)
    taken, _ = propagation([release.revision])

    assert (refused[release.revision].refused, taken[release.revision].refused) == (1, 0)


def test_release_that_nobody_acknowledged_has_no_figures(release):
    """No data is not zero milliseconds."""
    each, together = propagation([release.revision, 999])

    assert each == {release.revision: Propagation(), 999: Propagation()}
    assert together == Propagation()
