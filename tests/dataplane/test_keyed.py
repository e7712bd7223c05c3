"""Requests with an idempotency key: executed once, whoever asks, and given again to everybody else."""

from __future__ import annotations

import asyncio
import gc

import pytest

from dataplane.idempotency import MAX_KEPT_BYTES, Event

from .bench import FakeExchange, Gate
from .key_world import PLAIN, Door, KeyedWorld, Slow, calls, counted, failing, series_of, shared, streamed, whole
from .stream_world import FINISHED, FIRST, calm, say, text_in, until

CREATED, ATTACHED, REPLAYED, COMPLETED = Event.CREATED, Event.ATTACHED, Event.REPLAYED, Event.COMPLETED
STREAMING, RELEASED, REOPENED = Event.STREAMING, Event.RELEASED, Event.REOPENED
RUN_BY_PROVIDER = [{"type": "web_search", "web_search": {}}]
EMBEDDING = b'{"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 2}}'


@pytest.fixture
async def world(make_document, clock):
    """A fleet, and nobody who asks yet."""
    world = KeyedWorld(make_document, clock)
    yield world
    await world.end_all()


# --- once for everybody -----------------------------------------------------------------------------------------------
async def test_a_whole_answer_is_made_once_and_given_to_all(world):
    """Who asks while it is made waits, who asks later gets it at once: same bytes, same headers but for the request."""
    slow = Slow("Hi")
    one, other = await world.process("a", slow), await world.process("b")
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
    one, other = await world.process("a"), await world.process("b")
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
    one = await world.process("a", document=PLAIN)
    other = await world.process("b", document=PLAIN)
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
    one = await world.process("a", FakeExchange((EMBEDDING,), Gate()), document=able)

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
    one = await world.process("a", whole("Hi"), streamed("Hi"))
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
    one = await world.process("a", make("Hi"), make("Hi"), document=PLAIN)
    await world.answered(world.ask(one, "before", stream=stream))
    gc.collect()

    await world.answered(world.ask(one, stream=stream))
    world.calls.clear()

    assert (calls(one), gc.collect()) == ([2], 0)


# --- refusals ---------------------------------------------------------------------------------------------------------
async def test_what_is_neither_executed_nor_given_again_says_why(world):
    """Another request under the key, a bad key, an answer too long to keep: named, and nothing is called for them."""
    one = await world.process("a", whole("Hi"), whole("x" * MAX_KEPT_BYTES))
    await world.answered(world.ask(one), world.ask(one, "long"))

    other = await world.answered(world.ask(one, seed=1, temperature=0))
    bad = await world.answered(world.ask(one, "no key"))
    long = await world.answered(world.ask(one, "long"))

    assert (other.status, other.error["code"]) == (422, "idempotency_mismatch")
    assert other.error["fields"] == ["seed", "temperature"]
    assert (bad.status, bad.error["code"], bad.error["param"]) == (400, "invalid_request", "Idempotency-Key")
    assert (long.status, long.error["code"]) == (409, "idempotency_outcome_not_kept")
    assert {call.headers["x-should-retry"] for call in (other, bad, long)} == {"false"}
    assert calls(one) == [2]
    assert series_of(one)["", "", "none"] == (3, 0, 3, 0, 0)


@pytest.mark.parametrize("deadline_ms", [None, "5000"])
async def test_a_duplicate_waits_only_so_long(world, deadline_ms):
    """Until its own deadline, or 20 s; then it hears when to ask again, and that no SDK should by itself."""
    slow = Slow("Hi")
    one, other = await world.process("a", slow), await world.process("b")
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
    one = await world.process("a", failing(500), whole("Hi"))
    first = await world.answered(world.ask(one, **options))

    again = await world.answered(world.ask(one, **options))
    harmless = await world.answered(world.ask(one, "h", tool_effects="idempotent", **options))

    assert first.status == 503
    assert (again.status, again.error["code"]) == (409, "idempotency_indeterminate")
    assert again.headers["x-should-retry"] == "false"
    assert (harmless.answer, calls(one)) == ("Hi", [2])
    assert world.register.events() == [CREATED, *[Event.INDETERMINATE] * 2]


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
    one = await world.process("a", *(() if stream else (slow,)), store_gate=door)
    other = await world.process("b", streamed("Hello, you") if stream else whole("Hello, you"))
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
    one = await world.process("a", *(() if stream else (slow,)))
    other = await world.process("b", store_gate=door)
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
    one, other = await world.process("a", document=policy), await world.process("b", streamed("Hello"))
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
    one = await world.process("a", whole("Hi"), streamed("Hi"), document=PLAIN, reader_seconds=0.01)

    for key, stream, place in (("k", False, "send_whole"), ("s", True, "send_events")):
        for _ in range(2):
            call = await world.answered(world.ask(one, key, stream=stream, gate=Gate(place)))
            assert b"error" not in call.reply.data
        assert world.register.events(key) == [CREATED, COMPLETED, REPLAYED]
        assert (await world.answered(world.ask(one, key, stream=stream))).answer == "Hi"
    assert calls(one) == [2]


@pytest.mark.parametrize(("stream", "document"), [(False, {}), (True, PLAIN), (True, {})])
async def test_a_connection_that_fails_does_not_spoil_the_answer(world, stream, document):
    """What happens to its caller is no failure of the execution, which others wait for."""

    class Failing(Gate):
        async def pass_(self, place):
            if place in ("send_whole", "send_events"):
                raise RuntimeError("the server fails")

    one = await world.process("a", streamed("Hi") if stream else whole("Hi"), document=document)
    first = world.ask(one, stream=stream, gate=Failing())
    await asyncio.wait([first.task])
    await calm()

    again = await world.answered(world.ask(one, stream=stream))

    assert (again.answer, again.is_replayed, calls(one)) == ("Hi", True, [1])
    assert (counted(one, "chat", "ok"), [row["outcome"] for row in one.rows]) == (2, ["ok"])


# --- failures ---------------------------------------------------------------------------------------------------------
async def test_a_failure_is_not_kept(world):
    """The first caller hears of it; of those who wait one executes, the others wait on and get its answer."""
    slow = Slow("")
    slow.status = 503
    again = Slow("Hi")
    one, other = await world.process("a", slow), await world.process("b", again)
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
    one = await world.process("a")
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
    one = await world.process("a", whole("Hi"))
    with monkeypatch.context() as patch:
        patch.setattr(one.metrics, "count", None)
        first = world.ask(one)
        await until(lambda: first.reply.opened)

    again = await world.answered(world.ask(one))

    assert (first.answer, again.answer, again.is_replayed) == ("Hi", "Hi", True)
    assert one.keyed.leases.held == 0
