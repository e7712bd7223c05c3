"""Which requests are asked again: drawn by their own content, so that whoever draws comes to the same. Pure.

A request that is tried again, at whatever gateway, is drawn like the first time. The answer has no part in it.
"""

from __future__ import annotations

import hashlib
from typing import Final

import orjson

from dataplane.messages import ChatRequest
from dataplane.records import record
from dataplane.shadow.policy import BUCKETS_PER_PERCENT, ShadowPolicy

BUCKETS: Final = 100 * BUCKETS_PER_PERCENT


@record
class Draw:
    """Where a request fell: one bucket says whether candidates are asked, the other whether control is once more."""

    bucket: int
    noise_bucket: int

    def is_sampled(self, policy: ShadowPolicy) -> bool:
        """Whether candidates are asked."""
        return self.bucket < round(policy.percent.value * BUCKETS_PER_PERCENT)

    def is_noise(self, policy: ShadowPolicy) -> bool:
        """Whether control is asked once more, of those that candidates are asked."""
        return self.noise_bucket < round(policy.noise_percent.value * BUCKETS_PER_PERCENT)


def canonical_bytes(request: ChatRequest) -> bytes:
    """The content of a request in one way of writing it: its route, messages and parameters, with its prompt filled in.

    Shape: {"messages": [...], "parameters": {...}, "route": str}, keys in order. Whether it is streamed is no part of
    it.
    """
    content = {"route": request.route, "messages": request.messages, "parameters": request.parameters}
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)


def draw(policy: str, canonical: bytes) -> Draw:
    """Draw for a request under the policy of this slug: SHA-256("shadow:" policy ":" canonical), of whose bytes the
    first 8 give one bucket (0..9999) and the next 8 the other.
    """
    digest = hashlib.sha256(b"shadow:%b:%b" % (policy.encode(), canonical)).digest()
    return Draw(int.from_bytes(digest[:8]) % BUCKETS, int.from_bytes(digest[8:16]) % BUCKETS)
