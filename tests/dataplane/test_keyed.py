"""Requests with an idempotency key: executed once, whoever asks, and given again to everybody else."""

from __future__ import annotations

import asyncio
import gc

import pytest

from dataplane.idempotency import MAX_KEPT_BYTES, Event

from .bench import FakeExchange, Gate
from .key_world import Door, KeyedWorld, Slow, counted, failing, series_of, streamed, whole
from .stream_world import FINISHED, FIRST, calm, say, text_in, until

CREATED, ATTACHED, REPLAYED, COMPLETED = Event.CREATED, Event.ATTACHED, Event.REPLAYED, Event.COMPLETED
STREAMING, RELEASED, REOPENED = Event.STREAMING, Event.RELEASED, Event.REOPENED
TAKEN_OVER, INDETERMINATE = Event.TAKEN_OVER, Event.INDETERMINATE
SHARED = ("ballast-lane", "ballast-attempts", "ballast-release", "ballast-fallback", "ballast-cohort")
RUN_BY_PROVIDER = [{"type": "web_search", "web_search": {}}]
EMBEDDING = b'{"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 2}}'
PLAIN = {"route": {"streams": None}}


@pytest.fixture
async def world(make_document, clock):
    """A fleet, and nobody who asks yet."""
    world = KeyedWorld(make_document, clock)
    yield world
    await world.end_all()


async def process(world, owner, *answers, **options):
    """A process whose lane gives these answers in turn; none: what the test feeds."""
    lanes = {"lanes": {FIRST: list(answers)}} if answers else {}
    return await world.process(owner, **lanes, **options)


def calls(*benches):
    """How many calls providers got, from each process."""
    return [len(bench.transport.calls) for bench in benches]


def shared(call):
    return {name: call.headers[name] for name in SHARED}


# --- once for everybody -----------------------------------------------------------------------------------------------
async def test_a_whole_answer_is_made_once_and_given_to_all(world):
    """Who asks while it is made waits, who asks later gets it at once: same bytes, same headers but for the request."""
    slow = Slow("Hi")
    one, other = await process(world, "a", slow), await process(world, "b")
    first = world.ask(one)
    await until(lambda: one.transport.calls)
    everybody = [first, *(world.ask(bench) for bench in (one, other, other))]
    await calm()
    assert not any(call.reply.opened for call in everybody)

    slow.go.set()
    await world.answered(*everybody)
    everybody.append(await world.answered(world.ask(other)))

    assert {call.reply.data for call in everybody} == {first.reply.data}
    assert [call.is_replayed for call in everybody] == [False, True, True, True, True]
    assert all(shared(call) == shared(first) for call in everybody)
    assert len({call.headers["ballast-request-id"] for call in everybody}) == 5
    assert calls(one, other) == [1, 0]
    assert world.register.events() == [CREATED, *[ATTACHED] * 3, COMPLETED, *[REPLAYED] * 4]
    assert (one.keyed.leases.held, other.keyed.leases.held) == (0, 0)


async def test_a_stream_is_one_stream_for_all(world):
    """Who asks while it is written reads along, at any process; who asks later gets it again, byte for byte."""
    one, other = await process(world, "a"), await process(world, "b")
    first = world.ask(one, stream=True)
    one.source.feed(say("Hello, "))
    await until(lambda: first.reply.position)
    everybody = [first, *(world.ask(bench, stream=True) for bench in (one, other, other))]
    await until(lambda: all(text_in(call.reply) == "Hello, " for call in everybody))

    one.source.feed(say("you"), *FINISHED)
    await world.answered(*everybody)
    everybody.append(await world.answered(world.ask(other, stream=True)))

    assert first.answer == "Hello, you"
    assert {call.reply.data for call in everybody} == {first.reply.data}
    assert [call.is_replayed for call in everybody] == [False, True, True, True, True]
    assert all(shared(call) == shared(first) for call in everybody)
    assert len({call.headers["ballast-stream-id"] for call in everybody}) == 1
    assert {call.reply.ended for call in everybody} == {1}
    assert calls(one, other) == [1, 0]
    assert world.register.events() == [CREATED, STREAMING, *[ATTACHED] * 3, COMPLETED, REPLAYED]


async def test_a_stream_that_is_not_kept_is_given_again_whole(world, make_document):
    """Without a policy for streams the first caller gets the bytes that it would get without a key, the others wait."""
    one = await process(world, "a", document=PLAIN)
    other = await process(world, "b", document=PLAIN)
    plain = world.ask(one, key=None, stream=True)
    one.source.feed(say("Hello, "), say("you"), *FINISHED)
    await world.answered(plain)
    first = world.ask(one, stream=True)
    one.source.feed(say("Hello, "))
    await until(lambda: first.reply.position)
    waiting = world.ask(other, stream=True)
    await calm()
    assert not waiting.reply.opened

    one.source.feed(say("you"), *FINISHED)
    await world.answered(first, waiting)

    assert {call.reply.data for call in (plain, first, waiting)} == {plain.reply.data}
    assert (first.is_replayed, waiting.is_replayed, "ballast-stream-id" in waiting.headers) == (False, True, False)
    assert waiting.reply.ended == 1


async def test_embeddings_are_made_once(world):
    """They are answers in one piece like any other, and another question under the key is another question."""
    able = PLAIN | {"lanes": {FIRST: {"capabilities": ["embeddings"]}}}
    one = await process(world, "a", FakeExchange((EMBEDDING,), Gate()), document=able)

    first = await world.answered(world.ask(one, path="embeddings", model="chat", input="Hello"))
    again = await world.answered(world.ask(one, path="embeddings", model="chat", input="Hello"))
    other = await world.answered(world.ask(one, path="embeddings", model="chat", input="Bye"))

    assert (first.reply.data, again.reply.data, again.is_replayed) == (EMBEDDING, EMBEDDING, True)
    assert (other.status, other.error["fields"]) == (422, ["input"])
    assert (counted(one, "embeddings", "ok"), counted(one, "embeddings", "idempotency_mismatch")) == (2, 1)
    assert calls(one) == [1]


async def test_who_gets_an_answer_again_is_a_request_without_an_attempt(world):
    """It counts as served, for no lane and no version: versions are compared by what was executed."""
    asked = {"prompt": {"id": "support-answer", "variables": {"company": "Acme", "question": "?"}}}
    one = await process(world, "a", whole("Hi"), streamed("Hi"))
    for key, stream in (("k", False), ("s", True)):
        for _ in range(3):
            await world.answered(world.ask(one, key, stream=stream, **asked))

    seen = series_of(one)
    (executed,) = (name for name in seen if name[0])
    assert executed[:2] == (FIRST, "support-answer")
    assert seen == {executed: (2, 0, 0, 0, 2), ("", "", "none"): (4, 0, 0, 0, 0)}
    assert counted(one, "chat", "ok") == 6
    assert [row["outcome"] for row in one.rows] == ["ok", "ok"]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answered_request_leaves_nothing_for_the_garbage_collector(world, stream):
    """Its task, its lease and what ends them let go of each other."""
    make = streamed if stream else whole
    one = await process(world, "a", make("Hi"), make("Hi"), document=PLAIN)
    await world.answered(world.ask(one, "before", stream=stream))
    gc.collect()

    await world.answered(world.ask(one, stream=stream))
    world.calls.clear()

    assert (calls(one), gc.collect()) == ([2], 0)


# --- refusals ---------------------------------------------------------------------------------------------------------
async def test_what_is_neither_executed_nor_given_again_says_why(world):
    """Another request under the key, a bad key, an answer too long to keep: named, and nothing is called for them."""
    one = await process(world, "a", whole("Hi"), whole("x" * MAX_KEPT_BYTES))
    await world.answered(world.ask(one), world.ask(one, "long"))

    other = await world.answered(world.ask(one, seed=1, temperature=0))
    bad = await world.answered(world.ask(one, "no key"))
    long = await world.answered(world.ask(one, "long"))

    assert (other.status, other.error["code"], other.error["fields"]) == (
        *(422, "idempotency_mismatch"),
        ["seed", "temperature"],
    )
    assert (bad.status, bad.error["code"], bad.error["param"]) == (400, "invalid_request", "Idempotency-Key")
    assert (long.status, long.error["code"]) == (409, "idempotency_outcome_not_kept")
    assert {call.headers["x-should-retry"] for call in (other, bad, long)} == {"false"}
    assert calls(one) == [2]
    assert series_of(one)["", "", "none"] == (3, 0, 3, 0, 0)


@pytest.mark.parametrize("deadline_ms", [None, "5000"])
async def test_a_duplicate_waits_only_so_long(world, deadline_ms):
    """Until its own deadline, or 20 s; then it hears when to ask again, and that no SDK should by itself."""
    slow = Slow("Hi")
    one, other = await process(world, "a", slow), await process(world, "b")
    first = world.ask(one)
    await until(lambda: one.transport.calls)
    waiting = world.ask(other, deadline_ms=deadline_ms)
    await world.pass_seconds(4 if deadline_ms else 19)
    assert not waiting.task.done()

    await world.pass_seconds(2)

    assert (waiting.status, waiting.error["code"]) == (409, "idempotency_in_progress")
    assert (waiting.headers["x-should-retry"], waiting.headers["retry-after"]) == ("false", "2")
    slow.go.set()
    await world.answered(first)
    assert (await world.answered(world.ask(other))).reply.data == first.reply.data


async def test_work_with_effects_that_failed_is_not_done_again(world):
    """Its provider runs tools, and may have run them: nobody executes it again unseen; what was never sent is free."""
    options = {"tools": RUN_BY_PROVIDER}
    one = await process(world, "a", failing(500), whole("Hi"))
    first = await world.answered(world.ask(one, **options))

    again = await world.answered(world.ask(one, **options))
    harmless = await world.answered(world.ask(one, "h", tool_effects="idempotent", **options))

    assert first.status == 503
    assert (again.status, again.error["code"], again.headers["x-should-retry"]) == (
        *(409, "idempotency_indeterminate"),
        "false",
    )
    assert (harmless.answer, calls(one)) == ("Hi", [2])
    assert world.register.events() == [CREATED, INDETERMINATE, INDETERMINATE]


# --- callers who leave ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("place", "stream"),
    [
        ("claim", False),
        ("claim done", False),
        ("provider", False),
        ("complete", False),
        ("send_whole", False),
        ("claim", True),
        ("claim done", True),
        ("provider", True),
        ("note_stream", True),
        ("first append", True),
        ("open_stream", True),
        ("send_events", True),
        ("frames", True),
        ("last append", True),
    ],
)
async def test_the_first_caller_may_leave_at_every_wait(world, place, stream):
    """Before it is executed, the key is free; from then on it is executed to its end, and the next one gets that."""
    door, hall = Door(place), Gate(place)
    slow = Slow("Hello, you")
    one = await process(world, "a", *(() if stream else (slow,)), store_gate=door)
    other = await process(world, "b", streamed("Hello, you") if stream else whole("Hello, you"))
    first = world.ask(one, stream=stream, gate=hall)
    if not place.startswith("claim"):
        await until(lambda: one.transport.calls)
    if place != "provider":
        slow.go.set()
        one.source.feed(say("Hello, "))
        await calm()
    if place == "last append":
        one.source.feed(say("you"), *FINISHED)
    await calm()
    assert place in ("provider", "frames") or door.reached.is_set() or hall.reached.is_set()

    await first.leave()
    door.open()
    slow.go.set()
    if place != "last append":
        one.source.feed(*([say("Hello, ")] if place == "provider" else []), say("you"), *FINISHED)
    again = await world.answered(world.ask(other, stream=stream))

    assert again.answer == "Hello, you"
    assert calls(one, other) == ([0, 1] if place.startswith("claim") else [1, 0])
    assert again.is_replayed == (not place.startswith("claim"))
    assert (one.keyed.leases.held, one.keyed._executing) == (0, set())


@pytest.mark.parametrize(
    ("place", "stream"),
    [
        ("claim", True),
        ("wait", False),
        ("open_stream", True),
        ("send_events", True),
        ("frames", True),
        ("replayed send_whole", False),
        ("replayed open_stream", True),
        ("replayed send_events", True),
    ],
)
async def test_a_duplicate_may_leave_at_every_wait(world, place, stream):
    """The first caller does not notice, and nobody is left behind as a reader."""
    slow = Slow("Hello, you")
    door, hall = Door(place), Gate(place.removeprefix("replayed "))
    one = await process(world, "a", *(() if stream else (slow,)))
    other = await process(world, "b", store_gate=door)
    first = world.ask(one, stream=stream)
    one.source.feed(say("Hello, "))
    await until(lambda: one.transport.calls and (first.reply.position or not stream))
    if place.startswith("replayed"):
        one.source.feed(say("you"), *FINISHED)
        slow.go.set()
        await world.answered(first)
    duplicate = world.ask(other, stream=stream, gate=hall)
    await calm()
    assert place == "frames" or door.reached.is_set() or hall.reached.is_set()

    await duplicate.leave()
    door.open()
    await calm()

    if not place.startswith("replayed"):
        one.source.feed(say("you"), *FINISHED)
        slow.go.set()
    await world.answered(first)
    assert (first.answer, calls(one, other)) == ("Hello, you", [1, 0])
    assert all(view.readers == 0 for bench in (one, other) for view in bench.streams._views.values())
    assert counted(other, "chat", "ok") == place.startswith("replayed")
    assert counted(other, "chat", "cancelled") == (not place.startswith("replayed"))


async def test_a_stream_that_nobody_reads_frees_its_key(world):
    """Its caller left and nobody asked again in time: it is cancelled, and the next one has it executed anew."""
    policy = {"policy": {"on_cut": "end", "abandon_seconds": 5}}
    one, other = await process(world, "a", document=policy), await process(world, "b", streamed("Hello"))
    first = world.ask(one, stream=True)
    one.source.feed(say("Hel"))
    await until(lambda: first.reply.position)
    await first.leave()
    await world.pass_seconds(4)
    assert not one.source.closed
    assert world.register.events() == [CREATED, STREAMING]

    await world.pass_seconds(3)
    again = await world.answered(world.ask(other, stream=True))

    assert (one.source.closed, again.answer, again.is_replayed) == (True, "Hello", False)
    assert world.register.events() == [CREATED, STREAMING, RELEASED, REOPENED, STREAMING, COMPLETED]


async def test_a_caller_who_takes_nothing_does_not_hold_the_answer(world):
    """Its connection is dropped, be it the first caller's or a duplicate's; the answer is kept all the same."""
    one = await process(world, "a", whole("Hi"), streamed("Hi"), document=PLAIN, reader_seconds=0.01)

    for key, stream, place in (("k", False, "send_whole"), ("s", True, "send_events")):
        for _ in range(2):
            await world.answered(world.ask(one, key, stream=stream, gate=Gate(place)))
        assert world.register.events(key) == [CREATED, COMPLETED, REPLAYED]
        assert (await world.answered(world.ask(one, key, stream=stream))).answer == "Hi"
    assert calls(one) == [2]


# --- failures ---------------------------------------------------------------------------------------------------------
async def test_a_failure_is_not_kept(world):
    """The first caller hears of it; of those who wait one executes, the others wait on and get its answer."""
    slow = Slow("")
    slow.status = 503
    again = Slow("Hi")
    one, other = await process(world, "a", slow), await process(world, "b", again)
    first = world.ask(one)
    await until(lambda: one.transport.calls)
    waiting = [world.ask(other) for _ in range(4)]
    await calm()

    slow.go.set()
    await until(lambda: other.transport.calls)
    await calm()
    assert not any(call.task.done() for call in waiting)
    again.go.set()
    await world.answered(first, *waiting)

    assert first.status == 503
    assert {call.answer for call in waiting} == {"Hi"}
    assert sorted(call.is_replayed for call in waiting) == [False, True, True, True]
    assert calls(one, other) == [1, 1]


async def test_a_stream_that_breaks_off_is_not_kept_and_not_joined(world):
    """Who was reading it hears of the end; whoever asks then has it executed anew."""
    one = await process(world, "a")
    first = world.ask(one, stream=True)
    one.source.feed(say("Hel"))
    await until(lambda: first.reply.position)
    beside = world.ask(one, stream=True)
    await until(lambda: beside.reply.position)

    one.source.feed(None)
    await world.answered(first, beside)
    one.exchange_again(FIRST, streamed("Hello"))
    again = await world.answered(world.ask(one, stream=True))

    assert {call.error["code"] for call in (first, beside)} == {"upstream_interrupted"}
    assert (again.answer, again.is_replayed) == ("Hello", False)
    assert (counted(one, "chat", "upstream_interrupted"), counted(one, "chat", "ok")) == (2, 1)


async def test_a_bug_in_what_records_an_execution_costs_nobody_the_answer(world, monkeypatch):
    """The caller does not wait for ever, and the key is not held for ever."""
    one = await process(world, "a", whole("Hi"))
    with monkeypatch.context() as patch:
        patch.setattr(one.metrics, "count", None)
        first = world.ask(one)
        await until(lambda: first.reply.opened)

    again = await world.answered(world.ask(one))

    assert (first.answer, again.answer, again.is_replayed) == ("Hi", "Hi", True)
    assert one.keyed.leases.held == 0


# --- the store is away ------------------------------------------------------------------------------------------------
async def test_without_its_store_nothing_is_executed_under_a_key(world):
    """Nobody knows whether it was executed before; requests without a key are served as always."""
    one = await process(world, "a", whole("Hi"))
    one.keys.away = {"everything"}

    refused = await world.answered(world.ask(one))
    plain = await world.answered(world.ask(one, key=None))

    assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (
        *(503, "idempotency_unavailable"),
        "1",
    )
    assert "x-should-retry" not in refused.headers
    assert (plain.answer, calls(one)) == ("Hi", [1])


async def test_a_stream_that_cannot_be_noted_goes_on(world):
    """Duplicates cannot read along then; they wait, and get it once it is complete."""
    one, other = await process(world, "a"), await process(world, "b")
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
async def test_an_outcome_that_cannot_be_written_is_written_later(world, stream, how):
    """The first caller has its answer; the lease is held meanwhile, so that nobody executes it again."""
    one, other = await process(world, "a", streamed("Hi") if stream else whole("Hi")), await process(world, "b")
    setattr(one.keys, how, {"complete"})
    first = await world.answered(world.ask(one, stream=stream))
    await world.pass_seconds(40)
    setattr(one.keys, how, set())

    again = await world.answered(world.ask(other, stream=stream))
    await world.pass_seconds(1)

    assert (first.answer, again.answer, calls(one, other)) == ("Hi", "Hi", [1, 0])
    assert first.reply.data == again.reply.data
    assert world.register.events().count(COMPLETED) == 1
    assert one.keyed.leases.held == 0


async def test_leases_do_not_wait_for_outcomes(world, monkeypatch):
    """A store that is slow to take one answer, or that one answer spoils, does not cost the others their leases."""
    slow = Slow("Hi")
    one = await process(world, "a", whole("one"), whole("two"), slow)
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
    one = await process(world, "a", *(() if stream else (slow,)), document=document)
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


@pytest.mark.parametrize("notices", ["in time", "too late"])
async def test_an_owner_that_was_taken_over_from_gives_no_other_answer(world, notices):
    """Whether it hears of it while it executes or when it is done: its caller is told to ask again, and gets the one
    that counts.
    """
    slow = Slow("from a")
    one, other = await process(world, "a", slow), await process(world, "b", whole("from b"))
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
    one = await process(world, "a", store_gate=Door("note_stream"))
    other = await process(world, "b", streamed("from b"))
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
    one, other = await process(world, "a"), await process(world, "b", whole("from b"))
    first = world.ask(one, stream=True)
    one.source.feed(say("Hel"))
    await until(lambda: first.reply.position)
    await world.kill(one)
    world.register.lapse()
    other.log.hold()
    second = world.ask(other, stream=True)
    await calm()
    world.register.lapse()
    third = await process(world, "c", streamed("from c"))
    third.log.held = other.log.held
    last = world.ask(third, stream=True)
    await calm()
    world.clock.advance(6)
    await other.keyed.leases.renew()

    other.log.let_go()
    await world.answered(second, last)

    assert (second.status, second.error["code"], calls(other)) == (502, "owner_lost", [0])
    assert last.error["code"] == "upstream_interrupted"


# --- owners that died -------------------------------------------------------------------------------------------------
async def dead(world, *, place=None, text="Hello"):
    """An owner that died at a place, or in the middle of its stream; and the caller whom it was answering."""
    one = await process(world, "a", store_gate=Door(place))
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
    other = await process(world, "b", store_gate=Door(leaves_at))
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
    other = await process(world, "b", streamed("Hello, you"))
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
    one, other = await process(world, "a"), await process(world, "b", streamed("Hello, you"))
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
    one, other = await process(world, "a"), await process(world, "b")
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
    one, other = await process(world, "a", store_gate=Door("first append")), await process(world, "b")
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
    one = await process(world, "a", *(() if stream else (slow,)))
    other = await process(world, "b", streamed("Hi") if stream else whole("Hi"))
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
    one, other = await process(world, "a", whole("Hi")), await process(world, "b", whole("Hi"))
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
    one = await process(world, "a", *answers, store_gate=Door(place))
    other = await process(world, "b", streamed("from b") if stream else whole("from b"))
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
    one = await process(world, "a", *answers)
    other = await process(world, "b", streamed("from b") if stream else whole("from b"))
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
