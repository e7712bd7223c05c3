"""Tracing of one process: what it is called, which of its traces are kept, where they go, and what is done inside a
span.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from dataplane import logs
from dataplane.otel.exporting import Outbox
from dataplane.settings import TracingSettings
from dataplane.tracing import Facts

SCOPE: Final = "ballast"
# What is left is sent within so long when the process ends; whoever supervises it waits longer.
CLOSE_SECONDS: Final = 3.0
PROPAGATOR: Final = TraceContextTextMapPropagator()


class NoQueryAlone(Sampler):
    """Samples as another does, but nothing that begins with a call to a database or the like: pages and tasks are
    traced, and not each query of a loop that nobody asked for.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        """As `Sampler.should_sample`."""
        if kind is SpanKind.CLIENT:
            return SamplingResult(Decision.DROP)
        return self._sampler.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """As `Sampler.get_description`."""
        return f"NoQueryAlone({self._sampler.get_description()})"


class ProcessTracing:
    """See the module. `Tracing` of the process; `outbox` counts what became of its spans."""

    def __init__(
        self, settings: TracingSettings, *, exporter: SpanExporter | None = None, sampler: Sampler | None = None
    ) -> None:
        """`exporter` None: OTLP over HTTP, to the settings' address. Headers, certificates, time-outs and compression
        are the library's to read, from its own variables. `sampler` None: by the settings' ratio.
        """
        self.outbox = Outbox(exporter or OTLPSpanExporter(endpoint=settings.endpoint), most=settings.most_waiting)
        if sampler is None:
            root = NoQueryAlone(TraceIdRatioBased(settings.ratio))
            sampler = ParentBased(root) if settings.follows_callers else root
        self.provider = TracerProvider(
            sampler=sampler,
            resource=Resource.create(
                {
                    "service.name": settings.service,
                    "service.namespace": SCOPE,
                    "service.instance.id": settings.worker,
                }
            ),
            shutdown_on_exit=False,
        )
        self.provider.add_span_processor(self.outbox)
        self.tracer = self.provider.get_tracer(SCOPE)
        logs.show_traces(current_ids)

    @property
    def current(self) -> str:
        """As `Tracing.current`."""
        context = trace.get_current_span().get_span_context()
        return traceparent_of(context) if context.is_valid and context.trace_flags.sampled else ""

    @contextmanager
    def span(
        self, name: str, *, parent: str = "", facts: Facts | None = None, is_entry: bool = False
    ) -> Iterator[None]:
        """As `Tracing.span`; one that an exception leaves is in error, and says of which class."""
        context = context_of(parent) if parent else None if self.current else Context()
        kind = SpanKind.CONSUMER if is_entry else SpanKind.INTERNAL
        span = self.tracer.start_span(name, context=context, kind=kind, attributes=facts)
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield
        except BaseException as exc:
            span.set_attribute("error.type", type(exc).__qualname__)
            span.set_status(Status(StatusCode.ERROR))
            raise
        finally:
            span.end()

    def close(self, *, seconds: float = CLOSE_SECONDS) -> None:
        """Send what is left, within so many seconds."""
        self.outbox.close(seconds=seconds)
        logs.show_traces(None)


def traceparent_of(context: trace.SpanContext) -> str:
    """As W3C writes it."""
    trace_id, span_id = _ids_of(context)
    return f"00-{trace_id}-{span_id}-{int(context.trace_flags):02x}"


def context_of(traceparent: str, tracestate: str = "") -> Context:
    """The context of a caller's; an empty one for what is none."""
    return PROPAGATOR.extract({"traceparent": traceparent, "tracestate": tracestate}, context=Context())


def current_ids() -> tuple[str, str] | None:
    """The ids of trace and span of what is done now, in hexadecimal; None where that is not traced."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid or not context.trace_flags.sampled:
        return None
    return _ids_of(context)


def _ids_of(context: trace.SpanContext) -> tuple[str, str]:
    return trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
