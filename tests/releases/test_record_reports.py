from datetime import timedelta
from itertools import permutations

import pytest

from controlplane.releases.models import Ack, Convergence, Release, Worker
from controlplane.releases.operations import record_reports
from tests.worker_reports import DIGEST, NOON, ack, report

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def release():
    return Release.objects.create(
        revision=4,
        document="{}",
        digest=DIGEST,
        key_id="k",
        signature="s",
        reason="why",
        actor="owner",
        clicked_at=NOON,
    )


def test_a_report_taken_in_twice_changes_nothing():
    """Redis delivers at least once: the second time adds no verdict and moves no worker."""
    one = report(seq=3, revision=4, digest=DIGEST, acks=(ack(4, at=NOON + SECOND),))
    record_reports([one], now=NOON + SECOND)
    before = list(Worker.objects.values()), list(Ack.objects.values())

    record_reports([one, one], now=NOON + 9 * SECOND)

    assert (list(Worker.objects.values()), list(Ack.objects.values())) == before


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "a batch each"])
@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_the_newest_word_of_the_newest_boot_stands_in_any_order(order, together):
    """A late report, or a spool replayed from before a restart, never overwrites what came after it."""
    later = NOON + 60 * SECOND
    reports = [
        report(seq=8, boot="old", revision=2, digest="2" * 64),
        report(seq=9, boot="old", revision=3, digest="3" * 64),
        report(seq=1, boot="new", started_at=later, status="starting"),
        report(seq=2, boot="new", started_at=later, revision=4, digest=DIGEST),
    ]
    arriving = [reports[index] for index in order]

    for batch in [arriving] if together else [[one] for one in arriving]:
        record_reports(batch, now=later)

    worker = Worker.objects.get()
    assert (worker.boot, worker.sequence, worker.revision, worker.status) == ("new", 2, 4, "serving")


def test_a_replayed_spool_does_not_make_a_worker_look_alive():
    """What a worker said an hour ago is an hour old, whenever it arrives."""
    record_reports([report(sent_at=NOON - timedelta(hours=1))], now=NOON)

    worker = Worker.objects.get()

    assert worker.last_seen_at == NOON - timedelta(hours=1)
    assert worker.convergence(None, now=NOON) is Convergence.SILENT


def test_a_clock_that_runs_ahead_does_not_keep_a_worker_alive():
    """A worker is never heard of later than now."""
    record_reports([report(sent_at=NOON + timedelta(hours=1))], now=NOON)

    assert Worker.objects.get().last_seen_at == NOON


def test_a_refusal_that_arrives_late_is_still_shown(release):
    """The verdict travels in a batch of its own and may come after a heartbeat with a higher number."""
    record_reports([report(seq=6, revision=3, digest="3" * 64)], now=NOON)

    record_reports([report(seq=5, acks=(ack(4, verdict="nack", reason="unknown key"),))], now=NOON)

    worker = Worker.objects.get()
    assert worker.sequence == 6
    assert worker.refused_reason == "unknown key"
    assert worker.convergence(release, now=NOON) is Convergence.REFUSED


def test_a_refusal_of_an_older_release_does_not_hide_a_newer_one():
    """The newest refused revision stays, whatever order the words come in."""
    record_reports([report(seq=2, acks=(ack(4, verdict="nack", reason="new"),))], now=NOON)

    record_reports([report(seq=3, acks=(ack(3, verdict="nack", digest="3" * 64, reason="old"),))], now=NOON)

    assert Worker.objects.get().refused_reason == "new"


def test_latency_counts_from_the_click():
    """An ACK 80 ms after the click took 80 ms."""
    record_reports([report(acks=(ack(4, at=NOON + timedelta(milliseconds=80)),))], now=NOON + SECOND)

    assert Ack.objects.get().latency_ms == pytest.approx(80)


@pytest.mark.parametrize(
    "late",
    [
        report(started_at=NOON + SECOND, acks=(ack(4, at=NOON + 2 * SECOND),)),
        report(acks=(ack(4, digest="e" * 64, at=NOON + SECOND),)),
        report(acks=(ack(77, at=NOON + SECOND),)),
    ],
    ids=["started after the click", "another document under the number", "unknown revision"],
)
def test_a_verdict_without_a_click_behind_it_has_no_latency(late):
    """Convergence is measured on workers that were there, for the release that they name."""
    record_reports([late], now=NOON + SECOND)

    assert Ack.objects.get().latency_ms is None


def test_each_boot_gives_its_own_verdict():
    """A restarted worker that serves the same release from its disk says so again."""
    record_reports([report(boot="old", acks=(ack(4),))], now=NOON)

    record_reports([report(boot="new", started_at=NOON, acks=(ack(4),))], now=NOON)

    assert sorted(Ack.objects.values_list("boot", flat=True)) == ["new", "old"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"revision": 4, "digest": DIGEST}, Convergence.IN_SYNC),
        ({"revision": 4, "digest": "e" * 64}, Convergence.BEHIND),
        ({"revision": 3, "digest": "3" * 64}, Convergence.BEHIND),
        ({"revision": None, "digest": None}, Convergence.BEHIND),
        ({"revision": 3, "digest": "3" * 64, "acks": (ack(4, verdict="nack"),)}, Convergence.REFUSED),
        ({"revision": 4, "digest": DIGEST, "sent_at": NOON - 5 * SECOND}, Convergence.SILENT),
        ({"revision": 4, "digest": DIGEST, "sent_at": NOON - 4.9 * SECOND}, Convergence.IN_SYNC),
        ({"status": "stopped", "sent_at": NOON - timedelta(hours=1)}, Convergence.STOPPED),
    ],
)
def test_convergence_is_told_by_the_digest(release, fields, expected):
    """What a worker serves decides, not the number that it says; the silent are never believed."""
    record_reports([report(**fields)], now=NOON)

    assert Worker.objects.get().convergence(release, now=NOON) is expected
