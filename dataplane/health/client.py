"""Looking at an engine over HTTP, and asking it for a token. Nothing here raises for what the engine does."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import httpx

from dataplane.health.engines import Engine, read_models, read_numbers, read_slots, token_request, tokenize_request
from dataplane.health.observations import Answer, Ask, EngineReading, Reach, Said

MAX_BODY_BYTES: Final = 8 * 1024 * 1024
TURNED_AWAY: Final = frozenset({429, 503})
NOT_IMPLEMENTED: Final = 501
# What only a bad request of ours gets; 408, 425 and 429 are the engine's state.
MISFITS: Final = frozenset({400, 401, 403, 404, 405, 413, 415, 422, 501})


@dataclass(frozen=True, slots=True)
class Look:
    """What one GET brought: a status and a body, or why there is neither."""

    reach: Reach
    status: int = 0
    body: bytes = b""

    def json(self) -> object:
        """The body as JSON; None when it is none."""
        try:
            value: object = json.loads(self.body)
        except ValueError:
            return None
        return value


class EngineClient:
    """See the module. Belongs to one event loop."""

    def __init__(
        self,
        engine: Engine,
        *,
        url: str,
        metrics_url: str = "",
        model: str = "",
        api_key: str = "",
        scrape_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`metrics_url` empty: at `url`, on the port that the engine is known to have for them."""
        self.engine = engine
        self.model = model
        self._url = url.rstrip("/")
        self._metrics_url = metrics_url or _metrics_url(engine, self._url)
        self._scrape_seconds = scrape_seconds
        self._clock = clock
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        # Every call here has a deadline of its own around it, which bounds reading as well as waiting.
        # No connection is kept: a kept one to an engine that was restarted looks like an engine that broke.
        limits = httpx.Limits(max_keepalive_connections=0)
        patience = httpx.Timeout(None)
        self._http = httpx.AsyncClient(
            headers=headers, limits=limits, timeout=patience, transport=transport, trust_env=False
        )

    async def close(self) -> None:
        """Drop what is open."""
        await self._http.aclose()

    async def look(self) -> EngineReading:
        """Read health, models, counters and slots, at once and within one deadline."""
        engine = self.engine
        health, models, metrics, slots = await asyncio.gather(
            self._get(self._url, engine.health),
            self._get(self._url, engine.models),
            self._get(self._metrics_url, engine.metrics),
            self._get(self._url, engine.slots),
        )
        now = self._clock()
        healthy = None if health is None or health.status == 0 else health.status < 300
        loaded: bool | None = None
        if models is not None and models.reach is Reach.OK and models.status < 500:
            loaded, self.model = read_models(engine, models.status, models.json(), self.model)
        if metrics is None:
            seen = models or health
            return EngineReading(now, Reach.BROKEN if seen is None else seen.reach, healthy, loaded)
        if metrics.reach is not Reach.OK or metrics.status != 200:
            # A server without the flag that turns its metrics on (404, 501) is still there: its numbers are unknown.
            is_there = 0 < metrics.status < 500 or metrics.status == NOT_IMPLEMENTED
            reach = metrics.reach if metrics.status == 0 else Reach.OK if is_there else Reach.BROKEN
            return EngineReading(now, reach, healthy, loaded)
        numbers = read_numbers(engine.numbers, metrics.body.decode("utf-8", "replace"))
        if slots is not None and slots.status == 200:
            numbers["signs"] |= read_slots(slots.json())
        return EngineReading(now, Reach.OK, healthy, loaded, **numbers)

    async def ask(self, ask: Ask, *, prompt: str, deadline_seconds: float) -> Answer:
        """Ask for one token after `prompt`, or to tokenize."""
        if ask is Ask.TOKENIZE:
            path, body = tokenize_request(self.engine, model=self.model)
        else:
            path, body = token_request(self.engine, model=self.model, prompt=prompt)
        began = self._clock()
        try:
            async with asyncio.timeout(deadline_seconds):
                response = await self._http.post(self._url + path, json=body)
        except TimeoutError:
            return Answer(ask, Said.LATE, began, self._clock(), f"no answer within {deadline_seconds:g} s")
        except httpx.HTTPError as exc:
            return Answer(ask, Said.FAILED, began, self._clock(), f"{exc.__class__.__name__}")
        now, status = self._clock(), response.status_code
        if status == 200:
            return Answer(ask, Said.ANSWERED, began, now, prompt_tokens=_prompt_tokens(response.content))
        said = Said.REFUSED_LOAD if status in TURNED_AWAY else Said.MISFIT if status in MISFITS else Said.FAILED
        return Answer(ask, said, began, now, f"{path} answered {status}")

    async def _get(self, base: str, path: str) -> Look | None:
        """GET a path of the engine; None where it has none."""
        if not path:
            return None
        try:
            async with asyncio.timeout(self._scrape_seconds):
                url = base + path.replace("{model}", self.model)
                async with self._http.stream("GET", url) as response:
                    parts, size = [], 0
                    async for part in response.aiter_bytes():
                        parts.append(part)
                        size += len(part)
                        if size > MAX_BODY_BYTES:
                            return Look(Reach.BROKEN)
                    return Look(Reach.OK, response.status_code, b"".join(parts))
        except TimeoutError:
            return Look(Reach.SLOW)
        except httpx.ConnectError:
            return Look(Reach.REFUSED)
        except httpx.HTTPError:
            return Look(Reach.BROKEN)


def _metrics_url(engine: Engine, url: str) -> str:
    if engine.metrics_port is None:
        return url
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return urlunsplit((parts.scheme, f"{host}:{engine.metrics_port}", "", "", ""))


def _prompt_tokens(body: bytes) -> int | None:
    """The prompt's tokens as the engine counted them, where it is asked in OpenAI's way."""
    try:
        told: Any = json.loads(body)
    except ValueError:
        return None
    usage = told.get("usage") if isinstance(told, dict) else None
    number = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return number if isinstance(number, int) else None
