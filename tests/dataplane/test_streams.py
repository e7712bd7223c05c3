"""Streams and those who read them: what a caller gets, what goes on when it leaves, and what the ledger is told."""

from __future__ import annotations

import asyncio
import json

import pytest

from dataplane.errors.streams import StreamNotFound
from dataplane.errors.upstream import UpstreamInterrupted
from dataplane.frames import digest_frames

from .bench import STREAM, WALL, Bench, FakeExchange, FakeReply, Gate, event
from .conftest import repair_policy
from .stream_world import (
    FINISHED,
    FIRST,
    calm,
    document_with,
    done,
    last_of,
    payloads_in,
    say,
    stored_in,
    text_in,
    until,
)

NAMES = {b"ballast-stream-id", b"ballast-resume-cursor"}


async def test_the_first_reader_gets_what_it_would_get_without_a_policy(world, make_document):
    """Byte for byte, but for two headers that name the stream; and the log has the same."""
    kept = await world.process(lanes={FIRST: [FakeExchange(STREAM, Gate())]})
    plain = Bench(document_with(make_document, route={"streams": None}), chunks=STREAM)
    for bench in (kept, plain):
        await bench.start(stream=True, stream_options={"include_usage": True})

    assert (kept.reply.status, kept.reply.data) == (200, plain.reply.data)
    assert {name: value for name, value in kept.reply.headers.items() if name not in NAMES} == plain.reply.headers
    assert kept.reply.headers.keys() >= NAMES
    frames, ending = stored_in(world, kept.reply.headers[b"ballast-stream-id"].decode())
    assert (dict(enumerate(frames, 1)), ending) == (payloads_in(kept.reply), "completed")
    assert [row["outcome"] for row in kept.rows] == [row["outcome"] for row in plain.rows] == ["ok"]
    assert kept.rollup() == plain.rollup()


async def test_an_answer_that_is_held_back_whole_is_checked_whole(world):
    """Whether it meets its schema is told of all of it, though none of it was in the stream before its end."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    asked = {"type": "json_schema", "json_schema": {"name": "trip", "schema": schema}}
    document = {
        "route": {"repair": "json"},
        "repairs": {"json": repair_policy(streams="whole", ask_again=False)},
        "lanes": {FIRST: {"capabilities": ["chat", "stream", "json_schema"]}},
    }
    pieces = [event(choices=[{"index": 0, "delta": {"content": piece}}]) for piece in ('{"city"', ': "Turin"}')]
    answer = [*pieces, event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]), b"data: [DONE]\n\n"]
    kept = await world.process(document=document, lanes={FIRST: [FakeExchange(answer, Gate())]})

    await kept.start(stream=True, response_format=asked)

    (rollup,) = kept.aggregation.drain(WALL)
    assert (rollup["schema_checked"], rollup["schema_passed"]) == (1, 1)


@pytest.mark.parametrize(("answer", "status"), [({"status": 503}, 503), ({"status": 400}, 400)])
async def test_an_error_before_the_first_token_comes_as_a_whole_response(world, make_document, answer, status):
    """There is no stream then: nothing is kept, and the caller sees what it would see without a policy."""
    kept = await world.process(lanes={FIRST: [FakeExchange([b"{}"], Gate(), **answer)]})
    plain = Bench(document_with(make_document, route={"streams": None}), chunks=[b"{}"], **answer)
    for bench in (kept, plain):
        await bench.start(stream=True)
    await world.pass_seconds(1)

    assert (kept.reply.status, kept.reply.data, kept.reply.headers) == (status, plain.reply.data, plain.reply.headers)
    assert (world.shelf.streams, kept.rows.streams, kept.streams.generating) == ({}, [], 0)
    assert kept.rollup() == plain.rollup()


async def test_signed_copy_is_a_stream_like_any_other(world, make_document):
    """No lane gave it, so it has no segments and costs nothing; it is kept, and told to the ledger."""
    document = {"route": {"fallback": "help"}}
    kept = await world.process(document=document, lanes={FIRST: [FakeExchange([b"{}"], Gate(), status=503)]})
    plain = Bench(document_with(make_document, route={"streams": None, "fallback": "help"}), status=503, chunks=[b"{}"])
    for bench in (kept, plain):
        await done(bench.start(stream=True))
    await world.pass_seconds(1)

    assert (kept.reply.status, kept.reply.data) == (200, plain.reply.data)
    frames, ending = stored_in(world, kept.reply.headers[b"ballast-stream-id"].decode())
    assert (dict(enumerate(frames, 1)), ending) == (payloads_in(kept.reply), "completed")
    (row,) = kept.rows.streams
    assert (row["outcome"], row["segments"], row["billed_tokens"]) == ("completed", [], 0)
    assert (row["delivered"], row["frames"]) == (len(frames), len(frames))


async def test_generation_outlives_its_caller(world):
    """The caller leaves, the answer goes on; somebody else reads all of it, at another process."""
    one, other = await world.process("a"), await world.process("b")
    task, stream = await world.begin(one, "Hello, ")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await done(task)
    reply, reading = await other.read(stream)

    one.source.feed(say("you there"), *FINISHED)
    await done(reading)
    await world.pass_seconds(2, other, one)

    assert (text_in(reply), last_of(reply), reply.ended) == ("Hello, you there", "[DONE]", 1)
    (row,) = one.rows.streams
    assert (row["stream_id"], row["outcome"], row["frames"]) == (stream, "completed", reply.position)
    assert row["digest"] == digest_frames(stored_in(world, stream)[0])
    assert (row["delivered"], row["delivered_tokens"]) == (reply.position, row["billed_tokens"])
    assert [(usage["outcome"], usage["kind"]) for usage in one.rows] == [("ok", "primary")]
    assert one.rollup() == {"requests": 1, "errors": 0, "rejected": 0, "cancelled": 0}


async def test_who_leaves_before_the_stream_has_a_name_ends_it(world):
    """Nobody could ever come back for it, so nobody pays for it: the upstream is closed at once."""
    bench = await world.process()
    task = bench.start(stream=True)
    await until(lambda: bench.transport.calls)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await done(task)
    await calm()
    await world.pass_seconds(1)

    assert bench.source.closed
    assert [row["outcome"] for row in bench.rows] == ["cancelled"]
    assert (bench.rows.streams, world.shelf.streams) == ([], {})


async def test_a_name_is_given_out_once_the_log_knows_it(world):
    """Whoever is told the name may ask another process for it the next moment."""
    bench = await world.process()
    bench.log.hold()
    bench.start(stream=True)
    bench.source.feed(say("Hello"))
    await until(lambda: "append" in bench.log.asked)
    await calm()
    assert bench.reply.status is None

    bench.log.let_go()
    await until(lambda: bench.reply.status == 200)

    assert bench.reply.headers[b"ballast-stream-id"].decode() in world.shelf.streams


@pytest.mark.parametrize("place", ["head", "name", "open_stream", "send_events", "more"])
async def test_a_caller_may_leave_at_every_wait(world, place):
    """Nobody is left as a reader, the cancellation is passed on, and the stream goes on if the caller knew its name."""
    gate = Gate(place if place in ("open_stream", "send_events") else None)
    bench = await world.process(gate=gate)
    if place == "name":
        bench.log.hold()
    task = bench.start(stream=True)
    await calm()
    if place != "head":
        bench.source.feed(say("Hello"))
        await (gate.reached.wait() if gate.place else calm())
    (production,) = bench.streams._productions.values()
    assert production.readers == 1

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await done(task)

    bench.log.let_go()
    await calm()
    assert production.readers == 0
    assert (production.stopped_by is not None) == (place in ("head", "name"))
    assert bench.source.closed == (place in ("head", "name"))


async def test_a_caller_who_takes_nothing_is_let_go(world):
    """Its connection is dropped after a while; the stream goes on, and is kept for whoever comes back."""
    bench = await world.process(gate=Gate("send_events"), reader_seconds=0.01)
    task = bench.start(stream=True)
    bench.source.feed(say("Hello"))

    await done(task)

    (production,) = bench.streams._productions.values()
    assert (production.readers, production.delivered, bench.reply.ended) == (0, 0, 0)
    bench.source.feed(*FINISHED)
    await calm()
    await world.pass_seconds(1)
    assert [(row["outcome"], row["delivered"]) for row in bench.rows.streams] == [("completed", 0)]


# --- the end ----------------------------------------------------------------------------------------------------------
async def test_what_nobody_reads_is_cancelled_after_a_while(world):
    """With exactly one terminal event that says so; the provider is hung up on, and the ledger knows why."""
    bench = await world.process(document={"policy": {"on_cut": "end", "abandon_seconds": 5}})
    task, stream = await world.begin(bench, "Hello")
    task.cancel()
    await calm()
    await world.pass_seconds(5)
    assert not bench.source.closed

    await world.pass_seconds(1)
    await calm()
    await world.pass_seconds(1)

    frames, ending = stored_in(world, stream)
    errors = [json.loads(frame)["error"] for frame in frames if b'"error"' in frame]
    assert (ending, [error["code"] for error in errors]) == ("cancelled", ["stream_cancelled"])
    assert "5 s" in errors[0]["message"]
    assert bench.source.closed
    (row,) = bench.rows.streams
    assert (row["outcome"], row["code"], row["delivered"]) == ("cancelled", "stream_cancelled", 1)
    assert [usage["outcome"] for usage in bench.rows] == ["cancelled"]


async def test_a_reader_elsewhere_is_a_reader(world):
    """It keeps the stream alive, and is missed when it leaves."""
    policy = {"policy": {"on_cut": "end", "abandon_seconds": 5}}
    one, other = await world.process("a", document=policy), await world.process("b")
    task, stream = await world.begin(one, "Hello")
    task.cancel()
    _, reading = await other.read(stream)
    await world.pass_seconds(20)
    assert one.streams.generating == 1

    reading.cancel()
    await world.pass_seconds(12)
    await calm()

    assert stored_in(world, stream)[1] == "cancelled"


async def test_anybody_may_cancel_a_stream_at_any_process(world):
    """The first to ask ends it; of one that is over there is nothing to cancel."""
    one, other = await world.process("a"), await world.process("b")
    first, here = await world.begin(one, "Hello")
    assert await one.streams.cancel(await one.streams.find(here, tenant="acme"))
    await done(first)
    assert (last_of(one.reply)["code"], one.reply.ended) == ("stream_cancelled", 1)
    assert not await one.streams.cancel(await one.streams.find(here, tenant="acme"))

    second, there = await world.begin(one, "Hello again")
    assert await other.streams.cancel(await other.streams.find(there, tenant="acme"))
    await world.pass_seconds(1)
    await done(second)

    assert last_of(one.reply)["code"] == "stream_cancelled"
    assert not await other.streams.cancel(await other.streams.find(there, tenant="acme"))


async def test_a_process_that_stops_ends_its_streams_with_a_cursor(world):
    """Interrupted, for a reason that is no fault of the answer's; who shows the cursor gets to the same place."""
    one, other = await world.process("a"), await world.process("b")
    task, stream = await world.begin(one, "Hello")

    one.streams.interrupt()
    await done(task)

    error = last_of(one.reply)
    assert (error["code"], error["reason"]) == ("upstream_interrupted", "maintenance")
    cursor = other.streams.read_cursor(error["resume_cursor"])
    assert (cursor.stream, cursor.tenant, cursor.after) == (stream, "acme", one.reply.position)
    await one.streams.stop()
    assert [row["outcome"] for row in one.rows.streams] == ["interrupted"]
    reply, reading = await other.read(stream)
    await done(reading)
    assert payloads_in(reply) == payloads_in(one.reply)


async def test_a_stream_that_is_too_long_ends(world):
    """One answer cannot take all of a process' memory."""
    bench = await world.process()
    task = bench.start(stream=True)
    megabyte = "x" * (1 << 20)
    bench.source.feed(*[say(megabyte)] * 40)

    await done(task)

    assert (last_of(bench.reply)["code"], bench.reply.ended) == ("stream_too_long", 1)
    assert 32 << 20 < len(bench.reply.data) < 36 << 20
    assert bench.source.closed
    assert [row["outcome"] for row in bench.rows] == ["stream_too_long"]


async def test_a_cut_stream_ends_as_interrupted_with_a_cursor(world):
    """What was delivered stays delivered; the ledger has what of it was billed."""
    bench = await world.process()
    task, _ = await world.begin(bench, "Hello, you", " there")
    bench.source.feed(UpstreamInterrupted("gone", lane=FIRST))

    await done(task)
    await world.pass_seconds(1)

    error = last_of(bench.reply)
    assert error["code"] == "upstream_interrupted"
    assert bench.streams.read_cursor(error["resume_cursor"]).after == bench.reply.position
    (row,) = bench.rows.streams
    assert (row["outcome"], row["code"], row["frames"]) == ("interrupted", "upstream_interrupted", bench.reply.position)
    assert row["billed_tokens"] == row["generated_tokens"] == row["delivered_tokens"] == 4
    assert [(one["partial"], one["how"], one["last_seq"]) for one in row["segments"]] == [
        (True, "first", row["frames"])
    ]


# --- what the ledger is told ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("transcript", "log_content", "is_kept"),
    [("keep", True, True), ("keep", False, False), ("digest", True, False), ("digest", False, False)],
)
async def test_words_are_kept_only_where_policy_and_tenant_say_so(world, transcript, log_content, is_kept):
    """Neither alone is enough; the digests are there either way."""
    policy = {"on_cut": "end", "transcript": transcript}
    bench = await world.process(document={"policy": policy, "log_content": log_content})
    task, _ = await world.begin(bench, "Hello")
    bench.source.feed(*FINISHED)
    await done(task)
    await world.pass_seconds(1)

    (row,) = bench.rows.streams
    frames = [frame.decode() for frame in payloads_in(bench.reply).values()]
    assert row["transcript"] == (frames if is_kept else None)
    assert len(row["digest"]) == len(row["text_digest"]) == 64


async def test_what_is_read_after_the_end_is_told_after_the_row(world):
    """The caller left half way; the row says so, and a delivery says what came later, wherever that was."""
    one, other = await world.process("a"), await world.process("b")
    task, stream = await world.begin(one, "Hello, ")
    task.cancel()
    one.source.feed(say("you there"), *FINISHED)
    await calm()
    await world.pass_seconds(1)
    (row,) = one.rows.streams
    assert (row["delivered"], row["frames"]) == (1, 4)
    assert 0 < row["delivered_tokens"] < row["buffered_tokens"]

    _, reading = await other.read(stream, after=1)
    await done(reading)
    await world.pass_seconds(7)

    (delivery,) = other.rows.deliveries
    assert (delivery["stream_id"], delivery["delivered"], delivery["reader"]) == (stream, 4, "resumed")
    assert (delivery["delivered_tokens"], delivery["acked_tokens"]) == (row["buffered_tokens"], 0)
    assert other.streams._views == {}


async def test_a_reader_who_left_before_it_had_the_end_is_told_of_as_well(world):
    """The owner's row was out when it read; what it took is in no other row."""
    one, other = await world.process("a"), await world.process("b")
    task, stream = await world.begin(one, "Hello, ")
    task.cancel()
    reply, reading = await other.read(stream)
    await until(lambda: text_in(reply) == "Hello, ")
    reading.cancel()
    view = other.streams._views[stream]
    other.streams._follower.let_go(view)  # so that it stays as the reader left it
    one.source.feed(say("you there"), *FINISHED)
    await calm()
    view.delivered, view.is_dirty = 0, False
    await world.pass_seconds(1, one)
    view.deliver(1)

    await world.pass_seconds(1, other)

    (delivery,) = other.rows.deliveries
    (row,) = one.rows.streams
    assert delivery["delivered"] == 1
    assert 0 < delivery["delivered_tokens"] < row["buffered_tokens"]


async def test_acknowledgements_move_on_and_never_back(world):
    """At any process, bounded by what there is; the row has the last."""
    one, other = await world.process("a"), await world.process("b")
    task, stream = await world.begin(one, "a", "b", "c", "d")

    async def ack(bench, through):
        return await bench.streams.acknowledge(await bench.streams.find(stream, tenant="acme"), through)

    assert await ack(one, 2) == (4, 2)
    assert await ack(one, 1) == (4, 2)
    assert await ack(other, 3) == (4, 3)
    assert await ack(one, 99) == (4, 4)
    one.source.feed(say("e"), *FINISHED)
    await done(task)
    assert await ack(other, 6) == (6, 6), "what is read of it there may be behind, but the log is not"
    await world.pass_seconds(1)

    (row,) = one.rows.streams
    assert (row["acked"], row["acked_tokens"]) == (6, row["billed_tokens"])
    assert await ack(other, 7) == (7, 7)
    await world.pass_seconds(1)
    assert [(one["acked"], one["reader"]) for one in other.rows.deliveries] == [(6, "ack"), (7, "ack")]


# --- finding ----------------------------------------------------------------------------------------------------------
async def test_a_process_that_looked_a_moment_ago_sees_what_came_since(world):
    """Nobody reads there, so nothing is brought there by itself; who comes back with a later number is not refused."""
    one, other = await world.process("a"), await world.process("b")
    task, stream = await world.begin(one, "a")
    await other.streams.find(stream, tenant="acme")
    one.source.feed(say("b"), say("c"))
    await until(lambda: text_in(one.reply) == "abc")

    view = await other.streams.find(stream, tenant="acme")

    assert view.buffer.shown == 3
    one.source.feed(*FINISHED)
    await done(task)
    assert (await other.streams.find(stream, tenant="acme")).buffer.is_over


async def test_a_stream_is_its_tenants_and_no_other_is_found(world):
    """Another tenant's, an unknown one, one that has only been asked for, and names that are none."""
    bench = await world.process()
    task, stream = await world.begin(bench, "Hello")
    asked = bench.start(stream=True)
    await calm()
    names = [one for one in bench.streams._productions if one != stream]

    for tenant, name in [("globex", stream), *(("acme", one) for one in [*names, "0" * 32, f"{stream}:frames", "é"])]:
        with pytest.raises(StreamNotFound):
            await bench.streams.find(name, tenant=tenant)

    assert (await bench.streams.find(stream, tenant="acme")).id == stream
    asked.cancel()
    task.cancel()


async def test_two_readers_of_one_process_read_in_one_go(world):
    """Each gets everything, and both count as one view, which goes when both have left."""
    one, other = await world.process("a"), await world.process("b")
    _, stream = await world.begin(one, "a")
    readers = [await other.read(stream), await other.read(stream, after=1)]
    await world.pass_seconds(1)

    one.source.feed(say("b"), *FINISHED)
    await done(asyncio.gather(*(reading for _, reading in readers)))
    await world.pass_seconds(7)

    assert [text_in(reply) for reply, _ in readers] == ["ab", "b"]
    assert [last_of(reply) for reply, _ in readers] == ["[DONE]"] * 2
    assert other.streams._views == {}


async def test_a_reader_that_comes_while_its_view_is_let_go_is_not_forgotten(world):
    """It had looked the stream up a moment before; it counts as a reader all the same."""
    one, other = await world.process("a"), await world.process("b")
    task, stream = await world.begin(one, "a")
    task.cancel()
    view = await other.streams.find(stream, tenant="acme")
    await world.pass_seconds(7, other)
    assert other.streams._views == {}

    reply = FakeReply(Gate())
    reading = asyncio.create_task(other.streams.read_along(view, reply, after=0))
    await world.pass_seconds(60)

    assert one.streams.generating == 1
    one.source.feed(*FINISHED)
    await done(reading)
    assert last_of(reply) == "[DONE]"
