"""Engines and GPUs for tests of the probe: readings with little to write, and an engine that answers HTTP as told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx

from dataplane.health.judge import Judge
from dataplane.health.observations import Answer, Ask, EngineReading, Reach, Said
from dataplane.health.policy import HealthPolicy

POLICY = HealthPolicy()
IDLE = EngineReading(0.0, Reach.OK, healthy=True, loaded=True, running=0, waiting=0, tokens=0, signs={"tokens": 0.0})


def reading(at: float, *, tokens: float = 0, **more: Any) -> EngineReading:
    """An idle engine that has written `tokens`, but for what is said otherwise."""
    return replace(IDLE, at=at, tokens=tokens, signs={"tokens": tokens}, **more)


def unseen(at: float, reach: Reach) -> EngineReading:
    """A look that brought nothing."""
    return EngineReading(at, reach)


def answer(ask: Ask, at: float, said: Said = Said.ANSWERED, *, seconds: float = 0.2, **more: Any) -> Answer:
    """An ask that ended at `at`."""
    return Answer(ask, said, at - seconds, at, **more)


def serving(policy: HealthPolicy = POLICY, *, now: float = 100.0) -> Judge:
    """A judge whose engine has loaded, was warmed up and is ready at `now`."""
    judge = Judge(policy, now=now - 60)
    judge.observe(reading(now - 10))
    for ask in (Ask.TOKENIZE, Ask.WARM_UP):
        judge.asking(ask)
        judge.answered(answer(ask, now))
    judge.observe(reading(now))
    assert judge.decide(now=now).ready.ok
    return judge


def fail_canary(judge: Judge, at: float, said: Said = Said.LATE) -> None:
    """A canary that began 8 s before `at` failed."""
    judge.asking(Ask.CANARY)
    judge.answered(answer(Ask.CANARY, at, said, seconds=8.0))


class FakeEngine:
    """What an engine would answer: `pages` by path as (status, body), `holds` paths that never answer."""

    def __init__(self, pages: Mapping[str, tuple[int, Any]]) -> None:
        self.pages = dict(pages)
        self.holds: set[str] = set()
        self.asked: list[tuple[str, str, Any]] = []

    def transport(self) -> httpx.MockTransport:
        """For a client in the same process."""

        async def handle(request: httpx.Request) -> httpx.Response:
            status, body = await self._answer(request.method, request.url.path, request.content)
            return httpx.Response(status, content=body)

        return httpx.MockTransport(handle)

    @asynccontextmanager
    async def served(self, port: int):
        """Over a socket, for a process of its own: one request per connection."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, path, _ = head.split(" ", 2)
                length = next(
                    (
                        int(line.partition(":")[2])
                        for line in head.splitlines()
                        if line.lower().startswith("content-length:")
                    ),
                    0,
                )
                status, body = await self._answer(method, path, await reader.readexactly(length))
                writer.write(
                    b"HTTP/1.1 %d x\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (status, len(body), body)
                )
                await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", port)
        try:
            yield
        finally:
            server.close()

    async def _answer(self, method: str, path: str, content: bytes) -> tuple[int, bytes]:
        self.asked.append((method, path, json.loads(content) if content else None))
        if path in self.holds:
            await asyncio.Event().wait()
        status, body = self.pages.get(path, (404, b""))
        return status, body if isinstance(body, bytes) else json.dumps(body).encode()
