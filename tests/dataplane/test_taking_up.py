"""Answers that a provider breaks off, taken up by another or by the same: unseen, told, or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest

from dataplane.errors.streams import StreamNotContinuable
from dataplane.errors.upstream import UpstreamInterrupted, UpstreamRejected, UpstreamUnreachable
from dataplane.frames import Ending
from dataplane.journey import Inbound

from .bench import FakeExchange, FakeReply, FedExchange, Gate, event
from .conftest import LANE
from .stream_world import (
    FINISHED,
    FIRST,
    SECOND,
    World,
    calm,
    done,
    last_of,
    payloads_in,
    say,
    stored_in,
    text_in,
    until,
)
from .virtual_time import in_virtual_time

CUT = UpstreamInterrupted("gone", lane=FIRST)
REFUSED = UpstreamRejected("no", lane=FIRST, status=400)
ABLE = {"capabilities": [*LANE["capabilities"], "prefill"]}
USAGE = event(choices=[], usage={"prompt_tokens": 10, "completion_tokens": 50})
CALLING = event(
    choices=[{"delta": {"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": "{"}}]}}]
)
WORDS = "Hello, you there"


def cut(*pieces, error=CUT):
    """What a provider says before it breaks off."""
    return FakeExchange([*map(say, pieces)], Gate(), error=error)


def whole(*pieces, more=()):
    """A complete answer."""
    return FakeExchange([*map(say, pieces), FINISHED[0], *more, FINISHED[1]], Gate())


async def answer(
    world, lanes, *, on_cut="regenerate", document=None, deadline_ms=None, policy=None, options=None, **fields
):
    """Ask for a stream of which `lanes` say in turn what is in `lanes`; returns the process."""
    made = {"lanes": {name: {} for name in lanes}, "policy": {"on_cut": on_cut} | (policy or {})} | (document or {})
    bench = await world.process(document=made, lanes=lanes, **(options or {}))
    await bench.start(stream=True, deadline_ms=deadline_ms, **fields)
    return bench


def notes_in(reply):
    """What the chunks say of the answer, as their member `ballast`."""
    chunks = [json.loads(one) for one in payloads_in(reply).values() if one.startswith(b"{")]
    return [chunk["ballast"] for chunk in chunks if "ballast" in chunk]


async def row_of(world, bench):
    await world.pass_seconds(1)
    (row,) = bench.rows.streams
    assert row["billed_tokens"] >= row["generated_tokens"] >= row["buffered_tokens"] >= row["delivered_tokens"]
    return row


async def test_a_lane_that_can_writes_on_where_another_broke_off(world):
    """It is given the words so far; the caller sees one answer, with one id, one note and the usage of both."""
    bench = await answer(
        world,
        {FIRST: [cut("Hello, you ")], SECOND: [whole("there", "!", more=[USAGE])]},
        on_cut="continue",
        document={"lanes": {FIRST: {}, SECOND: ABLE}},
        stream_options={"include_usage": True},
        max_tokens=100,
    )

    reply = bench.reply
    assert (text_in(reply), last_of(reply), reply.ended) == ("Hello, you there!", "[DONE]", 1)
    second = json.loads(bench.transport.calls[1][0].body)
    assert second["messages"][-1] == {"role": "assistant", "content": "Hello, you"}
    assert second["max_tokens"] == 97
    [note] = notes_in(reply)
    assert (note["resumed"]["how"], note["resumed"]["lane"], note["resumed"]["prefix_characters"]) == (
        "prefill",
        SECOND,
        11,
    )
    assert note["resumed"]["prefix_sha256"] == hashlib.sha256(b"Hello, you ").hexdigest()
    chunks = [json.loads(one) for one in payloads_in(reply).values() if one.startswith(b"{")]
    assert len({chunk["id"] for chunk in chunks}) == 1
    row = await row_of(world, bench)
    assert chunks[-1]["usage"]["completion_tokens"] == row["billed_tokens"] == 3 + 50
    assert [(one["how"], one["cause"], one["partial"]) for one in row["segments"]] == [
        ("first", "", True),
        ("prefill", "upstream_interrupted", False),
    ]
    assert [(one["kind"], one["cause"]) for one in bench.rows] == [
        ("primary", ""),
        ("continue", "upstream_interrupted"),
    ]


@pytest.mark.parametrize("pieces", [[WORDS], ["Hel", "lo, you ", "the", "re"], list(WORDS)])
async def test_the_same_words_again_are_dropped(world, pieces):
    """No lane can write on, so the question is asked anew; the caller sees only what is new of the answer."""
    bench = await answer(world, {FIRST: [cut("Hello, ", "yo"), whole(*pieces)]})

    assert (text_in(bench.reply), last_of(bench.reply)) == (WORDS, "[DONE]")
    assert [note["resumed"]["how"] for note in notes_in(bench.reply)] == ["regenerated"]
    row = await row_of(world, bench)
    assert row["text_digest"] == hashlib.sha256(WORDS.encode()).hexdigest()
    first, second = row["segments"]
    assert second["buffered_tokens"] < second["generated_tokens"]
    assert first["buffered_tokens"] + second["buffered_tokens"] <= 4


async def test_what_changes_while_the_log_is_told_is_told_next(world):
    """Another lane took the stream up during the first write; whoever would have to end it knows of both."""
    first, second = FedExchange(Gate()), FedExchange(Gate())
    document = {"policy": {"on_cut": "continue"}, "lanes": {FIRST: {}, SECOND: ABLE}}
    bench = await world.process(document=document, lanes={FIRST: [first], SECOND: [second]})
    bench.log.hold()
    task = bench.start(stream=True)
    first.feed(say("Hello, "))
    await until(lambda: "append" in bench.log.asked)
    first.feed(CUT)
    second.feed(say("you "))
    await until(lambda: len(bench.transport.calls) == 2)
    await calm()

    bench.log.let_go()
    await calm()

    [kept] = world.shelf.streams.values()
    assert [one["lane"] for one in json.loads(kept.about)["segments"]] == [FIRST, SECOND]
    second.feed(say("there"), *FINISHED)
    await done(task)
    assert text_in(bench.reply) == "Hello, you there"


async def test_other_words_end_the_stream_honestly(world):
    """A new answer is no continuation of the old one; what was delivered stands, with a cursor."""
    bench = await answer(world, {FIRST: [cut("Hello, you "), whole("Good day")]})

    assert text_in(bench.reply) == "Hello, you "
    error = last_of(bench.reply)
    assert error["code"] == "upstream_interrupted"
    assert bench.streams.read_cursor(error["resume_cursor"]).after == bench.reply.position
    assert [row["outcome"] for row in bench.rows] == ["upstream_interrupted", "answer_diverged"]
    row = await row_of(world, bench)
    assert row["billed_tokens"] > row["generated_tokens"], "the answer that nobody saw is billed all the same"


@pytest.mark.parametrize(
    ("pieces", "fields"),
    [
        ([say("Hello, "), CALLING], {}),
        ([say("Hello")], {"tools": [{"type": "web_search"}]}),
        ([say("Hello")], {"logprobs": True}),
        ([say("Hello, you there")], {"max_tokens": 4}),
    ],
    ids=["calling a tool", "not repeatable", "log probabilities", "limit spent"],
)
async def test_what_cannot_be_taken_up_ends_where_it_is(world, pieces, fields):
    """No second call is made."""
    lane = {"capabilities": [*LANE["capabilities"], "logprobs"]}

    bench = await answer(
        world, {FIRST: [FakeExchange(pieces, Gate(), error=CUT)]}, document={"lanes": {FIRST: lane}}, **fields
    )

    assert len(bench.transport.calls) == 1
    assert (last_of(bench.reply)["code"], bench.reply.ended) == ("upstream_interrupted", 1)


async def test_an_error_that_is_not_the_lanes_is_not_made_again(world):
    """What the provider refuses half way it would refuse elsewhere."""
    bench = await answer(world, {FIRST: [cut("Hello", error=REFUSED)]})

    assert len(bench.transport.calls) == 1
    assert last_of(bench.reply)["code"] in ("upstream_interrupted", "invalid_request")


async def test_a_stream_is_taken_up_only_so_often(world):
    """Each cut counts; then it ends as interrupted, with everything that the caller has had."""
    sources = [cut("Hello, "), cut("Hello, you "), cut("Hello, you there"), whole("never asked for")]

    bench = await answer(world, {FIRST: sources}, policy={"continuations": 2})

    assert len(bench.transport.calls) == 3
    assert text_in(bench.reply) == WORDS
    assert last_of(bench.reply)["code"] == "upstream_interrupted"
    assert [one["how"] for one in (await row_of(world, bench))["segments"]] == ["first", "regenerated", "regenerated"]


@in_virtual_time
async def test_the_deadline_bounds_taking_up_as_well(make_document, clock):
    """However many ways are left: it is the caller's time."""
    world = World(make_document, clock)
    options = {"clock": asyncio.get_running_loop().time}
    slow = FakeExchange((), Gate("next_chunk"))

    bench = await answer(world, {FIRST: [cut("Hello"), slow]}, deadline_ms="50", options=options)

    assert (last_of(bench.reply)["code"], bench.reply.ended) == ("deadline_exceeded", 1)
    assert slow.closed
    assert [row["outcome"] for row in bench.rows] == ["upstream_interrupted", "deadline_exceeded"]
    await world.end_all()


async def test_lanes_are_tried_in_turn_until_one_takes_it_up(world):
    """Those that can write on first, then those that can only answer anew, of the same model before others."""
    third = "openai/eu/main/c"
    bench = await answer(
        world,
        {
            FIRST: [cut("Hello, "), UpstreamUnreachable("no", lane=FIRST)],
            SECOND: [UpstreamUnreachable("no", lane=SECOND)],
            third: [whole(WORDS)],
        },
        document={"lanes": {FIRST: {}, SECOND: ABLE, third: {}}},
    )

    assert (text_in(bench.reply), last_of(bench.reply)) == (WORDS, "[DONE]")
    assert bench.transport.lanes == [FIRST, SECOND, FIRST, SECOND, third]


async def test_a_lane_that_cannot_carry_the_request_is_not_asked_to_take_it_up(world):
    """It is too small for the conversation: nobody looked at it while the first lane was answering."""
    small = ABLE | {"context_tokens": 100}
    bench = await answer(
        world,
        {FIRST: [cut("Hello, "), whole(WORDS)], SECOND: [whole("never asked")]},
        document={"lanes": {FIRST: {"context_tokens": 100_000}, SECOND: small}},
        messages=[{"role": "user", "content": "word " * 500}],
    )

    assert bench.transport.lanes == [FIRST, FIRST]
    assert last_of(bench.reply) == "[DONE]"


# --- at the caller's wish ---------------------------------------------------------------------------------------------
async def interrupted(world, sources, *, on_cut="end", lanes=None, **fields):
    """A process, and a stream of it that ended half way with the words "Hello, "."""
    made = {"policy": {"on_cut": on_cut}, "lanes": lanes or {FIRST: {}}}
    bench = await world.process(document=made, lanes={FIRST: [cut("Hello, "), *sources]})
    await bench.start(stream=True, **fields)
    await world.pass_seconds(1)
    return bench, bench.reply.headers[b"ballast-stream-id"].decode()


def going_on(bench, ended):
    """Have a process take up what it has claimed; returns the reply and the task."""
    reply = FakeReply(Gate())
    started = asyncio.get_running_loop().time()
    inbound = Inbound("req_2", ended.body, started, authorization="Bearer bk-acme", user=ended.user)
    return reply, asyncio.create_task(bench.pipeline.serve_continuation(inbound, reply, ended))


async def test_the_caller_may_have_an_interrupted_stream_go_on(world):
    """In a stream of its own, which says what it goes on from; whoever asks as well gets the same one."""
    bench, stream = await interrupted(world, [whole(WORDS)])
    ended = await bench.streams.claim_continuation(await bench.streams.find(stream, tenant="acme"))
    assert (ended.origin.partial.text, ended.user) == ("Hello, ", "ada")

    reply, task = going_on(bench, ended)
    await done(task)

    assert (text_in(reply), last_of(reply)) == ("you there", "[DONE]")
    [note] = notes_in(reply)
    assert (note["continues"]["stream"], note["continues"]["after"]) == (stream, 1)
    assert (note["continues"]["how"], note["continues"]["prefix_characters"]) == ("regenerated", 7)
    other = await world.process("b")
    same = await other.streams.claim_continuation(await other.streams.find(stream, tenant="acme"))
    assert same.id == ended.continued_by == reply.headers[b"ballast-stream-id"].decode()
    await world.pass_seconds(1)
    assert [row["continues"] for row in bench.rows.streams] == ["", stream]


async def test_an_answer_that_begins_otherwise_comes_whole_as_a_new_one(world):
    """The caller asked for it, so it gets it; and is told that what it had is to be thrown away."""
    bench, stream = await interrupted(world, [whole("Good ", "day")])
    ended = await bench.streams.claim_continuation(await bench.streams.find(stream, tenant="acme"))

    reply, task = going_on(bench, ended)
    await done(task)

    assert text_in(reply) == "Good day"
    assert notes_in(reply)[0]["continues"]["prefix_characters"] == 0


async def test_another_way_is_tried_when_no_lane_can_write_on(world):
    """An open breaker of the lane that could is no reason to refuse: the question can be asked anew."""
    lanes = {FIRST: {}, SECOND: ABLE}
    bench, stream = await interrupted(world, [whole(WORDS)], lanes=lanes)
    bench.exchange_again(SECOND, FakeExchange([b"{}"], Gate(), status=503))
    ended = await bench.streams.claim_continuation(await bench.streams.find(stream, tenant="acme"))

    reply, task = going_on(bench, ended)
    await done(task)

    assert (text_in(reply), bench.transport.lanes) == ("you there", [FIRST, SECOND, FIRST])


async def test_who_fails_to_take_a_stream_up_lets_the_next_try(world):
    """A failure before the first word is told as it is, and holds nobody off."""
    bench, stream = await interrupted(world, [UpstreamUnreachable("no", lane=FIRST), whole(WORDS)])
    view = await bench.streams.find(stream, tenant="acme")
    first = await bench.streams.claim_continuation(view)
    with pytest.raises(StreamNotContinuable, match="is about to"):
        await bench.streams.claim_continuation(view)
    reply, task = going_on(bench, first)
    await done(task)
    assert reply.status == 502

    await bench.streams.release_continuation(first)
    second = await bench.streams.claim_continuation(view)
    reply, task = going_on(bench, second)
    await done(task)
    await bench.streams.release_continuation(second)

    assert text_in(reply) == "you there"
    assert (await bench.streams.claim_continuation(view)).id == second.continued_by


async def test_what_is_under_way_complete_or_too_long_is_not_taken_up(world):
    """Each for its reason."""
    bench = await world.process()
    task, stream = await world.begin(bench, "Hello")
    view = await bench.streams.find(stream, tenant="acme")
    with pytest.raises(StreamNotContinuable, match="under way"):
        await bench.streams.claim_continuation(view)
    bench.source.feed(*FINISHED)
    await done(task)
    with pytest.raises(StreamNotContinuable, match="complete"):
        await bench.streams.claim_continuation(view)

    long = [{"role": "user", "content": "x" * 300_000}]
    bench, stream = await interrupted(world, [], messages=long)
    with pytest.raises(StreamNotContinuable, match="too long"):
        await bench.streams.claim_continuation(await bench.streams.find(stream, tenant="acme"))
    assert stored_in(world, stream)[1] is Ending.INTERRUPTED
