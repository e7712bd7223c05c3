"""What the gateway knows about one request while it lives: who asked, what serves it, what became of it.

A Journey is filled step by step by the pipeline and read twice: for the response headers, and for the record at the
end.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from random import getrandbits
from typing import Any, Final, Protocol

from dataplane.access import Tenant
from dataplane.aggregation import Result, Series
from dataplane.envelope import Header, face_of
from dataplane.errors import GatewayError, UpstreamError, UpstreamRejected
from dataplane.messages import Usage
from dataplane.prompts import PromptVersion
from dataplane.release import Release
from dataplane.routing import Lane

CLIENT_CLOSED_REQUEST: Final = 499
# Vendors count about four characters of English to a token. Only used when an answer ends without its usage.
CHARACTERS_PER_TOKEN: Final = 4


@dataclass(frozen=True, slots=True)
class Inbound:
    """One request as the edge read it: the headers that matter, the whole body, and when it began (monotonic
    seconds).
    """

    request_id: str
    body: bytes
    started: float
    authorization: str | None = None
    user: str | None = None
    deadline_ms: str | None = None


class Reply(Protocol):
    """The caller's side of the connection. Every method waits only when the caller reads too slowly."""

    opened: bool

    async def send_whole(self, status: int, headers: list[Header], body: bytes) -> None:
        """Send a complete response."""

    async def open_stream(self, headers: list[Header]) -> None:
        """Send the head of an event stream."""

    async def send_events(self, data: bytes) -> None:
        """Send events, each complete."""

    async def end_stream(self) -> None:
        """End an event stream."""


class Journey:
    """The state of one request. Plain attributes: one request, one task, no sharing."""

    __slots__ = (
        "attempt_started",
        "canary",
        "cohort",
        "deadline_ms",
        "delivered_characters",
        "error",
        "events",
        "inbound",
        "key_id",
        "lane",
        "outcome",
        "prompt_version",
        "refused",
        "release",
        "route",
        "schema_passed",
        "sent_bytes",
        "stage",
        "stream",
        "tenant",
        "ttft_ms",
        "unkeyed",
        "usage",
        "user",
    )

    def __init__(self, inbound: Inbound) -> None:
        self.inbound = inbound
        self.release: Release | None = None
        self.tenant: Tenant | None = None
        self.key_id = ""
        self.user: str | None = inbound.user
        self.route = ""
        self.prompt_version: PromptVersion | None = None
        self.canary = ""
        self.cohort = "none"
        self.unkeyed = False
        self.lane: Lane | None = None
        self.stream = False
        self.deadline_ms = 0.0
        self.stage = "authentication"
        self.attempt_started = 0.0
        self.sent_bytes = 0
        self.ttft_ms: float | None = None
        self.usage: Usage | None = None
        self.delivered_characters = 0
        self.events = 0
        self.schema_passed: bool | None = None
        self.refused = False
        self.outcome = ""
        self.error: GatewayError | None = None

    def fail(self, error: GatewayError) -> None:
        """Note that the request ends with `error`."""
        self.error = error
        self.outcome = error.code

    @property
    def result(self) -> Result:
        """The outcome as telemetry counts it: the caller's own mistake is `rejected`, every other failure `error`."""
        if self.error is None:
            return "cancelled" if self.outcome == "cancelled" else "ok"
        status = face_of(self.error).status
        return "rejected" if 400 <= status < 500 and status != 429 else "error"

    @property
    def status(self) -> int:
        """The HTTP status that stands for the outcome; 499 for a caller who left."""
        if self.error is not None:
            upstream = self.error.status if isinstance(self.error, UpstreamRejected) else None
            return upstream or face_of(self.error).status
        return CLIENT_CLOSED_REQUEST if self.outcome == "cancelled" else 200

    def headers(self, content_type: Header) -> list[Header]:
        """Return the response headers, as far as the journey has come."""
        headers = [content_type, (b"ballast-request-id", self.inbound.request_id.encode())]
        if self.release is not None:
            headers.append((b"ballast-release", b"%d" % self.release.revision))
        if self.prompt_version is not None:
            headers.append((b"ballast-prompt", self.prompt_version.reference.encode()))
        if self.lane is not None:
            headers.append((b"ballast-lane", self.lane.id.encode()))
            headers.append((b"ballast-attempts", b"1"))
            headers.append((b"ballast-cohort", b"control" if self.unkeyed else self.cohort.encode()))
            headers.append((b"ballast-rung", b"0"))
            headers.append((b"ballast-fallback", b"none"))
        return headers

    def series(self) -> Series | None:
        """Return the telemetry series, or None while nobody is known to have asked."""
        if self.tenant is None:
            return None
        version = self.prompt_version
        return Series(
            lane="" if self.lane is None else self.lane.id,
            prompt="" if version is None else version.prompt,
            version=0 if version is None else version.number,
            canary=self.canary,
            cohort=self.cohort,
            tier=self.tenant.tier,
        )

    def billed(self) -> Usage:
        """Return the tokens of the attempt: the vendor's figures, filled up by an estimate where it did not get to
        give them.

        The estimate is CHARACTERS_PER_TOKEN characters to a token, of what was sent and what was delivered. An
        attempt that the vendor refused, or never received, costs nothing.
        """
        usage = self.usage
        if usage is not None and self.outcome == "ok":
            return usage
        if not self.sent_bytes or self._costs_nothing():
            return Usage()
        delivered = -(-self.delivered_characters // CHARACTERS_PER_TOKEN)
        if usage is None:
            return Usage(-(-self.sent_bytes // CHARACTERS_PER_TOKEN), delivered)
        return Usage(usage.input_tokens, max(usage.output_tokens, delivered), usage.cached_input_tokens)

    def _costs_nothing(self) -> bool:
        return isinstance(self.error, UpstreamError) and (self.error.status is not None or not self.error.sent)

    def usage_row(self, *, attempt_id: str, at: float, latency_ms: float) -> dict[str, Any]:
        """Return the usage row of the attempt. Shape: the reports contract. `at` is epoch seconds."""
        tenant, lane, version = self.tenant, self.lane, self.prompt_version
        if tenant is None or lane is None:
            raise ValueError("no attempt was made, so there is nothing to bill")
        billed = self.billed()
        return {
            "attempt_id": attempt_id,
            "request_id": self.inbound.request_id,
            "at": at,
            "tenant": tenant.slug,
            "tier": tenant.tier,
            "key_id": self.key_id,
            "route": self.route,
            "lane": lane.id,
            "prompt": "" if version is None else version.prompt,
            "version": 0 if version is None else version.number,
            "canary": self.canary,
            "cohort": self.cohort,
            "kind": "primary",
            "attempt": 1,
            "outcome": self.outcome,
            "status": self.status,
            "input_tokens": billed.input_tokens,
            "output_tokens": billed.output_tokens,
            "cost_micros": lane.cost_micros(input_tokens=billed.input_tokens, output_tokens=billed.output_tokens),
            "latency_ms": latency_ms,
            "ttft_ms": self.ttft_ms,
            "stream": self.stream,
            "user": hash_user(self.user),
        }


def hash_user(user: str | None) -> str:
    """Return the first 16 hex digits of the user's SHA-256, or nothing for nobody: rows never hold the id itself."""
    return hashlib.sha256(user.encode()).hexdigest()[:16] if user else ""


def new_id(wall: float) -> str:
    """Return 32 hex digits that sort by time: a UUID of version 7 without its dashes. `wall` is epoch seconds."""
    random = getrandbits(74)
    high = (int(wall * 1000) & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | (random >> 62) << 64
    return f"{high | 0x2 << 62 | random & 0x3FFF_FFFF_FFFF_FFFF:032x}"
