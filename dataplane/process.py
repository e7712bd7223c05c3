"""One gateway process: its parts put together, served by uvicorn on a socket that the supervisor has bound."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from dataplane.aggregation import Aggregation
from dataplane.assembly import Assembly, Stores
from dataplane.credentials import Secrets
from dataplane.evidence import Evidence
from dataplane.gateway import Gateway
from dataplane.grace import GraceServer
from dataplane.http_protocol import HttpProtocol
from dataplane.pulse import BEAT_SECONDS
from dataplane.readiness import Dependency, postgres_answers, redis_answers
from dataplane.release import Release
from dataplane.reports import ReportShipper
from dataplane.retrieval.policy import QDRANT
from dataplane.scrape_port import ScrapePort
from dataplane.settings import GatewaySettings, HealthAddress, QdrantSettings, TracingSettings
from dataplane.shadow.counting import ShadowCounting
from dataplane.shadow.offering import Offering
from dataplane.stores.breakers import RedisBreakerStore
from dataplane.stores.corpora import NearestIds, PostgresCorpusStore
from dataplane.stores.cursor_keys import read_cursor_keys
from dataplane.stores.idempotency import PostgresIdempotencyStore
from dataplane.stores.jobs import PostgresJobStore
from dataplane.stores.ladder import RedisLadderStore
from dataplane.stores.quota import RedisQuotaStore
from dataplane.stores.repairs import PostgresRepairStore
from dataplane.stores.streams import RedisStreamLog
from dataplane.watcher import ReleaseWatcher

if TYPE_CHECKING:
    from dataplane.otel.gateway import GatewayTracing

log = logging.getLogger("ballast.process")

# Before the end of the time to drain, so that callers read how their streams end.
LAST_CALL_SECONDS: Final = 2.0

# How uvicorn serves here; the relay that benchmarks measure beside the gateway is served the same way.
SERVER: Final[dict[str, Any]] = {
    "loop": "uvloop",
    "http": HttpProtocol,
    "ws": "none",
    "access_log": False,
    "log_config": None,
    "proxy_headers": False,
    "server_header": False,
}


class DrainingServer(GraceServer):
    """`GraceServer`, telling the fleet that it drains, and the supervisor that it turns. Streams that would be cut when
    what is under way takes too long are told to end shortly before.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        reports: ReportShipper,
        interrupt: Callable[[], None],
        announce: Callable[[], None] = lambda: None,
        grace_seconds: float = 0.0,
        beat: Callable[[], None] | None = None,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`beat` is called twice a second, on the event loop; `ready` once, when it serves."""

        def drain() -> None:
            announce()
            reports.set_status("draining")

        super().__init__(config, announce=drain, grace_seconds=grace_seconds)
        self._interrupt = interrupt
        self._beat = beat
        self._ready = ready
        self._beating: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        self._ready()
        if self._beat is not None:
            self._beating = asyncio.create_task(self._keep_beating(self._beat), name="beat")

    async def _keep_beating(self, beat: Callable[[], None]) -> None:
        while True:
            beat()
            await asyncio.sleep(BEAT_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's; the application's lifespan shutdown, which ships the last reports, comes at its end."""
        drain_seconds = self.config.timeout_graceful_shutdown or 0
        last_call = asyncio.get_running_loop().call_later(max(0.0, drain_seconds - LAST_CALL_SECONDS), self._interrupt)
        try:
            await super().shutdown(sockets)
        finally:
            last_call.cancel()


def run_gateway(
    settings: GatewaySettings,
    *,
    secrets: Secrets,
    listener: socket.socket,
    lifeline: int | None,
    pulse: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until the supervisor is gone.

    Args:
        secrets: Holds the providers' keys that releases refer to.
        lifeline, pulse: See `supervisor.spawn_with`; None for a process that stands alone.
    Raises:
        OSError: the spool directory, or the file of the keys that sign cursors, cannot be used.
        BadCursorKeys: that file holds something else.
        SecretUnavailable: the key of a store that its settings name cannot be had.
    """
    aggregation, evidence, shadows = Aggregation(), Evidence(), ShadowCounting()
    reports = ReportShipper(
        worker=settings.worker,
        kind="gateway",
        host=settings.host_name,
        settings=settings.reports,
        aggregation=aggregation,
        evidence=evidence,
        shadows=shadows,
    )
    watcher = ReleaseWatcher(
        release_file=settings.release_file,
        trusted_keys_file=settings.trusted_keys_file,
        acknowledge=reports.ack,
        poll_seconds=settings.release_poll_seconds,
    )

    def adopted(release: Release) -> None:
        reports.serving = release
        if reports.status == "starting":
            reports.set_status("serving")

    watcher.subscribe(adopted)
    tracing = None if settings.tracing is None else _open_tracing(settings.tracing)
    if tracing is not None:
        release_file = settings.release_file
        watcher.subscribe(lambda release: tracing.note_release(release, release_file))
    parts = Assembly(
        settings=settings,
        watcher=watcher,
        reports=reports,
        aggregation=aggregation,
        evidence=evidence,
        secrets=secrets,
        stores=_open_stores(
            redis_url=settings.reports.redis_url,
            database_url=settings.database_url,
            beside=_open_beside(settings.qdrant, secrets),
        ),
        cursors=read_cursor_keys(settings.cursor_keys_file),
        trusted_keys=watcher.trusted_keys,
        shadows=None if settings.shadow_socket is None else Offering(settings.shadow_socket, counting=shadows),
        tracer=None if tracing is None else tracing.requests,
    )
    app = Gateway(parts, limit_bytes=settings.max_body_bytes)
    if lifeline is not None:
        threading.Thread(target=_stop_with_supervisor, args=(lifeline,), name="lifeline", daemon=True).start()
    config = uvicorn.Config(
        app,
        lifespan="on",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
        **SERVER,
    )
    server = DrainingServer(
        config,
        reports=reports,
        interrupt=parts.interrupt_streams,
        announce=app.drain,
        grace_seconds=settings.drain_grace_seconds,
        beat=None if pulse is None else _beating_on(pulse),
        ready=lambda: _open_scrape_port(parts, settings.scraped_at),
    )
    server.run(sockets=[listener])


def _open_tracing(settings: TracingSettings) -> GatewayTracing:
    from dataplane.otel.gateway import GatewayTracing  # what only who traces is to load

    return GatewayTracing(settings)


def _open_scrape_port(parts: Assembly, address: HealthAddress) -> None:
    if address is not None:
        ScrapePort(parts.exposition, asyncio.get_running_loop()).serve(address)


def _open_beside(settings: QdrantSettings | None, secrets: Secrets) -> dict[str, NearestIds]:
    """The stores of vectors beside PostgreSQL, by the names that namespaces have for them.

    Raises:
        SecretUnavailable: a key that one of them wants cannot be had.
    """
    if settings is None:
        return {}
    from dataplane.stores import qdrant  # some 80 MiB, which only who has one is to pay

    key = secrets.resolve(settings.key, now=time.monotonic()) if settings.key else None
    return {QDRANT: qdrant.connect(settings.url, key=key, prefix=settings.prefix)}


def _open_stores(*, redis_url: str | None, database_url: str | None, beside: Mapping[str, NearestIds]) -> Stores:
    """What the gateway keeps in Redis and in PostgreSQL; without an address it goes without."""
    stores = (
        Stores()
        if redis_url is None
        else Stores(
            breakers=RedisBreakerStore(redis_url),
            streams=RedisStreamLog(redis_url),
            quotas=RedisQuotaStore(redis_url),
            ladders=RedisLadderStore(redis_url),
            dependencies=(
                Dependency(
                    "redis",
                    lambda: redis_answers(redis_url),
                    needed=False,
                    without="each process keeps to its part of quotas, and judges lanes alone; no stream is read again",
                ),
            ),
        )
    )
    if database_url is None:
        return stores
    return replace(
        stores,
        idempotency=PostgresIdempotencyStore(database_url),
        jobs=PostgresJobStore(database_url),
        repairs=PostgresRepairStore(database_url),
        corpora=PostgresCorpusStore(database_url, beside=beside),
        dependencies=(
            *stores.dependencies,
            Dependency(
                "postgresql",
                lambda: postgres_answers(database_url),
                needed=False,
                without="requests with an Idempotency-Key, jobs and corpora are refused; all others are served",
            ),
        ),
    )


def _beating_on(descriptor: int) -> Callable[[], None]:
    os.set_blocking(descriptor, False)

    def beat() -> None:
        # A full pipe is a supervisor that does not read, and a broken one none at all: its lifeline tells of that.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(descriptor, b".")

    return beat


def _stop_with_supervisor(lifeline: int) -> None:
    os.read(lifeline, 1)
    log.error("the supervisor is gone; draining")
    os.kill(os.getpid(), signal.SIGTERM)
