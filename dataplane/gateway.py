"""The gateway's ASGI application: reads HTTP, knows the paths, watches for callers who leave. No policy lives here.

Raw ASGI, because everything between the socket and the pipeline is paid by every request.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import orjson

from dataplane.asgi_reply import AsgiReply, QueueReply, Send
from dataplane.asgi_request import CallerLeft, CallerWatch, Receive, Scope, read_inbound
from dataplane.assembly import Assembly
from dataplane.bad_keys import BadKeys
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
from dataplane.errors import GatewayError
from dataplane.errors.requests import TooManyBadKeys, Unauthorized, UnknownRoute
from dataplane.http_protocol import BadResponse
from dataplane.journey import CLIENT_CLOSED_REQUEST, Inbound, new_id
from dataplane.ladder.status_desk import StatusCall
from dataplane.request_parser import CHAT_PATH, EMBEDDINGS_PATH
from dataplane.retrieval.desk import OPERATION as RETRIEVE_OPERATION
from dataplane.retrieval.desk import PATH as RETRIEVE
from dataplane.stream_desk import ANY_ORIGIN, StreamCall, shows_cursor

log = logging.getLogger("ballast.gateway")

TEXT: Final[Header] = (b"content-type", b"text/plain; charset=utf-8")
PROMETHEUS: Final[Header] = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
OK: Final = 200
NOT_MODIFIED: Final = 304
GC_THRESHOLD: Final = 20_000
BROKEN: Final = "something went wrong in the gateway, and was logged; try again"
STREAMS: Final = "/v1/streams/"
STREAM_ACTIONS: Final = {"": "GET", "ack": "POST", "cancel": "POST", "continue": "POST"}
METHODS: Final = {
    CHAT_PATH: "POST",
    EMBEDDINGS_PATH: "POST",
    RETRIEVE: "POST",
    "/v1/models": "GET",
    "/livez": "GET",
    "/readyz": "GET",
    "/startupz": "GET",
    "/metrics": "GET",
}


class Gateway:
    """See the module. One instance per process, on one event loop."""

    def __init__(self, parts: Assembly, *, limit_bytes: int) -> None:
        """Its lifespan starts and stops `parts`. `limit_bytes`: of a request's body."""
        self._parts = parts
        self._limit_bytes = limit_bytes
        self._pipeline = parts.pipeline
        self._retrieve_desk = parts.retrieve_desk
        self._stream_desk = parts.stream_desk
        self._status_desk = parts.status_desk
        self._desks = parts.desks
        self._metrics = parts.metrics
        self._reports = parts.reports
        self._timers = parts.timers
        self._tracer = parts.tracer
        self._bad_keys = BadKeys()
        self._started = False
        self._is_draining = False

    def drain(self) -> None:
        """Be not ready from now on, and tell callers to open their next connection elsewhere; requests are taken on."""
        self._is_draining = True

    def _let_in(self, scope: Scope, authorization: str | None, job: str | None) -> None:
        """Refuse whoever shows no good key, before their body is read."""
        try:
            self._pipeline.refuse_stranger(authorization, job=job)
        except Unauthorized as exc:
            raise self._counted(exc, scope) from None

    def _counted(self, refusal: GatewayError, scope: Scope) -> GatewayError:
        """The refusal itself, or that there were too many of a bad key from its address."""
        if not isinstance(refusal, Unauthorized):
            return refusal
        client = scope.get("client")
        wait = self._bad_keys.note(client[0] if client else "", now=time.monotonic())
        return refusal if wait is None else TooManyBadKeys(retry_after_seconds=wait)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request, or the process's lifespan."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            return
        if self._is_draining:
            send = _closing(send)
        try:
            if scope["path"] == CHAT_PATH and scope["method"] == "POST":
                await self._serve("chat", self._pipeline.serve_chat, scope, receive, send)
            else:
                await self._route(scope, receive, send)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"][:200])
            # Where an answer has begun there can be no other: the server then ends the connection.
            with suppress(BadResponse, RuntimeError):  # ours, and uvicorn's own protocol
                await _send_error(send, GatewayError(BROKEN), request_id="req_" + new_id(time.time()))

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path == EMBEDDINGS_PATH and scope["method"] == "POST":
            await self._serve("embeddings", self._pipeline.serve_embeddings, scope, receive, send)
        elif path == RETRIEVE and scope["method"] == "POST":
            await self._serve(RETRIEVE_OPERATION, self._retrieve_desk.serve, scope, receive, send)
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
                    await self._parts.start()
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
                await self._parts.stop()
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
        watch = CallerWatch(receive, self._timers)
        tracer = self._tracer
        trace = None if tracer is None else tracer.begin(scope["method"], scope["path"], scope["headers"])
        try:
            inbound = await read_inbound(
                scope,
                watch,
                let_in=self._let_in,
                limit_bytes=self._limit_bytes,
                request_id=request_id,
                started=started,
                trace=trace,
            )
            reply = AsgiReply(send)
            if inbound.queue is not None:
                reply = queue_reply = QueueReply(send)
                inbound = replace(inbound, announce=queue_reply.announce)
            await serve(inbound, reply)
        except CallerLeft:
            self._metrics.count(operation, "cancelled", time.monotonic() - started)
            if trace is not None:
                trace.end_early(operation, "cancelled", status=CLIENT_CLOSED_REQUEST, request_id=request_id)
        except GatewayError as exc:
            self._metrics.count(operation, exc.code, time.monotonic() - started)
            if trace is not None:
                trace.end_early(operation, exc.code, status=face_of(exc).status, request_id=request_id)
            await _send_error(send, exc, request_id=request_id)
        except asyncio.CancelledError:
            if not watch.caller_left:
                raise  # not because of the caller: the server is stopping
        finally:
            watch.stop()
            if trace is not None:
                trace.leave()
            self._metrics.in_flight -= 1
            self._reports.in_flight -= 1

    async def _serve_stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request about one stream: its frames from somewhere on, an acknowledgement, and the like."""
        started = time.monotonic()
        request_id = "req_" + new_id(time.time())
        stream, _, action = scope["path"].removeprefix(STREAMS).partition("/")
        operation = f"stream_{action or 'resume'}"
        watch = CallerWatch(receive, self._timers)
        outcome: str | None = "ok"
        status = OK
        route = f"{STREAMS}{{id}}/{action}" if action in STREAM_ACTIONS and action else f"{STREAMS}{{id}}"
        tracer = self._tracer
        trace = None if tracer is None else tracer.begin(scope["method"], route, scope["headers"])
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
                body=await watch.read_body(limit_bytes=self._limit_bytes) if allowed == "POST" else b"",
                trace=trace,
            )
            watch.body_is_here()
            if await self._stream_desk.serve(call, AsgiReply(send)):
                outcome = None
        except CallerLeft:
            outcome, status = "cancelled", CLIENT_CLOSED_REQUEST
        except GatewayError as exc:
            outcome, status = exc.code, face_of(exc).status
            more = ANY_ORIGIN if shows_cursor(scope["query_string"].decode("latin-1")) else ()
            await _send_error(send, self._counted(exc, scope), request_id=request_id, more=more)
        except asyncio.CancelledError:
            outcome, status = None if action == "continue" else "cancelled", CLIENT_CLOSED_REQUEST
            if not watch.caller_left:
                raise  # not because of the caller: the server is stopping
        finally:
            watch.stop()
            if outcome is not None:  # else the pipeline has counted it
                self._metrics.count(operation, outcome, time.monotonic() - started)
            if trace is not None:
                if outcome is not None:
                    trace.end_early(operation, outcome, status=status, request_id=request_id)
                trace.leave()

    async def _serve_desk(self, desk: Desk, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request about what is kept for callers: a job, say."""
        started = time.monotonic()
        request_id = "req_" + new_id(time.time())
        method, path = scope["method"], scope["path"]
        name, _, action = path.removeprefix(desk.path).removeprefix("/").partition("/")
        operation, outcome, status = "unknown", "ok", OK
        watch = CallerWatch(receive, self._timers)
        route = f"{desk.path}/{{id}}/{action}" if action else f"{desk.path}/{{id}}" if name else desk.path
        tracer = self._tracer
        trace = None if tracer is None else tracer.begin(method, route, scope["headers"])
        try:
            allowed = None if path == f"{desk.path}/" else desk.operations.get((bool(name), action))
            if allowed is None:
                raise UnknownPath(f"{method} {path[:200]} does not exist")
            if method not in allowed:
                raise MethodNotAllowed(method, path[:200], allowed=", ".join(allowed))
            operation = allowed[method]
            if operation in desk.reading:
                inbound = await read_inbound(
                    scope,
                    watch,
                    let_in=self._let_in,
                    limit_bytes=self._limit_bytes,
                    request_id=request_id,
                    started=started,
                    trace=trace,
                )
            else:
                authorization = next((value for name, value in scope["headers"] if name == b"authorization"), None)
                shown = None if authorization is None else authorization.decode("latin-1")
                inbound = Inbound(request_id, b"", started, shown)
            watch.stop()  # what desks do is brief, and is finished whoever waits for it
            await desk.serve(DeskCall(inbound, operation, name, action), AsgiReply(send))
        except CallerLeft:
            outcome, status = "cancelled", CLIENT_CLOSED_REQUEST
        except GatewayError as exc:
            outcome, status = exc.code, face_of(exc).status
            await _send_error(send, self._counted(exc, scope), request_id=request_id)
        finally:
            watch.stop()
            self._metrics.count(operation, outcome, time.monotonic() - started)
            if trace is not None:
                trace.end_early(operation, outcome, status=status, request_id=request_id)
                trace.leave()

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
                await _send(send, 200, [PROMETHEUS], await self._parts.exposition())
            else:
                await self._send_health(path, send)
        except GatewayError as exc:
            await _send_error(send, self._counted(exc, scope), request_id=request_id)

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
        """/livez: the event loop turns. /startupz: the process has started. /readyz: it holds a verified release, and
        was not told to stop.
        """
        if path == "/readyz":
            await self._send_readiness(send)
            return
        fine = self._started or path == "/livez"
        await _send(send, 200 if fine else 503, [TEXT], b"ok\n" if fine else b"starting\n")

    async def _send_readiness(self, send: Send) -> None:
        """Shape: {"status": "ready|starting|no verified release|draining", "release": null or {"revision", "digest",
        "cut_at"}, "dependencies": as `Dependencies.look`}. No store makes it not ready: see docs/failure-modes.md.
        """
        release = self._parts.watcher.current
        status = (
            "starting"
            if not self._started
            else "draining"
            if self._is_draining
            else "no verified release"
            if release is None
            else "ready"
        )
        # Asked in a thread: a store that is away takes its time-out to say so, and nobody else is to wait for that.
        can_serve, dependencies = await asyncio.to_thread(self._parts.dependencies.look)
        content = {
            "status": status if status != "ready" or can_serve else "not ready",
            "release": None
            if release is None
            else {"revision": release.revision, "digest": release.digest, "cut_at": release.cut_at.isoformat()},
            "dependencies": dependencies,
        }
        await _send(send, 200 if content["status"] == "ready" else 503, [JSON_TYPE], orjson.dumps(content) + b"\n")


def _closing(send: Send) -> Send:
    """Have the server close the connection after what is sent: its caller's next request finds another process."""

    async def send_and_close(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return send_and_close


async def _send(send: Send, status: int, headers: list[Header], body: bytes) -> None:
    if status != NOT_MODIFIED:  # a length there would be that of what the caller has already
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _send_error(send: Send, error: GatewayError, *, request_id: str, more: Sequence[Header] = ()) -> None:
    headers = [*error_headers(error), (b"ballast-request-id", request_id.encode()), *more]
    await _send(send, face_of(error).status, headers, error_body(error, request_id=request_id))
