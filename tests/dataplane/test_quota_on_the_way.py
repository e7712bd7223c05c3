"""What a request does when an account is at its limit: it waits, goes elsewhere, or hears why not; in virtual time."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from dataplane.errors.upstream import UpstreamRateLimited, UpstreamUnreachable
from dataplane.quota_grants import Asking
from dataplane.routing import RoutingTable
from dataplane.sharding import blast_radius, lanes_of_tenant
from tests.dataplane.bench import ANSWER, STREAM, Bench, FakeExchange, Gate
from tests.dataplane.conftest import LANE, ROUTING, breaker_policy, copy_document
from tests.dataplane.quota_world import MemoryQuotaStore, quota_document
from tests.dataplane.virtual_time import in_virtual_time

FIRST, SECOND = "openai/eu/main/a", "openai/eu/other/b"
SHORT = json.dumps(
    {
        "id": "c1",
        "choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 40, "completion_tokens": 20},
    }
).encode()
OTHERS = Asking("acme", "vip", "interactive", 10, 10)


def routing_with(*, quota=None, route=None, second=True):
    """Two accounts, each with a lane that has a quota of 60 requests in 10 s."""
    lanes = {FIRST: LANE | {"model": "a", "breaker": "b", "quota": "shared"}}
    if second:
        lanes[SECOND] = LANE | {"model": "b", "account": "other", "quota": "shared"}
    return ROUTING | {
        "accounts": ROUTING["accounts"] | {"other": ROUTING["accounts"]["main"]},
        "lanes": lanes,
        "breakers": {"b": breaker_policy()},
        "quotas": {
            "shared": quota_document(**({"requests": 60, "spill_seconds": 1, "max_wait_seconds": 8} | (quota or {})))
        },
        "routes": {"chat": {"lanes": list(lanes), "deadline_ms": 30_000, **(route or {})}},
    }


async def bench_with(make_document, *, lanes=None, copy=None, trusted=None, **routing):
    """A process whose requests are answered at once, on the loop's own time; `trusted` as of a bench."""
    clock = asyncio.get_running_loop().time
    document = make_document(routing=routing_with(**routing), copy=copy or {})
    exchange = {name: [FakeExchange([ANSWER], Gate())] for name in (FIRST, SECOND)} | (lanes or {})
    store = MemoryQuotaStore(clock)
    return Bench(document, lanes=exchange, clock=clock, stream_clock=clock, quota_store=store, trusted=trusted)


async def use_up(bench, lane, *, leave_waiting=0, workload="interactive", tenant="acme"):
    """Let others take all that a lane's account is admitted, and as many wait as is said."""
    share = bench.quotas._share(bench.current.routing.lanes[lane])
    asking = replace(OTHERS, workload=workload, tenant=tenant)
    tasks = [asyncio.create_task(share.wait(asking, seconds=1000)) for _ in range(2 + leave_waiting)]
    await asyncio.sleep(0.02)
    return tasks


async def end(bench, tasks=()):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await bench.quotas.stop()


@pytest.mark.parametrize("stream", [False, True])
@in_virtual_time
async def test_a_request_that_waited_says_so(make_document, stream):
    """Its place when it came, and the milliseconds; one that did not wait says nothing of it."""
    lanes = {FIRST: [FakeExchange(STREAM if stream else [ANSWER], Gate()) for _ in range(2)]}
    bench = await bench_with(make_document, second=False, lanes=lanes)
    await bench.start(stream=stream)
    at_once = bench.reply
    others = await use_up(bench, FIRST, leave_waiting=8)
    began = asyncio.get_running_loop().time()

    await bench.start(stream=stream)

    assert b"ballast-queue-position" not in at_once.headers
    headers, waited = bench.reply.headers, asyncio.get_running_loop().time() - began
    assert bench.reply.status == 200
    assert int(headers[b"ballast-queue-position"]) == pytest.approx(10, abs=1)
    assert int(headers[b"ballast-queue-wait-ms"]) == pytest.approx(waited * 1000, abs=30)
    assert waited > 0.2
    await end(bench, others)


@in_virtual_time
async def test_another_lane_serves_who_would_wait_too_long(make_document):
    """Longer than the policy lets them wait while one is left."""
    bench = await bench_with(make_document)
    others = await use_up(bench, FIRST, leave_waiting=100)

    await bench.start()

    assert (bench.reply.status, bench.reply.headers[b"ballast-lane"]) == (200, SECOND.encode())
    assert bench.transport.lanes == [SECOND]
    await end(bench, others)


@in_virtual_time
async def test_where_all_are_at_their_limit_the_shortest_queue_is_waited_for(make_document):
    """Not the last, and not for longer than the policy says."""
    bench = await bench_with(make_document)
    others = await use_up(bench, FIRST, leave_waiting=20) + await use_up(bench, SECOND, leave_waiting=500)
    began = asyncio.get_running_loop().time()

    await bench.start()

    assert bench.reply.headers[b"ballast-lane"] == FIRST.encode()
    assert 0.2 < asyncio.get_running_loop().time() - began < 8
    await end(bench, others)


@in_virtual_time
async def test_who_cannot_be_served_is_told_why_and_when_to_come_back(make_document):
    """429 at once, with the account, the place and the time; an SDK may come back by itself."""
    bench = await bench_with(make_document)
    others = await use_up(bench, FIRST, leave_waiting=300) + await use_up(bench, SECOND, leave_waiting=500)
    began = asyncio.get_running_loop().time()

    await bench.start()

    error = json.loads(bench.reply.data)["error"]
    assert asyncio.get_running_loop().time() - began < 0.1
    assert (bench.reply.status, error["code"], error["type"]) == (429, "quota_exhausted", "rate_limit_error")
    assert error["position"] > 1
    assert int(bench.reply.headers[b"retry-after"]) == pytest.approx(error["eta_seconds"], abs=1)
    assert "account 'main' is at its limit" in error["message"]
    assert b"x-should-retry" not in bench.reply.headers
    assert bench.transport.lanes == []
    assert bench.totals()["attempts"] == 0
    await end(bench, others)


@in_virtual_time
async def test_a_deadline_is_never_waited_past(make_document):
    """The reason comes at once, not when it is over."""
    bench = await bench_with(make_document, second=False)
    others = await use_up(bench, FIRST, leave_waiting=60)
    began = asyncio.get_running_loop().time()

    await bench.start(deadline_ms="1500")

    assert json.loads(bench.reply.data)["error"]["code"] == "quota_exhausted"
    assert asyncio.get_running_loop().time() - began < 0.1
    await end(bench, others)


@in_virtual_time
async def test_batch_work_waits_where_it_is(make_document):
    """It leaves the other lanes to those who are in a hurry, and waits as long as its deadline lets it."""
    bench = await bench_with(make_document)
    others = await use_up(bench, FIRST, leave_waiting=30, workload="batch")
    began = asyncio.get_running_loop().time()

    await bench.start(workload="batch")

    assert (bench.reply.status, bench.transport.lanes) == (200, [FIRST])
    assert asyncio.get_running_loop().time() - began > 1.5
    await end(bench, others)


@in_virtual_time
async def test_a_class_that_there_is_not_is_refused(make_document):
    """Rather than served as another."""
    bench = await bench_with(make_document)

    await bench.start(workload="urgent")

    error = json.loads(bench.reply.data)["error"]
    assert (bench.reply.status, error["code"], error["param"]) == (400, "invalid_request", "ballast-class")
    await end(bench)


@pytest.mark.parametrize("workload", ["interactive", "batch"])
@in_virtual_time
async def test_signed_words_are_for_people_not_for_batch_work(make_document, workload):
    """A person reads the template's words; a program comes again."""
    stack = {"answers": None, "template": {"copy": "template"}, "outage": {"copy": "outage"}}
    copy = {
        slug: {"version": 2, "digest": "c" * 64, "document": copy_document(slug)} for slug in ("template", "outage")
    }
    routing = routing_with(second=False, route={"fallback": "help"}) | {"fallbacks": {"help": stack}}
    clock = asyncio.get_running_loop().time
    bench = Bench(
        make_document(routing=routing, copy=copy), clock=clock, stream_clock=clock, quota_store=MemoryQuotaStore(clock)
    )
    others = await use_up(bench, FIRST, leave_waiting=400, workload=workload)

    await bench.start(workload=workload, deadline_ms="3000")

    expected = (200, b"template") if workload == "interactive" else (429, b"none")
    assert (bench.reply.status, bench.reply.headers[b"ballast-fallback"]) == expected
    await end(bench, others)


@in_virtual_time
async def test_one_429_keeps_the_next_requests_from_the_account(make_document):
    """The provider is asked once; who comes next goes elsewhere, and back when it said."""
    limited = UpstreamRateLimited(lane=FIRST, retry_after_seconds=20.0)
    bench = await bench_with(make_document, lanes={FIRST: [limited, FakeExchange([ANSWER], Gate())]})

    for _ in range(5):
        await bench.start()
    await asyncio.sleep(25)
    await bench.start()

    assert bench.transport.lanes == [FIRST, *[SECOND] * 5, FIRST]
    assert [event.kind for event in bench.events] == ["quota.paused"]
    await end(bench)


@in_virtual_time
async def test_what_an_attempt_did_not_use_comes_back(make_document):
    """However it ends: nothing sent, refused, answered with fewer tokens, or its caller gone."""
    unreachable = UpstreamUnreachable("nobody there", lane=FIRST)
    gate = Gate("read")
    hanging = FakeExchange([SHORT], gate)
    bench = await bench_with(
        make_document,
        second=False,
        quota={"requests": None, "tokens": 6000, "concurrency": 10},
        lanes={FIRST: [unreachable, FakeExchange([SHORT], Gate()), hanging]},
    )
    for _ in range(2):
        await bench.start(max_tokens=500)
    task = bench.start(max_tokens=500)
    await gate.reached.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    share = bench.quotas._share(bench.current.routing.lanes[FIRST])
    await asyncio.sleep(1)

    spent = share._heard.used_share * 6000

    assert (share.in_flight, share.granted) == (0, 3)
    assert sum(row["input_tokens"] + row["output_tokens"] for row in bench.rows) == pytest.approx(spent, rel=0.15)
    assert spent < 200
    await end(bench)


# --- tenants over accounts --------------------------------------------------------------------------------------------
def twins(count, accounts_per_tenant):
    accounts = {f"a{number}": ROUTING["accounts"]["main"] for number in range(count)}
    lanes = {f"openai/eu/{account}/gpt": LANE | {"account": account} for account in accounts}
    lanes["claude"] = LANE | {"provider": "anthropic", "account": "claude", "model": "c"}
    route = {"lanes": list(lanes), "deadline_ms": 1000, "accounts_per_tenant": accounts_per_tenant}
    table = ROUTING | {"accounts": ROUTING["accounts"] | accounts, "lanes": lanes, "routes": {"chat": route}}
    return RoutingTable.parse(table).routes["chat"]


def test_a_tenant_reaches_a_few_accounts_and_always_the_same():
    """Two of five, of whom most others share one at most; lanes without a twin are for everybody, and stay in place."""
    route = twins(5, 2)
    reached = {
        tenant: [lane.account for lane in lanes_of_tenant(route.lanes, tenant=tenant, accounts=2)]
        for tenant in (f"tenant-{number}" for number in range(1000))
    }

    assert {len(accounts) for accounts in reached.values()} == {3}
    assert all(accounts[-1] == "claude" for accounts in reached.values())
    together = sum(set(accounts) == set(reached["tenant-0"]) for accounts in reached.values()) / 1000
    assert together == pytest.approx(blast_radius(5, 2), abs=0.05)
    first_choices = [accounts[0] for accounts in reached.values()]
    assert all(first_choices.count(f"a{number}") == pytest.approx(200, abs=50) for number in range(5))


def test_another_account_moves_only_who_it_wins():
    """Nobody swaps one old account for another."""
    before, after = twins(4, 2), twins(5, 2)
    moved = 0
    for number in range(500):
        old = {lane.account for lane in lanes_of_tenant(before.lanes, tenant=f"t{number}", accounts=2)}
        new = {lane.account for lane in lanes_of_tenant(after.lanes, tenant=f"t{number}", accounts=2)}
        assert new - old <= {"a4"}
        moved += new != old

    assert moved / 500 == pytest.approx(2 / 5, abs=0.08)


@in_virtual_time
async def test_a_tenant_that_exhausts_its_accounts_leaves_others_theirs(make_document):
    """Its requests never reach the third account, however many there are."""
    names = [f"openai/eu/a{number}/gpt" for number in range(3)]
    routing = ROUTING | {
        "accounts": {**ROUTING["accounts"], **{f"a{number}": ROUTING["accounts"]["main"] for number in range(3)}},
        "lanes": {name: LANE | {"account": f"a{number}", "quota": "shared"} for number, name in enumerate(names)},
        "quotas": {"shared": quota_document(requests=60, max_wait_seconds=1)},
        "routes": {"chat": {"lanes": names, "deadline_ms": 5000, "accounts_per_tenant": 2}},
    }
    clock = asyncio.get_running_loop().time
    lanes = {name: [FakeExchange([ANSWER], Gate())] for name in names}
    bench = Bench(
        make_document(routing=routing),
        lanes=lanes,
        clock=clock,
        stream_clock=clock,
        quota_store=MemoryQuotaStore(clock),
    )

    await asyncio.gather(*(bench.start() for _ in range(60)))

    assert len(set(bench.transport.lanes)) == 2
    [left] = set(names) - set(bench.transport.lanes)
    grant = bench.quotas.take_nowait(bench.current.routing.lanes[left], OTHERS) or await bench.quotas.wait(
        bench.current.routing.lanes[left], OTHERS, seconds=0.1
    )
    grant.give_back()
    await end(bench)
