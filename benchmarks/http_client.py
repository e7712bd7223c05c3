"""Which HTTP client carries the hot path: throughput of each on one core, and how each behaves when things go wrong.

    python -m benchmarks.http_client [--seconds 4] [--connections 32]

Compared are the gateway's own transport, pyreqwest, httpx, and aiohttp where it is installed (it is not a dependency).
Behaviour is tried against a server that misbehaves on request:
    reuse     connections used for 20 calls, one after the other
    pieces    whether the first piece of a stream arrives while the rest is still to come
    hang up   milliseconds from cancelling a waiting call, or a stream, to the server seeing the connection close
    silence   what is raised when no answer begins, or a stream falls silent, for 0.2 s
    cut       what is raised when an answer ends before it is complete
    TLS       what is raised for a certificate that nobody trusts
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import importlib
import importlib.util
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import httpx
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pyreqwest.client import ClientBuilder

from benchmarks.load import describe_machine, table
from benchmarks.served_release import QUESTION
from dataplane.providers.base import UpstreamCall
from dataplane.transport import Http1Transport, Limits
from launcher.ports import pick_free

BODY = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % QUESTION.encode()
HEADERS = {"content-type": "application/json", "authorization": "Bearer sk-benchmark"}
PATIENCE_SECONDS = 2.0
SILENCE_SECONDS = 0.2


class Subject(Protocol):
    """A client under test."""

    async def post(self, url: str) -> bytes:
        """Send BODY and return the whole answer."""

    def stream(self, url: str) -> AsyncIterator[bytes]:
        """Send BODY and yield the answer's pieces."""

    async def close(self) -> None:
        """Let go of connections."""


class Ours:
    """The gateway's transport."""

    def __init__(self, silence_seconds: float) -> None:
        self._transport = Http1Transport()
        self._limits = Limits(2.0, silence_seconds, silence_seconds)
        self._headers = tuple(HEADERS.items())

    async def post(self, url: str) -> bytes:
        exchange = await self._transport.send(UpstreamCall(url, self._headers, BODY), lane="l", limits=self._limits)
        try:
            return await exchange.read()
        finally:
            exchange.close()

    async def stream(self, url: str) -> AsyncIterator[bytes]:
        exchange = await self._transport.send(UpstreamCall(url, self._headers, BODY), lane="l", limits=self._limits)
        try:
            while (piece := await exchange.next_chunk()) is not None:
                yield piece
        finally:
            exchange.close()

    async def close(self) -> None:
        await self._transport.close()


class Pyreqwest:
    """pyreqwest, with decompression and proxies off."""

    def __init__(self, silence_seconds: float) -> None:
        builder = ClientBuilder().no_proxy().gzip(False).brotli(False).zstd(False).deflate(False)
        self._client = builder.read_timeout(datetime.timedelta(seconds=silence_seconds)).build()

    async def post(self, url: str) -> bytes:
        response = await self._client.post(url).headers(HEADERS).body_bytes(BODY).build().send()
        return (await response.bytes()).to_bytes()

    async def stream(self, url: str) -> AsyncIterator[bytes]:
        async with self._client.post(url).headers(HEADERS).body_bytes(BODY).build_streamed() as response:
            while (piece := await response.body_reader.read_chunk()) is not None:
                yield piece.to_bytes()

    async def close(self) -> None:
        await self._client.close()


class Httpx:
    """httpx on its own transport."""

    def __init__(self, silence_seconds: float) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(2.0, read=silence_seconds), limits=limits, trust_env=False
        )

    async def post(self, url: str) -> bytes:
        return (await self._client.post(url, content=BODY, headers=HEADERS)).content

    async def stream(self, url: str) -> AsyncIterator[bytes]:
        async with self._client.stream("POST", url, content=BODY, headers=HEADERS) as response:
            async for piece in response.aiter_raw():
                yield piece

    async def close(self) -> None:
        await self._client.aclose()


class Aiohttp:
    """aiohttp, where it is installed."""

    def __init__(self, silence_seconds: float) -> None:
        aiohttp = importlib.import_module("aiohttp")
        timeout = aiohttp.ClientTimeout(total=None, connect=2.0, sock_read=silence_seconds)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))

    async def post(self, url: str) -> bytes:
        async with self._session.post(url, data=BODY, headers=HEADERS) as response:
            body: bytes = await response.read()
            return body

    async def stream(self, url: str) -> AsyncIterator[bytes]:
        async with self._session.post(url, data=BODY, headers=HEADERS) as response:
            async for piece in response.content.iter_any():
                yield piece

    async def close(self) -> None:
        await self._session.close()


SUBJECTS: dict[str, Callable[[float], Subject]] = {
    "ours": Ours,
    "pyreqwest": Pyreqwest,
    "httpx": Httpx,
    "aiohttp": Aiohttp,
}


class Server:
    """Behaves as the path says, and notices connections that end."""

    def __init__(self) -> None:
        self.connections = 0
        self.asked = asyncio.Event()
        self.gone = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(len(BODY))
                path = head.split(b" ")[1]
                self.asked.set()
                if path == b"/fine":
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    continue
                if path != b"/silent":
                    writer.write(chunked)
                if path == b"/cut":
                    await writer.drain()
                    return
                await reader.read()
                return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.gone.set()
            writer.close()


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Server, str]]:
    """A Server on a free port, and its address."""
    server = Server()
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=tls)
    scheme, host = ("https", "localhost") if tls else ("http", "127.0.0.1")
    try:
        yield server, f"{scheme}://{host}:{listener.sockets[0].getsockname()[1]}"
    finally:
        listener.close()


async def first_piece(subject: Subject, url: str) -> bytes:
    """The first piece of a stream; the rest is left where it is."""
    stream = subject.stream(url)
    try:
        return await anext(stream)
    finally:
        await stream.aclose()  # type: ignore[attr-defined]


async def whole_stream(subject: Subject, url: str) -> None:
    """A stream to its end."""
    async for _ in subject.stream(url):
        pass


async def raised(call: Awaitable[Any]) -> str:
    """The name of what `call` raises within PATIENCE_SECONDS, or what it does instead."""
    task = asyncio.ensure_future(call)
    done, _ = await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
    if not done:
        task.cancel()
        return "HANGS"
    error = task.exception()
    return "nothing" if error is None else type(error).__name__


async def hang_up(subject: Subject, server: Server, call: Awaitable[Any]) -> str:
    """How long the server takes to see that a cancelled call's connection is closed."""
    server.asked.clear()
    server.gone.clear()
    task = asyncio.ensure_future(call)
    await asyncio.wait_for(server.asked.wait(), PATIENCE_SECONDS)
    await asyncio.sleep(0.1)
    task.cancel()
    started = time.perf_counter()
    try:
        await asyncio.wait_for(server.gone.wait(), PATIENCE_SECONDS)
    except TimeoutError:
        return f"not in {PATIENCE_SECONDS:.0f} s"
    return f"{(time.perf_counter() - started) * 1000:.1f} ms"


def untrusted_tls() -> ssl.SSLContext:
    """A server's context with a certificate that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    )
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(hours=1))
    certificate = builder.sign(key, hashes.SHA256())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as pem:
        pem.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        pem.write(certificate.public_bytes(Encoding.PEM))
        pem.flush()
        context.load_cert_chain(pem.name)
    return context


async def behave(make: Callable[[float], Subject]) -> list[str]:
    """Try everything in the module's list, each with a client of its own."""
    findings: list[str] = []
    async with AsyncExitStack() as stack:
        server, url = await stack.enter_async_context(serving())

        def subject(seconds: float = 30.0) -> Subject:
            return make(seconds)

        reused = subject()
        for _ in range(20):
            await reused.post(f"{url}/fine")
        findings.append(str(server.connections))
        try:
            piece = await asyncio.wait_for(first_piece(subject(), f"{url}/drip"), PATIENCE_SECONDS)
            findings.append("yes" if piece else "no")
        except TimeoutError:
            findings.append("closing HANGS")
        findings.append(await hang_up(waiting := subject(), server, waiting.post(f"{url}/silent")))
        findings.append(await hang_up(streaming := subject(), server, whole_stream(streaming, f"{url}/drip")))
        findings.append(await raised(subject(SILENCE_SECONDS).post(f"{url}/silent")))
        findings.append(await raised(whole_stream(subject(SILENCE_SECONDS), f"{url}/drip")))
        findings.append(await raised(whole_stream(subject(), f"{url}/cut")))
        _, secure = await stack.enter_async_context(serving(untrusted_tls()))
        findings.append(await raised(subject().post(f"{secure}/fine")))
    return findings


async def throughput(
    make: Callable[[float], Subject], url: str, *, seconds: float, connections: int
) -> tuple[float, float]:
    """Calls per second with `connections` at a time, and processor microseconds per call."""
    subject = make(30.0)
    count = 0
    stop_at = time.perf_counter() + 1.0

    async def loop_() -> None:
        nonlocal count
        while time.perf_counter() < stop_at:
            await subject.post(url)
            count += 1

    await asyncio.gather(*(loop_() for _ in range(connections)))  # warms up, not counted
    count = 0
    started, used = time.perf_counter(), time.process_time()
    stop_at = started + seconds
    await asyncio.gather(*(loop_() for _ in range(connections)))
    elapsed, used = time.perf_counter() - started, time.process_time() - used
    await subject.close()
    return count / elapsed, used / max(1, count) * 1e6


def _run_one(name: str, port: int, seconds: float, connections: int) -> None:
    """One subject in a process of its own: a client that hangs takes nobody with it."""
    make = SUBJECTS[name]
    rate, micros = uvloop.run(
        throughput(make, f"http://127.0.0.1:{port}/v1/chat/completions", seconds=seconds, connections=connections)
    )
    print("\t".join([f"{rate:,.0f}", f"{micros:.0f}"]), flush=True)
    print("\t".join(uvloop.run(behave(make))), flush=True)
    os._exit(0)  # some clients' own threads would wait for connections that never close


def main() -> None:
    """Run every subject and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--subject", choices=sorted(SUBJECTS), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.subject:
        _run_one(arguments.subject, arguments.port, arguments.seconds, arguments.connections)
        return
    machine = describe_machine()
    cores = sorted(os.sched_getaffinity(0))
    port = pick_free()
    upstream = subprocess.Popen([sys.executable, "-m", "benchmarks.canned_upstream", str(port)])  # noqa: S603  # a module of ours
    os.sched_setaffinity(upstream.pid, {cores[-1]})
    time.sleep(1.0)
    speed: list[tuple[str, ...]] = [("client", "req/s", "us of processor per request")]
    behaviour: list[tuple[str, ...]] = [
        ("client", "reuse", "pieces", "hang up, waiting", "hang up, stream", "silence", "silent stream", "cut", "TLS")
    ]
    try:
        for name in SUBJECTS:
            if name == "aiohttp" and importlib.util.find_spec("aiohttp") is None:
                speed.append((name, "not installed", "-"))
                continue
            command = [sys.executable, "-m", "benchmarks.http_client", "--subject", name, "--port", str(port)]
            command += ["--seconds", str(arguments.seconds), "--connections", str(arguments.connections)]
            done = subprocess.run(  # noqa: S603  # this very module
                command,
                capture_output=True,
                text=True,
                timeout=60 + 2 * arguments.seconds,
                preexec_fn=lambda: os.sched_setaffinity(0, {cores[0]}),
            )
            lines = done.stdout.splitlines()
            if len(lines) < 2:
                speed.append((name, "failed", done.stderr.strip().splitlines()[-1][:60] if done.stderr else ""))
                continue
            speed.append((name, *lines[0].split("\t")))
            behaviour.append((name, *lines[1].split("\t")))
    finally:
        upstream.terminate()
        upstream.wait(timeout=10)
    print(f"machine: {machine}")
    print(f"{arguments.connections} connections, {len(BODY)} bytes out; client and canned upstream each on a core")
    print()
    print(table(speed))
    print()
    print(table(behaviour))


if __name__ == "__main__":
    main()
