"""Rungs, and requests that outlive their callers: under idempotency keys, as streams that are kept, and as jobs."""

from __future__ import annotations

import asyncio
import json
import random
from uuid import UUID

import pytest

from dataplane.cursors import CursorKeys
from dataplane.errors.upstream import UpstreamInterrupted
from dataplane.idempotency import Event
from dataplane.job_tokens import JobToken, sign_token
from dataplane.jobs import Answer, judge
from dataplane.jobs import Event as JobEvent
from dataplane.journey import Inbound
from tests.dataplane.bench import ANSWER, WALL, FakeExchange, FakeReply, FedExchange, Gate
from tests.dataplane.conftest import stream_policy
from tests.dataplane.key_stores import MemoryIdempotencyStore
from tests.dataplane.key_world import KeyedWorld, Slow
from tests.dataplane.stream_logs import MemoryStreamLog
from tests.dataplane.stream_world import FINISHED, calm, done, last_of, payloads_in, say, text_in, until

from .steps_world import CHEAP, DEAR, DETAIL, QUESTION, Promises, Standing, ask_for, ladder_document

KEYS = CursorKeys([b"k" * 32])
JOB = UUID(int=7)
KEPT = {"route": {"streams": "kept"}, "routing": {"streams": {"kept": stream_policy(on_cut="end")}}}
KNOWN = {"messages": [{"role": "user", "content": QUESTION}]}


class LadderWorld(KeyedWorld):
    """A fleet of one, whose ladder stands where a test says. Time stands still unless a test lets it pass."""

    async def standing(self, rung, *answers, document=None, **options):
        """Start the process. The dear lane gives `answers` in turn, or what is fed to `source`."""
        source = FedExchange(Gate())
        options.setdefault("lanes", {DEAR: list(answers) or [source]})
        bench = Standing(
            ladder_document(self._make_document, **(document or {})),
            rung=rung,
            stream_clock=self.clock,
            log=MemoryStreamLog(self.shelf),
            keys=MemoryIdempotencyStore(self.register, gate=Gate()),
            **options,
        )
        bench.source, bench.keys = source, bench.keyed._store
        await bench.streams.start()
        await bench.keyed.start()
        self.processes.append(bench)
        return bench


@pytest.fixture
async def world(make_document, clock):
    """A fleet, and nobody who asks yet."""
    world = LadderWorld(make_document, clock)
    yield world
    await world.end_all()


def plain():
    """A whole answer."""
    return FakeExchange((ANSWER,), Gate())


def said_in(reply):
    """The member `ballast` of every chunk that a caller was sent."""
    return [json.loads(one).get("ballast") for one in payloads_in(reply).values() if one != b"[DONE]"]


# --- under a key ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rung", [1, 4, 5, 6])
async def test_answer_that_is_kept_is_given_again_on_every_rung(world, rung):
    """It is there already: it comes as it was, says the rung that it was made on, and takes no place."""
    bench = await world.standing(0, plain())
    first = await world.answered(world.ask(bench))
    bench.levels.engaged["web-chat"] = rung

    again = await world.answered(world.ask(bench))

    assert (again.status, again.is_replayed, again.reply.data) == (200, True, first.reply.data)
    assert again.headers["ballast-rung"] == "0"
    assert bench.holds == (0, 0)


async def test_words_that_answered_under_a_key_are_its_answer_from_then_on(world):
    """They are kept like any outcome, also once the rung is let go."""
    bench = await world.standing(5)
    first = await world.answered(world.ask(bench, **KNOWN))
    bench.levels.engaged["web-chat"] = 0

    again = await world.answered(world.ask(bench, **KNOWN))

    assert first.answer == "Choose “Forgot password” on the sign-in page."
    assert (again.is_replayed, again.reply.data) == (True, first.reply.data)
    assert (again.headers["ballast-rung"], again.headers["ballast-fallback"]) == ("5", "cached")
    assert (bench.transport.calls, bench.holds) == ([], (0, 0))


async def test_promise_under_a_key_is_made_once(world):
    """Who asks again is told of the same job."""
    later = Promises()
    bench = await world.standing(4, later=later)

    first, again = [await world.answered(world.ask(bench)) for _ in range(2)]

    assert (first.status, again.status, again.is_replayed) == (202, 202, True)
    assert again.reply.data == first.reply.data
    assert (len(later.taken), bench.holds) == (1, (0, 0))


@pytest.mark.parametrize(("rung", "code"), [(4, "shed"), (6, "maintenance")])
async def test_key_is_free_for_who_comes_again_once_the_rung_is_let_go(world, rung, code):
    """A refusal is nothing to be kept: nothing was executed."""
    bench = await world.standing(rung, plain())
    refused = await world.answered(world.ask(bench))
    assert (refused.error["code"], refused.error["rung"]) == (code, rung)
    bench.levels.engaged["web-chat"] = 0

    served = await world.answered(world.ask(bench))

    assert (served.status, served.is_replayed, served.headers["ballast-rung"]) == (200, False, "0")
    assert world.register.events() == [Event.CREATED, Event.RELEASED, Event.REOPENED, Event.COMPLETED]
    assert bench.holds == (0, 0)


@pytest.mark.parametrize("stream", [False, True])
async def test_duplicates_take_no_place_beside_the_one_that_is_executed(world, stream):
    """They wait for it, or read along; what is under way is one request."""
    slow = Slow("Hi")
    bench = await world.standing(1, *(() if stream else (slow,)), places={"vip": 40}, document=KEPT)
    calls = [world.ask(bench, stream=stream) for _ in range(3)]
    await until(lambda: bench.transport.calls)
    await calm()
    assert bench.holds == (1, 1)

    slow.go.set()
    bench.source.feed(say("Hi"), *FINISHED)
    await world.answered(*calls)

    assert {call.answer for call in calls} == {"Hi"}
    assert (len(bench.transport.calls), bench.holds) == (1, (0, 0))


# --- as a stream that is kept -----------------------------------------------------------------------------------------
async def test_stream_that_is_kept_holds_its_place_until_it_is_complete(world):
    """Its caller leaves, its task does not; whoever reads it later is told the rung as well."""
    bench = await world.standing(1, document=KEPT)
    first = world.ask(bench, key=None, stream=True)
    bench.source.feed(say("Hello, "))
    await until(lambda: text_in(first.reply) == "Hello, ")
    await first.leave()
    assert bench.holds == (1, 0)

    bench.source.feed(say("you"), *FINISHED)
    await world.pass_seconds(1)
    reader, reading = await bench.read(first.headers["ballast-stream-id"])
    await done(reading)

    assert (text_in(reader), last_of(reader)) == ("Hello, you", "[DONE]")
    assert [said and said["rung"] for said in said_in(reader)] == [1, None, None]
    assert (first.headers["ballast-rung"], bench.holds) == ("1", (0, 0))


async def test_stream_that_its_caller_cancels_has_left(world):
    """Its place is free as soon as its last event is written."""
    bench = await world.standing(1, places={"vip": 1}, document=KEPT)
    call = world.ask(bench, key=None, stream=True)
    bench.source.feed(say("Hello, "))
    await until(lambda: text_in(call.reply) == "Hello, ")
    assert bench.holds == (1, 1)

    await bench.streams.cancel(await bench.streams.find(call.headers["ballast-stream-id"], tenant="acme"))
    await world.answered(call)

    assert (call.error["code"], bench.holds) == ("stream_cancelled", (0, 0))


async def test_execution_that_a_stopping_process_ends_has_left(world):
    """Whoever waits is told to ask another worker."""
    bench = await world.standing(1, Slow("Hi"), places={"vip": 1})
    call = world.ask(bench)
    await until(lambda: bench.transport.calls)
    assert bench.holds == (1, 1)

    bench.keyed.interrupt()
    await world.answered(call)

    assert (call.status, call.error["code"], bench.holds) == (503, "maintenance", (0, 0))


@pytest.mark.parametrize(("rung", "status"), [(5, 200), (6, 503)])
async def test_stream_that_no_lane_answers_is_words_or_none_at_all(world, rung, status):
    """Maintenance is told before the stream opens; signed words are kept as a stream like any."""
    bench = await world.standing(rung, document=KEPT)

    call = await world.answered(world.ask(bench, key=None, stream=True))

    assert (call.status, call.headers["ballast-rung"]) == (status, str(rung))
    assert ("ballast-stream-id" in call.headers) == (status == 200)
    assert (text_in(call.reply) == DETAIL) if status == 200 else call.error["code"] == "maintenance"
    assert bench.holds == (0, 0)


async def test_stream_that_is_taken_up_unasked_says_its_rung_once(world):
    """Its caller has read the banner: what follows the cut says what goes on, and no more."""
    broken = FakeExchange([say("Hello, ")], Gate(), error=UpstreamInterrupted("gone", lane=DEAR))
    whole = FakeExchange([say("Hello, "), say("you"), *FINISHED], Gate())
    document = KEPT | {"routing": {"streams": {"kept": stream_policy(on_cut="regenerate")}}}
    bench = await world.standing(1, broken, whole, document=document)

    call = await world.answered(world.ask(bench, key=None, stream=True))

    first, second, *_ = said_in(call.reply)
    assert (text_in(call.reply), last_of(call.reply)) == ("Hello, you", "[DONE]")
    assert (first["rung"], "resumed" in second, "rung" in second) == (1, True, False)
    assert bench.holds == (0, 0)


# --- that goes on where another ended ---------------------------------------------------------------------------------
async def interrupted(world, rung):
    """A process whose ladder stands on a rung now, and a stream of it that ended half way, as it is to be taken up."""
    broken = FakeExchange([say("Hello, ")], Gate(), error=UpstreamInterrupted("gone", lane=DEAR))
    whole = [FakeExchange([say("Hello, "), say("you"), *FINISHED], Gate()) for _ in range(2)]
    lanes = {DEAR: [broken, whole[0]], CHEAP: [whole[1]]}
    bench = await world.standing(0, document=KEPT, lanes=lanes)
    first = await world.answered(world.ask(bench, key=None, stream=True))
    bench.levels.engaged["web-chat"] = rung
    view = await bench.streams.find(first.headers["ballast-stream-id"], tenant="acme")
    return bench, view, await bench.streams.claim_continuation(view)


async def go_on(bench, ended):
    """Have the process take a stream up; returns what its caller is sent."""
    reply = FakeReply(Gate())
    started = asyncio.get_running_loop().time()
    inbound = Inbound("req_9", ended.body, started, authorization="Bearer bk-acme", user=ended.user)
    await done(bench.pipeline.serve_continuation(inbound, reply, ended))
    return reply


@pytest.mark.parametrize(("rung", "lane"), [(1, DEAR), (3, CHEAP)])
async def test_stream_goes_on_as_the_rung_lets_it(world, rung, lane):
    """Its first chunk says both: what it goes on from, and on which rung."""
    bench, _, ended = await interrupted(world, rung)

    reply = await go_on(bench, ended)

    assert (text_in(reply), last_of(reply)) == ("you", "[DONE]")
    assert bench.transport.lanes == [DEAR, lane]
    first = said_in(reply)[0]
    assert (first["continues"]["prefix_characters"], first["rung"]) == (7, rung)
    assert bench.holds == (0, 0)


@pytest.mark.parametrize(("rung", "code"), [(4, "shed"), (5, "shed"), (6, "maintenance")])
async def test_nothing_goes_on_where_answers_come_later_or_not_at_all(world, rung, code):
    """It can be asked for again once the rung is let go."""
    bench, view, ended = await interrupted(world, rung)

    reply = await go_on(bench, ended)
    await bench.streams.release_continuation(ended)

    error = json.loads(reply.data)["error"]
    assert (reply.status, error["code"], error["rung"]) == (503, code, rung)
    assert (len(bench.transport.calls), bench.holds) == (1, (0, 0))
    assert (await bench.streams.claim_continuation(view)).origin.stream == view.id


# --- as a job ---------------------------------------------------------------------------------------------------------
async def run_job(bench):
    """Ask as a runner does; returns what it is sent."""
    token = sign_token(KEYS, JobToken(JOB, "acme", "k-acme", int(WALL) + 60))
    reply = FakeReply(Gate())
    body = json.dumps(ask_for()).encode()
    started = asyncio.get_running_loop().time()
    inbound = Inbound("req_8", body, started, f"Bearer {token}", idempotency_key=str(JOB))
    await done(bench.pipeline.serve_chat(inbound, reply))
    return reply


@pytest.mark.parametrize("rung", [1, 2, 3, 4])
async def test_job_is_served_in_full_as_long_as_lanes_are_asked(world, rung):
    """Whoever handed it in waits already."""
    bench = await world.standing(rung, plain(), job_keys=KEYS)

    reply = await run_job(bench)

    assert (reply.status, reply.data, reply.headers[b"ballast-rung"]) == (200, ANSWER, b"0")
    assert bench.asked[0]["messages"] == ask_for()["messages"]
    assert bench.holds == (0, 0)


@pytest.mark.parametrize("rung", [5, 6])
async def test_job_is_put_back_where_no_lane_is_asked(world, rung):
    """Its runner looks again within a minute, since people may let the rung go sooner; words are not what it was to
    bring.
    """
    bench = await world.standing(rung, job_keys=KEYS)

    reply = await run_job(bench)

    assert (reply.status, json.loads(reply.data)["error"]["code"]) == (503, "maintenance")
    headers = {name.decode(): value.decode() for name, value in reply.headers.items()}
    answer = Answer(reply.status, headers, reply.data)
    verdict = judge(answer, attempts=1, failures=0, left_seconds=3600.0, rng=random.Random(1))
    assert headers["retry-after"] == "900"
    assert (verdict.event, verdict.wait_seconds, verdict.failures) == (JobEvent.PUT_BACK, 60, 0)
    assert (bench.transport.calls, bench.holds) == ([], (0, 0))
