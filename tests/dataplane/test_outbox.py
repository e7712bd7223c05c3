"""The outbox: what one turn of the event loop has to say leaves together, in order, and never waits for long."""

from __future__ import annotations

import asyncio
import gc
import weakref

from uvicorn.server import ServerState

from dataplane.http_protocol import HttpProtocol
from dataplane.outbox import Outbox, outbox_of
from tests.dataplane.test_http_protocol import Transport, config_of

QUESTION = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


async def a_turn() -> None:
    """The loop's next turn begins."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_who_is_alone_waits_for_nobody():
    """Neither without anything expected, nor as the only one."""
    outbox, caller = outbox_of(asyncio.get_running_loop()), Transport()

    outbox.write(caller, b"one")
    outbox.expect()
    outbox.write(caller, b"two")

    assert caller.written == b"onetwo"


async def test_writes_of_a_turn_leave_with_the_last_of_them():
    """Three are expected: the first two wait for the third, and keep their order."""
    outbox, order = outbox_of(asyncio.get_running_loop()), []
    callers = [Transport(), Transport(), Transport()]
    for number, caller in enumerate(callers):
        caller.write = lambda data, number=number: order.append((number, data))
        outbox.expect()

    outbox.write(callers[2], b"a")
    outbox.write(callers[0], b"b")
    before = list(order)
    outbox.write(callers[1], b"c")

    assert before == []
    assert order == [(2, b"a"), (0, b"b"), (1, b"c")]


async def test_what_waits_for_a_write_that_never_comes_leaves_in_the_next_turn():
    """And nothing waits for it after that."""
    outbox, caller = outbox_of(asyncio.get_running_loop()), Transport()
    outbox.expect()
    outbox.expect()

    outbox.write(caller, b"kept")
    kept = caller.written
    await a_turn()

    assert kept == b""
    assert caller.written == b"kept"
    outbox.write(caller, b" alone")
    assert caller.written == b"kept alone"


async def test_closed_connection_takes_nobody_elses_words_with_it():
    """What was kept for it is dropped, and the next one is written."""
    outbox, gone, here = outbox_of(asyncio.get_running_loop()), Transport(), Transport()
    for _ in range(3):
        outbox.expect()
    outbox.write(gone, b"too late")
    outbox.write(here, b"in time")

    gone.close()
    outbox.flush()

    assert gone.written == b""
    assert here.written == b"in time"


async def test_connections_of_a_loop_share_an_outbox_and_answers_leave_before_the_connection_closes():
    """Two callers ask in one turn; the first, who wants the connection closed, has the answer before that."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    loop, state = asyncio.get_running_loop(), ServerState()
    lines = [HttpProtocol(config_of(app), state, {}, loop) for _ in range(2)]
    callers = [Transport(), Transport()]
    for line, caller in zip(lines, callers, strict=True):
        line.connection_made(caller)

    lines[0].data_received(QUESTION.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    lines[1].data_received(QUESTION)
    await a_turn()

    assert [caller.written.endswith(b"\r\n\r\nok") for caller in callers] == [True, True]
    assert [caller.closed for caller in callers] == [True, False]
    for line in lines:
        line.connection_lost(None)


def test_outbox_goes_with_its_loop():
    """A loop that nobody holds any more is not held by what it had to write."""
    loop = asyncio.new_event_loop()
    outbox = outbox_of(loop)
    seen = weakref.ref(loop)

    loop.close()
    del loop
    gc.collect()

    assert isinstance(outbox, Outbox)
    assert seen() is None
