"""Evals in the pipeline: asked by the very code that serves customers, and counted among nothing that customers do."""

from __future__ import annotations

import asyncio
import json

import pytest

from dataplane.access import OURSELVES, ApiKey
from dataplane.breaker import State
from dataplane.errors.answers import RepairFailed
from dataplane.errors.upstream import UpstreamUnreachable
from dataplane.journey import Admission, Inbound, Journey
from dataplane.messages import ChatRequest
from dataplane.open_answers import OpenAnswers

from .bench import ANSWER, BODY, WALL, Bench, FakeExchange, FakeReply, Gate
from .conftest import CANARY, LANE, ROUTING, US_LANE, VERSION, breaker_policy
from .eval_world import sandbox_of, token_for
from .quota_world import MemoryQuotaStore, quota_document
from .test_failover import FIRST, QUESTION, SECOND, ask, document_with
from .test_quota_on_the_way import bench_with, end, use_up
from .test_validating import CARD, CARDS, EU, JUDGE, JUDGED, policy
from .test_validating import answer as chat_answer
from .test_validating import document_with as validated_document
from .virtual_time import in_virtual_time

NEW = "openai/eu-west/main/gpt-5"
US = "anthropic/us-east/claude/claude"
UNREACHABLE = UpstreamUnreachable("nobody there", lane=EU)


@pytest.fixture
def token(signing_key):
    """Makes tokens of this session's key."""
    return lambda **claims: token_for(signing_key, now=WALL, **claims)


@pytest.fixture
def life(make_document, trusted):
    """Makes benches that let evals in."""
    return lambda document=None, **options: Bench(document or make_document(), trusted=trusted, **options)


def sandboxed(make_document, key, *, order=(NEW, EU), lanes=None):
    """A sandbox with lanes of its own, whose route `chat` has them in this order."""
    lanes = {NEW: LANE | {"model": "gpt-5", "upstream_model": "gpt-5"}} if lanes is None else lanes
    routes = {"chat": {"lanes": list(order), "deadline_ms": 30_000}}
    table = ROUTING | {"lanes": ROUTING["lanes"] | lanes, "routes": routes}
    return sandbox_of(make_document(routing=table), key)


def error(life):
    return json.loads(life.reply.data)["error"]


# --- what is recorded -------------------------------------------------------------------------------------------------
async def test_eval_is_billed_to_ourselves_and_counted_nowhere_else(life, token):
    """One row of a kind of its own under the run; no rollup, no sample, and an operation of its own in the metrics."""
    bench = life()

    await bench.start(key=token())

    assert (bench.reply.status, bench.reply.data) == (200, ANSWER)
    (row,) = bench.rows
    assert (row["kind"], row["tenant"], row["key_id"], row["outcome"]) == ("eval", "ballast", "run:run-7", "ok")
    assert (row["canary"], row["cohort"], row["attempt"]) == ("", "none", 1)
    assert bench.aggregation.drain(WALL) == []
    assert (bench.rows.samples, bench.rows.streams) == ([], [])
    metrics = bench.metrics.render().decode()
    assert 'ballast_gateway_requests_total{operation="eval",outcome="ok"} 1.0' in metrics
    assert 'operation="chat"' not in metrics


async def test_answer_tells_an_eval_what_it_cost_and_took(life, token):
    """At the lane's prices, in millionths of a dollar, beside the headers that everybody gets."""
    bench = life()

    await bench.start(key=token())

    headers = bench.reply.headers
    assert headers[b"ballast-cost-micros"] == b"7500000"
    assert float(headers[b"ballast-latency-ms"]) >= 0.0
    assert headers[b"ballast-lane"] == EU.encode()


async def test_customers_are_not_told_what_their_answer_cost(life):
    """Those headers are for evals alone."""
    bench = life()

    await bench.start()

    assert not {b"ballast-cost-micros", b"ballast-latency-ms"} & bench.reply.headers.keys()


async def test_every_attempt_of_an_eval_is_an_evals(life, token, make_document):
    """The retry and the fallback too; which it was, the cause and the number of the attempt say."""
    failing = FakeExchange((b"{}",), Gate(), status=500)
    document = document_with(make_document, retry={"max_attempts": 3, "base_seconds": 0.001, "cap_seconds": 0.001})
    bench = life(document, lanes={FIRST: [failing, failing], SECOND: [FakeExchange((ANSWER,), Gate())]})

    await bench.start(key=token(residency=["eu"]))

    assert bench.reply.status == 200
    told = [(row["kind"], row["lane"], row["attempt"], row["cause"]) for row in bench.rows]
    assert told == [
        ("eval", FIRST, 1, ""),
        ("eval", FIRST, 2, "upstream_unavailable"),
        ("eval", SECOND, 3, "upstream_unavailable"),
    ]
    assert bench.reply.headers[b"ballast-attempts"] == b"3"


async def test_judges_of_an_eval_are_an_evals_and_on_its_bill(life, token, make_document):
    """What the answer's validators ask costs what it costs, and the lane that is named is the one that answered."""
    verdict = json.dumps({"supported": True, "why": "it is written there"})
    lanes = {name: [FakeExchange((chat_answer(text),), Gate())] for name, text in ((EU, "Ten days."), (JUDGE, verdict))}
    bench = life(validated_document(make_document, policy(JUDGED)), lanes=lanes)

    await bench.start(key=token())

    assert bench.reply.status == 200
    assert [(row["kind"], row["lane"]) for row in bench.rows] == [("eval", EU), ("eval", JUDGE)]
    cost = sum(row["cost_micros"] for row in bench.rows)
    assert int(bench.reply.headers[b"ballast-cost-micros"]) == cost == 150
    assert bench.reply.headers[b"ballast-lane"] == EU.encode()
    assert bench.aggregation.drain(WALL) == []


async def test_retries_of_evals_are_not_taken_from_customers(life, token, make_document):
    """A run that fails again and again leaves the lane's budget to the next customer."""
    failing = FakeExchange((b"{}",), Gate(), status=500)
    once = {"max_attempts": 2, "base_seconds": 0.001, "cap_seconds": 0.001, "budget_share": 0.01}
    only = {"lanes": [FIRST], "fallback": None}
    document = document_with(make_document, route=only, retry=once, minimum_attempts=1000)
    bench = life(document, lanes={FIRST: [failing]})
    for _ in range(40):
        await bench.start(key=token())
    assert bench.reply.headers[b"ballast-attempts"] == b"1"

    await bench.start()

    assert bench.reply.headers[b"ballast-attempts"] == b"2"


# --- what it is given -------------------------------------------------------------------------------------------------
@in_virtual_time
async def test_eval_is_batch_work_whatever_class_it_asks_for(make_document, trusted, token):
    """It waits behind other evals of that class, and leaves other lanes to those who are in a hurry."""
    bench = await bench_with(make_document, trusted=trusted)
    others = await use_up(bench, FIRST, leave_waiting=30, workload="batch", tenant="ballast")
    began = asyncio.get_running_loop().time()

    await bench.start(key=token(), workload="interactive")

    assert (bench.reply.status, bench.transport.lanes) == (200, [FIRST])
    assert asyncio.get_running_loop().time() - began > 1.5
    await end(bench, others)


async def test_eval_is_in_no_canary_and_may_ask_for_any_version(life, token, make_document):
    """Without a version it gets the live one; with one, any that the release carries, pinnable or not."""
    everybody = CANARY | {"reach": [CANARY["reach"][0] | {"weight": 10_000}]}
    prompt = {"id": "support-answer", "variables": {"company": "Acme", "question": "Why?"}}
    document = make_document(canaries={"support-answer-2": everybody})
    asked = []
    for key, version in (("bk-acme", None), ("bk-acme", 2), (token(), None), (token(), 2), (token(), 3)):
        bench = life(document)
        await bench.start(key=key, prompt=prompt | ({} if version is None else {"version": version}))
        headers = bench.reply.headers
        asked.append((bench.reply.status, headers.get(b"ballast-prompt"), headers.get(b"ballast-cohort")))

    assert asked == [
        (200, b"support-answer@2", b"canary"),
        (404, None, None),
        (200, b"support-answer@1", b"none"),
        (200, b"support-answer@2", b"none"),
        (404, None, None),
    ]


@pytest.mark.parametrize("question", [QUESTION, "Something nobody has written down"])
async def test_eval_is_told_the_error_where_customers_get_signed_words(life, token, make_document, question):
    """Neither a known answer, nor a template, nor a notice: it wants to know what the lanes do."""
    bench = life(document_with(make_document), failure=UNREACHABLE)
    await bench.start(messages=ask(question))
    assert bench.reply.status == 200

    await bench.start(key=token(residency=["eu"]), messages=ask(question))

    assert (bench.reply.status, error(bench)["code"]) == (502, "upstream_unreachable")
    assert bench.reply.headers[b"ballast-fallback"] != b"outage"
    assert bench.transport.lanes[-2:] == [FIRST, SECOND]


async def test_eval_is_told_why_an_answer_is_withheld(life, token, make_document):
    """The rules, where customers read what was signed for them."""
    document = validated_document(make_document, policy(CARDS, escalation="withheld"))
    bench = life(document, lanes={EU: [FakeExchange((chat_answer(CARD),), Gate())]})

    await bench.start(key=token())

    assert (bench.reply.status, error(bench)["code"]) == (502, "validation_failed")
    assert [rule["rule"] for rule in error(bench)["rules"]] == ["no-cards"]


async def test_lane_that_is_held_back_is_not_tried_for_an_eval(life, token, make_document):
    """A customer of a route with nothing below it would rather try than not; an eval waits for better times."""
    bench = life(document_with(make_document, fallback=False))
    bench.hold_open(FIRST, SECOND, seconds=60)

    await bench.start(key=token(residency=["eu"]))

    assert (bench.reply.status, error(bench)["code"], bench.transport.lanes) == (503, "circuit_open", [])


async def test_nobody_is_to_complete_what_an_eval_could_not_read():
    """An answer that no rung of the repair ladder mends is kept for customers alone."""
    journey = Journey(Inbound("req_1", b"", 0.0))
    journey.tenant = OURSELVES
    journey.admission = Admission(journey.inbound, None, ApiKey("run:7", OURSELVES), None)
    failure = RepairFailed(at="text", mode="prose", why="no JSON", missing=(), rungs=(), stopped_by="", best=None)
    untouched = object()  # whatever is asked of it fails

    await OpenAnswers(untouched, wall=lambda: WALL).keep(
        journey, ChatRequest(route="chat", messages=[], parameters={}), None, failure, seconds=60
    )

    assert failure.repair is None


# --- where its bytes go -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", [(US, EU), (EU, US)])
async def test_bytes_of_an_eval_never_leave_its_residency(life, token, make_document, signing_key, order):
    """Whatever its sandbox has first: a European data set is not sent to an American lane, not even when all fail."""
    envelope = sandboxed(make_document, signing_key, order=order, lanes={US: US_LANE})
    bench = life(failure=UNREACHABLE)

    await bench.start(key=token(residency=["eu"], sandbox=envelope), ballast_sandbox=envelope.to_mapping())

    assert (bench.reply.status, bench.transport.lanes) == (502, [EU])


async def test_judges_of_an_eval_stay_within_its_residency(life, token, make_document):
    """A judge beyond the pin abstains, and is sent nothing."""
    document = validated_document(make_document, policy(JUDGED))
    document["sections"]["routing"]["lanes"][JUDGE]["residency"] = "us"
    bench = life(document, lanes={EU: [FakeExchange((chat_answer("Ten days."),), Gate())]})

    await bench.start(key=token(residency=["eu"]))

    assert (bench.reply.status, bench.transport.lanes) == (502, [EU])


async def test_route_without_a_lane_in_the_residency_is_no_route(life, token, make_document, signing_key):
    """The eval hears which lane was left out and why."""
    envelope = sandboxed(make_document, signing_key, order=(US,), lanes={US: US_LANE})
    bench = life()

    await bench.start(key=token(residency=["eu"], sandbox=envelope), ballast_sandbox=envelope.to_mapping())

    assert (bench.reply.status, error(bench)["code"], bench.transport.lanes) == (503, "no_eligible_lane", [])
    assert "residency 'us' is outside the pin eu" in error(bench)["message"]


# --- sandboxes --------------------------------------------------------------------------------------------------------
async def test_sandbox_serves_the_request_that_brings_it_and_no_other(life, token, make_document, signing_key):
    """A lane that is in no live release is asked; whoever comes after it without it is served as ever."""
    envelope = sandboxed(make_document, signing_key)
    bench = life()

    await bench.start(key=token(sandbox=envelope), ballast_sandbox=envelope.to_mapping())
    sent = json.loads(bench.transport.calls[0][0].body)
    served = (bench.reply.status, bench.reply.headers[b"ballast-lane"], bench.reply.headers[b"ballast-release"])
    for key in ("bk-acme", token()):
        bench.exchange_again(EU, FakeExchange((ANSWER,), Gate()))
        await bench.start(key=key)

    assert served == (200, NEW.encode(), b"0")
    assert sent["model"] == "gpt-5"
    assert "ballast_sandbox" not in sent
    assert bench.transport.lanes == [NEW, EU, EU]
    assert bench.reply.headers[b"ballast-release"] == b"1"


async def test_sandbox_may_carry_a_version_that_was_never_live(life, token, make_document, signing_key):
    """The words that are tried are those of its prompt."""
    third = VERSION | {"messages": [{"role": "user", "content": "In one word: {{question}}"}]}
    prompts = make_document()["sections"]["prompts"]
    prompts["support-answer"]["versions"]["3"] = third
    envelope = sandbox_of(make_document(prompts=prompts, canaries={}), signing_key)
    bench = life()

    await bench.start(
        key=token(sandbox=envelope),
        prompt={"id": "support-answer", "version": 3, "variables": {"company": "Acme", "question": "Why?"}},
        messages=[],
        ballast_sandbox=envelope.to_mapping(),
    )

    assert bench.reply.headers[b"ballast-prompt"] == b"support-answer@3"
    assert json.loads(bench.transport.calls[0][0].body)["messages"][0]["content"] == "In one word: Why?"


@pytest.mark.parametrize("path", ["chat", "embeddings"])
async def test_sandbox_without_a_token_is_refused(life, make_document, signing_key, path):
    """A customer's key opens none, on any path."""
    envelope = sandboxed(make_document, signing_key)
    bench = life()
    body = BODY | {"input": "ok", "ballast_sandbox": envelope.to_mapping()}
    inbound = Inbound("req_1", json.dumps(body).encode(), 0.0, authorization="Bearer bk-acme")
    serve = bench.pipeline.serve_chat if path == "chat" else bench.pipeline.serve_embeddings

    await serve(inbound, bench.reply)

    assert (bench.reply.status, error(bench)["code"], error(bench)["param"]) == (
        400,
        "invalid_request",
        "ballast_sandbox",
    )


@pytest.mark.parametrize("is_known", [True, False])
async def test_token_that_is_no_good_is_unauthorized(make_document, trusted, signing_key, is_known):
    """Whether it has expired, or the gateway lets no evals in: 401, and the reason."""
    bench = Bench(make_document(), trusted=trusted if is_known else None)

    await bench.start(key=token_for(signing_key, now=WALL - 3600))

    assert (bench.reply.status, error(bench)["code"]) == (401, "unauthorized")
    told = "expired 3000 s ago" if is_known else "where evals are let in"
    assert told in error(bench)["message"]


async def test_eval_that_leaves_while_its_sandbox_is_read_is_cancelled(life, token, make_document, signing_key):
    """The cancellation passes on, nothing was sent, and it is counted once."""
    envelope = sandboxed(make_document, signing_key)
    bench = life()
    task = bench.start(key=token(sandbox=envelope), ballast_sandbox=envelope.to_mapping())
    await asyncio.sleep(0)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (bench.rows, bench.transport.calls, bench.aggregation.drain(WALL)) == ([], [], [])
    assert 'outcome="cancelled"} 1.0' in bench.metrics.render().decode()


# --- what only a sandbox knows leaves no trace ------------------------------------------------------------------------
def guarded(routing):
    """The routing table with a breaker that opens at the second failure, and a quota, for all of its lanes."""
    lanes = {name: lane | {"breaker": "b", "quota": "q"} for name, lane in routing["lanes"].items()}
    policies = {"breakers": {"b": breaker_policy(minimum_attempts=2)}, "quotas": {"q": quota_document(requests=6000)}}
    return routing | {"lanes": lanes} | policies


@pytest.fixture
def watched(life, make_document):
    """Makes benches whose lanes have breakers and quotas."""
    return lambda **options: life(
        make_document(routing=guarded(ROUTING)), quota_store=MemoryQuotaStore(lambda: 0.0), **options
    )


def standing(bench):
    """What heartbeats and metrics tell of a process, but for what is counted of requests."""
    metrics = [line for line in bench.metrics.render().decode().splitlines() if "gateway_request" not in line]
    return bench.breakers.states(), bench.quotas.states(), [share.name for share in bench.quotas.shares()], metrics


@pytest.mark.parametrize(
    ("lanes", "accounts"),
    [
        pytest.param({NEW: LANE | {"model": "gpt-5"}}, {}, id="a new lane"),
        pytest.param(
            {NEW: LANE | {"model": "gpt-5", "account": "new"}},
            {"new": ROUTING["accounts"]["main"]},
            id="a new lane and account",
        ),
        pytest.param({EU: LANE | {"upstream_model": "gpt-5"}}, {}, id="a lane of another model"),
        pytest.param({}, {"main": ROUTING["accounts"]["main"] | {"secret": "env:NEW"}}, id="an account of another key"),
    ],
)
@pytest.mark.parametrize("status", [500, 429, 200])
async def test_lanes_of_a_sandbox_leave_the_live_ones_as_they_are(
    watched, token, make_document, signing_key, lanes, accounts, status
):
    """However they fail: no breaker opens, no account rests, no lane appears, nothing is reported."""
    table = ROUTING | {"lanes": ROUTING["lanes"] | lanes, "accounts": ROUTING["accounts"] | accounts}
    first = next(iter(lanes), EU)
    table |= {"routes": {"chat": {"lanes": [first], "deadline_ms": 30_000}}}
    envelope = sandbox_of(make_document(routing=guarded(table)), signing_key)
    bench = watched(lanes={first: [FakeExchange((ANSWER,), Gate(), status=status)]})
    before = standing(bench)

    for _ in range(4):
        await bench.start(key=token(sandbox=envelope), ballast_sandbox=envelope.to_mapping(), top_k=3)
        assert bench.reply.status == {500: 503}.get(status, status)

    assert bench.transport.lanes == [first] * 4
    breakers, quotas, pools, metrics = standing(bench)
    assert (breakers, pools, metrics) == (before[0], before[2], before[3])
    assert [one["paused_seconds"] for one in quotas] == [one["paused_seconds"] for one in before[1]]
    assert bench.events == []
    await bench.quotas.stop()


async def test_lane_that_customers_use_shares_its_breaker_with_evals(watched, token, make_document, signing_key):
    """It is the same upstream: what fails for an eval fails for them."""
    table = ROUTING | {"routes": {"chat": {"lanes": [EU], "deadline_ms": 30_000}}}
    envelope = sandbox_of(make_document(routing=table), signing_key)
    bench = watched(lanes={EU: [FakeExchange((b"{}",), Gate(), status=500)]})

    for _ in range(3):
        await bench.start(key=token(sandbox=envelope), ballast_sandbox=envelope.to_mapping())

    assert bench.breakers.board.breakers()[EU].state is State.OPEN
    assert (bench.reply.status, error(bench)["code"]) == (503, "circuit_open")
    assert bench.transport.lanes == [EU, EU]
    await bench.quotas.stop()


# --- embeddings -------------------------------------------------------------------------------------------------------
async def test_embeddings_are_made_for_evals_too(life, token, make_document, signing_key):
    """Also on a lane that only the sandbox has, within the residency, at its cost."""
    lane = LANE | {"model": "e", "capabilities": ["embeddings"]}
    table = ROUTING | {"lanes": {"embed": lane}, "routes": {"embed": {"lanes": ["embed"], "deadline_ms": 5000}}}
    envelope = sandbox_of(make_document(routing=table, prompts={}, canaries={}), signing_key)
    vectors = {"data": [{"embedding": [0.5, 0.5], "index": 0}], "model": "e", "usage": {"prompt_tokens": 400_000}}
    bench = life(chunks=(json.dumps(vectors).encode(),))
    body = {"model": "embed", "input": "ok", "ballast_sandbox": envelope.to_mapping()}
    shown = f"Bearer {token(residency=['eu'], sandbox=envelope)}"
    bench.reply = FakeReply(bench.gate)

    await bench.pipeline.serve_embeddings(
        Inbound("req_1", json.dumps(body).encode(), asyncio.get_running_loop().time(), authorization=shown), bench.reply
    )

    assert bench.reply.status == 200
    assert bench.reply.headers[b"ballast-cost-micros"] == b"1000000"
    assert [(row["kind"], row["lane"], row["key_id"]) for row in bench.rows] == [("eval", "embed", "run:run-7")]
    assert bench.aggregation.drain(WALL) == []
