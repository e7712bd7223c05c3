"""What the engine tells whoever traces it: a request as it comes and ends, its attempts, what happens between them.

Where nobody traces, `Journey.trace` is None, and there is nothing below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from dataplane.tracing import Facts, SpanCounts

if TYPE_CHECKING:
    from dataplane.journey import Attempt, Journey
    from dataplane.messages import Usage
    from dataplane.release import Release

# Names of events of a request.
RETRY_WAIT: Final = "ballast.retry.wait"
BREAKER_REFUSED: Final = "ballast.breaker.refused"
QUOTA_WAITED: Final = "ballast.quota.waited"
QUOTA_EXHAUSTED: Final = "ballast.quota.exhausted"
FALLBACK: Final = "ballast.fallback"


class AttemptTrace(Protocol):
    """One attempt at one lane."""

    @property
    def traceparent(self) -> str:
        """What the provider is handed, so that a server of our own goes on with the trace."""

    def end(self, attempt: Attempt, billed: Usage) -> None:
        """The attempt is over, and `billed`."""


class RequestTrace(Protocol):
    """One request. What ends it is called whatever happens; only the first call counts."""

    @property
    def traceparent(self) -> str:
        """What is handed to whoever goes on with the request later, or asks it again."""

    @property
    def trace_id(self) -> str:
        """Under which the request is found where traces are kept, in hexadecimal; empty: this one is not kept."""

    def begin_attempt(self, journey: Journey, attempt: Attempt, *, operation: str) -> AttemptTrace:
        """An attempt begins; `operation` is chat or embeddings."""

    def note(self, event: str, facts: Facts) -> None:
        """Something happened, now."""

    def answer_with(self, status: int) -> None:
        """The answer's HTTP status, where neither success nor an error says it."""

    def end(self, operation: str, journey: Journey) -> None:
        """The request is over; of a stream, with its terminal event."""

    def end_early(self, operation: str, outcome: str, *, status: int, request_id: str) -> None:
        """The request is over without ever having been a journey; `outcome` as in `GatewayMetrics`."""

    def leave(self) -> None:
        """The task that began it goes on to something else: its log lines are no longer the request's."""


class ShadowTrace(AttemptTrace, Protocol):
    """One call of a shadow: a trace of its own, so that the caller's ends when the caller was answered."""

    @property
    def trace_id(self) -> str:
        """As `RequestTrace.trace_id`."""


class ShadowTracer(Protocol):
    """Traces the calls of a shadow process. `counts` says what became of their spans."""

    @property
    def counts(self) -> SpanCounts: ...

    def close(self) -> None:
        """As `RequestTracer.close`."""

    def begin(
        self, attempt: Attempt, *, release: Release, traceparent: str, policy: str, arm: str, request_id: str, name: str
    ) -> ShadowTrace | None:
        """A call begins, under the id `name`, of a request whose own traceparent is this. None: that is not kept, so
        neither is this.
        """


class RequestTracer(Protocol):
    """Traces requests of a gateway process. `counts` says what became of their spans."""

    @property
    def counts(self) -> SpanCounts: ...

    def close(self) -> None:
        """Send what is left; waits for that, a few seconds at most."""

    def begin(self, method: str, route: str, headers: Sequence[tuple[bytes, bytes]]) -> RequestTrace | None:
        """A request has come to `route`, such as /v1/streams/{id}. None: it is not traced, and nothing is handed on."""
