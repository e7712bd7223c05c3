"""Whose a stream is: owners that die, stand still and come back, and a log that is away; each stream has one end."""

from __future__ import annotations

import asyncio
import json

import pytest

from dataplane.errors.streams import StreamLogUnavailable, StreamNotFound
from dataplane.frames import Ending

from .bench import FakeExchange, FedExchange, Gate
from .stream_world import FINISHED, FIRST, calm, done, last_of, payloads_in, say, stored_in, text_in, until


async def take_over(world, other):
    """Let so much time pass that `other` takes its neighbours' streams for orphaned, and ends them."""
    await world.pass_seconds(12, other)


def errors_in(frames):
    """The terminal events among frames that are errors, as (code, reason)."""
    errors = [json.loads(frame)["error"] for frame in frames if frame.startswith(b'{"error"')]
    return [(error["code"], error.get("reason")) for error in errors]


# --- owners -----------------------------------------------------------------------------------------------------------
async def test_the_streams_of_a_dead_owner_are_ended_and_reported_once(world):
    """With what it had sent, one terminal event, and a bill of what the provider gave until then."""
    dead, one, other = [await world.process(name) for name in "abc"]
    task, stream = await world.begin(dead, "Hello, ", "you there")
    reply, reading = await one.read(stream)
    task.cancel()
    await dead.die()

    await world.pass_seconds(14, one, other)
    await done(reading)

    frames, ending = stored_in(world, stream)
    assert (ending, errors_in(frames)) == (Ending.INTERRUPTED, [("upstream_interrupted", "owner_lost")])
    assert list(payloads_in(reply).values()) == frames
    assert text_in(reply) == "Hello, you there"
    rows = one.rows.streams + other.rows.streams
    assert [(row["stream_id"], row["outcome"], row["frames"]) for row in rows] == [(stream, "interrupted", 3)]
    assert rows[0]["billed_tokens"] == rows[0]["generated_tokens"] == rows[0]["buffered_tokens"] == 4
    assert rows[0]["transcript"] == [frame.decode() for frame in frames]
    usage = [*one.rows, *other.rows]
    assert [(row["outcome"], row["output_tokens"]) for row in usage] == [("owner_lost", 4)]
    cursor = one.streams.read_cursor(last_of(reply)["resume_cursor"])
    assert (cursor.stream, cursor.after) == (stream, 3)
    await world.pass_seconds(60, one, other)
    assert len(one.rows.streams + other.rows.streams) == 1


@pytest.mark.parametrize("held", ["streaming", "at its end", "being ended"])
async def test_an_owner_that_stood_still_leaves_the_stream_to_whoever_ended_it(world, held):
    """It writes nothing more, tells no ledger, and gives its own readers the end that everybody else has."""
    stalled, other = await world.process("a"), await world.process("b")
    task, stream = await world.begin(stalled, "Hello, ")
    stalled.log.hold()
    stalled.source.feed(say("you there"), *(FINISHED if held == "at its end" else ()))
    await calm()
    if held == "being ended":
        stalled.streams.interrupt()
        await calm()
    await take_over(world, other)
    frames = list(stored_in(world, stream)[0])
    assert errors_in(frames) == [("upstream_interrupted", "owner_lost")]

    stalled.log.let_go()
    await world.pass_seconds(7, stalled, other)
    await done(task)

    assert stored_in(world, stream) == (frames, Ending.INTERRUPTED)
    assert list(payloads_in(stalled.reply).values()) == frames
    assert (stalled.reply.ended, stalled.rows.streams) == (1, [])
    assert stalled.source.closed
    assert (stalled.streams._productions, stalled.streams._ended_at) == ({}, {})
    assert len(other.rows.streams) == 1


async def test_readers_wait_for_the_end_that_another_is_about_to_write(world):
    """The new owner has claimed the stream and no more: whoever reads at the old one gets its end when it comes."""
    old, new = await world.process("a"), await world.process("b")
    task, stream = await world.begin(old, "Hello")
    kept = world.shelf.streams[stream]
    kept.owner, kept.epoch = "b", 2
    await world.pass_seconds(2, old)
    assert not task.done()

    world.shelf.live[stream] = 0
    await take_over(world, new)
    await done(task)

    assert list(payloads_in(old.reply).values()) == stored_in(world, stream)[0]


async def test_readers_are_not_forgotten_when_the_log_goes_away_just_then(world):
    """The old owner could not ask how the stream ended; it asks again, and lets nobody wait for ever."""
    old, new = await world.process("a"), await world.process("b")
    task, _ = await world.begin(old, "Hello")
    await take_over(world, new)
    old.source.feed(say("late"))
    await until(lambda: old.source.closed)
    old.log.away = True
    await world.pass_seconds(2, old)
    assert not task.done()

    old.log.away = False
    await world.pass_seconds(4, old)
    await done(task)

    assert errors_in(payloads_in(old.reply).values()) == [("upstream_interrupted", "owner_lost")]


async def test_a_row_that_its_owner_did_not_live_to_send_is_sent_by_another(world):
    """The stream had ended, however quickly; what is kept of it has everything that the ledger wants."""
    dead, other = await world.process("a"), await world.process("b")
    dead.log.hold()
    task = dead.start(stream=True)
    dead.source.feed(say("Hello"), *FINISHED)
    await until(lambda: "append" in dead.log.asked)
    await calm()  # all of it came while its beginning was being written
    dead.log.let_go()
    await done(task)
    await dead.die()

    await world.pass_seconds(50, other)

    (row,) = other.rows.streams
    assert (row["outcome"], row["frames"]) == ("completed", 3)
    assert row["transcript"] == [payload.decode() for payload in payloads_in(dead.reply).values()]
    assert [usage["outcome"] for usage in other.rows] == ["ok"]
    assert world.shelf.owed == {}


async def test_what_is_kept_no_more_is_owed_by_nobody(world):
    """No process comes back to it again and again."""
    bench = await world.process()
    task, stream = await world.begin(bench, "Hello")
    bench.source.feed(*FINISHED)
    await done(task)
    await bench.die()
    other = await world.process("b")
    del world.shelf.streams[stream]

    await world.pass_seconds(50, other)

    assert (world.shelf.owed, other.rows.streams) == ({}, [])


# --- the log ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("when", ["start", "middle", "end"])
async def test_a_stream_goes_on_while_the_log_is_away(world, when):
    """Its caller notices nothing; once the log is back it has all of it, in order, and nobody takes it for orphaned."""
    bench, other = await world.process("a"), await world.process("b")
    bench.log.away = when == "start"
    task, stream = await world.begin(bench, "Hello, ")
    bench.log.away = when != "end"
    bench.source.feed(say("you there"))
    await until(lambda: text_in(bench.reply) == "Hello, you there")
    bench.log.away = True
    bench.source.feed(*FINISHED[:1])
    await calm()
    if when != "end":
        bench.log.away = False
        await world.pass_seconds(2)
        assert stored_in(world, stream)[0] == list(payloads_in(bench.reply).values())
    bench.source.feed(*FINISHED[1:])
    await done(task)
    assert (last_of(bench.reply), bench.reply.ended) == ("[DONE]", 1)
    await world.pass_seconds(8)
    assert [row["outcome"] for row in bench.rows.streams] == ["completed"], "the ledger does not wait for the log"

    bench.log.away = False
    await world.pass_seconds(30)

    assert stored_in(world, stream) == (list(payloads_in(bench.reply).values()), Ending.COMPLETED)
    assert [row["outcome"] for row in bench.rows.streams + other.rows.streams] == ["completed"]
    assert [type(event).__name__ for event in bench.rows.events] == ["StreamLogLost", "StreamLogBack"]
    assert (bench.streams._productions, world.shelf.owed) == ({}, {})


async def test_a_log_that_comes_back_empty_is_filled_again(world):
    """By the owners of what is under way; until they had time to, nobody is told that a stream does not exist."""
    bench, other = await world.process("a"), await world.process("b")
    await world.pass_seconds(11)
    task, stream = await world.begin(bench, "Hello, ")
    bench.log.away = other.log.away = True
    bench.source.feed(say("you "))
    await world.pass_seconds(1)
    world.shelf.streams.clear()
    world.shelf.live.clear()
    bench.log.away = other.log.away = False
    await world.pass_seconds(1, other)
    with pytest.raises(StreamLogUnavailable, match="about to write"):
        await other.streams.find(stream, tenant="acme")

    await world.pass_seconds(1)
    bench.source.feed(say("there"), *FINISHED)
    await done(task)
    reply, reading = await other.read(stream)
    await done(reading)

    assert payloads_in(reply) == payloads_in(bench.reply)
    await world.pass_seconds(9, other)
    with pytest.raises(StreamNotFound):
        await other.streams.find("0" * 32, tenant="acme")


async def test_who_was_shown_more_than_the_log_has_reads_on_when_it_has_it(world):
    """The caller of a process that could not write comes back elsewhere: it waits a moment, and is not refused."""
    one, other = await world.process("a"), await world.process("b")
    task, stream = await world.begin(one, "Hello, ")
    one.log.away = True
    one.source.feed(say("you "), say("there"))
    await until(lambda: text_in(one.reply) == "Hello, you there")
    task.cancel()
    view = await other.streams.find(stream, tenant="acme")
    catching_up = asyncio.create_task(other.streams.catch_up(view, 3))
    await calm()
    assert (catching_up.done(), view.buffer.shown) == (False, 1)

    one.log.away = False
    await world.pass_seconds(2)
    await done(catching_up)

    assert (view.buffer.shown, view.readers) == (3, 0)


async def test_an_owner_catches_up_with_what_it_wrote(world):
    """Another process had read it from the log before the owner heard that it is there."""
    bench = await world.process()
    task, stream = await world.begin(bench, "Hello, ")
    production = bench.streams._productions[stream]
    bench.log.hold()
    bench.source.feed(say("you there"))
    await calm()
    catching_up = asyncio.create_task(bench.streams.catch_up(production, 2))
    await calm()
    assert not catching_up.done()

    bench.log.let_go()
    await done(catching_up)

    assert production.buffer.shown == 2
    await done(bench.streams.catch_up(production, 99))
    assert production.readers == 1
    task.cancel()


async def test_a_stream_that_ended_before_the_log_came_back_is_written_then(world):
    """All of it came while the log was away for a moment; a caller whose connection broke finds it elsewhere."""
    one, other = await world.process("a"), await world.process("b")
    one.log.away = True
    task, stream = await world.begin(one, "Hello")
    one.source.feed(*FINISHED)
    await done(task)
    await world.pass_seconds(20, one)
    assert [row["outcome"] for row in one.rows.streams] == ["completed"]

    one.log.away = False
    await world.pass_seconds(7, one)

    reply, reading = await other.read(stream)
    await done(reading)
    assert payloads_in(reply) == payloads_in(one.reply)
    assert (len(one.rows.streams), one.streams._productions) == (1, {})


async def test_what_the_log_never_got_is_not_kept_for_ever(world):
    """After a minute its owner forgets a stream of which the log has nothing."""
    bench = await world.process()
    bench.log.away = True
    task, _ = await world.begin(bench, "Hello")
    bench.source.feed(*FINISHED)
    await done(task)

    await world.pass_seconds(62)

    assert (len(bench.rows.streams), bench.streams._productions) == (1, {})


async def test_a_stream_that_cannot_be_described_holds_up_no_other(world):
    """What is wrong with one is no reason to keep another from the log that is written in the same round."""
    sources = [FedExchange(Gate()), FedExchange(Gate())]
    bench = await world.process(lanes={FIRST: [*sources, FakeExchange([say("there"), *FINISHED], Gate())]})
    for source in sources:
        bench.start(stream=True)
        source.feed(say("Hello"))
        await until(lambda: bench.reply.data)
    first, odd = bench.streams._productions.values()
    odd.identity = {"odd": object()}
    odd.begin_segment(odd.segments[0].attempt, odd.segments[0].run, how="first", cause="")
    bench.log.hold()
    sources[0].feed(say("more"))
    await calm()  # the writer is busy with this one
    sources[1].feed(say("more"))
    task = bench.start(stream=True)
    await calm()

    bench.log.let_go()
    await done(task)

    other = bench.reply.headers[b"ballast-stream-id"].decode()
    assert stored_in(world, other) == (list(payloads_in(bench.reply).values()), Ending.COMPLETED)
    assert (len(stored_in(world, first.id)[0]), len(stored_in(world, odd.id)[0]), odd.buffer.shown) == (2, 1, 2)


async def test_an_answer_that_was_lost_is_no_reason_to_write_twice(world):
    """The log had done what was asked; asked again, it says so."""
    bench = await world.process()
    task, stream = await world.begin(bench, "Hello, ")
    bench.log.deaf = True
    bench.source.feed(say("you there"))
    await until(lambda: text_in(bench.reply) == "Hello, you there")
    bench.log.deaf = False
    await world.pass_seconds(2)

    bench.source.feed(*FINISHED)
    await done(task)

    assert stored_in(world, stream) == (list(payloads_in(bench.reply).values()), Ending.COMPLETED)
    assert len(payloads_in(bench.reply)) == 4


async def test_a_reader_of_another_process_is_let_go_when_the_log_stays_away(world):
    """Its connection ends without a terminal event, so that its client comes back; and then it reads on."""
    one, other = await world.process("a"), await world.process("b")
    _, stream = await world.begin(one, "Hello")
    reply, reading = await other.read(stream)
    await until(lambda: text_in(reply) == "Hello")
    other.streams._follower._failures = 19  # nineteen times it could not be asked
    other.log.away = True
    one.source.feed(say("more"))
    await done(reading)

    assert (text_in(reply), reply.ended) == ("Hello", 1)
    other.log.away = False
    again, reading = await other.read(stream, after=1)
    one.source.feed(*FINISHED)
    await done(reading)
    assert (text_in(again), last_of(again)) == ("more", "[DONE]")


async def test_a_write_that_cannot_be_made_holds_up_nobody(world):
    """A fault of the process' own is no reason to keep callers waiting."""
    bench = await world.process()

    async def broken(appends, *, owner, lease_seconds):
        raise RuntimeError("a fault of ours")

    works, bench.log.append = bench.log.append, broken
    task, stream = await world.begin(bench, "Hello")
    bench.log.append = works
    bench.source.feed(*FINISHED)
    await done(task)
    await world.pass_seconds(2)

    assert stored_in(world, stream) == (list(payloads_in(bench.reply).values()), Ending.COMPLETED)


async def test_generation_waits_when_too_much_waits_to_be_written(world):
    """A provider is no faster than the log for long, and whoever cancels meanwhile is heard."""
    bench = await world.process()
    bench.log.hold()
    task = bench.start(stream=True)
    bench.source.feed(*map(say, ["word "] * 400))
    await calm()
    await calm()
    await calm()
    await calm()
    (production,) = bench.streams._productions.values()
    waiting = len(production.buffer.payloads)
    assert 256 < waiting < 400

    task.cancel()
    bench.log.let_go()
    await calm()

    (frames, ending), *_ = [stored_in(world, production.id)]
    assert (len(frames), ending) == (waiting + 1, Ending.CANCELLED)
    assert errors_in(frames) == [("stream_cancelled", None)]
    with pytest.raises(asyncio.CancelledError):
        await done(task)
