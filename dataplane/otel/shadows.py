"""Calls of a shadow process as traces: a client span for each, in a trace of its own that is linked to the request
which is asked again. So nobody's trace looks slower for a question that nobody waited for, and who looks at either
finds the other.

A call is kept if its request is, whoever decided that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind
from opentelemetry.util.types import Attributes

from dataplane.journey import Attempt
from dataplane.otel.process import ProcessTracing, context_of
from dataplane.otel.requests import AttemptSpan, facts_of_attempt
from dataplane.release import Release
from dataplane.request_trace import ShadowTrace
from dataplane.settings import TracingSettings
from dataplane.tracing import SpanCounts

CHAT: Final = "chat"


class AsLinked(Sampler):
    """Keeps what is linked to something that is kept, and nothing else."""

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
        is_kept = any(link.context.trace_flags.sampled for link in links or ())
        return SamplingResult(Decision.RECORD_AND_SAMPLE if is_kept else Decision.DROP, attributes)

    def get_description(self) -> str:
        """As `Sampler.get_description`."""
        return "AsLinked"


class ShadowSpans:
    """`ShadowTracer` by OpenTelemetry."""

    def __init__(self, settings: TracingSettings) -> None:
        self._tracing = ProcessTracing(settings, sampler=AsLinked())
        self.counts: SpanCounts = self._tracing.outbox

    def close(self) -> None:
        """As `ShadowTracer.close`."""
        self._tracing.close()

    def begin(
        self, attempt: Attempt, *, release: Release, traceparent: str, policy: str, arm: str, request_id: str, name: str
    ) -> ShadowTrace | None:
        """As `ShadowTracer.begin`."""
        asked = trace.get_current_span(context_of(traceparent)).get_span_context()
        facts = facts_of_attempt(attempt, operation=CHAT, release=release)
        facts |= {
            "ballast.attempt.id": name,
            "ballast.request_id": request_id,
            "ballast.shadow": policy,
            "ballast.shadow.arm": arm,
        }
        span = self._tracing.tracer.start_span(
            f"{CHAT} {attempt.lane.upstream_model}",
            context=Context(),
            kind=SpanKind.CLIENT,
            attributes=facts,
            links=[Link(asked)] if asked.is_valid else None,
        )
        return AttemptSpan(span) if span.is_recording() else None
