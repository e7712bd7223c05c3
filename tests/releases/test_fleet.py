from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.releases.fleet import fleet, fleet_message, worker_states
from controlplane.releases.models import Convergence, Release, Worker, standing_to, worker_counts
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


def test_every_way_to_stand_is_counted():
    """In sync, behind, refused and silent add up to the gateways that are expected; stopped ones do not count."""
    record_reports(
        [
            report(worker="a", revision=4, digest=DIGEST, acks=(ack(4, at=NOON + 0.05 * SECOND),)),
            report(worker="b", revision=3, digest="e" * 64),
            report(worker="c", revision=3, digest="e" * 64, acks=(ack(4, verdict="nack", reason="unknown key"),)),
            report(worker="d", revision=4, digest=DIGEST, sent_at=NOON - 30 * SECOND),
            report(worker="e", status="stopped"),
        ],
        now=NOON,
    )

    found = fleet(now=NOON + SECOND)

    assert found.counts() == {"expected": 4, "in_sync": 1, "behind": 1, "refused": 1, "silent": 1}
    assert worker_counts(found.current, now=NOON + SECOND) == {
        Convergence.IN_SYNC: 1,
        Convergence.BEHIND: 1,
        Convergence.REFUSED: 1,
        Convergence.SILENT: 1,
    }
    assert worker_states(now=NOON + SECOND) == {one.worker.name: one.state for one in found.workers}
    shown = {one["name"]: (one["state"], one["ack_ms"], one["reason"]) for one in found.to_json()["workers"]}
    assert shown == {
        "a": ("in-sync", pytest.approx(50.0), ""),
        "b": ("behind", None, ""),
        "c": ("refused", None, "unknown key"),
        "d": ("silent", None, ""),
        "e": ("stopped", None, ""),
    }


def test_a_message_names_only_the_workers_asked_for():
    """The counts are of the whole fleet, the workers those that changed."""
    record_reports([report(worker="a"), report(worker="b")], now=NOON)
    whole = fleet(now=NOON).to_json()

    message = fleet_message({"b"}, now=NOON)

    assert [worker["name"] for worker in message["workers"]] == ["b"]
    assert message["counts"]["expected"] == 2
    assert message == whole | {"workers": whole["workers"][1:]}
    assert fleet_message((), now=NOON) == whole | {"workers": []}


def test_a_worker_that_is_gone_for_a_day_is_no_fleet():
    """A host that was taken away does not stay on the page for ever."""
    record_reports([report(worker="a")], now=NOON)

    assert fleet(now=NOON + timedelta(hours=25)).workers == ()
    assert worker_states(now=NOON + timedelta(hours=25)) == {}


def test_the_number_of_queries_does_not_depend_on_the_fleet():
    """A hundred workers cost three queries."""
    record_reports([report(worker=f"w{n}", acks=(ack(4),)) for n in range(100)], now=NOON)

    with CaptureQueriesContext(connection) as queries:
        fleet(now=NOON).to_json()

    assert len(queries) == 3


@pytest.mark.parametrize("is_released", [True, False])
def test_the_database_says_of_every_worker_what_its_row_says(is_released):
    """Whatever a worker does, and whether anything is released: the column `standing` is its `convergence`."""
    record_reports(
        [
            report(
                worker=f"{status}/{seconds}/{digest}/{verdict}",
                status=status,
                revision=4,
                digest=digest,
                sent_at=NOON - seconds * SECOND,
                acks=(ack(4, verdict=verdict, reason="why" if verdict == "nack" else ""),),
            )
            for status in ("serving", "stopped")
            for seconds in (0, 5, 6, 700)
            for digest in (DIGEST, "e" * 64)
            for verdict in ("ack", "nack")
        ],
        now=NOON,
    )
    current = Release.objects.get() if is_released else None

    rows = list(Worker.objects.annotate(standing=standing_to(current, now=NOON)))

    assert len(rows) == 32
    assert {row.name: row.standing for row in rows} == {
        row.name: row.convergence(current, now=NOON).value for row in rows
    }
