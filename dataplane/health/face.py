"""The sidecar's own HTTP: answers from memory, so that a probe never waits for the engine nor makes it work."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import orjson

from dataplane.health.judge import Verdict
from dataplane.health.policy import HealthPolicy
from dataplane.health.sidecar import Sidecar
from dataplane.health.words import HealthMetrics, status

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
JSON: Final = (b"content-type", b"application/json")
PROMETHEUS: Final = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
# The loop that looks has its own deadlines; so long without a look means that it, and not the engine, is stuck.
STALE_SECONDS: Final = 60.0


class Face:
    """`/startupz`, `/readyz`, `/livez`; `/statusz`, `/metrics`; `/selfz`, which is about the sidecar alone."""

    def __init__(
        self, sidecar: Sidecar, *, policy: HealthPolicy, engine: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sidecar = sidecar
        self._engine = engine
        self._clock = clock
        self._started_at = clock()
        self._metrics = HealthMetrics(sidecar.judge, policy)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request, or the process's lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            return
        if scope["method"] not in {"GET", "HEAD"}:
            await _reply(send, 405, TEXT, b"only GET\n")
            return
        verdicts = self._sidecar.judge.verdicts
        match scope["path"]:
            case "/startupz":
                await self._answer(send, verdicts.startup)
            case "/readyz":
                await self._answer(send, verdicts.ready)
            case "/livez":
                await self._answer(send, verdicts.live)
            case "/statusz":
                told = status(self._sidecar.judge, engine=self._engine, now=self._clock())
                await _reply(send, 200, JSON, orjson.dumps(told, option=orjson.OPT_INDENT_2) + b"\n")
            case "/metrics":
                await _reply(send, 200, PROMETHEUS, self._metrics.render())
            case "/selfz":
                await self._answer_self(send)
            case _:
                await _reply(send, 404, TEXT, b"no such path\n")

    async def _answer(self, send: Send, verdict: Verdict) -> None:
        line = " ".join(verdict.why.split())
        await _reply(send, 200 if verdict.ok else 503, TEXT, f"{'yes' if verdict.ok else 'no'}: {line}\n".encode())

    async def _answer_self(self, send: Send) -> None:
        age = self._clock() - (self._sidecar.looked_at or self._started_at)
        is_well = age <= STALE_SECONDS
        line = f"{'yes' if is_well else 'no'}: looked at the engine {age:.0f} s ago\n"
        await _reply(send, 200 if is_well else 503, TEXT, line.encode())

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._sidecar.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._sidecar.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


async def _reply(send: Send, code: int, media: tuple[bytes, bytes], body: bytes) -> None:
    headers = [media, (b"cache-control", b"no-store"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": code, "headers": headers})
    await send({"type": "http.response.body", "body": body})
