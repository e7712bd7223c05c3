"""What workers tell of ladders, taken in: how they hold them, which steps these took, what was ordered on hosts."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.audit.models import AuditEvent
from controlplane.releases.models import GONE_AFTER
from controlplane.releases.operations import record_reports
from controlplane.telemetry.ladder_states import KEEP_LOG, audit_orders, forget_ladders
from controlplane.telemetry.models import LadderMove, LadderOrder, LadderState
from controlplane.telemetry.surfaces import confirmation, highest_rungs, ladder_standings
from tests.telemetry.ladder_history import HOUR, MINUTE, SURFACE, climbs, engaged, moved, ordered, take
from tests.worker_reports import NOON, ladder_state, report

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)


def test_standing_adds_up_what_workers_say():
    """The highest rung and reading of any, and how many have what in force."""
    first = ladder_state(level=2, engaged={"free": 3}, ids=["web-chat-7"], readings={"load": 5.0, "gpu": None})
    second = ladder_state(level=1, engaged={"free": 1}, ids=["web-chat-7", "emergency-1"], reserved={"vip": 3})
    take(report(ladders=(first,)), report(ladders=(second | {"is_alone": True},), worker="host-b/gateway-0"))

    with CaptureQueriesContext(connection) as asked:
        found = ladder_standings(NOON + SECOND)[SURFACE]

    assert len(asked) == 1
    assert found.to_json() == {
        "surface": SURFACE,
        "level": 2,
        "engaged": {"free": 3},
        "ids": {"web-chat-7": 2, "emergency-1": 1},
        "readings": {"load": 12.0, "gpu": None},
        "reserved": {"vip": 3},
        "generation": 0,
        "workers": 2,
        "alone": 1,
    }
    assert highest_rungs(NOON + SECOND) == {SURFACE: 3}
    assert ladder_standings(NOON + MINUTE) == highest_rungs(NOON + MINUTE) == {}


def test_rung_that_is_let_go_stands_for_nobody():
    """Whatever stood before: the highest rung is of those that engage one now."""
    held = {"vip": 0, "free": 2}
    take(report(ladders=(ladder_state(level=2, engaged=held), ladder_state("other", engaged={"free": 0}))))
    assert highest_rungs(NOON + SECOND) == {SURFACE: 2}

    take(report(ladders=(ladder_state(engaged=dict.fromkeys(held, 0)),), seq=2))

    assert highest_rungs(NOON + SECOND) == {}


def test_workers_that_say_the_same_count_each():
    """Thousands of them are read as one row of what they say, and are as many as they are."""
    told = ladder_state(level=2, engaged={"free": 2}, ids=["web-chat-7"], reserved={"vip": 3})
    take(*(report(ladders=(told | {"generation": number},), worker=f"w{number}") for number in range(5)))

    found = ladder_standings(NOON + SECOND)[SURFACE]

    assert (found.workers, found.ids, found.reserved, found.generation) == (5, {"web-chat-7": 5}, {"vip": 15}, 4)


def test_only_what_stands_differently_is_news():
    """What was read changes every second, and nobody has to be told for that."""
    states = [
        ladder_state(),
        ladder_state(readings={"load": 99.0}),
        ladder_state(level=1, generation=1),
        ladder_state(level=1, generation=1, ids=["web-chat-7"]),
    ]

    told = [take(report(ladders=(state,), seq=seq)) for seq, state in enumerate(states, start=1)]
    again = take(report(ladders=(states[0],), seq=1))
    gone = take(report(status="stopped", seq=9))

    assert told == [{SURFACE}, set(), {SURFACE}, {SURFACE}]
    assert (again, gone, LadderState.objects.count()) == (set(), {SURFACE}, 0)


def test_step_that_is_delivered_again_is_kept_once():
    """By its worker and generation; other workers that tell the same step are kept beside it."""
    for worker in ("host-a/gateway-0", "host-a/gateway-0", "host-b/gateway-0"):
        take(report(events=(moved(NOON, 0, 1, generation=4),), worker=worker))

    assert LadderMove.objects.count() == 2
    assert {(move.before, move.after, move.trigger, move.reading) for move in LadderMove.objects.all()} == {
        (0, 1, "load", 120.0)
    }


@pytest.mark.parametrize("wrong", [{"after": 9}, {"generation": "4"}, {"readings": {"load": "high"}}, {"surface": ""}])
def test_event_without_the_shape_of_its_kind_is_left_out(wrong):
    """A worker of another version stops nobody's reports."""
    event = moved(NOON, 0, 1, generation=4)
    event["data"] |= wrong

    take(report(events=(event, ordered(rung=9))))

    assert not LadderMove.objects.exists()
    assert not LadderOrder.objects.exists()


def test_order_on_a_host_is_audited_exactly_once():
    """However many processes tell of it, however often, and whoever asks when."""
    workers = ("host-a/gateway-0", "host-a/gateway-1")
    for worker in workers:
        take(report(events=(ordered(),), worker=worker))
    assert audit_orders(now=NOON + SECOND) == 1
    for worker in workers:
        take(report(events=(ordered(NOON + SECOND),), worker=worker, seq=2))

    assert audit_orders(now=NOON + MINUTE) == 0

    event = AuditEvent.objects.get(action="rung.ordered_on_host")
    assert (event.actor, event.target, event.at) == ("worker:host-a/gateway-0", "surface:web-chat", NOON + SECOND)
    assert event.data == {
        "order": "emergency-1",
        "rung": 6,
        "by": "ada",
        "reason": "the console is down",
        "since": NOON.isoformat(),
        "until": (NOON + HOUR).isoformat(),
    }


def test_order_is_seen_as_long_as_a_worker_has_it_in_force():
    """What is stood down on the host is told by nobody; that it is named no more says it."""
    take(report(events=(ordered(),)))

    take(report(ladders=(ladder_state(ids=["emergency-1"]),), seq=2, sent_at=NOON + MINUTE), now=NOON + MINUTE)
    take(report(ladders=(ladder_state(),), seq=3, sent_at=NOON + 2 * MINUTE), now=NOON + 2 * MINUTE)

    assert LadderOrder.objects.get().last_seen_at == NOON + MINUTE


def test_confirmation_says_of_each_worker_whether_it_acts():
    """Engaged as it says itself, not yet, silent, or refusing the release; those of other regions are not asked."""
    activation = engaged(NOON, 3, regions=["eu-west"])
    reports = [
        report(worker="a/gateway-0", ladders=(ladder_state(ids=[activation.name]),)),
        report(worker="b/gateway-0", ladders=(ladder_state(),)),
        report(worker="c/gateway-0", ladders=(ladder_state(ids=[activation.name]),), sent_at=NOON - MINUTE),
        report(worker="d/gateway-0", ladders=(ladder_state(),)),
    ]
    for one, region in zip(reports, ("eu-west", "eu-west", "eu-west", "us-east"), strict=True):
        one["state"]["region"] = region
    take(*reports)
    record_reports(reports, now=NOON)

    with CaptureQueriesContext(connection) as asked:
        found = confirmation(activation, now=NOON + SECOND)

    assert len(asked) == 3
    assert {one.worker: one.word for one in found.workers} == {
        "a/gateway-0": "engaged",
        "b/gateway-0": "not_yet",
        "c/gateway-0": "silent",
    }
    assert (found.counts["engaged"], found.is_complete) == (1, False)


def test_log_is_kept_for_long_and_states_are_not():
    """When rungs were on is asked about long after; a worker that is gone holds none."""
    climbs((NOON, 1))
    take(report(events=(ordered(),), ladders=(ladder_state(),), seq=2))

    forget_ladders(now=NOON + GONE_AFTER + MINUTE)
    assert (LadderState.objects.count(), LadderMove.objects.count(), LadderOrder.objects.count()) == (0, 1, 1)
    forget_ladders(now=NOON + KEEP_LOG + MINUTE)

    assert not LadderMove.objects.exists()
    assert not LadderOrder.objects.exists()
