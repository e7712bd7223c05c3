"""The hot path's client against servers that do everything a server should not."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from dataplane.errors.upstream import UpstreamInterrupted, UpstreamMalformed, UpstreamTimeout, UpstreamUnreachable
from dataplane.providers.base import UpstreamCall
from dataplane.transport import Http1Transport, Limits

LIMITS = Limits(connect_seconds=60, first_byte_seconds=60, idle_seconds=60)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Server:
    """Answers each request with the next script: bytes are written, None waits until the client has gone."""

    def __init__(self, *scripts):
        self.scripts = list(scripts)
        self.requests = []
        self.connections = 0
        self.gone = asyncio.Event()
        self.url = ""

    async def handle(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                for step in self.scripts.pop(0):
                    if step is None:
                        await reader.read()
                        return
                    writer.write(step)
                    await writer.drain()
                if self.scripts and self.scripts[0] == "close":
                    self.scripts.pop(0)
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.gone.set()
            writer.close()


@asynccontextmanager
async def serving(*scripts, tls=None, client_tls=None):
    server = Server(*scripts)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"http{'s' if tls else ''}://{'localhost' if tls else '127.0.0.1'}:{port}/v1/x?a=1"
    transport = Http1Transport(tls=client_tls)
    try:
        yield server, transport
    finally:
        await transport.close()
        listener.close()


async def eventually(condition):
    """Let the event loop run until `condition` holds."""
    for _ in range(50_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it did not happen")


def call(server, body=b"{}", headers=()):
    return UpstreamCall(server.url, (("content-type", "application/json"), *headers), body)


async def fetch(server, transport, limits=LIMITS):
    exchange = await transport.send(call(server), lane="l", limits=limits)
    try:
        return exchange.status, await exchange.read()
    finally:
        exchange.close()


async def test_request_is_whole_and_the_connection_is_reused():
    """Address, host, headers and body arrive; a second call takes the same connection."""
    async with serving([OK], [OK]) as (server, transport):
        assert await fetch(server, transport) == (200, b"ok")
        assert await fetch(server, transport) == (200, b"ok")

    assert server.connections == 1
    assert server.requests[0].startswith(b"POST /v1/x?a=1 HTTP/1.1\r\nhost: 127.0.0.1:")
    assert server.requests[0].endswith(b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}")


async def test_trace_is_handed_on_in_a_header_of_its_own():
    """A call that is part of a trace says so; the next one, on the same connection, says nothing of it."""
    traceparent = f"00-{'a1' * 16}-{'b2' * 8}-01"
    async with serving([OK], [OK]) as (server, transport):
        for one in (replace(call(server), traceparent=traceparent), call(server)):
            exchange = await transport.send(one, lane="lane", limits=LIMITS)
            await exchange.read()
            exchange.close()

    assert f"\r\ntraceparent: {traceparent}\r\n".encode() in server.requests[0]
    assert b"traceparent" not in server.requests[1]


async def test_chunks_come_as_they_arrive():
    """A stream is handed over piece by piece, its end is None, and its headers are readable."""
    script = [HEAD, b"5\r\nhello\r\n", b"1\r\n!\r\n", b"0\r\n\r\n"]
    async with serving(script) as (server, transport):
        exchange = await transport.send(call(server), lane="l", limits=LIMITS)
        pieces = []
        while (piece := await exchange.next_chunk()) is not None:
            pieces.append(piece)
        exchange.close()

    assert b"".join(pieces) == b"hello!"
    assert exchange.headers()["transfer-encoding"] == "chunked"


async def test_large_answer_arrives_though_reading_pauses():
    """More than the reader's buffer goes through unharmed."""
    body = b"x" * 3_000_000
    async with serving([b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + body]) as (server, transport):
        assert (await fetch(server, transport))[1] == body


async def test_answer_without_a_length_ends_with_its_connection():
    """A body that is framed by the end of the connection is complete when that ends in order."""
    async with serving([b"HTTP/1.1 200 OK\r\n\r\nold style"], "close") as (server, transport):
        assert (await fetch(server, transport))[1] == b"old style"


async def test_interim_answer_is_not_the_answer():
    """100 Continue announces the answer and is skipped."""
    async with serving([b"HTTP/1.1 100 Continue\r\n\r\n" + OK]) as (server, transport):
        assert await fetch(server, transport) == (200, b"ok")


@pytest.mark.parametrize(
    "script",
    [
        [b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nshort"],
        [HEAD + b"5\r\nhel"],
        [HEAD + b"5\r\nhello\r\n"],
        [b"HTTP/1.1 200 O"],
        [],
    ],
)
async def test_answer_cut_short_is_an_interruption(script):
    """Wherever the connection ends too early, it is told."""
    async with serving(script, "close") as (server, transport):
        with pytest.raises(UpstreamInterrupted):
            await fetch(server, transport)


@pytest.mark.parametrize("script", [[b"hello\r\n\r\n"], [HEAD + b"zz\r\nhello\r\n"]])
async def test_what_is_not_http_is_malformed(script):
    """A server that speaks something else is told apart from one that hangs up."""
    async with serving(script) as (server, transport):
        with pytest.raises(UpstreamMalformed):
            await fetch(server, transport)


async def test_bytes_after_an_answer_never_reach_the_next_caller():
    """A server that sends more than it announced loses its connection."""
    async with serving([OK + OK], [OK]) as (server, transport):
        assert await fetch(server, transport) == (200, b"ok")
        assert await fetch(server, transport) == (200, b"ok")

    assert server.connections == 2


async def test_server_that_closes_an_idle_connection_costs_a_new_one():
    """A connection that ended while idle is not used again."""
    async with serving([OK], "close", [OK]) as (server, transport):
        await fetch(server, transport)
        await eventually(lambda: not any(transport._idle.values()))
        assert await fetch(server, transport) == (200, b"ok")

    assert server.connections == 2


async def test_server_that_says_close_is_believed():
    """`connection: close` keeps the connection out of the pool."""
    closing = OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    async with serving([closing], [OK]) as (server, transport):
        await fetch(server, transport)
        await fetch(server, transport)

    assert server.connections == 2


@pytest.mark.parametrize(
    ("script", "phase"), [([None], "first_byte"), ([HEAD, None], "idle"), ([HEAD + b"5\r\nhello\r\n", None], "idle")]
)
async def test_silence_is_a_time_out_of_its_phase(script, phase):
    """Before the head it is first_byte, after it idle; the connection is dropped either way."""
    async with serving(script) as (server, transport):
        with pytest.raises(UpstreamTimeout) as caught:
            await fetch(server, transport, replace(LIMITS, **{f"{phase}_seconds": 0.05}))
        await server.gone.wait()

    assert caught.value.phase == phase


async def test_nobody_listening_is_unreachable():
    """A refused connection says that nothing was sent."""
    async with serving() as (server, transport):
        server.url = "http://127.0.0.1:1/"
        with pytest.raises(UpstreamUnreachable) as caught:
            await fetch(server, transport)

    assert caught.value.sent is False
    assert isinstance(caught.value.__context__, OSError)  # machine code keeps no __cause__


@pytest.mark.parametrize("script", [[None], [HEAD, None], [HEAD + b"5\r\nhello\r\n", None]])
async def test_cancelled_caller_hangs_up(script):
    """Cancelling while waiting, for the head or for more, closes the connection at once."""
    async with serving(script) as (server, transport):
        task = asyncio.create_task(fetch(server, transport))
        await eventually(lambda: server.requests)
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.gone.wait(), 60)


async def test_finished_answer_keeps_its_connection_once_the_framing_ends():
    """After `finish` the last chunk may come late; the connection is reused all the same."""
    async with serving([HEAD + b"4\r\ndone\r\n", b"0\r\n\r\n"], [OK]) as (server, transport):
        exchange = await transport.send(call(server), lane="l", limits=LIMITS)
        assert (await exchange.next_chunk()) == b"done"
        exchange.finish()
        exchange.close()
        await eventually(lambda: transport._idle)
        await fetch(server, transport)

    assert server.connections == 1


@pytest.mark.parametrize("value", ["a\r\nx: y", "grüß"])
async def test_header_that_could_smuggle_is_refused_without_its_value(value):
    """A secret with a line end in it is refused by name, and not repeated."""
    async with serving([OK]) as (server, transport):
        with pytest.raises(ValueError, match="'x-key'") as caught:
            await transport.send(call(server, headers=(("x-key", value),)), lane="l", limits=LIMITS)

    assert value not in str(caught.value)


def make_contexts(tmp_path):
    """A server's TLS context with a certificate of its own, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cadata=certificate.public_bytes(Encoding.PEM).decode())


async def test_tls_is_verified(tmp_path):
    """A certificate that the client trusts works; one that it does not is unreachable."""
    server_tls, client_tls = make_contexts(tmp_path)
    async with serving([OK], tls=server_tls, client_tls=client_tls) as (server, transport):
        assert await fetch(server, transport) == (200, b"ok")
    async with serving([OK], tls=server_tls) as (server, transport):
        with pytest.raises(UpstreamUnreachable, match="certificate"):
            await fetch(server, transport)
