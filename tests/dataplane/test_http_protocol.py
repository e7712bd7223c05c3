import asyncio
import json
import logging
from contextlib import asynccontextmanager

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from dataplane.http_protocol import (
    HEAD_SECONDS,
    LOOK_SECONDS,
    MAX_HEAD_BYTES,
    MAX_WAITING,
    REQUEST_SECONDS,
    WINDOW_BYTES,
    HttpProtocol,
)

WAIT = 30
KEEP_ALIVE = 75
QUESTION = b"POST /v1/chat HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello"
LAST = b"GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"


async def echo(scope, receive, send):
    """Say what was asked, in the way that the path asks for."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    seen = {name: scope[name] for name in ("method", "path", "http_version")}
    seen |= {
        "query": scope["query_string"].decode(),
        "headers": [[n.decode(), v.decode()] for n, v in scope["headers"]],
    }
    content = json.dumps(seen | {"body": body.decode("latin-1")}).encode()
    status = 204 if scope["path"] == "/nothing" else 200
    streams = scope["path"] == "/stream"
    headers = [] if streams or status == 204 else [(b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": [(b"x-from", b"echo"), *headers]})
    if streams:
        for part in (content[:10], b"", content[10:]):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        content = b""
    await send({"type": "http.response.body", "body": b"" if status == 204 else content})


def config_of(app):
    config = uvicorn.Config(app, loop="asyncio", lifespan="off", timeout_keep_alive=KEEP_ALIVE)
    config.load()
    config.loaded_app = app  # without what uvicorn puts around it
    return config


@asynccontextmanager
async def served(app, protocol=HttpProtocol):
    """`ask(data, …)`: what a server with this protocol says to these pieces until it hangs up."""
    config, state = config_of(app), ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: protocol(config, state, {}), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def ask(*pieces):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            async with asyncio.timeout(WAIT):
                return await reader.read()
        except ConnectionResetError:
            return None
        finally:
            writer.close()

    ask.port, ask.state = port, state
    try:
        yield ask
    finally:
        server.close()
        async with asyncio.timeout(WAIT):
            while state.tasks:
                await asyncio.wait(state.tasks)


class Transport(asyncio.Transport):
    """What a connection does, noted."""

    def __init__(self):
        super().__init__()
        self.written, self.closed, self.aborted, self.reads = b"", False, False, True

    def write(self, data):
        self.written += data

    def close(self):
        self.closed = True

    def abort(self):
        self.closed = self.aborted = True

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        self.reads = False

    def resume_reading(self):
        self.reads = True


class Line:
    """A connection whose other end is the test, and whose time goes on when the test says so."""

    def __init__(self, app):
        self.loop = asyncio.get_running_loop()
        self.skipped = 0.0
        self.state = ServerState()
        self.transport = Transport()
        self.protocol = HttpProtocol(config_of(app), self.state, {}, self)
        self.looks = []
        self.protocol.connection_made(self.transport)

    def time(self):
        return self.skipped

    def call_later(self, seconds, callback):
        self.looks = [(self.skipped + seconds, callback)]
        return self.loop.call_later(3600, lambda: None)

    def call_soon(self, callback):
        return self.loop.call_soon(callback)

    def create_future(self):
        return self.loop.create_future()

    def create_task(self, coroutine):
        return self.loop.create_task(coroutine)

    def pass_time(self, seconds):
        until = self.skipped + seconds
        while self.looks and self.looks[0][0] <= until:
            [(self.skipped, look)] = self.looks
            look()
        self.skipped = until

    def say(self, data):
        self.protocol.data_received(data)

    async def settle(self):
        """Until everything that can go on has."""
        for _ in range(50):
            await asyncio.sleep(0)

    def hang_up(self):
        self.protocol.connection_lost(None)


def ordinary(answer):
    """A sequence of responses, without what differs from server to server and day to day."""
    lines = [line for line in answer.split(b"\r\n") if not line.lower().startswith((b"date:", b"server:"))]
    return b"\r\n".join(lines)


ASKED = {
    "get": b"GET /a?b=c&d HTTP/1.1\r\nhost: a\r\n\r\n",
    "post": QUESTION,
    "two at once": QUESTION + b"GET /b HTTP/1.1\r\nhost: a\r\n\r\n",
    "chunked": b"POST /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    "trailers": b"POST /c HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n",
    "stream": b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n",
    "head": b"HEAD /a HTTP/1.1\r\nhost: a\r\n\r\n",
    "head of a stream": b"HEAD /stream HTTP/1.1\r\nhost: a\r\n\r\n",
    "no content": b"GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n",
    "escaped": b"GET /a%2Fb%20c%C3%A4?q=%20 HTTP/1.1\r\nhost: a\r\n\r\n",
    "with a fragment": b"GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n",
    "a proxy's target": b"GET http://example.org/a?b HTTP/1.1\r\nhost: a\r\n\r\n",
    "expects word": b"POST /e HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nhi",
    "names in capitals": b"GET /n HTTP/1.1\r\nHOST: a\r\nX-Custom: Value \r\n\r\n",
    "twice": b"GET /n HTTP/1.1\r\nhost: a\r\nx: 1\r\nx: 2\r\n\r\n",
    "empty line first": b"\r\nGET /n HTTP/1.1\r\nhost: a\r\n\r\n",
}


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
async def test_what_is_asked_and_answered_is_what_uvicorn_would_make_of_it(asked):
    """The same application, the same bytes: request, response, and the next request on the same connection."""
    async with served(echo) as ours, served(echo, HttpToolsProtocol) as uvicorns:
        expected = ordinary(await uvicorns(asked, LAST))

        assert ordinary(await ours(asked, LAST)) == expected
    assert b"/last" in expected


@pytest.mark.parametrize("protocol", [HttpProtocol, HttpToolsProtocol])
async def test_connection_ends_where_its_caller_wants_it_to(protocol):
    """Whoever speaks HTTP/1.0 or says `close` waits for that."""
    async with served(echo, protocol) as ask:
        old = await ask(b"GET /a HTTP/1.0\r\nhost: a\r\n\r\n")
        closing = await ask(LAST)

    assert b"connection: close\r\n" in old
    assert b"connection: close\r\n" in closing


async def test_stream_to_http_1_0_ends_with_its_connection():
    """It knows no chunks."""
    async with served(echo) as ask:
        head, _, body = (await ask(b"GET /stream HTTP/1.0\r\nhost: a\r\n\r\n")).partition(b"\r\n\r\n")

    assert b"chunked" not in head
    assert json.loads(body)["path"] == "/stream"


async def test_offer_of_another_protocol_is_declined_by_serving_this_one():
    """As RFC 9110 has it for whoever does not upgrade; after that, the connection is not used again."""
    asked = b"GET /a HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    async with served(echo) as ask:
        answer = await ask(asked)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close\r\n" in answer


@given(st.lists(st.integers(1, 200), max_size=8))
def test_how_a_conversation_is_cut_into_packets_changes_nothing(cuts):
    """Requests come in pieces of any size, and several in one."""
    conversation = b"".join((QUESTION, ASKED["chunked"], ASKED["stream"], ASKED["get"], LAST))

    async def heard(pieces):
        line = Line(echo)
        for piece in pieces:
            line.say(piece)
            await asyncio.sleep(0)
        await line.settle()
        line.hang_up()
        return line.transport.written

    pieces, rest = [], conversation
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]

    assert asyncio.run(heard([*pieces, rest])) == asyncio.run(heard([conversation]))


BROKEN = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00",
    "a space in a name": b"GET / HTTP/1.1\r\nhost : a\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na",
    "length and chunks": b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length below zero": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
    "a null in a header": b"GET / HTTP/1.1\r\nhost: a\x00b\r\n\r\n",
    "no target": b"GET  HTTP/1.1\r\nhost: a\r\n\r\n",
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
async def test_what_is_no_request_is_refused_and_the_connection_closed(sent):
    """Before any application sees it: two readings of one request are how requests are smuggled."""
    async with served(echo) as ask:
        answer = await ask(sent)

    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"connection: close\r\n" in answer


async def test_chunk_that_is_none_ends_the_connection():
    """Its application waits for the rest of a body that never comes; it hears that the caller is gone."""
    async with served(echo) as ask:
        answer = await ask(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", b"zz\r\n")

    assert not answer


async def test_rubbish_behind_a_request_does_not_cost_its_answer():
    """The answer is written, and then the connection closed."""
    line = Line(echo)

    line.say(QUESTION + b"\x00\x01 rubbish\r\n\r\n")
    await line.settle()

    assert line.transport.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"400" not in line.transport.written
    assert (line.transport.closed, line.transport.aborted) == (True, False)


async def test_head_may_be_only_so_large():
    """Whoever sends headers without end is told so, and its memory freed."""
    line = Line(echo)

    line.say(b"GET / HTTP/1.1\r\nhost: a\r\n")
    for number in range(MAX_HEAD_BYTES // 1000 + 1):
        line.say(b"x-%d: %b\r\n" % (number, b"a" * 1000))

    assert line.transport.written.startswith(b"HTTP/1.1 431 ")
    assert line.transport.closed


async def test_head_may_be_only_so_long_in_coming():
    """A byte now and then does not keep a connection."""
    line = Line(echo)
    line.say(b"GET / HTTP/1.1\r\n")

    for _ in range(int(HEAD_SECONDS / LOOK_SECONDS)):
        line.say(b"x: y\r\n")
        line.pass_time(LOOK_SECONDS)
    before = line.transport.closed
    line.pass_time(LOOK_SECONDS)

    assert (before, line.transport.closed) == (False, True)


async def test_body_may_be_only_so_long_in_coming():
    """Its application hears that the caller is gone, once the connection is."""
    heard = []

    async def app(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            pass
        heard.append(message["type"])

    line = Line(app)
    line.say(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n")
    for _ in range(int(REQUEST_SECONDS / LOOK_SECONDS)):
        line.say(b"a")
        line.pass_time(LOOK_SECONDS)
        await asyncio.sleep(0)
    before = line.transport.aborted
    line.pass_time(LOOK_SECONDS)

    assert (before, line.transport.aborted) == (False, True)
    line.hang_up()
    await line.settle()
    assert heard == ["http.disconnect"]


async def test_quiet_connection_is_kept_for_a_while():
    """Between two requests, and before the first."""
    line = Line(echo)
    line.say(QUESTION)
    await line.settle()

    line.pass_time(KEEP_ALIVE)
    before = line.transport.closed
    line.pass_time(LOOK_SECONDS)

    assert (before, line.transport.closed) == (False, True)


async def test_request_that_takes_long_to_answer_keeps_its_connection():
    """Its deadline is the pipeline's business."""
    ended = asyncio.Event()

    async def app(scope, receive, send):
        await ended.wait()
        await echo(scope, receive, send)

    line = Line(app)
    line.say(QUESTION)
    await line.settle()

    line.pass_time(10 * REQUEST_SECONDS)

    assert not line.transport.closed
    ended.set()
    await line.settle()
    assert line.transport.written.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_body_is_read_no_faster_than_it_is_taken():
    """Until the application asks for more, nothing is read beyond a window."""
    go = asyncio.Event()

    async def app(scope, receive, send):
        await go.wait()
        await echo(scope, receive, send)

    line = Line(app)
    line.say(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (2 * WINDOW_BYTES))
    line.say(b"a" * WINDOW_BYTES)
    at_window = line.transport.reads
    line.say(b"a")
    beyond = line.transport.reads
    go.set()
    await line.settle()

    assert (at_window, beyond, line.transport.reads) == (True, False, True)
    line.say(b"a" * (WINDOW_BYTES - 1))
    await line.settle()
    assert len(json.loads(line.transport.written.partition(b"\r\n\r\n")[2])["body"]) == 2 * WINDOW_BYTES


async def test_early_requests_wait_their_turn_unread():
    """One at a time; of more than a few at once none is taken."""
    turns = [asyncio.Event() for _ in range(3)]
    served_now = []

    async def app(scope, receive, send):
        served_now.append(scope["path"])
        await turns[len(served_now) - 1].wait()
        await echo(scope, receive, send)

    line = Line(app)
    line.say(b"".join(b"GET /%d HTTP/1.1\r\nhost: a\r\n\r\n" % number for number in range(3)))
    await line.settle()
    first = list(served_now)
    reads = line.transport.reads
    for turn in turns:
        turn.set()
    await line.settle()

    assert (first, reads) == (["/0"], False)
    assert served_now == ["/0", "/1", "/2"]
    assert line.transport.written.count(b"HTTP/1.1 200 OK") == 3
    assert line.transport.reads

    line.say(ASKED["get"] * (MAX_WAITING + 2))
    await line.settle()
    assert line.transport.closed


async def test_rest_of_a_body_that_nobody_read_is_no_request():
    """The application answers before it has read everything, so the connection cannot be used again."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    line = Line(app)
    line.say(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")
    await line.settle()

    assert line.transport.written.count(b"HTTP/1.1") == 1
    assert line.transport.closed


async def test_caller_who_reads_slowly_is_waited_for():
    """The application goes on once the caller has read, or is gone."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(4):
            await send({"type": "http.response.body", "body": b"%d" % number, "more_body": True})
            sent.append(number)

    line = Line(app)
    line.protocol.pause_writing()
    line.say(ASKED["get"])
    await line.settle()
    while_slow = list(sent)
    line.hang_up()
    await line.settle()

    assert while_slow == []
    assert sent == [0, 1, 2, 3]
    assert line.transport.written == b""


async def fails_at_once(scope, receive, send):
    """Before anything is said."""
    raise ValueError("broken")


async def fails_in_between(scope, receive, send):
    """When a part has been written."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"part", "more_body": True})
    raise ValueError("broken")


async def says_nothing(scope, receive, send):
    """And returns."""


async def says_too_little(scope, receive, send):
    """Less than its head says."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
    await send({"type": "http.response.body", "body": b"part"})


async def breaks_the_head(scope, receive, send):
    """With a value that came from somebody else."""
    headers = [(b"content-length", b"0"), (b"x-lane", b"a\r\nset-cookie: b=c")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body"})


async def breaks_the_head_by_half_a_line_end(scope, receive, send):
    """Which many servers take for a whole one."""
    headers = [(b"content-length", b"0"), (b"x-lane", b"a\nset-cookie: b=c")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body"})


async def begins_twice(scope, receive, send):
    """As no response does."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.start", "status": 200, "headers": []})


@pytest.mark.parametrize(
    "app", [fails_at_once, says_nothing, says_too_little, breaks_the_head, breaks_the_head_by_half_a_line_end]
)
async def test_application_that_said_nothing_yet_gets_an_error_said_for_it(app, caplog):
    """Its caller does not wait, and reads nothing that was not meant."""
    line = Line(app)
    with caplog.at_level(logging.CRITICAL):
        line.say(ASKED["get"])
        await line.settle()

    assert line.transport.written.startswith(b"HTTP/1.1 500 ")
    assert line.transport.written.endswith(b"Internal Server Error")
    assert b"set-cookie" not in line.transport.written
    assert line.transport.closed


@pytest.mark.parametrize("app", [fails_in_between, begins_twice])
async def test_response_that_cannot_be_completed_does_not_look_complete(app, caplog):
    """The connection is aborted, without the chunk that ends a response."""
    line = Line(app)
    with caplog.at_level(logging.CRITICAL):
        line.say(ASKED["get"])
        await line.settle()

    assert not line.transport.written.endswith(b"0\r\n\r\n")
    assert line.transport.aborted


async def test_server_that_stops_serves_what_is_under_way():
    """Quiet connections are closed at once, busy ones after the response that is due."""
    go = asyncio.Event()

    async def app(scope, receive, send):
        await go.wait()
        await echo(scope, receive, send)

    quiet, busy = Line(app), Line(app)
    busy.say(QUESTION)
    await busy.settle()
    quiet.protocol.shutdown()
    busy.protocol.shutdown()
    closed = (quiet.transport.closed, busy.transport.closed)
    go.set()
    await busy.settle()

    assert closed == (True, False)
    assert b"connection: close\r\n" in busy.transport.written
    assert busy.transport.closed
    assert (len(busy.state.tasks), busy.state.total_requests) == (0, 1)


async def test_cancelled_request_is_not_left_unanswered():
    """uvicorn cancels what is under way when the time to drain is over."""

    async def app(scope, receive, send):
        await asyncio.Event().wait()

    line = Line(app)
    line.say(ASKED["get"])
    await line.settle()
    for task in list(line.state.tasks):
        task.cancel()
    await line.settle()

    assert line.transport.written.startswith(b"HTTP/1.1 500 ")
    assert line.transport.closed
