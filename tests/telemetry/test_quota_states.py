from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.releases.models import GONE_AFTER, SILENT_AFTER
from controlplane.telemetry.feed import quotas_message
from controlplane.telemetry.models import QuotaState
from controlplane.telemetry.operations import compact_rollups, merge_rollups, record_quota_states
from controlplane.telemetry.quotas import pools, quota_states, workers_of
from dataplane.routing import RoutingTable
from tests.factories import routing_document
from tests.worker_reports import NOON, quota_state, report, rollup

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)
OPENAI, AZURE, ANTHROPIC = "openai-main/shared", "azure-eu/shared", "anthropic-main/shared"


def taken(*quotas, seq=1, at=NOON, **fields):
    """What changed when worker w said this."""
    return record_quota_states([report(quotas=quotas, worker="w", seq=seq, sent_at=at, **fields)], now=at)


def said():
    return sorted(QuotaState.objects.values_list("worker", "pool", "ramp"))


def test_newest_report_of_a_worker_says_what_it_knows_of_its_pools():
    """In the worker's own order; a pool that it names no more is gone, and so are all of one that stopped."""
    assert taken(quota_state("a"), quota_state("b"), seq=7) == {"a/shared", "b/shared"}
    assert taken(quota_state("a", ramp=0.5), seq=9) == {"a/shared", "b/shared"}
    assert taken(quota_state("a"), quota_state("b"), seq=8) == set()
    assert said() == [("w", "a/shared", 0.5)]
    assert taken(quota_state("c"), seq=1, started_at=NOON) == {"a/shared", "c/shared"}
    assert record_quota_states([report(worker="w", seq=2, started_at=NOON)], now=NOON) == set()
    assert said() == [("w", "c/shared", 1.0)]
    stopped = report(worker="w", seq=3, started_at=NOON, status="stopped")
    assert record_quota_states([stopped], now=NOON) == {"c/shared"}
    assert said() == []


def test_pool_stands_differently_when_something_changes_that_pages_say():
    """A pause that begins, moves or ends, who waits, what is open; not one that counts down, nor a little more use."""
    steps = (
        ({}, True),
        ({"used_share": 0.43, "granted": 7, "in_flight": 1}, False),
        ({"used_share": 0.5}, True),
        ({"paused_seconds": 12.0}, True),
        ({"paused_seconds": 11.1}, False),
        ({"paused_seconds": 20.0}, True),
        ({"ramp": 0.1}, True),
        ({"waiting": {"interactive": 1, "batch": 0}}, True),
        ({"is_alone": True}, True),
        ({"learned": {"requests": 900}}, True),
        ({"learned": {"requests": 900}, "eta_seconds": {"interactive": 3.0, "batch": None}}, False),
    )
    for seq, (fields, differs) in enumerate(steps, start=1):
        assert bool(taken(quota_state(**fields), seq=seq, at=NOON + seq * SECOND)) is differs, fields


def test_pool_stands_as_the_workers_that_are_heard_of_say():
    """What is of the fleet as the busiest says that can ask it; what waits with those that are alone is added."""
    idle = {"waiting": {"interactive": 90, "batch": 90}, "used_share": 0.9, "ramp": 0.1, "in_flight": 0}
    busy = {
        "waiting": {"interactive": 31, "batch": 120},
        "eta_seconds": {"interactive": 14.0, "batch": None},
        "learned": {"requests": 8000},
        "limits": {"requests": 8000},
        "ramp": 0.6,
    }
    lone = {"is_alone": True, "waiting": {"interactive": 2, "batch": 0}, "used_share": 0.99, "paused_seconds": 5.0}
    late = NOON + SECOND
    batch = [
        report(worker="w1", quotas=(quota_state(**idle), quota_state("azure-eu", **lone)), sent_at=late),
        report(worker="w2", quotas=(quota_state(**busy, paused_seconds=12.0),)),
        report(worker="w3", quotas=(quota_state(**lone),), sent_at=late),
        report(worker="w4", quotas=(quota_state(**lone),), sent_at=NOON - SILENT_AFTER),
    ]
    with CaptureQueriesContext(connection) as writing:
        record_quota_states(batch, now=late)
    with CaptureQueriesContext(connection) as reading:
        standings = quota_states(late + SECOND)

    assert (len(writing), len(reading)) == (1, 2)
    assert set(standings) == {OPENAI, AZURE}
    openai, azure = standings[OPENAI], standings[AZURE]
    assert (openai.workers, openai.alone, openai.in_flight) == (3, 1, 10)
    assert (openai.waiting, openai.eta_seconds) == (
        {"interactive": 33, "batch": 120},
        {"interactive": 14.0, "batch": None},
    )
    assert (openai.used_share, openai.ramp, openai.paused_seconds) == (0.4, 0.6, 10.0)
    assert (openai.limits, openai.learned) == ({"requests": 8000}, {"requests": 8000})
    assert (azure.waiting["interactive"], azure.used_share, azure.paused_seconds) == (2, 0.99, 4.0)
    assert azure.eta_seconds == {"interactive": 0.0, "batch": 0.0}
    assert [(row.worker, row.is_alone) for row in workers_of(OPENAI, now=late, most=2)] == [("w3", True), ("w1", False)]
    told = quotas_message({OPENAI, "gone/shared"}, now=late + SECOND)
    assert told["pools"] == {OPENAI: openai.to_json(), "gone/shared": None}
    assert quota_states(late + SILENT_AFTER) == {}


@pytest.mark.parametrize(
    ("busiest", "others"),
    [
        ({"in_flight": 3}, {"in_flight": 2, "granted": 900}),
        ({"granted": 8}, {"granted": 7}),
        ({"at": NOON - timedelta(milliseconds=200)}, {"at": NOON - timedelta(milliseconds=300)}),
        ({"in_flight": 0, "granted": 0, "at": NOON - SECOND}, {"is_alone": True, "in_flight": 9}),
    ],
)
def test_busiest_worker_has_most_under_way_then_most_granted_then_spoke_last(busiest, others):
    """Of those that can ask the fleet, where there is any; whoever of them was heard of first."""
    for order in ((busiest, others), (others, busiest)):
        QuotaState.objects.all().delete()
        for number, facts in enumerate(order):
            said = {"in_flight": 1, "granted": 1, "used_share": 0.7 if facts is busiest else 0.2}
            said |= {name: value for name, value in facts.items() if name != "at"}
            at = facts.get("at", NOON)
            record_quota_states([report(worker=f"w{number}", quotas=(quota_state(**said),), sent_at=at)], now=NOON)

        assert quota_states(NOON + SECOND)[OPENAI].used_share == 0.7


def test_pools_of_a_table_come_with_their_lanes_and_their_429s():
    """Also those that no worker tells of; a limit is learned where the provider named less than was declared."""
    document = routing_document()
    gpt, embed = (lane for lane in document["lanes"] if lane.startswith("openai/"))
    table = RoutingTable.parse(document)
    minute = NOON - timedelta(minutes=2)
    measured = [
        report(rollup(minute, lane=gpt, requests=40, throttled=3), rollup(minute, lane=embed, requests=20, throttled=1))
    ]
    merge_rollups(measured, now=NOON)
    learned = {"requests": 8000, "tokens": 9_000_000, "input_tokens": 1_500_000}
    limits = {"tokens": 2_000_000, "requests": 8000, "input_tokens": 1_500_000}
    taken(quota_state(learned=learned, limits=limits))

    anthropic, azure, openai = pools(table, now=NOON)

    assert [anthropic.name, azure.name, openai.name] == [ANTHROPIC, AZURE, OPENAI]
    assert (azure.standing, azure.attempts, azure.limits["concurrency"]) == (None, 0, 200)
    assert (openai.lanes, openai.attempts, openai.throttled) == ((gpt, embed), 60, 4)
    assert openai.to_json()["limits"] == {
        "requests": {"value": 8000, "is_learned": True, "declared": 10_000},
        "tokens": {"value": 2_000_000, "is_learned": False, "declared": 2_000_000},
        "input_tokens": {"value": 1_500_000, "is_learned": True, "declared": None},
    }
    for lane in document["lanes"].values():
        lane["quota"] = None
    assert pools(RoutingTable.parse(document), now=NOON) == []


def test_quotas_of_a_worker_that_is_gone_are_forgotten():
    """Nothing says any more that it exists."""
    taken(quota_state())

    compact_rollups(now=NOON + GONE_AFTER + SECOND)

    assert said() == []


@pytest.mark.django_db(transaction=True)
def test_pools_that_stand_differently_are_told_together_once_a_second(line, clock):
    """While callers wait, every report says another number; who watches hears of the first at once."""
    ingest = line.ingest()

    def beat(seq, waits):
        quotas = (quota_state(waiting={"interactive": waits, "batch": 0}), quota_state("azure-eu"))
        line.add(report(quotas=quotas, worker="w", seq=seq, sent_at=clock.now))
        ingest.round()

    beat(1, 0)
    for seq in (2, 3):
        clock.advance(0.2)
        beat(seq, seq)
    clock.advance(1)
    beat(4, 3)
    clock.advance(2)
    beat(5, 3)

    first, second = line.messages("quotas")
    assert set(first["pools"]) == {OPENAI, AZURE}
    assert set(second["pools"]) == {OPENAI}
    assert second["pools"][OPENAI]["waiting"]["interactive"] == 3
