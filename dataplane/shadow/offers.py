"""What a gateway tells the shadow process of one request: what was asked, and what was answered. Values alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from dataplane.messages import ChatRequest
from dataplane.tracing import read_traceparent
from dataplane.validators.values import Source

VERSION: Final = 1
# Longer requests and answers are not asked again.
MAX_OFFER_BYTES: Final = 1024 * 1024


class MalformedOffer(ValueError):
    """Bytes that are no offer of this version: gateway and shadow process are of different releases of the program."""

    code = "malformed_offer"


@dataclass(frozen=True, slots=True)
class Given:
    """An answer as a lane gave it, and what it took.

    Attributes:
        tool_calls: Names and arguments, as the model wrote these.
        finish_reason: In OpenAI's words.
        cost_micros: Millionths of a US dollar.
        ttft_ms: None for an answer that came in one piece.
    """

    lane: str
    text: str
    tool_calls: tuple[tuple[str, str], ...]
    finish_reason: str
    refused: bool
    cost_micros: int
    latency_ms: float
    ttft_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """One request that has been answered, to be asked again.

    Attributes:
        policy, digest: Slug and digest of the policy under which it was drawn.
        is_noise: Whether control is asked once more, too.
        residency: Where its tenant's bytes may go, as the gateway knew it; empty means anywhere.
        log_content: Whether its tenant lets contents be kept.
        traceparent: Of the request that was answered; empty where that is not traced.
    """

    policy: str
    digest: str
    is_noise: bool
    request_id: str
    tenant: str
    key_id: str
    residency: frozenset[str]
    log_content: bool
    route: str
    prompt: str
    version: int
    request: ChatRequest
    given: Given
    traceparent: str = ""

    def to_bytes(self, canonical: bytes) -> bytes:
        """Write it; `canonical` is what `sampling.canonical_bytes` makes of its request, which is written once.

        Shape: {"v": 1, "policy", "digest", ...: the attributes, "request": {"messages", "parameters", "route"},
                "sources": [[id, text]], "given": {...}}.
        """
        given = self.given
        return orjson.dumps(
            {
                "v": VERSION,
                "policy": self.policy,
                "digest": self.digest,
                "is_noise": self.is_noise,
                "request_id": self.request_id,
                "tenant": self.tenant,
                "key_id": self.key_id,
                "residency": sorted(self.residency),
                "log_content": self.log_content,
                "route": self.route,
                "prompt": self.prompt,
                "version": self.version,
                "request": orjson.Fragment(canonical),
                "sources": [[source.id, source.text] for source in self.request.sources],
                "given": {name: getattr(given, name) for name in Given.__slots__},
                "traceparent": self.traceparent,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Offer:
        """Read what `to_bytes` wrote.

        Raises:
            MalformedOffer: it was written by something else.
        """
        try:
            fields = orjson.loads(data)
            if fields["v"] != VERSION:
                raise MalformedOffer(f"an offer of version {fields['v']!r}, not {VERSION}")
            return cls._of(fields)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as exc:
            raise MalformedOffer(f"not an offer: {exc!r}") from exc

    @classmethod
    def _of(cls, fields: Mapping[str, Any]) -> Offer:
        asked, given = fields["request"], fields["given"]
        sources = tuple(Source(id, text) for id, text in fields["sources"])
        return cls(
            policy=fields["policy"],
            digest=fields["digest"],
            is_noise=fields["is_noise"],
            request_id=fields["request_id"],
            tenant=fields["tenant"],
            key_id=fields["key_id"],
            residency=frozenset(fields["residency"]),
            log_content=fields["log_content"],
            route=fields["route"],
            prompt=fields["prompt"],
            version=fields["version"],
            request=ChatRequest(asked["route"], asked["messages"], asked["parameters"], sources=sources),
            given=Given(**given | {"tool_calls": tuple((name, arguments) for name, arguments in given["tool_calls"])}),
            traceparent=read_traceparent(fields.get("traceparent")),  # a gateway that is older says nothing of it
        )
