"""Whatever bytes come: an answer of ours or the end of the connection, never a hang, never a 5xx that is not in our
envelope. A sample; `make fuzz` looks longer.
"""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "20"))
SECONDS = 30.0
# As long as a request that is not whole is waited for here; the gateway waits longer.
SILENCE_SECONDS = 0.2
KEY = b"authorization: Bearer bk-acme\r\n"
POSTED = ("/v1/chat/completions", "/v1/embeddings", "/v1/retrieve", "/v1/jobs", "/v1/repairs/rp_x", "/v1/streams/x/ack")
PATHS = (
    *POSTED,
    "/v1/models",
    "/v1/streams/" + "0" * 32,
    "/v1/status",
    "/status/web-chat",
    "/livez",
    "/readyz",
    "/metrics",
    "/",
)
FUZZED = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@dataclass
class Answered:
    """What came back before the connection ended; `status` 0: nothing that is HTTP."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_whole = True


class Parser(Answered):
    def on_message_begin(self) -> None:
        if self.is_whole:
            self.body, self.headers, self.is_whole = b"", {}, False


@pytest.fixture(scope="module")
def address(live_gateway):
    parts = urlsplit(live_gateway.url)
    return parts.hostname, parts.port


def sent(address, data: bytes) -> Answered:
    """Send bytes and read to the end, which has to come: at once, or when it is said that there are no more bytes.

    Not said at first, since whoever says so has left, and gets no answer.

    Raises:
        TimeoutError: it does not.
    """
    answered = Parser()
    parser = httptools.HttpResponseParser(answered)
    with socket.create_connection(address, timeout=SECONDS) as connection:
        with suppress(OSError):  # it was refused before all of it was sent; what was said is read
            connection.sendall(data)
            connection.settimeout(SILENCE_SECONDS)
            try:
                connection.recv(1, socket.MSG_PEEK)
            except TimeoutError:
                connection.shutdown(socket.SHUT_WR)
        connection.settimeout(SECONDS)
        with suppress(ConnectionError):
            while chunk := connection.recv(65536):
                parser.feed_data(chunk)
                answered.status = parser.get_status_code()
    return answered


def request(path: str, body: bytes = b"", *, method: str = "POST", headers: bytes = KEY) -> bytes:
    """A request that is well formed but for what a test makes of it; the connection ends after the answer."""
    head = f"{method} {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"content-type: application/json\r\n" + headers + b"\r\n" + body


def check(answered: Answered) -> None:
    """An answer that a caller can do something with."""
    if answered.status >= 500:
        assert json.loads(answered.body)["error"]["code"]
    if answered.status >= 400 and answered.headers.get("content-type", "").startswith("application/json"):
        error = json.loads(answered.body)["error"]
        assert error["code"]
        assert error["message"]
        assert "Traceback" not in answered.body.decode()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["chat", "user", "\x00", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = (
    "model",
    "messages",
    "stream",
    "prompt",
    "user",
    "input",
    "tools",
    "response_format",
    "temperature",
    "ballast",
    "max_tokens",
    "stream_options",
    "query",
    "corpus",
    "after",
    "n",
    "stop",
    "tool_choice",
    "metadata",
    "endpoint",
    "body",
)
GOOD = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "input": "hello"}


def test_what_is_good_is_served(address):
    """Or all that follows would be refused for another reason than it should."""
    answered = sent(address, request("/v1/chat/completions", json.dumps(GOOD).encode()))

    assert answered.status == 200
    assert json.loads(answered.body)["choices"]


@FUZZED
@given(path=st.sampled_from(POSTED), fields=st.dictionaries(st.sampled_from(FIELDS), JSON), whole=st.none() | JSON)
def test_any_json_is_answered_in_the_envelope(address, path, fields, whole):
    """Wrong types, missing members, half characters, numbers that no double holds: the caller is told what is wrong."""
    content = GOOD | fields if whole is None else whole

    answered = sent(address, request(path, json.dumps(content).encode("utf-8", "surrogatepass")))

    assert answered.status
    check(answered)


@FUZZED
@given(path=st.sampled_from(PATHS), data=st.binary(max_size=300))
def test_any_body_is_answered_in_the_envelope(address, path, data):
    """Bytes that are no JSON, no UTF-8, or none at all."""
    for method in ("POST", "GET", "PUT", "DELETE"):
        answered = sent(address, request(path, data, method=method))

        assert answered.status
        check(answered)


@FUZZED
@given(data=st.data())
def test_any_bytes_end(address, data):
    """A good request with bytes taken out, put in and changed: an answer, or the connection ends."""
    whole = bytearray(request("/v1/chat/completions", json.dumps(GOOD).encode()))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        take = data.draw(st.integers(0, 12))
        whole[at : at + take] = data.draw(st.binary(max_size=12))

    check(sent(address, bytes(whole)))


CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nconnection: close\r\ntransfer-encoding: chunked\r\n" + KEY
TYPED = CHUNKED + b"content-type: application/json\r\n\r\n"
ODD = {
    "nothing": b"",
    "a line end": b"\r\n\r\n",
    "TLS hello": bytes.fromhex("16030100c8010000c40303") + b"\x00" * 100,
    "NULs": b"\x00" * 1000,
    "no version": b"GET /\r\n\r\n",
    "HTTP/0.9": b"GET /v1/models HTTP/0.9\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a header of 100 kB": request("/v1/models", method="GET", headers=b"x-big: " + b"a" * 100_000 + b"\r\n"),
    "5,000 headers": request("/v1/models", method="GET", headers=b"x-many: a\r\n" * 5000),
    "a path of 200 kB": request("/" + "a" * 200_000, method="GET"),
    "a path that is no UTF-8": b"GET /v1/streams/\xff\xfe HTTP/1.1\r\nhost: g\r\nconnection: close\r\n" + KEY + b"\r\n",
    "escapes that are none": request("/v1/streams/%zz%00%ff", method="GET"),
    "climbing": request("/v1/streams/../../metrics", method="GET"),
    "NUL in a header": request("/v1/models", method="GET", headers=b"authorization: Bearer \x00\r\n"),
    "a key of 60 kB": request("/v1/models", method="GET", headers=b"authorization: Bearer " + b"k" * 60_000 + b"\r\n"),
    "a key that is no ASCII": request("/v1/models", method="GET", headers=b"authorization: Bearer \xe4\xf6\xff\r\n"),
    "two keys": request("/v1/models", method="GET", headers=KEY + b"authorization: Bearer other\r\n"),
    "two lengths": request("/v1/chat/completions", b"{}", headers=KEY + b"content-length: 7\r\n"),
    "a length that is none": b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length: -1\r\n\r\n",
    "a length beyond all": b"POST /v1/jobs HTTP/1.1\r\nhost: g\r\ncontent-length: 99999999999999999999\r\n\r\n",
    "a length and less": b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nconnection: close\r\ncontent-length: 90\r\n"
    + KEY
    + b"\r\n{}",
    "length and chunks": request("/v1/chat/completions", b"0\r\n\r\n", headers=KEY + b"transfer-encoding: chunked\r\n"),
    "chunks": TYPED + b"2\r\n{}\r\n0\r\n\r\n",
    "chunks of one byte": TYPED + b"".join(b"1\r\n%c\r\n" % byte for byte in json.dumps(GOOD).encode()) + b"0\r\n\r\n",
    "a chunk that never ends": TYPED + b"ffffffff\r\n{}",
    "a chunk of negative size": TYPED + b"-1\r\n{}\r\n",
    "a chunk size that is none": TYPED + b"zz\r\n{}\r\n0\r\n\r\n",
    "a chunk extension of 100 kB": TYPED + b"2;" + b"x" * 100_000 + b"\r\n{}\r\n0\r\n\r\n",
    "trailers": TYPED + b"2\r\n{}\r\n0\r\nauthorization: Bearer other\r\n\r\n",
    "chunks within chunks": CHUNKED + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a smuggled request": TYPED + b"0\r\n\r\nGET /metrics HTTP/1.1\r\nhost: g\r\nconnection: close\r\n\r\n",
    "an upgrade": request("/v1/models", method="GET", headers=KEY + b"upgrade: websocket\r\n"),
    "a body of 9 MB": request("/v1/chat/completions", b"{" + b" " * 9_000_000 + b"}"),
    "100,000 brackets": request("/v1/chat/completions", b"[" * 100_000),
    "100,000 objects": request("/v1/chat/completions", b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "an integer of 100,000 digits": request("/v1/chat/completions", b'{"model": ' + b"9" * 100_000 + b"}"),
    "a float beyond all": request(
        "/v1/chat/completions", b'{"model": "chat", "messages": [], "temperature": 1e999999}'
    ),
    "the same member 10,000 times": request("/v1/chat/completions", b'{"a": 1' + b', "a": 1' * 10_000 + b"}"),
    "bad UTF-8": request("/v1/chat/completions", b'{"model": "\xff\xfe\xed\xa0\x80"}'),
    "half a character": request(
        "/v1/chat/completions", b'{"model": "chat", "messages": [{"role": "user", "content": "\\ud800"}]}'
    ),
    "UTF-16": request("/v1/chat/completions", json.dumps(GOOD).encode("utf-16")),
    "a byte order mark": request("/v1/chat/completions", b"\xef\xbb\xbf" + json.dumps(GOOD).encode()),
    "NUL in a text": request("/v1/chat/completions", b'{"model": "ch\\u0000at", "messages": []}'),
}


@pytest.mark.parametrize("odd", ODD)
def test_oddity_is_refused_or_ends(address, odd):
    """Nothing waits for what will not come, and the next caller is served."""
    check(sent(address, ODD[odd]))

    assert sent(address, request("/livez", method="GET", headers=b"")).status == 200


def test_smuggled_request_is_no_second_one(address):
    """What stands behind the end of a request that closes its connection is nobody's request."""
    answered = sent(address, ODD["a smuggled request"])

    assert b"ballast_" not in answered.body


def test_request_that_stops_in_the_middle_holds_nobody_up(address):
    """A hundred callers who send half a request and nothing more: the next one is served at once."""
    held = [socket.create_connection(address, timeout=SECONDS) for _ in range(100)]
    try:
        for connection in held:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\ncontent-length: 90\r\n" + KEY + b"\r\n{"
            )

        assert sent(address, request("/v1/models", method="GET")).status == 200
    finally:
        for connection in held:
            connection.close()
