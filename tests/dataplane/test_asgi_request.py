"""A body that does not come, and an application that fails: each ends with an answer of ours."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest

from dataplane.asgi_request import BODY_SECONDS, CallerLeft, CallerWatch
from dataplane.envelope import BodyTooLarge, BodyTooSlow
from dataplane.gateway import Gateway
from dataplane.timers import TimerWheel

LIMIT = 100


def caller(*messages, then=None):
    """Sends these, then waits for ever, or says `then`."""
    queue = list(messages)

    async def receive():
        if queue:
            return queue.pop(0)
        if then is not None:
            return then
        return await asyncio.get_running_loop().create_future()

    return receive


async def read_body(receive, *, seconds=BODY_SECONDS, tick_seconds=0.01):
    watch = CallerWatch(receive, TimerWheel(tick_seconds=tick_seconds), body_seconds=seconds)
    try:
        return await watch.read_body(limit_bytes=LIMIT)
    finally:
        watch.stop()


def part(body, *, more=True):
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize("sent", [[], [part(b"")], [part(b"{"), part(b'"a"')]])
async def test_body_that_stops_coming_ends_in_time(sent):
    """Half a request holds its place for a minute, not for ever; afterwards the task is as if nobody had touched it."""
    with pytest.raises(BodyTooSlow, match=r"within 0.05 s"):
        await read_body(caller(*sent), seconds=0.05)

    assert asyncio.current_task().cancelling() == 0


async def test_body_in_parts_is_read_whole():
    """However it is cut."""
    body = await read_body(caller(part(b"{"), part(b"}", more=False)))

    assert body == b"{}"


async def test_body_beyond_the_limit_is_refused_as_soon_as_that_is_clear():
    """The rest is not waited for."""
    with pytest.raises(BodyTooLarge):
        await read_body(caller(part(b"a" * 60), part(b"a" * 60)))


async def test_caller_who_leaves_in_the_middle_left():
    """That is no body."""
    with pytest.raises(CallerLeft):
        await read_body(caller(part(b"{"), then={"type": "http.disconnect"}))


async def test_cancellation_of_somebody_else_stays_one():
    """A server that stops is no slow caller."""
    reading = asyncio.create_task(read_body(caller(), seconds=60))
    await asyncio.sleep(0)
    reading.cancel()

    with pytest.raises(asyncio.CancelledError):
        await reading


@pytest.mark.python_only  # the parts of this gateway are nobody
@pytest.mark.parametrize("begun", [False, True])
async def test_mistake_of_ours_is_answered_in_the_envelope(begun, caplog):
    """With the traceback in the log and not in the answer; where an answer has begun, nothing is said twice."""
    sent = []

    async def send(message):
        if sent and message["type"] == "http.response.start":
            raise RuntimeError("a second answer")
        sent.append(message)

    def breaks(path):
        if begun:
            sent.append({"type": "http.response.start", "status": 200})
        raise KeyError("a secret detail")

    parts = SimpleNamespace(
        pipeline=None,
        retrieve_desk=None,
        stream_desk=None,
        status_desk=SimpleNamespace(serves=breaks),
        desks=(),
        metrics=None,
        reports=None,
        timers=None,
        tracer=None,
    )
    await Gateway(parts, limit_bytes=1)({"type": "http", "path": "/v1/x", "method": "GET"}, caller(), send)

    assert "a secret detail" in caplog.text
    assert sent[0]["status"] == (200 if begun else 500)
    if not begun:
        error = json.loads(sent[1]["body"])["error"]
        assert (error["code"], error["type"]) == ("internal_error", "server_error")
        assert "secret" not in error["message"]
