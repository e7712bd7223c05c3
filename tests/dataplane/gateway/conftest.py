"""A live gateway on a live simulator, both on free ports, and OpenAI's own client against it."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
import uvicorn

from dataplane.aggregation import Aggregation
from dataplane.assembly import Assembly
from dataplane.credentials import SecretStore
from dataplane.events import Event
from dataplane.gateway import Gateway
from dataplane.outliving import Outliving
from dataplane.release import Release, parse_document
from dataplane.settings import GatewaySettings, ReportSettings
from dataplane.simulator.server import SimulatorSettings, build_config

CAPABILITIES = ["chat", "stream", "tools", "json_schema"]
ROUTES = {
    "chat": ["openai/eu/main/gpt-4o"],
    "azure": ["azure/eu/main/gpt-4o"],
    "claude": ["anthropic/us/main/claude"],
    "embed": ["openai/eu/main/embedding"],
    "impatient": ["openai/eu/main/impatient"],
    "restless": ["openai/eu/main/restless"],
    "unreachable": ["openai/eu/nowhere/gpt-4o"],
    "keyless": ["openai/eu/keyless/gpt-4o"],
    "refused": ["openai/eu/refused/gpt-4o"],
}
CHAT_ROUTES = ("chat", "azure", "claude")
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string"}, "confident": {"type": "boolean"}},
    "required": ["answer", "confident"],
    "additionalProperties": False,
}


def lane(provider: str, account: str, model: str, **changes: Any) -> dict[str, Any]:
    """One lane of the release."""
    return {
        "provider": provider,
        "region": "eu-west",
        "account": account,
        "model": model,
        "upstream_model": "gpt-4o-instant",
        "residency": "eu",
        "capabilities": CAPABILITIES,
        "input_micros_per_million_tokens": 2_000_000,
        "output_micros_per_million_tokens": 8_000_000,
        # A busy machine may stand still for seconds; only a test about a time-out waits for one.
        "connect_timeout_seconds": 60,
        "first_byte_timeout_seconds": 60,
        "idle_timeout_seconds": 60,
    } | changes


def release_sections(simulator_url: str) -> dict[str, Any]:
    """The sections of a release whose lanes all lead to the simulator."""
    openai_account = {
        "provider": "openai",
        "base_url": f"{simulator_url}/openai/v1",
        "secret": "env:SIM_KEY",
        "api_version": None,
    }
    version = {
        "digest": "0" * 64,
        "messages": [
            {"role": "system", "content": "You help customers of {{company}}. Be brief."},
            {"role": "user", "content": "{{question}}"},
        ],
        "variables_schema": {
            "type": "object",
            "properties": {"company": {"type": "string"}, "question": {"type": "string"}},
            "required": ["company", "question"],
        },
        "parameters": {"temperature": 0.2, "max_tokens": 300},
    }
    structured = version | {
        "parameters": {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA},
            }
        }
    }
    anywhere = {"tier": "standard", "residency": [], "region": "eu-west", "internal": False, "log_content": False}
    tenants = {
        "globex": anywhere,
        "acme": anywhere | {"tier": "vip", "residency": ["eu"]},
        "staff": anywhere | {"internal": True},
    }
    return {
        "access": {
            "tenants": tenants,
            "keys": {
                hashlib.sha256(f"bk-{slug}".encode()).hexdigest(): {"tenant": slug, "id": f"k-{slug}"}
                for slug in tenants
            },
        },
        "prompts": {
            "support": {
                "live": 1,
                "route": "chat",
                "pinnable": [1, 2, 3],
                "versions": {"1": version, "2": version, "3": structured},
            },
            "trial": {"live": 1, "route": "chat", "pinnable": [1], "versions": {"1": version, "2": version}},
        },
        "canaries": {
            "trial-2": {
                "prompt": "trial",
                "control": 1,
                "candidate": 2,
                "unit": "user",
                "salt": "trial-2",
                "not_after": None,
                "reach": [{"stage": "half", "audience": "all", "tenants": [], "regions": [], "weight": 5000}],
            }
        },
        "routing": {
            "providers": {
                "openai": {"wire": "openai"},
                "azure": {"wire": "azure-openai"},
                "anthropic": {"wire": "anthropic"},
            },
            "accounts": {
                "main": openai_account,
                "keyless": openai_account | {"secret": "env:NO_SUCH_KEY"},
                "refused": openai_account | {"secret": "env:REFUSED_KEY"},
                "nowhere": openai_account | {"base_url": "http://127.0.0.1:1/v1"},
                "azure": {
                    "provider": "azure",
                    "base_url": f"{simulator_url}/azure",
                    "secret": "env:SIM_KEY",
                    "api_version": "2024-10-21",
                },
                "claude": {
                    "provider": "anthropic",
                    "base_url": f"{simulator_url}/anthropic",
                    "secret": "env:SIM_KEY",
                    "api_version": None,
                },
            },
            "lanes": {
                "openai/eu/main/gpt-4o": lane("openai", "main", "gpt-4o"),
                "openai/eu/main/embedding": lane(
                    "openai", "main", "embedding", upstream_model="text-embedding-3-small", capabilities=["embeddings"]
                ),
                "openai/eu/main/impatient": lane("openai", "main", "impatient", first_byte_timeout_seconds=0.3),
                "openai/eu/main/restless": lane("openai", "main", "restless", idle_timeout_seconds=0.3),
                "openai/eu/nowhere/gpt-4o": lane("openai", "nowhere", "gpt-4o"),
                "openai/eu/keyless/gpt-4o": lane("openai", "keyless", "gpt-4o"),
                "openai/eu/refused/gpt-4o": lane("openai", "refused", "gpt-4o"),
                "azure/eu/main/gpt-4o": lane("azure", "azure", "gpt-4o"),
                "anthropic/us/main/claude": lane(
                    "anthropic", "claude", "claude", residency="us", upstream_model="claude-instant"
                ),
            },
            "routes": {slug: {"lanes": lanes, "deadline_ms": 90_000} for slug, lanes in ROUTES.items()},
        },
    }


def make_release(sections: dict[str, Any], revision: int = 1) -> Release:
    """A release as a watcher would hold it, without the signature that other tests are about."""
    document = {
        "schema": 1,
        "revision": revision,
        "cut_at": "2026-01-02T03:04:05Z",
        "reason": "test",
        "audit_head": {"seq": 1, "hash": "ab" * 32},
        "sections": sections,
    }
    return parse_document(document, digest="d" * 64)


class StubWatcher:
    """Holds whatever release a test puts there, and says so to whoever subscribed."""

    def __init__(self, release: Release | None = None) -> None:
        self._callbacks: list[Callable[[Release], None]] = []
        self._current = release
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def current(self) -> Release | None:
        return self._current

    @current.setter
    def current(self, release: Release | None) -> None:
        if self._loop is None:
            self._adopt(release)
            return

        # What subscribes belongs to the gateway's loop; a test sits in another thread, and waits for all of it.
        async def adopt() -> None:
            self._adopt(release)

        asyncio.run_coroutine_threadsafe(adopt(), self._loop).result(timeout=60)

    def _adopt(self, release: Release | None) -> None:
        self._current = release
        if release is not None:
            for callback in self._callbacks:
                callback(release)

    def subscribe(self, callback: Callable[[Release], None]) -> None:
        self._callbacks.append(callback)
        if self._current is not None:
            callback(self._current)

    @property
    def started(self) -> bool:
        """Whether a gateway runs that hears of releases."""
        return self._loop is not None

    async def start(self) -> None:
        """From now on releases are adopted on the loop that runs this."""
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """The loop is about to end."""
        self._loop = None


@dataclass
class StubReports:
    """Keeps usage rows where a test can read them."""

    in_flight: int = 0
    rows: list[Any] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    streams: list[Any] = field(default_factory=list)
    deliveries: list[Any] = field(default_factory=list)
    lanes: Any = None
    spooled_bytes: int = 0
    spool_max_bytes: int = 1
    is_delayed: bool = False
    dropped_batches: int = 0
    outliving: Any = field(default_factory=lambda: Outliving("w", ring_bytes=64))
    under_way: None = None

    def add_event(self, event: Event) -> None:
        self.events.append(event)

    def add_usage(self, row: Any) -> None:
        self.rows.append(dict(row))

    def add_stream(self, row: Any) -> None:
        self.streams.append(dict(row))

    def add_sample(self, row: Any) -> None:
        pass

    def add_delivery(self, row: Any) -> None:
        self.deliveries.append(dict(row))

    async def start(self) -> None:
        """Nothing to ship."""

    async def stop(self) -> None:
        """Nothing to ship."""


def make_settings(**changes: Any) -> GatewaySettings:
    """Settings of a gateway under test."""
    values: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 1,
        "region": "eu-west",
        "host_name": "test",
        "slot": 0,
        "release_file": Path("unused"),
        "trusted_keys_file": Path("unused"),
        "cursor_keys_file": Path("unused"),
        "database_url": None,
        "reports": ReportSettings(redis_url=None, spool_dir=Path("unused")),
        "max_body_bytes": 100_000,
    }
    return GatewaySettings(**values | changes)


def config_of(app: Any) -> uvicorn.Config:
    """How a gateway is served, also in its process: its clients let go of an idle connection first, so that none of
    them asks on one that is just being closed.
    """
    return uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
    )


@contextmanager
def serve(config: uvicorn.Config) -> Iterator[str]:
    """Serve in a thread; the socket listens before the thread starts, so that no client can come too early."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=20)


@dataclass
class LiveGateway:
    """A gateway that runs, and the parts a test looks into."""

    url: str
    watcher: StubWatcher
    reports: StubReports
    aggregation: Aggregation
    wall: list[float]
    app: Gateway

    def wait_until_idle(self) -> None:
        """Wait until nobody is being served."""
        wait_until(lambda: self.reports.in_flight == 0)

    def forget(self) -> None:
        """Begin a new bucket, since rollups are cumulative within one, and drop rows and events of whoever is done."""
        self.wait_until_idle()
        self.reports.rows.clear()
        self.reports.events.clear()
        self.wall[0] += 20
        self.aggregation.drain(self.wall[0])

    def rows(self, count: int = 1) -> list[Any]:
        """Wait until `count` usage rows are there, and return all; a record follows its response by a moment."""
        wait_until(lambda: len(self.reports.rows) >= count)
        return list(self.reports.rows)

    def rollups(self) -> list[dict[str, Any]]:
        """What telemetry counted in this test, sketches left out; a request is counted at its very end."""
        self.wait_until_idle()
        return [
            {key: value for key, value in rollup.items() if not key.endswith("_ms")}
            for rollup in self.aggregation.drain(self.wall[0])
        ]


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for another thread to get somewhere; how long it takes is never part of what is tested."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.005)


@pytest.fixture(scope="session")
def simulator_url() -> Iterator[str]:
    """One simulator for the session."""
    with serve(build_config(SimulatorSettings(seed=7))) as url:
        yield url


@contextmanager
def run_gateway(
    sections: dict[str, Any], *, settings: GatewaySettings | None = None, **more: Any
) -> Iterator[LiveGateway]:
    """A gateway with a stub for what verifies releases and ships reports; `more` is what else an `Assembly` takes."""
    watcher = StubWatcher(make_release(sections))
    reports = StubReports()
    wall = [1_760_000_000.0]
    aggregation = Aggregation(wall=lambda: wall[0])
    settings = settings or make_settings()
    parts = Assembly(
        settings=settings,
        watcher=watcher,
        reports=reports,
        aggregation=aggregation,
        secrets=SecretStore({"SIM_KEY": "sk-sim", "REFUSED_KEY": "invalid"}),
        **more,
    )
    app = Gateway(parts, limit_bytes=settings.max_body_bytes)
    with serve(config_of(app)) as url:
        wait_until(lambda: watcher.started)
        yield LiveGateway(url, watcher, reports, aggregation, wall, app)


@pytest.fixture(scope="session")
def live_gateway(simulator_url: str) -> Iterator[LiveGateway]:
    """One gateway for the session, which asks nobody but the providers."""
    with run_gateway(release_sections(simulator_url)) as gateway:
        yield gateway


@pytest.fixture
def simulator(simulator_url: str) -> Iterator[httpx.Client]:
    """The simulator's admin face, with nothing counted and no fault planned."""
    with httpx.Client(base_url=simulator_url, timeout=60) as client:
        client.post("/admin/reset")
        yield client
        client.post("/admin/reset")


@pytest.fixture
def gateway(live_gateway: LiveGateway, simulator: httpx.Client) -> Iterator[LiveGateway]:
    """The gateway with nothing recorded yet."""
    release = live_gateway.watcher.current
    live_gateway.forget()
    simulator.post("/admin/reset")  # again: somebody may have been served until now
    yield live_gateway
    live_gateway.watcher.current = release


@pytest.fixture
def client(gateway: LiveGateway) -> Iterator[openai.OpenAI]:
    """OpenAI's client with a tenant's key; it tries once."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="bk-globex", max_retries=0, timeout=90) as client:
        yield client


@pytest.fixture
def http(gateway: LiveGateway) -> Iterator[httpx.Client]:
    """A bare HTTP client with the same key."""
    with httpx.Client(base_url=gateway.url, headers={"authorization": "Bearer bk-globex"}, timeout=90) as client:
        yield client


@pytest.fixture
def ask(client: openai.OpenAI) -> Callable[..., Any]:
    """Asks one question, under a fault if one is named, and gives the answer with its headers."""

    def _ask(route: str = "chat", *, fault: str | None = None, stream: bool = False, **options: Any) -> Any:
        words = "How do I get a refund?" + (f" [[fault {fault}]]" if fault else "")
        raw = client.chat.completions.with_raw_response.create(
            model=route, messages=[{"role": "user", "content": words}], stream=stream, **options
        )
        return SimpleNamespace(headers=raw.headers, answer=raw.parse())

    return _ask
