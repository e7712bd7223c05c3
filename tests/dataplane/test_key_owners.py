"""Who owns a key: how its lease is held and lost, and what becomes of the key when its owner, or a store, is gone."""

from __future__ import annotations

import asyncio

import pytest

from dataplane.idempotency import Event

from .bench import Gate
from .key_world import PLAIN, Door, KeyedWorld, Slow, calls, failing, shared, streamed, whole
from .stream_world import FINISHED, calm, say, text_in, until

CREATED, STREAMING, COMPLETED = Event.CREATED, Event.STREAMING, Event.COMPLETED
ATTACHED, REPLAYED, TAKEN_OVER = Event.ATTACHED, Event.REPLAYED, Event.TAKEN_OVER


@pytest.fixture
async def world(make_document, clock):
    """A fleet, and nobody who asks yet."""
    world = KeyedWorld(make_document, clock)
    yield world
    await world.end_all()


# --- the store is away ------------------------------------------------------------------------------------------------
async def test_without_its_store_nothing_is_executed_under_a_key(world):
    """Nobody knows whether it was executed before; requests without a key are served as always."""
    one = await world.process("a", whole("Hi"))
    one.keys.away = {"everything"}

    refused = await world.answered(world.ask(one))
    plain = await world.answered(world.ask(one, key=None))

    assert (refused.status, refused.error["code"]) == (503, "idempotency_unavailable")
    assert (refused.headers["retry-after"], "x-should-retry" in refused.headers) == ("1", False)
    assert (plain.answer, calls(one)) == ("Hi", [1])


async def test_a_stream_that_cannot_be_noted_goes_on(world):
    """Duplicates cannot read along then; they wait, and get it once it is complete."""
    one, other = await world.process("a"), await world.process("b")
    one.keys.away = {"note_stream"}
    first = world.ask(one, stream=True)
    one.source.feed(say("Hello"))
    await until(lambda: first.reply.position)
    duplicate = world.ask(other, stream=True)
    await calm()
    assert not duplicate.reply.opened

    one.source.feed(*FINISHED)
    await world.answered(first, duplicate)

    assert first.reply.data == duplicate.reply.data
    assert world.register.events() == [CREATED, ATTACHED, COMPLETED, REPLAYED]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("how", ["away", "deaf"])
@pytest.mark.parametrize("steps", [{"complete"}, {"complete", "renew"}])
async def test_an_outcome_that_cannot_be_written_is_written_later(world, stream, how, steps):
    """The first caller has its answer; the lease is held meanwhile, as far as that can be asked, so that it is not
    executed again.
    """
    one, other = await world.process("a", streamed("Hi") if stream else whole("Hi")), await world.process("b")
    setattr(one.keys, how, steps)
    first = await world.answered(world.ask(one, stream=stream))
    await world.pass_seconds(40)
    setattr(one.keys, how, set())
    await world.pass_seconds(1)

    again = await world.answered(world.ask(other, stream=stream))

    assert (first.answer, again.answer, calls(one, other)) == ("Hi", "Hi", [1, 0])
    assert first.reply.data == again.reply.data
    assert world.register.events().count(COMPLETED) == 1
    assert one.keyed.leases.held == 0


async def test_leases_do_not_wait_for_outcomes(world, monkeypatch):
    """A store that is slow to take one answer, or that one answer spoils, does not cost the others their leases."""
    slow = Slow("Hi")
    one = await world.process("a", whole("one"), whole("two"), slow)
    one.keys.away = {"complete"}
    await world.answered(world.ask(one, "first"))
    one.keys.away = set()
    one.keys.gate.place = "complete"
    stuck = asyncio.create_task(one.keyed.catch_up())
    await one.keys.gate.reached.wait()
    complete = one.keys.complete
    monkeypatch.setattr(one.keys, "complete", None)
    await world.answered(world.ask(one, "spoilt"))
    monkeypatch.setattr(one.keys, "complete", complete)
    last = world.ask(one)

    for _ in range(20):
        world.clock.advance(1)
        await one.keyed.leases.renew()
    slow.go.set()
    one.keys.gate.open()
    await stuck

    assert (await world.answered(last)).answer == "Hi"
    assert [world.register.record(key).state for key in ("first", "k")] == ["done", "done"]
    assert one.keyed.leases.held == 0


# --- leases that are lost ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("document", [PLAIN, {}])
@pytest.mark.parametrize("stream", [True, False])
async def test_who_cannot_renew_stops_before_others_may_take_over(world, stream, document):
    """The provider is hung up on, the caller is told, with one terminal event; and nothing is written any more."""
    slow = Slow("Hi")
    one = await world.process("a", *(() if stream else (slow,)), document=document)
    first = world.ask(one, stream=stream)
    one.source.feed(say("Hel"))
    await until(lambda: one.transport.calls and (first.reply.position or not stream))
    one.keys.away = {"renew"}
    await world.pass_seconds(12)
    assert not first.task.done()

    await world.pass_seconds(1)

    assert world.register.record().lease_until - world.clock() > 1
    error = first.error
    assert (error["code"], error.get("reason", "owner_lost")) == (
        ("upstream_interrupted", "owner_lost") if stream else ("owner_lost", "owner_lost")
    )
    assert (first.reply.ended, first.status) == ((1, 200) if stream else (0, 502))
    assert (one.source if stream else slow).closed
    await world.pass_seconds(1)
    assert world.register.events() == [CREATED] + [STREAMING] * (stream and not document)


@pytest.mark.parametrize("hangs_at", [6, 13])
async def test_a_store_that_hangs_keeps_nobody_from_stopping_in_time(world, hangs_at):
    """Whether it hangs when the lease is renewed in time, or when it is too late anyway."""
    slow = Slow("Hi")
    one = await world.process("a", slow, store_gate=Door("renew"))
    first = world.ask(one)
    await until(lambda: one.transport.calls)
    world.clock.advance(hangs_at)
    renewing = asyncio.create_task(one.keyed.leases.renew())
    await calm()
    assert slow.closed == (hangs_at == 13)

    world.clock.advance(13 - hangs_at)
    one.keys.away = {"renew"}
    one.keys.gate.open()
    await asyncio.wait([renewing])
    await calm()

    assert (first.status, slow.closed) == (502, True)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_lease_may_be_lost_at_the_moment_that_its_execution_begins(world, stream, monkeypatch):
    """Before its task has taken a step: the caller is told, and nothing is sent for long."""
    one = await world.process("a", *([] if stream else [Slow("Hi")]))
    claim, renewing = one.keys.claim, []

    async def claim_slowly(*asked, **terms):
        owned = await claim(*asked, **terms)
        world.clock.advance(13)
        renewing.append(asyncio.create_task(one.keyed.leases.renew()))  # which comes before the execution's first step
        return owned

    monkeypatch.setattr(one.keys, "claim", claim_slowly)

    first = await world.answered(world.ask(one, stream=stream))

    assert (first.status, first.error["code"]) == (502, "owner_lost")
    assert (one.keyed.leases.held, one.keyed._executing, one.streams.generating) == (0, set(), 0)


@pytest.mark.parametrize("notices", ["in time", "too late"])
async def test_an_owner_that_was_taken_over_from_gives_no_other_answer(world, notices):
    """Whether it hears of it while it executes or when it is done: its caller is told to ask again, and gets the one
    that counts.
    """
    slow = Slow("from a")
    one, other = await world.process("a", slow), await world.process("b", whole("from b"))
    first = world.ask(one)
    await until(lambda: one.transport.calls)
    world.register.lapse()
    second = await world.answered(world.ask(other))

    if notices == "in time":
        await world.pass_seconds(6)
        assert slow.closed
    slow.go.set()
    await world.answered(first)
    again = await world.answered(world.ask(one))

    assert (first.status, first.error["code"]) == (502, "owner_lost")
    assert "x-should-retry" not in first.headers
    assert (second.answer, again.answer, calls(one, other)) == ("from b", "from b", [1, 1])


async def test_an_owner_that_was_taken_over_from_shows_no_stream(world):
    """It hears of it when it would send the first frame: none is sent, and none is in the log."""
    one = await world.process("a", store_gate=Door("note_stream"))
    other = await world.process("b", streamed("from b"))
    first = world.ask(one, stream=True)
    one.source.feed(say("from a"))
    await one.keys.gate.reached.wait()
    world.register.lapse()
    second = await world.answered(world.ask(other, stream=True))

    one.keys.gate.open()
    await world.answered(first)

    assert (first.status, first.error["code"], one.source.closed) == (502, "owner_lost", True)
    assert second.answer == "from b"
    assert list(world.shelf.streams) == [second.headers["ballast-stream-id"]]


async def test_a_lease_that_is_lost_before_anything_is_begun_begins_nothing(world):
    """It looks for a dead owner's stream for so long that it is held to be dead itself."""
    one, other = await world.process("a"), await world.process("b", whole("from b"))
    first = world.ask(one, stream=True)
    one.source.feed(say("Hel"))
    await until(lambda: first.reply.position)
    await world.kill(one)
    world.register.lapse()
    other.log.hold()
    second = world.ask(other, stream=True)
    await calm()
    world.register.lapse()
    third = await world.process("c", streamed("from c"))
    third.log.held = other.log.held
    last = world.ask(third, stream=True)
    await calm()
    world.clock.advance(6)
    await other.keyed.leases.renew()

    other.log.let_go()
    await world.answered(second, last)

    assert (second.status, second.error["code"], calls(other)) == (502, "owner_lost", [0])
    assert last.error["code"] == "upstream_interrupted"


@pytest.mark.parametrize("ends", ["by itself", "stopped"])
async def test_a_stream_that_another_process_has_ended_frees_its_key(world, ends):
    """Its log held it to be orphaned: what its generator still wrote is refused, and is no answer to keep."""
    other = await world.process("b", streamed("Hello"))
    await world.pass_seconds(10)
    one = await world.process("a", store_gate=Door("last append"))
    first = world.ask(one, stream=True)
    one.source.feed(say("Hel"))
    await until(lambda: first.reply.position)
    if ends == "stopped":
        one.streams.interrupt()
    else:
        one.source.feed(*FINISHED)
    await one.keys.gate.reached.wait()
    world.shelf.live[first.headers["ballast-stream-id"]] = 0
    await other.streams.tick()

    one.keys.gate.open()
    await calm()
    await world.pass_seconds(1)
    again = await world.answered(world.ask(other, stream=True))

    assert first.error["reason"] == "owner_lost"
    assert (again.answer, again.is_replayed, one.keyed.leases.held) == ("Hello", False, 0)
    assert world.register.events().count(COMPLETED) == 1


# --- owners that died -------------------------------------------------------------------------------------------------
async def dead(world, *, place=None, text="Hello"):
    """An owner that died at a place, or in the middle of its stream; and the caller whom it was answering."""
    one = await world.process("a", store_gate=Door(place))
    first = world.ask(one, stream=True)
    one.source.feed(say(text))
    await calm()
    if place is not None:
        one.source.feed(*FINISHED)
        await calm()
        assert one.keys.gate.reached.is_set()
    await world.kill(one)
    return first


@pytest.mark.parametrize("leaves_at", [None, "note_stream", "complete", "open_stream", "send_events"])
async def test_the_complete_stream_of_a_dead_owner_is_the_answer(world, leaves_at):
    """It is in the log, and was read: nothing is executed again, also if whoever takes over leaves at any wait."""
    first = await dead(world, place="complete")
    world.register.lapse()
    other = await world.process("b", store_gate=Door(leaves_at))
    second = world.ask(other, stream=True, gate=Gate(leaves_at))
    await calm()
    if leaves_at is not None:
        await second.leave()
        other.keys.gate.open()
        await world.pass_seconds(1)
    third = await world.answered(world.ask(other, stream=True))

    assert (first.answer, third.answer) == ("Hello", "Hello")
    for call in (third,) if leaves_at else (second, third):
        assert (call.reply.data, call.is_replayed, shared(call)) == (first.reply.data, True, shared(first))
    assert (calls(other), other.keyed.leases.held) == ([0], 0)
    assert world.register.events().count(COMPLETED) == 1


async def test_the_broken_stream_of_a_dead_owner_is_executed_anew(world):
    """Nobody is given the piece: who asks meanwhile waits until the owner is held to be dead, and takes over."""
    other = await world.process("b", streamed("Hello, you"))
    await world.pass_seconds(10)
    first = await dead(world, text="Hello, ")
    await world.pass_seconds(8)
    stream = first.headers["ballast-stream-id"]
    assert world.shelf.streams[stream].ending == "interrupted"

    both = [world.ask(other, stream=True) for _ in range(2)]
    await world.answered(*both)

    assert {call.answer for call in both} == {"Hello, you"}
    assert both[0].headers["ballast-stream-id"] == both[1].headers["ballast-stream-id"] != stream
    assert calls(other) == [1]
    assert world.register.events().count(TAKEN_OVER) == 1


@pytest.mark.parametrize("ends", ["complete", "stopped"])
@pytest.mark.parametrize("leaves", [False, True])
async def test_the_stream_of_an_owner_that_lives_after_all_is_read_along(world, ends, leaves):
    """Its lease ran out, and it writes on: nobody executes beside it. If it ends well, that is the answer; if it hears
    that it was replaced, it stops, and the key is free.
    """
    one, other = await world.process("a"), await world.process("b", streamed("Hello, you"))
    first = world.ask(one, stream=True)
    one.source.feed(say("Hello, "))
    await until(lambda: first.reply.position)
    world.register.lapse()
    second = world.ask(other, stream=True)
    await until(lambda: second.reply.position)
    if leaves:
        await second.leave()
    if ends == "complete":
        one.source.feed(say("you"), *FINISHED)
    else:
        await world.pass_seconds(6)
    await world.answered(first, *(() if leaves else (second,)))
    await world.pass_seconds(2)
    third = await world.answered(world.ask(other, stream=True))

    assert third.answer == "Hello, you"
    if ends == "complete":
        assert {call.reply.data for call in (first, third)} == {first.reply.data}
    else:
        assert (first.answer, first.error["reason"]) == (None, "owner_lost")
    assert leaves or first.reply.data == second.reply.data
    assert calls(one, other) == [1, 0 if ends == "complete" else 1]
    assert (one.keyed.leases.held, other.keyed.leases.held) == (0, 0)


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_stream_whose_log_is_away_is_looked_for_again(world, comes_back):
    """A duplicate elsewhere reads along as soon as it can, or gets the answer from its key."""
    one, other = await world.process("a"), await world.process("b")
    first = world.ask(one, stream=True)
    one.source.feed(say("Hello, "))
    await until(lambda: first.reply.position)
    other.log.away = True
    duplicate = world.ask(other, stream=True)
    await world.pass_seconds(2, one)
    assert not duplicate.reply.opened

    other.log.away = not comes_back
    await world.pass_seconds(2, one)
    assert duplicate.reply.opened == comes_back
    one.source.feed(say("you"), *FINISHED)
    await world.answered(first, duplicate)

    assert (duplicate.answer, duplicate.reply.data) == ("Hello, you", first.reply.data)
    assert calls(one, other) == [1, 0]


async def test_a_stream_that_is_noted_but_not_there_yet_is_looked_for_again(world):
    """Duplicates hear of it just before its first frame is in the log, and do not wait for its end."""
    one, other = await world.process("a", store_gate=Door("first append")), await world.process("b")
    first = world.ask(one, stream=True)
    one.source.feed(say("Hello"))
    await one.keys.gate.reached.wait()
    duplicates = [world.ask(bench, stream=True) for bench in (one, other)]
    await calm()
    assert not any(call.reply.opened for call in (first, *duplicates))

    one.keys.gate.open()
    await world.pass_seconds(1)

    assert [text_in(call.reply) for call in (first, *duplicates)] == ["Hello"] * 3


# --- a process that stops ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stream", [True, False])
async def test_a_process_that_stops_ends_what_it_executes_and_frees_the_keys(world, stream):
    """Its callers are told to ask elsewhere, where it is executed anew at once."""
    slow = Slow("Hi")
    one = await world.process("a", *(() if stream else (slow,)))
    other = await world.process("b", streamed("Hi") if stream else whole("Hi"))
    first = world.ask(one, stream=stream)
    one.source.feed(say("H"))
    await until(lambda: one.transport.calls and (first.reply.position or not stream))

    one.streams.interrupt()
    one.keyed.interrupt()
    await world.answered(first)
    await one.keyed.stop()

    assert "maintenance" in (first.error["code"], first.error.get("reason"))
    assert (first.status, "x-should-retry" in first.headers) == (200 if stream else 503, False)
    again = await world.answered(world.ask(other, stream=stream))
    assert (again.answer, again.is_replayed) == ("Hi", False)
    assert (one.keys.is_closed, one.keyed.leases.held) == (True, 0)


async def test_a_process_that_stops_writes_what_it_still_owes(world):
    """And does not wait for a store that is away: the lease runs out, as after any death."""
    one, other = await world.process("a", whole("Hi")), await world.process("b", whole("Hi"))
    one.keys.away = {"complete"}
    await world.answered(world.ask(one, "kept"), world.ask(one, "owed"))
    one.keys.away = set()
    await one.keyed.stop()
    other.keys.away = {"complete"}
    await world.answered(world.ask(other, "lost"))
    await other.keyed.stop()

    states = [world.register.record(key).state for key in ("kept", "owed", "lost")]
    assert states == ["done", "done", "running"]
    assert (one.keys.is_closed, other.keys.is_closed, other.keyed.leases.held) == (True, True, 1)


# --- every write, and a death at it -----------------------------------------------------------------------------------
STREAMED = ("claim", "note_stream", "first append", "last append", "complete")
DEATHS = [
    *((place, True) for step in STREAMED for place in (step, f"{step} done")),
    *((place, False) for step in ("claim", "complete") for place in (step, f"{step} done")),
    *((place, stream) for stream in (True, False) for place in ("release", "release done")),
]
# Where the first execution is the answer: it is in the log, or under the key.
SAVED = {("last append done", True), ("complete", True), ("complete done", True), ("complete done", False)}


@pytest.mark.parametrize(("place", "stream"), DEATHS)
async def test_a_death_at_any_write_leaves_one_answer(world, place, stream):
    """Whoever asks then ends with a complete answer, all with the same, and with the first caller's if it had one."""
    fails = place.startswith("release")
    answers = (failing(),) if fails else () if stream else (whole("from a"),)
    one = await world.process("a", *answers, store_gate=Door(place))
    other = await world.process("b", streamed("from b") if stream else whole("from b"))
    first = world.ask(one, stream=stream)
    one.source.feed(say("from a"))
    await calm()
    one.source.feed(*FINISHED)
    await one.keys.gate.reached.wait()
    await calm()
    await world.kill(one)

    both = await asyncio.gather(*(world.persist(other, stream=stream) for _ in range(2)))
    await world.pass_seconds(16)
    late = await world.answered(world.ask(other, stream=stream))

    is_saved = (place, stream) in SAVED
    assert {call.answer for call in (*both, late)} == {"from a" if is_saved else "from b"}
    assert len({call.reply.data for call in (*both, late)}) == 1
    assert first.answer in (None, late.answer)
    assert calls(other) == [0 if is_saved else 1]
    assert world.register.events().count(COMPLETED) == 1
    assert other.keyed.leases.held == 0


@pytest.mark.parametrize("how", ["away", "deaf"])
@pytest.mark.parametrize(
    ("step", "stream"),
    [
        ("claim", True),
        ("note_stream", True),
        ("complete", True),
        ("complete", False),
        ("release", False),
        ("log", True),
    ],
)
async def test_a_store_that_fails_at_any_write_leaves_one_answer(world, step, stream, how):
    """The process lives, and makes good what it could not write, or whose answer it did not get."""
    answers = (failing(),) if step == "release" else () if stream else (whole("from a"),)
    one = await world.process("a", *answers)
    other = await world.process("b", streamed("from b") if stream else whole("from b"))
    if step == "log":
        setattr(one.log, how, True)
    else:
        setattr(one.keys, how, {step})
    first = world.ask(one, stream=stream)
    one.source.feed(say("from a"))
    await calm()
    one.source.feed(*FINISHED)
    await world.answered(first)
    await world.pass_seconds(3)
    setattr(one.log, how, False)
    setattr(one.keys, how, set())

    again = [await world.persist(other, stream=stream) for _ in range(2)]
    await world.pass_seconds(2)

    assert {call.answer for call in again} == {"from b" if step in ("claim", "release") else "from a"}
    assert first.answer in (None, again[0].answer)
    assert len({call.reply.data for call in again}) == 1
    assert world.register.events().count(COMPLETED) == 1
    assert (one.keyed.leases.held, other.keyed.leases.held) == (0, 0)
