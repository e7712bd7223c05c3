"""How long releases took, from the click to the workers' ACKs."""

from datetime import timedelta

import pytest

from controlplane.releases.models import Release
from controlplane.releases.operations import current_release, record_reports
from controlplane.releases.propagation import SETTLED_AFTER, Propagation, propagation, settle
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


def replace(release, *, at):
    """Cut the next release at `at`."""
    Release.objects.create(
        revision=release.revision + 1,
        document="{}",
        digest="e" * 64,
        key_id="k",
        signature="s",
        reason="why",
        actor="owner",
        clicked_at=at,
    )


def test_propagation_takes_each_workers_first_ack(release):
    """A worker that restarts and says it again later does not make the release look slow."""
    acknowledge(release, "a/gateway-0", after_ms=20)
    acknowledge(release, "a/gateway-1", after_ms=60)
    acknowledge(release, "a/gateway-1", after_ms=9000)

    each = propagation([release.revision])

    assert each[release.revision] == Propagation(acked=2, refused=0, reached=2, p50_ms=20, p99_ms=60, last_ms=60)


def test_worker_that_started_after_the_click_is_counted_but_not_timed(release):
    """It took the release from its disk; it was not there to be reached."""
    acknowledge(release, "a/gateway-0", after_ms=5000, started_at=release.clicked_at + timedelta(seconds=4))

    each = propagation([release.revision])

    assert each[release.revision] == Propagation(acked=1)


def test_refusal_counts_until_the_same_worker_takes_the_release(release):
    """A NACK that was followed by an ACK is history."""
    acknowledge(release, "a/gateway-0", after_ms=10, verdict="nack", reason="too old")
    refused = propagation([release.revision])
    acknowledge(release, "a/gateway-0", after_ms=30)
    taken = propagation([release.revision])

    assert (refused[release.revision].refused, taken[release.revision].refused) == (1, 0)


def test_release_that_nobody_acknowledged_has_no_figures(release):
    """No data is not zero milliseconds."""
    each = propagation([release.revision, 999])

    assert each == {release.revision: Propagation(), 999: Propagation()}


def test_release_that_was_long_replaced_is_settled_with_the_figures_it_had(release):
    """Its ACKs are read once more, and never again; the current one stays open, and so does one of a moment ago."""
    acknowledge(release, "a/gateway-0", after_ms=20)
    acknowledge(release, "a/gateway-1", after_ms=60, verdict="nack", reason="too old")
    before = propagation([release.revision])
    replace(release, at=NOW)
    early = settle(now=NOW + SETTLED_AFTER)

    settled = settle(now=NOW + 2 * SETTLED_AFTER)

    assert (early, settled) == (0, release.revision)  # this one, and those before it
    assert settle(now=NOW + 2 * SETTLED_AFTER) == 0
    acknowledge(release, "a/gateway-2", after_ms=9_000_000)
    assert propagation([release.revision]) == before


def test_settled_releases_cost_no_look_at_their_acks(release, django_assert_num_queries):
    """Two queries, and one where nothing is open."""
    replace(release, at=NOW)
    with django_assert_num_queries(2):
        propagation([release.revision])
    settle(now=NOW + 2 * SETTLED_AFTER)

    with django_assert_num_queries(1):
        propagation([release.revision])
