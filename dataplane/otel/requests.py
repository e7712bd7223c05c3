"""Requests of a gateway as traces: a server span for each, below it a client span for each attempt, by OpenTelemetry's
conventions for HTTP servers and for clients of generative AI (semantic-conventions-genai, `gen_ai.client.inference`),
and what only Ballast knows as `ballast.*`.

All that is told of a span stands in this file: names, numbers, slugs and codes. No prompt, no answer, no key, and no
error's words, which may repeat what somebody wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Token
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, format_trace_id

from dataplane.envelope import face_of
from dataplane.journey import CLIENT_CLOSED_REQUEST, Attempt, Journey, attempt_id
from dataplane.messages import Usage
from dataplane.otel.process import ProcessTracing, context_of, traceparent_of
from dataplane.release import Release
from dataplane.request_trace import FALLBACK, AttemptTrace, RequestTrace
from dataplane.tracing import Fact, Facts, SpanCounts, read_traceparent

# What the conventions call who speaks a wire: for them, that is the format, whoever serves it.
PROVIDERS: Final = {"openai": "openai", "azure-openai": "azure.ai.openai", "anthropic": "anthropic"}
IN_ERROR: Final = Status(StatusCode.ERROR)


class RequestSpans:
    """`RequestTracer` by OpenTelemetry."""

    def __init__(self, tracing: ProcessTracing) -> None:
        self._tracing = tracing
        self._tracer = tracing.tracer
        self.counts: SpanCounts = tracing.outbox

    def close(self) -> None:
        """As `RequestTracer.close`."""
        self._tracing.close()

    def begin(self, method: str, route: str, headers: Sequence[tuple[bytes, bytes]]) -> RequestTrace | None:
        """As `RequestTracer.begin`. A caller's trace is gone on with; one that the caller does not keep is handed on
        as it came.
        """
        traceparent = tracestate = ""
        for name, value in headers:
            if name == b"traceparent":
                traceparent = read_traceparent(value.decode("latin-1"))
            elif name == b"tracestate":
                tracestate = value.decode("latin-1")
        span = self._tracer.start_span(
            f"{method} {route}",
            context=context_of(traceparent, tracestate) if traceparent else Context(),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route, "url.scheme": "http"},
        )
        if span.is_recording():
            return _RequestSpan(self._tracer, span)
        return PassedOn(traceparent) if traceparent else None


class PassedOn:
    """A trace of a caller's that is not kept: providers are handed what came, and that is all."""

    __slots__ = ("trace_id", "traceparent")

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent
        self.trace_id = ""

    def begin_attempt(self, journey: Journey, attempt: Attempt, *, operation: str) -> AttemptTrace:
        """As `RequestTrace.begin_attempt`."""
        return _PassedOnAttempt(self.traceparent)

    def note(self, event: str, facts: Facts) -> None:
        """As `RequestTrace.note`."""

    def answer_with(self, status: int) -> None:
        """As `RequestTrace.answer_with`."""

    def end(self, operation: str, journey: Journey) -> None:
        """As `RequestTrace.end`."""

    def end_early(self, operation: str, outcome: str, *, status: int, request_id: str) -> None:
        """As `RequestTrace.end_early`."""

    def leave(self) -> None:
        """As `RequestTrace.leave`."""


class _PassedOnAttempt:
    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def end(self, attempt: Attempt, billed: Usage) -> None:
        """As `AttemptTrace.end`."""


class _RequestSpan:
    __slots__ = ("_context", "_span", "_status", "_token", "_tracer", "trace_id", "traceparent")

    def __init__(self, tracer: Tracer, span: Span) -> None:
        context = span.get_span_context()
        self.traceparent = traceparent_of(context)
        self.trace_id = format_trace_id(context.trace_id)
        self._tracer = tracer
        self._span = span
        self._status = 0
        self._context = trace.set_span_in_context(span, Context())
        # Whatever this task logs, and tasks that it starts, is the request's.
        self._token: Token[Context] | None = attach(self._context)

    def begin_attempt(self, journey: Journey, attempt: Attempt, *, operation: str) -> AttemptTrace:
        """As `RequestTrace.begin_attempt`."""
        lane = attempt.lane
        facts = facts_of_attempt(attempt, operation=operation, release=journey.release)
        facts["ballast.attempt.id"] = attempt_id(journey, attempt)
        if journey.stream:
            facts["gen_ai.request.stream"] = True
        if attempt.kind == "fallback":
            self._span.add_event(FALLBACK, {"ballast.fallback": "alternate", "ballast.lane": lane.id})
        span = self._tracer.start_span(
            f"{operation} {lane.upstream_model}", context=self._context, kind=SpanKind.CLIENT, attributes=facts
        )
        return AttemptSpan(span)

    def note(self, event: str, facts: Facts) -> None:
        """As `RequestTrace.note`."""
        self._span.add_event(event, facts)

    def answer_with(self, status: int) -> None:
        """As `RequestTrace.answer_with`."""
        self._status = status

    def end(self, operation: str, journey: Journey) -> None:
        """As `RequestTrace.end`."""
        span = self._span
        if not span.is_recording():
            return
        error = journey.error
        status = self._status or (200 if error is None else face_of(error).status)
        if journey.outcome == "cancelled":
            status = CLIENT_CLOSED_REQUEST
        span.set_attributes(_facts_of(operation, journey) | {"http.response.status_code": status})
        _judge(span, journey.outcome, status)
        span.end()

    def end_early(self, operation: str, outcome: str, *, status: int, request_id: str) -> None:
        """As `RequestTrace.end_early`."""
        span = self._span
        if not span.is_recording():
            return
        span.set_attributes(
            {
                "ballast.operation": operation,
                "ballast.outcome": outcome,
                "ballast.request_id": request_id,
                "http.response.status_code": status,
            }
        )
        _judge(span, outcome, status)
        span.end()

    def leave(self) -> None:
        """As `RequestTrace.leave`."""
        if self._token is not None:
            detach(self._token)
            self._token = None


class AttemptSpan:
    """`AttemptTrace`, and `ShadowTrace`, by OpenTelemetry."""

    __slots__ = ("_span", "trace_id", "traceparent")

    def __init__(self, span: Span) -> None:
        context = span.get_span_context()
        self._span = span
        self.traceparent = traceparent_of(context)
        self.trace_id = format_trace_id(context.trace_id)

    def end(self, attempt: Attempt, billed: Usage) -> None:
        """As `AttemptTrace.end`."""
        span = self._span
        facts: dict[str, Fact] = {
            "ballast.outcome": attempt.outcome,
            "ballast.cost_micros": attempt.cost_micros,
            "gen_ai.usage.input_tokens": billed.input_tokens,
            "gen_ai.usage.output_tokens": billed.output_tokens,
        }
        if billed.cached_input_tokens:
            facts["gen_ai.usage.cache_read.input_tokens"] = billed.cached_input_tokens
        if attempt.response_model:
            facts["gen_ai.response.model"] = attempt.response_model
        if attempt.response_id:
            facts["gen_ai.response.id"] = attempt.response_id
        if attempt.ttft_ms is not None:
            facts["gen_ai.response.time_to_first_chunk"] = attempt.ttft_ms / 1000
        if attempt.sent_bytes:
            facts["http.response.status_code"] = attempt.status
        span.set_attributes(facts)
        if attempt.finish_reason:
            span.set_attribute("gen_ai.response.finish_reasons", [attempt.finish_reason])
        if attempt.outcome != "ok":
            span.set_attribute("error.type", attempt.outcome)
            if attempt.outcome != "cancelled":
                span.set_status(IN_ERROR)
        span.end()


def facts_of_attempt(attempt: Attempt, *, operation: str, release: Release | None) -> dict[str, Fact]:
    """What is known of an attempt as it begins."""
    lane = attempt.lane
    facts: dict[str, Fact] = {
        "gen_ai.operation.name": operation,
        "gen_ai.request.model": lane.upstream_model,
        "ballast.lane": lane.id,
        "ballast.attempt.number": attempt.number,
        "ballast.attempt.kind": attempt.kind,
    }
    if attempt.cause:
        facts["ballast.attempt.cause"] = attempt.cause
    if release is not None and (provider := release.routing.providers.get(lane.provider)) is not None:
        facts["gen_ai.provider.name"] = PROVIDERS.get(provider.wire, provider.wire)
        if (account := release.routing.accounts.get(lane.account)) is not None:
            host, port = _server(account.base_url)
            facts["server.address"], facts["server.port"] = host, port
    return facts


def _judge(span: Span, outcome: str, status: int) -> None:
    if outcome == "ok":
        return
    span.set_attribute("error.type", outcome)
    # What a caller did wrong, or did not wait for, is no failure of the server's: so says the convention.
    if status >= 500:
        span.set_status(IN_ERROR)


def _facts_of(operation: str, journey: Journey) -> dict[str, Fact]:
    facts: dict[str, Fact] = {
        "ballast.operation": operation,
        "ballast.outcome": journey.outcome,
        "ballast.request_id": journey.inbound.request_id,
        "ballast.class": journey.workload,
        "ballast.attempts": len(journey.attempts),
        "ballast.fallback": journey.fallback,
        "ballast.cohort": "control" if journey.unkeyed else journey.cohort,
        "ballast.rung": 0 if journey.stand is None else journey.stand.rung,
        "ballast.cost_micros": journey.cost_micros,
        "ballast.stream": journey.stream,
    }
    if journey.release is not None:
        facts["ballast.release"] = journey.release.revision
        facts["ballast.release.digest"] = journey.release.digest
        if journey.route in journey.release.routing.routes:  # else it is whatever the caller wrote
            facts["ballast.route"] = journey.route
    if journey.tenant is not None:
        facts["ballast.tenant"], facts["ballast.tier"] = journey.tenant.slug, journey.tenant.tier
    if journey.lane is not None:
        facts["ballast.lane"] = journey.lane.id
    if (version := journey.prompt_version) is not None:
        facts["ballast.prompt"] = version.reference
        facts["gen_ai.prompt.name"], facts["gen_ai.prompt.version"] = version.prompt, str(version.number)
    if journey.canary:
        facts["ballast.canary"] = journey.canary
    if journey.production is not None:
        facts["ballast.stream.id"] = journey.production.id
    if journey.copy is not None:
        facts["ballast.copy"] = journey.copy.reference
    if journey.repair:
        facts["ballast.repair"] = journey.repair
    if journey.queue_position:
        facts["ballast.queue.position"], facts["ballast.queue.waited_ms"] = journey.queue_position, journey.queued_ms
    attempt = journey.answering
    if attempt is not None and attempt.ttft_ms is not None:
        waited = attempt.started - journey.inbound.started
        facts["ballast.time_to_first_token_ms"] = waited * 1000 + attempt.ttft_ms
    return facts


@lru_cache(maxsize=256)
def _server(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
