"""An engine that lives and has more than it can do."""

from __future__ import annotations

from dataplane.health.findings import Findings
from dataplane.health.strain import Strain
from tests.dataplane.health.health_world import POLICY, reading


def strained(*looks, rate=None) -> Findings:
    findings = Findings()
    strain = Strain(POLICY, findings)
    for look in looks:
        strain.observe(look, finished_per_second=rate)
    return findings


def test_long_queue_counts_once_it_lasts():
    """More than a hundred that wait for ten seconds."""
    at_once = strained(reading(0, waiting=150), reading(8, waiting=150))
    lasting = strained(reading(0, waiting=150), reading(10, waiting=150))

    assert "queue_full" not in at_once
    assert lasting.get("queue_full").detail == "150 wait"


def test_queue_is_as_long_as_what_it_takes_to_end_it():
    """Twenty that wait are 40 s at one answer every two seconds; four behind eight that run are no queue."""
    slow = strained(*(reading(at, running=8, waiting=20) for at in (0, 10)), rate=0.5)
    quick = strained(*(reading(at, running=8, waiting=20) for at in (0, 10)), rate=5.0)
    few = strained(*(reading(at, running=8, waiting=4) for at in (0, 10)), rate=0.01)

    assert ["queue_full" in one for one in (slow, quick, few)] == [True, False, False]


def test_it_ends_below_where_it_began():
    """A queue that swings around its limit does not come and go with it."""
    findings = Findings()
    strain = Strain(POLICY, findings)
    seen = []
    for at, waiting in ((0, 101), (10, 101), (12, 95), (14, 89)):
        strain.observe(reading(at, waiting=waiting), finished_per_second=None)
        seen.append("queue_full" in findings)

    assert seen == [False, True, True, False]


def test_full_cache_is_trouble_when_requests_are_thrown_out():
    """A cache in use to the last block is what it is for."""
    full = strained(*(reading(at, kv_used=0.99, preemptions=5) for at in range(0, 20, 2)))
    thrashing = strained(*(reading(at, kv_used=0.99, preemptions=at) for at in range(0, 20, 2)))
    uncounted = strained(*(reading(at, kv_used=0.99, waiting=3) for at in range(0, 20, 2)))

    assert ["kv_full" in one for one in (full, thrashing, uncounted)] == [False, True, True]
    assert "99 % in use" in thrashing.get("kv_full").detail
