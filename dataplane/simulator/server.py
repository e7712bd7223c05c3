"""The simulator as an ASGI application, and the function that serves it."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from urllib.parse import parse_qs

import orjson
import uvicorn

from dataplane.simulator.admin import handle_admin, may_administer
from dataplane.simulator.answers import answer_ask, refuse_ask
from dataplane.simulator.anthropic_wire import AnthropicWire
from dataplane.simulator.asgi import (
    BodyTooLarge,
    ClientLeft,
    Receive,
    Scope,
    Send,
    play_script,
    read_body,
    send_json,
    send_plain,
)
from dataplane.simulator.azure_wire import AzureWire
from dataplane.simulator.connection import EXTENSION, Connection, SimulatorProtocol
from dataplane.simulator.conversation import Answer, Ask, BadRequest
from dataplane.simulator.distortion import distort_answer
from dataplane.simulator.embeddings import count_input_tokens, embeddings_body, read_embeddings
from dataplane.simulator.fault_rules import FaultBook
from dataplane.simulator.faults import NO_FAULTS, BadFault, FaultPlan, parse_faults, plan_faults
from dataplane.simulator.limit_book import LimitBook, LimitReached
from dataplane.simulator.limits import Charge, Standing
from dataplane.simulator.openai_wire import OpenAIWire
from dataplane.simulator.profiles import INSTANT, LISTED_MODELS, LatencyProfile, Pacing, profile_for
from dataplane.simulator.rate_limits import told_headers, true_headers
from dataplane.simulator.script import Progress, write_script
from dataplane.simulator.state import SimulatorState
from dataplane.simulator.wire import EVENT_TYPE, JSON_TYPE, Frame, FrameKind, Reply, Stamp, Unauthorized, VendorWire

_AZURE_PREFIX = "/azure/openai/deployments/"
_MODELS_PATH = "/openai/v1/models"
_MOST_PREPARED = 2048
_MODEL_CREATED = 1_715_367_049
_NO_ANSWER = 0

# As long as real ones, and like nothing that an answer says.
_BLANK_STAMP = Stamp("~blank~serial~of~a~template~", 4_242_424_242.0)
_BLANK_SERIAL = _BLANK_STAMP.serial.encode()
_BLANK_CREATED = b"%d" % _BLANK_STAMP.now


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """How to run the simulator. `admin_token` None leaves the admin calls open; `port` 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = 8090
    seed: int = 0
    admin_token: str | None = None


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A request already read and answered: the same body gets the same answer, so this is worth keeping.

    `template` is the whole response of a model that never waits, with blanks for the serial and the time.
    """

    ask: Ask
    answer: Answer
    profile: LatencyProfile
    template: bytes | None


@dataclass(frozen=True, slots=True)
class _Call:
    """One request on its way: which vendor's, whose, with which headers, and how to answer."""

    wire: VendorWire
    operation: str
    deployment: str | None
    headers: Mapping[bytes, bytes]
    account: str
    stamp: Stamp
    connection: Connection
    receive: Receive
    send: Send


class Simulator:
    """Three vendors, their faults and limits, and the admin calls, in one ASGI application."""

    def __init__(self, settings: SimulatorSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self.state = SimulatorState()
        self.book = FaultBook(seed=settings.seed)
        self.limits = LimitBook()
        openai: VendorWire = OpenAIWire()
        self._azure: VendorWire = AzureWire()
        anthropic: VendorWire = AnthropicWire()
        self._routes: dict[str, tuple[VendorWire, str]] = {
            "/openai/v1/chat/completions": (openai, "chat"),
            "/openai/v1/embeddings": (openai, "embeddings"),
            "/anthropic/v1/messages": (anthropic, "chat"),
        }
        self._openai = openai
        self._anthropic = anthropic
        self._prepared: dict[tuple[str, bytes, bytes], _Prepared] = {}
        self._serials = itertools.count(1)
        # Serials of two runs with different seeds differ; within a run they only count up.
        self._serial_head = blake2b(str(settings.seed).encode(), digest_size=8).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        self.state.active_requests += 1
        try:
            await self._dispatch(scope, receive, send)
        except ClientLeft:
            self.state.count_client_left()
        finally:
            self.state.active_requests -= 1

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        method: str = scope["method"]
        path: str = scope["path"]
        headers: dict[bytes, bytes] = dict(scope["headers"])
        route = self._routes.get(path)
        if route is not None:
            await self._serve_call(route[0], route[1], None, method, path, headers, scope, receive, send)
        elif path.startswith(_AZURE_PREFIX):
            deployment, _, operation = path.removeprefix(_AZURE_PREFIX).partition("/")
            name = {"chat/completions": "chat", "embeddings": "embeddings"}.get(operation)
            if name is None or not parse_qs(scope["query_string"]).get(b"api-version"):
                await self._send_reply(send, self._azure.give_error(404, self._stamp()))
            else:
                await self._serve_call(self._azure, name, deployment, method, path, headers, scope, receive, send)
        elif path in ("/readyz", "/livez"):
            await send_json(send, 200, {"status": "ok"})
        elif path.startswith("/admin/"):
            await self._serve_admin(method, path, headers, receive, send)
        elif path == _MODELS_PATH or path.startswith(f"{_MODELS_PATH}/"):
            await self._serve_models(path, headers, send)
        else:
            wire = (
                self._anthropic
                if path.startswith("/anthropic/")
                else self._azure
                if path.startswith("/azure/")
                else self._openai
            )
            message = f"Invalid URL ({method} {path})" if wire is self._openai else None
            await self._send_reply(send, wire.give_error(404, self._stamp(), message=message))

    async def _serve_call(
        self,
        wire: VendorWire,
        operation: str,
        deployment: str | None,
        method: str,
        path: str,
        headers: Mapping[bytes, bytes],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        stamp = self._stamp()
        try:
            account = wire.authenticate(headers)
            if method != "POST":
                raise BadRequest(f"Not allowed to {method} on {path}.", status=405)
            body = await read_body(receive)
        except Unauthorized as refusal:
            await self._refuse(wire, wire.give_unauthorized(refusal, stamp), refusal.given, send)
            return
        except BadRequest as bad:
            await self._refuse(wire, wire.give_error(bad.status, stamp, message=bad.message), "", send)
            return
        except BodyTooLarge:
            await self._refuse(wire, self._told(wire, wire.give_error(413, stamp), account, "", stamp), account, send)
            return
        connection: Connection = scope["extensions"][EXTENSION]
        call = _Call(wire, operation, deployment, headers, account, stamp, connection, receive, send)
        # The version header is all that a vendor's reading takes from outside the body.
        key = (path, headers.get(b"anthropic-version", b""), body)
        prepared = self._prepared.get(key)
        if (
            prepared is not None
            and prepared.template is not None
            and self.book.empty
            and b"x-simulator-fault" not in headers
            and not self.limits.bounds(account)
        ):
            await self._serve_template(call, scope, prepared.ask, prepared.template)
            return
        try:
            if operation == "chat":
                await self._chat(call, prepared or self._prepare(call, key))
            else:
                await self._embed(call, _load(body))
        except BadRequest as bad:
            reply = wire.give_error(bad.status, stamp, message=bad.message, param=bad.param, code=bad.code)
            await self._refuse(wire, self._told(wire, reply, account, "", stamp), account, send)
        except BadFault as bad_fault:
            reply = wire.give_error(400, stamp, message=f"simulator fault: {bad_fault}", code="bad_simulator_fault")
            await self._refuse(wire, self._told(wire, reply, account, "", stamp), account, send)
        except LimitReached as reached:
            reply = wire.give_limited(reached.shortage, stamp, model=reached.model)
            reply = _tell(wire, reply, reached.standings, stamp)
            self.state.count_request(wire.wire.value, reached.model, account, reply.status)
            await self._send_reply(send, reply)

    async def _serve_template(self, call: _Call, scope: Scope, ask: Ask, template: bytes) -> None:
        """Answer where nothing is left to decide, as in a benchmark: fill in the serial and the time, and write."""
        stamp = call.stamp
        self.state.count_request(call.wire.wire.value, ask.model, call.account, 200)
        reply_headers = (
            EVENT_TYPE if ask.stream else JSON_TYPE,
            *call.wire.answer_headers(ask, stamp, processing_ms=0),
        )
        body = template.replace(_BLANK_SERIAL, stamp.serial.encode()).replace(_BLANK_CREATED, b"%d" % stamp.now)
        if ask.stream:
            await call.send({"type": "http.response.start", "status": 200, "headers": list(reply_headers)})
            await call.send({"type": "http.response.body", "body": body})
        elif not call.connection.write_whole_nowait(scope, reply_headers, body):
            await send_plain(call.send, 200, reply_headers, body)

    def _prepare(self, call: _Call, key: tuple[str, bytes, bytes]) -> _Prepared:
        ask = call.wire.read_chat(_load(key[2]), model=call.deployment, headers=call.headers)
        answer = answer_ask(ask, seed=self._settings.seed)
        profile = profile_for(ask.model, wire=ask.wire)
        template = None
        if profile.instant and ask.directive is None:
            reply = call.wire.give_answer(ask, answer, _BLANK_STAMP, processing_ms=0)
            template = b"".join(frame.data for frame in reply.frames)
        prepared = _Prepared(ask, answer, profile, template)
        if len(self._prepared) >= _MOST_PREPARED:
            # Oldest first, which is all that a fixture needs.
            del self._prepared[next(iter(self._prepared))]
        self._prepared[key] = prepared
        return prepared

    async def _chat(self, call: _Call, prepared: _Prepared) -> None:
        ask = prepared.ask
        plan = self._plan(call, ask.model, ask.directive)
        pacing = Pacing(prepared.profile, self._settings.seed ^ ask.fingerprint)
        reply = self._reply_instead(call, ask.model, plan)
        if reply is not None:
            await self._deliver(call, ask.model, reply, plan, Pacing(INSTANT, 0))
            return
        answer = refuse_ask(ask, seed=self._settings.seed) if "refusal" in plan else prepared.answer
        charge = Charge(ask.prompt_tokens, ask.max_tokens or len(answer.pieces))
        with self._admitted(call, ask.model, charge) as (standings, progress):
            if plan:
                answer = distort_answer(answer, plan)
            processing_ms = round(pacing.first_token_seconds() * 1000)
            reply = call.wire.give_answer(ask, answer, call.stamp, processing_ms=processing_ms)
            reply = _tell(call.wire, reply, standings, call.stamp)
            await self._deliver(call, ask.model, reply, plan, pacing, progress)

    async def _embed(self, call: _Call, body: object) -> None:
        model, inputs, dimensions, in_base64, directive = read_embeddings(body, model=call.deployment)
        plan = self._plan(call, model, directive)
        reply = self._reply_instead(call, model, plan)
        if reply is not None:
            await self._deliver(call, model, reply, plan, Pacing(INSTANT, 0))
            return
        with self._admitted(call, model, Charge(count_input_tokens(inputs), 0)) as (standings, progress):
            pacing = Pacing(profile_for(model, wire=call.wire.wire), self._settings.seed ^ len(inputs))
            data = embeddings_body(model, inputs, dimensions, in_base64=in_base64)
            header = (b"openai-processing-ms", str(round(pacing.first_token_seconds() * 1000)).encode())
            headers = (
                JSON_TYPE,
                (b"x-request-id", b"req_" + call.stamp.serial.encode()),
                (b"openai-model", model.encode("latin-1", "replace")),
                header,
            )
            reply = Reply(200, headers, (Frame(FrameKind.CONTENT, data),))
            reply = _tell(call.wire, reply, standings, call.stamp)
            await self._deliver(call, model, reply, plan, pacing, progress)

    @contextlib.contextmanager
    def _admitted(
        self, call: _Call, model: str, charge: Charge
    ) -> Iterator[tuple[tuple[Standing, ...] | None, Progress]]:
        """Count one answer against its account's limits, as `charge` while it is under way and then as its progress
        says; raise LimitReached.
        """
        permit = self.limits.admit(call.account, model, charge, now=call.stamp.now)
        progress = Progress()
        try:
            yield permit.standings, progress
        finally:
            permit.close(Charge(charge.input_tokens, progress.tokens), now=self._clock())

    def _plan(self, call: _Call, model: str, directive: str | None) -> FaultPlan:
        """Return the request's faults: admin rules, then the body's, then the header's, the later overriding one
        of the same name.
        """
        header = call.headers.get(b"x-simulator-fault")
        if header is None and directive is None and self.book.empty:
            return NO_FAULTS
        faults = [
            *(parse_faults(directive) if directive else ()),
            *(parse_faults(header.decode("latin-1")) if header else ()),
        ]
        struck = self.book.strike(
            wire=call.wire.wire, operation=call.operation, model=model, account=call.account, now=call.stamp.now
        )
        plan = plan_faults([*struck, *faults])
        for name in plan:
            self.state.count_fault(name)
        return plan

    def _reply_instead(self, call: _Call, model: str, plan: FaultPlan) -> Reply | None:
        """Return the error that a fault puts in the answer's place, if any."""
        if fault := plan.get("rate_limit"):
            return call.wire.give_rate_limit(fault, call.stamp, model=model)
        if fault := plan.get("status"):
            reply = call.wire.give_error(int(fault.number("code")), call.stamp)
        elif (fault := plan.get("content_filter")) and fault.word("at") == "prompt":
            reply = call.wire.give_content_filter(call.stamp)
        else:
            return None
        return self._told(call.wire, reply, call.account, model, call.stamp)

    def _told(self, wire: VendorWire, reply: Reply, account: str, model: str, stamp: Stamp) -> Reply:
        """Return a reply that is not counted with how its account stands, if it is limited."""
        if not self.limits.bounds(account):
            return reply
        return _tell(wire, reply, self.limits.standings(account, model, now=stamp.now), stamp)

    async def _deliver(
        self,
        call: _Call,
        model: str,
        reply: Reply,
        plan: FaultPlan,
        pacing: Pacing,
        progress: Progress | None = None,
    ) -> None:
        status = _NO_ANSWER if "reset" in plan or "silence" in plan else reply.status
        self.state.count_request(call.wire.wire.value, model, call.account, status)
        self.state.active_streams += reply.streamed
        try:
            steps = write_script(reply, plan, pacing, progress=progress)
            await play_script(steps, receive=call.receive, send=call.send, connection=call.connection)
        finally:
            self.state.active_streams -= reply.streamed

    async def _refuse(self, wire: VendorWire, reply: Reply, account: str, send: Send) -> None:
        self.state.count_request(wire.wire.value, "", account, reply.status)
        await self._send_reply(send, reply)

    async def _send_reply(self, send: Send, reply: Reply) -> None:
        await send_plain(send, reply.status, reply.headers, b"".join(frame.data for frame in reply.frames))

    async def _serve_admin(
        self, method: str, path: str, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        if not may_administer(headers, self._settings.admin_token):
            await send_json(
                send,
                401,
                {
                    "error": {
                        "type": "unauthorized",
                        "code": "unauthorized",
                        "message": "the admin token is missing or wrong",
                    }
                },
            )
            return
        try:
            body = await read_body(receive)
        except BodyTooLarge:
            await send_json(
                send,
                413,
                {
                    "error": {
                        "type": "invalid_request_error",
                        "code": "bad_admin_call",
                        "message": "the body is too large",
                    }
                },
            )
            return
        status, value = handle_admin(
            method, path, body, book=self.book, limits=self.limits, state=self.state, now=self._clock()
        )
        await send_json(send, status, value)

    async def _serve_models(self, path: str, headers: Mapping[bytes, bytes], send: Send) -> None:
        stamp = self._stamp()
        try:
            self._openai.authenticate(headers)
        except Unauthorized as refusal:
            await self._send_reply(send, self._openai.give_unauthorized(refusal, stamp))
            return
        models = [
            {"id": model, "object": "model", "created": _MODEL_CREATED, "owned_by": "system"} for model in LISTED_MODELS
        ]
        if path == _MODELS_PATH:
            await send_json(send, 200, {"object": "list", "data": models})
            return
        name = path.removeprefix(f"{_MODELS_PATH}/")
        found = next((model for model in models if model["id"] == name), None)
        if found is not None:
            await send_json(send, 200, found)
        else:
            message = f"The model '{name}' does not exist"
            await self._send_reply(
                send, self._openai.give_error(404, stamp, message=message, param="model", code="model_not_found")
            )

    def _stamp(self) -> Stamp:
        return Stamp(f"{self._serial_head}{next(self._serials):012x}", self._clock())


def _tell(wire: VendorWire, reply: Reply, standings: tuple[Standing, ...] | None, stamp: Stamp) -> Reply:
    if standings is None:
        return reply
    told = told_headers(wire.wire, standings, now=stamp.now)
    return replace(reply, headers=true_headers(reply.headers, told))


def _load(body: bytes) -> object:
    try:
        value: object = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise BadRequest(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP "
            "library correctly. "
            "The API expects a JSON payload, but what was sent was not valid JSON.)"
        ) from exc
    return value


def build_config(settings: SimulatorSettings) -> uvicorn.Config:
    """Return uvicorn's configuration for a simulator: its own protocol class, no logs of each request, a short
    goodbye.
    """
    return uvicorn.Config(
        Simulator(settings),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=SimulatorProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )


def serve(settings: SimulatorSettings) -> None:
    """Serve the simulator until SIGINT or SIGTERM."""
    # uvicorn raises the signal again once it has shut down in order.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(build_config(settings)).run()
