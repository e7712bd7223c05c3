"""A receiver of traces, as a collector is one: OTLP over HTTP, decoded with OpenTelemetry's own schemas.

with Receiver() as receiver:
    ...a process told OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url...
    receiver.wait_for(lambda: receiver.named("chat gpt-4o"))
"""

from __future__ import annotations

import http.server
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from launcher.postgres import wait_until

PATH = "/v1/traces"
KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
ERROR = 2


@dataclass(frozen=True, slots=True)
class Span:
    """One span as it came. `kind` is one of KINDS; times are epoch nanoseconds, `links` ids of traces and spans."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    service: str
    instance: str
    is_error: bool
    began_at: int
    ended_at: int
    attributes: dict[str, Any] = field(default_factory=dict)
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)


class Receiver:
    """See the module. `status` is what senders are answered with from now on."""

    def __init__(self) -> None:
        self.status = 200
        self.spans: list[Span] = []
        self.bodies: list[bytes] = []
        self.lock = threading.Lock()
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def named(self, name: str) -> list[Span]:
        """The spans of a name that have come so far."""
        with self.lock:
            return [span for span in self.spans if span.name == name]

    def below(self, span: Span) -> list[Span]:
        """The children of a span that have come so far, in the order in which they began."""
        with self.lock:
            found = [one for one in self.spans if one.trace_id == span.trace_id and one.parent_id == span.span_id]
        return sorted(found, key=lambda one: one.began_at)

    def of_trace(self, trace_id: str) -> list[Span]:
        """All of one trace that has come so far, in the order in which they began."""
        with self.lock:
            return sorted((one for one in self.spans if one.trace_id == trace_id), key=lambda one: one.began_at)

    def wait_for(self, condition: Any, seconds: float = 60.0) -> None:
        """Wait for senders; how long it takes is never part of what is tested."""
        happened = wait_until(lambda: bool(condition()), alive=lambda: True, seconds=seconds)
        assert happened, f"it did not come; what came: {sorted({span.name for span in self.spans})}"

    def take(self, body: bytes) -> None:
        """One request of a sender."""
        told = ExportTraceServiceRequest.FromString(body)
        with self.lock:
            self.bodies.append(body)
            for resource in told.resource_spans:
                about = _attributes(resource.resource.attributes)
                for scope in resource.scope_spans:
                    self.spans += [_span(one, about) for one in scope.spans]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Take spans, or refuse them."""
        body = self.rfile.read(int(self.headers["content-length"]))
        receiver = self.server.receiver
        if self.path == PATH and receiver.status < 300:
            receiver.take(body)
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(receiver.status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


def _span(one: Any, about: dict[str, Any]) -> Span:
    return Span(
        name=one.name,
        kind=KINDS[one.kind],
        trace_id=one.trace_id.hex(),
        span_id=one.span_id.hex(),
        parent_id=one.parent_span_id.hex(),
        service=str(about.get("service.name", "")),
        instance=str(about.get("service.instance.id", "")),
        is_error=one.status.code == ERROR,
        began_at=one.start_time_unix_nano,
        ended_at=one.end_time_unix_nano,
        attributes=_attributes(one.attributes),
        events=[(event.name, _attributes(event.attributes)) for event in one.events],
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in one.links],
    )


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    if which == "array_value":
        return [_value(one) for one in value.array_value.values]
    return None if which is None else getattr(value, which)
