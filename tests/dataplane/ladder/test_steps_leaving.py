"""Whoever enters the ladder leaves it, whatever becomes of the request."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.errors.upstream import UpstreamUnreachable
from dataplane.release import parse_document
from tests.dataplane.bench import ANSWER, FakeExchange, Gate
from tests.dataplane.stream_world import calm, done
from tests.dataplane.virtual_time import in_virtual_time

from .steps_world import (
    DEAR,
    DETAIL,
    LANES,
    PIECES,
    QUESTION,
    Standing,
    ladder_document,
)


@pytest.mark.parametrize("rung", [0, 1, 3])
@pytest.mark.parametrize(
    ("place", "stream"),
    [
        ("send", False),
        ("read", False),
        ("send_whole", False),
        ("next_chunk", True),
        ("open_stream", True),
        ("send_events", True),
    ],
)
async def test_request_that_is_cancelled_anywhere_has_left(stand, rung, place, stream):
    """Its place is free, whatever it waited for."""
    gate = Gate(place)
    bench = stand(rung, gate=gate, chunks=PIECES if stream else (ANSWER,), places={"vip": 1} if rung == 1 else {})
    task = bench.start(stream=stream)
    await gate.reached.wait()
    assert bench.holds == (1, 1 if rung == 1 else 0)

    task.cancel()
    with suppress(asyncio.CancelledError):
        await done(task)

    assert bench.holds == (0, 0)


@pytest.mark.parametrize("place", ["send_whole", "open_stream", "send_events"])
async def test_caller_who_hangs_up_on_signed_words_has_left(stand, place):
    """Nothing of the ladder is held for whoever is gone."""
    gate = Gate(place)
    bench = stand(5, gate=gate)
    task = bench.start(stream=place != "send_whole")
    await gate.reached.wait()

    task.cancel()
    with suppress(asyncio.CancelledError):
        await done(task)

    assert bench.holds == (0, 0)


@in_virtual_time
async def test_request_whose_deadline_passes_has_left(stand):
    """It is told so as on any rung, and which one it was."""
    bench = stand(1, gate=Gate("read"), clock=asyncio.get_running_loop().time)

    await bench.start(deadline_ms="50")

    assert (bench.body["error"]["code"], bench.header["ballast-rung"]) == ("deadline_exceeded", "1")
    assert bench.holds == (0, 0)


@pytest.mark.parametrize("fields", [{"messages": []}, {"model": "nowhere"}, {"messages": [{"role": "user"}]}])
async def test_request_that_is_refused_before_its_route_is_known_never_entered(stand, fields):
    """A mistake is a mistake on every rung."""
    bench = stand(6)

    await bench.start(**fields)

    assert bench.body["error"]["code"] in ("invalid_request", "model_not_found")
    assert bench.holds == (0, 0)


async def test_words_are_those_of_the_release_that_the_ladder_follows(make_document):
    """A request that was admitted under the release before finds a rung that this had no words for, and no answers."""
    document = ladder_document(make_document, ladder={})
    document["sections"]["copy"] = {}
    bench = Standing(document, rung=5)
    bench.ladder.adopt(parse_document(ladder_document(make_document), digest="e" * 64))

    await bench.start(messages=[{"role": "user", "content": QUESTION}])

    assert bench.body["choices"][0]["message"]["content"] == DETAIL
    assert (bench.reply.status, bench.header["ballast-rung"], bench.body["ballast"]["copy"]) == (200, "5", "rung-5@1")


class Held(FakeExchange):
    """An answer that comes, or fails, when a test says so."""

    def __init__(self):
        super().__init__((ANSWER,), Gate())
        self.outcome = None

    async def read(self):
        self.outcome = asyncio.get_running_loop().create_future()
        await self.outcome
        return ANSWER


ENDS = {
    "answered": lambda outcome: outcome.set_result(None),
    "failed": lambda outcome: outcome.set_exception(UpstreamUnreachable("nobody there", lane=DEAR)),
}


@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["ask", "engage", "answered", "failed", "cancelled"]), st.integers(0, 6)), max_size=25
    )
)
def test_whoever_enters_leaves_whatever_becomes_of_the_others(make_document, moves):
    """Answered, failed, cancelled or served from signed copy, in any order and on any rungs: at the end nobody is in,
    and no place is taken.
    """

    async def live():
        held = [Held() for _ in range(4 * len(moves) + 1)]
        lanes = {lane: held[number :: len(LANES)] for number, lane in enumerate(LANES)}
        bench = Standing(ladder_document(make_document), places={"vip": 2}, lanes=lanes)
        tasks = []
        for move, number in moves:
            waiting = [one.outcome for one in held if one.outcome is not None and not one.outcome.done()]
            if move == "engage":
                bench.levels.engaged["web-chat"] = number
            elif move == "ask":
                tasks.append(bench.start(key=("bk-acme", "bk-globex")[number % 2]))
            elif move == "cancelled" and tasks:
                tasks[number % len(tasks)].cancel()
            elif move in ENDS and waiting:
                ENDS[move](waiting[number % len(waiting)])
            await calm(20)
            assert bench.holds[0] == sum(not task.done() for task in tasks)
            assert bench.holds[1] <= 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return bench.holds

    assert asyncio.run(live()) == (0, 0)
