"""The gateway's ASGI application: reads HTTP, knows the paths, watches for callers who leave. No policy lives here.

Raw ASGI, because everything between the socket and the pipeline is paid by every request.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

import orjson

from dataplane.aggregation import Aggregation
from dataplane.asgi_reply import AsgiReply, QueueReply, Send
from dataplane.asgi_request import CallerLeft, CallerWatch, Receive, Scope, read_body, read_inbound
from dataplane.attempts import Attempts, UsageSink
from dataplane.copy_desk import CopyDesk
from dataplane.credentials import Secrets
from dataplane.cursors import CursorKeys
from dataplane.desks import Desk, DeskCall
from dataplane.envelope import (
    JSON_TYPE,
    Header,
    MethodNotAllowed,
    UnknownPath,
    error_body,
    error_headers,
    face_of,
)
from dataplane.errors import GatewayError, UnknownRoute
from dataplane.evidence import Evidence
from dataplane.fleet import FleetBreakers
from dataplane.job_desk import JobDesk
from dataplane.job_queue import JobQueue
from dataplane.journey import Inbound, new_id
from dataplane.keyed import KeyedWork
from dataplane.known_questions import KnownQuestions
from dataplane.ladder.counting import SurfaceCounting
from dataplane.ladder.ladders import Ladders
from dataplane.ladder.orders import HostOrders, orders_file
from dataplane.ladder.promises import Promises
from dataplane.ladder.status_desk import StatusCall, StatusDesk
from dataplane.lane_caller import LaneCaller
from dataplane.last_words import LastWords
from dataplane.metrics import GatewayMetrics
from dataplane.pipeline import Pipeline
from dataplane.probes import LaneProbes
from dataplane.providers import ADAPTERS
from dataplane.quota_desk import QuotaDesk
from dataplane.release import Release
from dataplane.repair_desk import RepairDesk
from dataplane.samples import Samples
from dataplane.sandboxes import Sandboxes, TrustedKeys
from dataplane.schema_check import SchemaChecker
from dataplane.settings import GatewaySettings
from dataplane.shadow.offering import Offering
from dataplane.stores.breakers import BreakerStore
from dataplane.stores.idempotency import IdempotencyStore
from dataplane.stores.jobs import JobStore
from dataplane.stores.ladder import LadderStore
from dataplane.stores.quota import QuotaStore
from dataplane.stores.repairs import RepairStore
from dataplane.stores.streams import StreamLog
from dataplane.stream_desk import ANY_ORIGIN, StreamCall, StreamDesk, shows_cursor
from dataplane.streams import StreamReports, Streams
from dataplane.timers import TimerWheel
from dataplane.transport import Http1Transport, Transport

log = logging.getLogger("ballast.gateway")

TEXT: Final[Header] = (b"content-type", b"text/plain; charset=utf-8")
PROMETHEUS: Final[Header] = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
NOT_MODIFIED: Final = 304
GC_THRESHOLD: Final = 20_000
STREAMS: Final = "/v1/streams/"
STREAM_ACTIONS: Final = {"": "GET", "ack": "POST", "cancel": "POST", "continue": "POST"}
METHODS: Final = {
    "/v1/chat/completions": "POST",
    "/v1/embeddings": "POST",
    "/v1/models": "GET",
    "/livez": "GET",
    "/readyz": "GET",
    "/startupz": "GET",
    "/metrics": "GET",
}


class Watcher(Protocol):
    """Keeps the release current, such as `ReleaseWatcher`."""

    current: Release | None

    async def start(self) -> None:
        """Begin to watch."""

    async def stop(self) -> None:
        """Stop watching."""

    def subscribe(self, adopted: Callable[[Release], None]) -> None:
        """Call `adopted` with every release from now on, right after it has become current. It must not wait."""


class Reports(UsageSink, StreamReports, Protocol):
    """Ships what this worker did, such as `ReportShipper`."""

    in_flight: int
    region: str
    lanes: Callable[[], list[dict[str, Any]]] | None
    quotas: Callable[[], list[dict[str, Any]]] | None
    ladders: Callable[[], list[dict[str, Any]]] | None
    surfaces: SurfaceCounting | None

    def add_sample(self, row: Mapping[str, Any]) -> None:
        """Take over an answer that is kept as a sample; must not wait."""

    async def start(self) -> None:
        """Begin to ship."""

    async def stop(self) -> None:
        """Ship what is left."""


def create_app(
    *,
    settings: GatewaySettings,
    watcher: Watcher,
    reports: Reports,
    aggregation: Aggregation,
    secrets: Secrets,
    transport: Transport | None = None,
    breaker_store: BreakerStore | None = None,
    stream_log: StreamLog | None = None,
    cursors: CursorKeys | None = None,
    idempotency_store: IdempotencyStore | None = None,
    quota_store: QuotaStore | None = None,
    ladder_store: LadderStore | None = None,
    job_store: JobStore | None = None,
    repair_store: RepairStore | None = None,
    evidence: Evidence | None = None,
    trusted_keys: TrustedKeys | None = None,
    shadows: Offering | None = None,
) -> Gateway:
    """Return the application of one gateway process. Its lifespan starts and stops `watcher`, `reports`, `transport`
    and the stores. Without `breaker_store`, breakers are this process' own; without `stream_log` and `cursors`, no
    stream outlives its caller's connection; without `idempotency_store`, requests with a key are refused; without
    `quota_store`, this process keeps to its part of each quota; without `ladder_store`, it decides by itself where its
    ladders stand; without `job_store`, it takes no jobs; without `repair_store`, it keeps no answers for somebody to
    complete; without `trusted_keys`, it lets no evals in, and obeys no order on its host; without `evidence`, it counts
    nothing for or against canaries; without `shadows`, it has nothing asked again.
    """
    timers = TimerWheel()
    return Gateway(
        settings=settings,
        watcher=watcher,
        reports=reports,
        aggregation=aggregation,
        secrets=secrets,
        transport=transport or Http1Transport(timers=timers),
        breaker_store=breaker_store,
        stream_log=stream_log,
        cursors=cursors,
        idempotency_store=idempotency_store,
        quota_store=quota_store,
        ladder_store=ladder_store,
        job_store=job_store,
        repair_store=repair_store,
        evidence=evidence,
        trusted_keys=trusted_keys,
        shadows=shadows,
        timers=timers,
    )


class Gateway:
    """See the module. One instance per process, on one event loop."""

    def __init__(
        self,
        *,
        settings: GatewaySettings,
        watcher: Watcher,
        reports: Reports,
        aggregation: Aggregation,
        secrets: Secrets,
        transport: Transport,
        breaker_store: BreakerStore | None,
        stream_log: StreamLog | None,
        cursors: CursorKeys | None,
        idempotency_store: IdempotencyStore | None,
        quota_store: QuotaStore | None,
        ladder_store: LadderStore | None,
        job_store: JobStore | None,
        repair_store: RepairStore | None,
        evidence: Evidence | None,
        trusted_keys: TrustedKeys | None,
        shadows: Offering | None,
        timers: TimerWheel,
    ) -> None:
        self._limit_bytes = settings.max_body_bytes
        self._watcher = watcher
        self._reports = reports
        self._transport = transport
        self._timers = timers
        self._shadows = shadows
        self._started = False
        clock, wall = time.monotonic, time.time
        schemas = SchemaChecker()
        self._breakers = FleetBreakers(store=breaker_store, report=reports.add_event, clock=clock, wall=wall)
        self._metrics = GatewayMetrics(
            release=lambda: watcher.current,
            breakers=self._breakers.states,
            quotas=lambda: self._quotas.shares(),
            streams=lambda: self._streams,
            jobs=lambda: self._job_queue.figures,
            ladders=lambda: self._ladders.states(),
        )
        caller = LaneCaller(
            transport=transport,
            secrets=secrets,
            adapters=ADAPTERS,
            timers=timers,
            clock=clock,
            wall=wall,
            learn=lambda lane, limits: self._quotas.learn(lane, limits),
        )
        owner = f"{settings.worker}/{uuid.uuid4().hex}"
        self._quotas = QuotaDesk(
            store=quota_store, worker=owner, report=reports.add_event, timers=timers, clock=clock, wall=wall
        )
        self._ladders = Ladders(
            store=ladder_store,
            worker=owner,
            region=settings.region,
            public_url=settings.public_url,
            breakers=self._breakers,
            quotas=self._quotas,
            report=reports.add_event,
            clock=clock,
            wall=wall,
            jobs=job_store,
        )
        attempts = Attempts(
            breakers=self._breakers,
            quotas=self._quotas,
            aggregation=aggregation,
            usage=reports,
            region=settings.region,
            clock=clock,
            wall=wall,
            seen=self._ladders.look.count,
        )
        reports.lanes = lambda: with_waits(self._breakers.states(), attempts)
        reports.quotas = self._quotas.states
        reports.ladders = self._ladders.states
        reports.surfaces = self._ladders.counting
        reports.region = settings.region
        self._streams: Streams | None = None
        if stream_log is not None and cursors is not None:
            self._streams = Streams(
                store=stream_log,
                cursors=cursors,
                reports=reports,
                owner=owner,
                timers=timers,
                clock=clock,
                wall=wall,
            )
        self._keyed: KeyedWork | None = None
        if idempotency_store is not None:
            self._keyed = KeyedWork(
                store=idempotency_store, streams=self._streams, owner=owner, timers=timers, clock=clock
            )
        self._known_questions = KnownQuestions(attempts=attempts, caller=caller, timers=timers, clock=clock, wall=wall)
        copy_desk = CopyDesk(breakers=self._breakers, known_questions=self._known_questions, schemas=schemas)
        self._job_queue = JobQueue(job_store, limit=settings.job_limit, clock=clock, wall=wall)
        self._pipeline = Pipeline(
            releases=watcher,
            caller=caller,
            attempts=attempts,
            copy_desk=copy_desk,
            schemas=schemas,
            aggregation=aggregation,
            metrics=self._metrics,
            region=settings.region,
            timers=timers,
            streams=self._streams,
            keyed=self._keyed,
            job_keys=cursors,
            repairs=repair_store,
            samples=Samples(reports.add_sample, clock=clock, wall=wall),
            evidence=evidence,
            sandboxes=None if trusted_keys is None else Sandboxes(trusted_keys),
            shadows=shadows,
            ladder=self._ladders.desk,
            later=Promises(
                self._job_queue,
                desk=self._ladders.desk,
                last_words=LastWords(copy_desk=copy_desk, timers=timers, wall=wall),
                public_url=settings.public_url,
            ),
            surfaces=self._ladders.counting,
            clock=clock,
            wall=wall,
        )
        self._stream_desk = StreamDesk(self._streams, self._pipeline)
        self._job_desk = JobDesk(self._job_queue, self._pipeline, words=self._ladders.desk.speak_later)
        self._repair_desk = RepairDesk(repair_store, self._pipeline, schemas=schemas)
        self._desks: tuple[Desk, ...] = (self._job_desk, self._repair_desk)
        self._probes = LaneProbes(
            attempts=attempts,
            caller=caller,
            breakers=self._breakers,
            store=breaker_store,
            timers=timers,
            clock=clock,
            wall=wall,
        )
        watcher.subscribe(self._breakers.adopt)
        watcher.subscribe(self._quotas.adopt)
        watcher.subscribe(self._ladders.adopt)
        self._orders: HostOrders | None = None
        if trusted_keys is not None:
            self._orders = HostOrders(
                file=orders_file(settings.release_file),
                trusted=trusted_keys,
                obey=self._ladders.desk.obey,
                report=reports.add_event,
                wall=wall,
            )
            watcher.subscribe(self._orders.adopt)
        self._status_desk = StatusDesk(
            desk=self._ladders.desk,
            release=lambda: watcher.current,
            tenant_of=lambda authorization: self._pipeline.authenticate(authorization)[1].tenant,
            moved_at=lambda surface: self._ladders.fleet.standing(surface).moved_at or None,
            wall=wall,
        )
        watcher.subscribe(self._probes.adopt)
        watcher.subscribe(self._known_questions.adopt)
        if evidence is not None:
            watcher.subscribe(lambda release: evidence.adopt(release.canaries))

    def interrupt_streams(self) -> None:
        """End what is generated here for callers that may come back, streams each with its terminal event, because the
        process is about to stop. Their readers are still there to see it.
        """
        if self._streams is not None:
            self._streams.interrupt()
        if self._keyed is not None:
            self._keyed.interrupt()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request, or the process's lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            return
        path: str = scope["path"]
        if path == "/v1/chat/completions" and scope["method"] == "POST":
            await self._serve("chat", self._pipeline.serve_chat, scope, receive, send)
        elif path == "/v1/embeddings" and scope["method"] == "POST":
            await self._serve("embeddings", self._pipeline.serve_embeddings, scope, receive, send)
        elif path.startswith(STREAMS):
            await self._serve_stream(scope, receive, send)
        elif (desk := self._desk_at(path)) is not None:
            await self._serve_desk(desk, scope, receive, send)
        elif self._status_desk.serves(path):
            await self._serve_status(scope, send)
        else:
            await self._serve_small(scope, send)

    def _desk_at(self, path: str) -> Desk | None:
        return next((one for one in self._desks if path == one.path or path.startswith(f"{one.path}/")), None)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._reports.start()
                    await self._watcher.start()
                    await self._breakers.start()
                    await self._ladders.start()
                    if self._orders is not None:
                        await self._orders.start()
                    if self._streams is not None:
                        await self._streams.start()
                    if self._keyed is not None:
                        await self._keyed.start()
                    for desk in self._desks:
                        await desk.start()
                    await self._known_questions.start()
                    await self._probes.start()
                    if self._shadows is not None:
                        await self._shadows.start()
                except Exception as exc:
                    log.exception("the gateway cannot start")
                    await send({"type": "lifespan.startup.failed", "message": str(exc)})
                    return
                # What exists now lives as long as the process: the collector need not look at it again and again, and
                # may wait longer before it looks at what requests leave, which is next to nothing.
                gc.collect()
                gc.freeze()
                gc.set_threshold(GC_THRESHOLD, 20, 20)
                self._started = True
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._watcher.stop()
                if self._shadows is not None:
                    await self._shadows.stop()
                await self._probes.stop()
                await self._known_questions.stop()
                if self._streams is not None:
                    await self._streams.stop()
                if self._keyed is not None:
                    await self._keyed.stop()
                for desk in self._desks:
                    await desk.stop()
                if self._orders is not None:
                    await self._orders.stop()
                await self._ladders.stop()
                await self._breakers.stop()
                await self._quotas.stop()
                await self._transport.close()
                await self._reports.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _serve(
        self,
        operation: str,
        serve: Callable[[Inbound, AsgiReply], Awaitable[None]],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Read the request and hand it to the pipeline, whose task is cancelled when the caller leaves."""
        started = time.monotonic()
        request_id = "req_" + new_id(time.time())
        self._metrics.in_flight += 1
        self._reports.in_flight += 1
        watch: CallerWatch | None = None
        try:
            inbound = await read_inbound(
                scope, receive, limit_bytes=self._limit_bytes, request_id=request_id, started=started
            )
            watch = CallerWatch(receive, self._timers)
            reply = AsgiReply(send)
            if inbound.queue is not None:
                reply = queue_reply = QueueReply(send)
                inbound = replace(inbound, announce=queue_reply.announce)
            await serve(inbound, reply)
        except CallerLeft:
            self._metrics.count(operation, "cancelled", time.monotonic() - started)
        except GatewayError as exc:
            self._metrics.count(operation, exc.code, time.monotonic() - started)
            await _send_error(send, exc, request_id=request_id)
        except asyncio.CancelledError:
            if watch is None or not watch.caller_left:
                raise  # not because of the caller: the server is stopping
        finally:
            if watch is not None:
                watch.stop()
            self._metrics.in_flight -= 1
            self._reports.in_flight -= 1

    async def _serve_stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request about one stream: its frames from somewhere on, an acknowledgement, and the like."""
        started = time.monotonic()
        request_id = "req_" + new_id(time.time())
        stream, _, action = scope["path"].removeprefix(STREAMS).partition("/")
        operation = f"stream_{action or 'resume'}"
        watch: CallerWatch | None = None
        outcome: str | None = "ok"
        try:
            allowed = STREAM_ACTIONS.get(action)
            if allowed is None or not stream:
                operation = "unknown"
                raise UnknownPath(f"{scope['method']} {scope['path'][:200]} does not exist")
            if scope["method"] != allowed:
                raise MethodNotAllowed(scope["method"], scope["path"][:200], allowed=allowed)
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            call = StreamCall(
                request_id=request_id,
                stream=stream,
                action=action,
                query=scope["query_string"].decode("latin-1"),
                authorization=headers.get(b"authorization"),
                last_event_id=headers.get(b"last-event-id"),
                accept=headers.get(b"accept", ""),
                started=started,
                body=await read_body(receive, limit_bytes=self._limit_bytes) if allowed == "POST" else b"",
            )
            watch = CallerWatch(receive, self._timers)
            if await self._stream_desk.serve(call, AsgiReply(send)):
                outcome = None
        except CallerLeft:
            outcome = "cancelled"
        except GatewayError as exc:
            outcome = exc.code
            more = ANY_ORIGIN if shows_cursor(scope["query_string"].decode("latin-1")) else ()
            await _send_error(send, exc, request_id=request_id, more=more)
        except asyncio.CancelledError:
            outcome = None if action == "continue" else "cancelled"
            if watch is None or not watch.caller_left:
                raise  # not because of the caller: the server is stopping
        finally:
            if watch is not None:
                watch.stop()
            if outcome is not None:  # else the pipeline has counted it
                self._metrics.count(operation, outcome, time.monotonic() - started)

    async def _serve_desk(self, desk: Desk, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request about what is kept for callers: a job, say."""
        started = time.monotonic()
        request_id = "req_" + new_id(time.time())
        method, path = scope["method"], scope["path"]
        name, _, action = path.removeprefix(desk.path).removeprefix("/").partition("/")
        operation, outcome = "unknown", "ok"
        try:
            allowed = None if path == f"{desk.path}/" else desk.operations.get((bool(name), action))
            if allowed is None:
                raise UnknownPath(f"{method} {path[:200]} does not exist")
            if method not in allowed:
                raise MethodNotAllowed(method, path[:200], allowed=", ".join(allowed))
            operation = allowed[method]
            if operation in desk.reading:
                inbound = await read_inbound(
                    scope, receive, limit_bytes=self._limit_bytes, request_id=request_id, started=started
                )
            else:
                authorization = next((value for name, value in scope["headers"] if name == b"authorization"), None)
                shown = None if authorization is None else authorization.decode("latin-1")
                inbound = Inbound(request_id, b"", started, shown)
            await desk.serve(DeskCall(inbound, operation, name, action), AsgiReply(send))
        except CallerLeft:
            outcome = "cancelled"
        except GatewayError as exc:
            outcome = exc.code
            await _send_error(send, exc, request_id=request_id)
        finally:
            self._metrics.count(operation, outcome, time.monotonic() - started)

    async def _serve_status(self, scope: Scope, send: Send) -> None:
        """Say how surfaces stand: to apps, and to whoever reads the page."""
        try:
            reply = self._status_desk.answer(StatusCall.read(scope))
            await _send(send, reply.status, list(reply.headers), reply.body)
        except GatewayError as exc:
            await _send_error(send, exc, request_id="req_" + new_id(time.time()), more=ANY_ORIGIN)

    async def _serve_small(self, scope: Scope, send: Send) -> None:
        """Serve what needs no pipeline: models, health, metrics, and the addresses that do not exist."""
        path: str = scope["path"]
        method: str = scope["method"]
        request_id = "req_" + new_id(time.time())
        try:
            allowed = METHODS.get(path) or ("GET" if path.startswith("/v1/models/") else None)
            if allowed is None:
                raise UnknownPath(f"{method} {path[:200]} does not exist")
            if method != allowed and not (method == "HEAD" and allowed == "GET"):
                raise MethodNotAllowed(method, path, allowed=allowed)
            if path.startswith("/v1/models"):
                await self._send_models(scope, send, request_id=request_id)
            elif path == "/metrics":
                await self._job_queue.look()
                await _send(send, 200, [PROMETHEUS], self._metrics.render())
            else:
                await self._send_health(path, send)
        except GatewayError as exc:
            await _send_error(send, exc, request_id=request_id)

    async def _send_models(self, scope: Scope, send: Send, *, request_id: str) -> None:
        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        release, _ = self._pipeline.authenticate(authorization.decode("latin-1"))
        created = int(release.cut_at.timestamp())
        models = [
            {"id": slug, "object": "model", "created": created, "owned_by": "ballast"}
            for slug in sorted(release.routing.routes)
        ]
        headers = [
            JSON_TYPE,
            (b"ballast-request-id", request_id.encode()),
            (b"ballast-release", b"%d" % release.revision),
        ]
        slug = scope["path"].removeprefix("/v1/models").removeprefix("/")
        if not slug:
            await _send(send, 200, headers, orjson.dumps({"object": "list", "data": models}))
            return
        model = next((model for model in models if model["id"] == slug), None)
        if model is None:
            raise UnknownRoute(slug[:200])
        await _send(send, 200, headers, orjson.dumps(model))

    async def _send_health(self, path: str, send: Send) -> None:
        """/livez: the event loop turns. /startupz: the process has started. /readyz: it holds a verified release."""
        ready = self._watcher.current is not None
        fine = {"/livez": True, "/startupz": self._started, "/readyz": ready and self._started}[path]
        words = b"ok\n" if fine else b"no verified release yet\n" if self._started else b"starting\n"
        await _send(send, 200 if fine else 503, [TEXT], words)


def with_waits(states: list[dict[str, Any]], attempts: Attempts) -> list[dict[str, Any]]:
    """Add to each lane's state how long its callers waited lately, in milliseconds, as `wait_ms`; null: not known."""
    waits = attempts.waits_ms(state["lane"] for state in states)
    return [{**state, "wait_ms": waits[state["lane"]]} for state in states]


async def _send(send: Send, status: int, headers: list[Header], body: bytes) -> None:
    if status != NOT_MODIFIED:  # a length there would be that of what the caller has already
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_error(send: Send, error: GatewayError, *, request_id: str, more: Sequence[Header] = ()) -> None:
    headers = [*error_headers(error), (b"ballast-request-id", request_id.encode()), *more]
    await _send(send, face_of(error).status, headers, error_body(error, request_id=request_id))
