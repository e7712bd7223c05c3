"""What is kept of a stream beside its frames, and the ledger row that comes of it. Pure.

Tokens of one stream, each part of the one before: billed (by providers, for every attempt), generated (in the answer
that was being sent), buffered (as frames), delivered (handed to a caller's connection), acknowledged (by the caller).
A provider gives its count for a whole answer; of a part, the count is in proportion to its characters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from dataplane.frames import Ending, characters_in, digest_frames, text_of
from dataplane.journey import CHARACTERS_PER_TOKEN, CLIENT_CLOSED_REQUEST, Attempt, Journey, attempt_id, hash_user
from dataplane.policies import KEEP, StreamPolicy

FIRST: Final = "first"
PREFILL: Final = "prefill"
REGENERATED: Final = "regenerated"
OWNER_LOST: Final = "owner_lost"


@dataclass(frozen=True, slots=True)
class Partial:
    """The part of an answer that a caller has: its words, about how many tokens they are, and what else came."""

    text: str
    tokens: int
    called_tools: bool = False
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """The stream that another one takes up where it ended: after frame `after`, with `partial` of an answer whose
    chunks bore `answer_id`.
    """

    stream: str
    after: int
    answer_id: str
    partial: Partial


class Tally(Protocol):
    """What a stream's deltas add up to, such as `StreamTally`. `text` is the words as the caller reads them."""

    called_tools: bool
    refused: bool

    @property
    def text(self) -> str:
        """The words so far."""


class Answering(Protocol):
    """A stream under way, such as `StreamRun`."""

    @property
    def tally(self) -> Tally:
        """What has come so far."""

    @property
    def dropped_characters(self) -> int:
        """How much of it is not sent, because the caller has had it from another attempt."""

    @property
    def has_diverged(self) -> bool:
        """True when it was to take up an answer and is a new one after all."""


@dataclass(slots=True)
class Segment:
    """The frames of a stream that one attempt gave, from number `first` on.

    `how` says what the attempt was told: nothing before it (first), the words so far (prefill), or the question anew
    (regenerated). `cause` is the error code that ended the segment before.
    """

    attempt: Attempt
    run: Answering
    how: str
    cause: str
    first: int

    @property
    def characters_kept(self) -> int:
        """How many characters of its attempt's answer are in the frames."""
        return max(0, self.attempt.characters - self.run.dropped_characters)

    @property
    def tokens_kept(self) -> int:
        """About how many tokens those are."""
        return -(-self.characters_kept // CHARACTERS_PER_TOKEN)

    def to_json(self, *, last: int) -> dict[str, Any]:
        """As in the ledger row; `last` is the number of its last frame."""
        attempt, dropped = self.attempt, self.run.dropped_characters
        billed = attempt.billed().output_tokens
        generated = min(billed, billed if attempt.usage is not None else attempt.estimated_tokens)
        buffered = generated if not dropped else _share(generated, self.characters_kept, attempt.characters)
        return {
            "lane": attempt.lane.id,
            "model": attempt.lane.upstream_model,
            "how": self.how,
            "first_seq": self.first,
            "last_seq": last,
            "billed_tokens": billed,
            "generated_tokens": generated,
            "buffered_tokens": buffered,
            "partial": attempt.outcome != "ok",
            "estimated": attempt.usage is None or attempt.outcome != "ok",
            "cause": self.cause,
        }


def identity(
    journey: Journey, policy: StreamPolicy, *, stream: str, started_at: float, continues: str
) -> dict[str, Any]:
    """The members of the ledger row that are known when a stream begins. `started_at` is epoch seconds."""
    tenant, version = journey.tenant, journey.prompt_version
    if tenant is None:
        raise ValueError("nobody is known to have asked, so there is no stream to keep")
    return {
        "stream_id": stream,
        "request_id": journey.inbound.request_id,
        "tenant": tenant.slug,
        "tier": tenant.tier,
        "key_id": journey.key_id,
        "user": hash_user(journey.user),
        "route": journey.route,
        "prompt": "" if version is None else version.prompt,
        "version": 0 if version is None else version.number,
        "canary": journey.canary,
        "cohort": journey.cohort,
        "policy": policy.slug,
        "on_cut": policy.on_cut,
        "refund": policy.refund,
        "started_at": started_at,
        "continues": continues,
    }


def segments_json(segments: Sequence[Segment], *, last: int) -> list[dict[str, Any]]:
    """The segments as in the ledger row, none of an answer that no lane gave; `last` is the number of the stream's last
    frame.
    """
    ends = [segment.first - 1 for segment in segments[1:]] + [last] * bool(segments)
    return [segment.to_json(last=end) for segment, end in zip(segments, ends, strict=True)]


def usage_rows(journey: Journey, *, wall: float, now: float) -> list[dict[str, Any]]:
    """The usage rows of all attempts as they would be if they ended now; `now` is monotonic, `wall` epoch seconds.

    Whoever finds the stream orphaned sends them; rows of an attempt that was reported already change nothing.
    """
    rows = []
    for attempt in journey.attempts:
        if attempt.sent_bytes:
            if attempt.ended == attempt.started:
                attempt.ended = now
            billed = attempt.billed()
            cost = attempt.lane.cost_micros(input_tokens=billed.input_tokens, output_tokens=billed.output_tokens)
            rows.append(
                journey.usage_row(attempt, billed, cost_micros=cost, attempt_id=attempt_id(journey, attempt), at=wall)
            )
    return rows


def finished_row(
    identity: Mapping[str, Any],
    *,
    at: float,
    ending: Ending,
    code: str,
    segments: Sequence[Mapping[str, Any]],
    usage: Sequence[Mapping[str, Any]],
    payloads: Sequence[bytes],
    words: str,
    transcript: str,
) -> dict[str, Any]:
    """The ledger row of a stream that has ended, without what was delivered: see `with_delivery`.

    Args:
        at: When it ended, epoch seconds.
        segments: See `segments_json`.
        usage: The usage rows of its attempts.
        words: The answer as the caller reads it.
        transcript: What its policy says is kept.
    """
    return {
        **identity,
        "at": at,
        "outcome": ending.value,
        "code": code,
        "frames": len(payloads),
        "bytes": sum(map(len, payloads)),
        "digest": digest_frames(payloads),
        "text_digest": hashlib.sha256(words.encode()).hexdigest(),
        "billed_tokens": sum(row["output_tokens"] for row in usage),
        "generated_tokens": sum(segment["generated_tokens"] for segment in segments),
        "buffered_tokens": sum(segment["buffered_tokens"] for segment in segments),
        "cost_micros": sum(row["cost_micros"] for row in usage),
        "segments": list(segments),
        "transcript": [payload.decode() for payload in payloads] if transcript == KEEP else None,
    }


def origin_of(stream: str, payloads: Sequence[bytes]) -> Origin:
    """A stream that has ended, as another one takes it up. `payloads` are all its frames."""
    answer = [orjson.loads(payload) for payload in payloads[:-1]]
    deltas = [choice.get("delta") or {} for chunk in answer for choice in chunk.get("choices") or ()]
    words = "".join(map(text_of, payloads[:-1]))
    partial = Partial(
        words,
        -(-len(words) // CHARACTERS_PER_TOKEN),
        called_tools=any(delta.get("tool_calls") for delta in deltas),
        refused=any(delta.get("refusal") for delta in deltas),
    )
    return Origin(stream, len(answer), (answer[0].get("id") or stream) if answer else stream, partial)


def with_delivery(row: Mapping[str, Any], payloads: Sequence[bytes], *, delivered: int, acked: int) -> dict[str, Any]:
    """The row with the numbers of the last frames delivered and acknowledged, and the tokens up to them."""
    segments = row["segments"]
    return {
        **row,
        "delivered": delivered,
        "acked": acked,
        "delivered_tokens": tokens_through(segments, payloads, delivered),
        "acked_tokens": tokens_through(segments, payloads, acked),
    }


def tokens_through(segments: Sequence[Mapping[str, Any]], payloads: Sequence[bytes], through: int) -> int:
    """How many buffered tokens the frames up to number `through` carry."""
    total = 0
    for segment in segments:
        first, last, tokens = segment["first_seq"], segment["last_seq"], segment["buffered_tokens"]
        if through >= last or through == len(payloads):
            total += tokens
        elif through >= first:
            whole = characters_in(payloads[first - 1 : last])
            total += _share(tokens, characters_in(payloads[first - 1 : through]), whole)
    return total


def orphan_rows(
    segments: Sequence[Mapping[str, Any]],
    usage: Sequence[Mapping[str, Any]],
    payloads: Sequence[bytes],
    *,
    output_price: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Segments and usage rows of a stream whose owner is gone: what its last attempt gave is told from the frames.

    Args:
        segments, usage: As the owner last noted them; the last of each was under way.
        payloads: Every frame, without the terminal event.
        output_price: Micro-units of money per million output tokens of the last lane.
    """
    closed = [dict(segment) for segment in segments]
    rows = [dict(row) for row in usage]
    if closed:
        last = closed[-1]
        characters = characters_in(payloads[last["first_seq"] - 1 :])
        tokens = -(-characters // CHARACTERS_PER_TOKEN)
        last |= {"last_seq": len(payloads), "partial": True, "estimated": True}
        last["generated_tokens"] = max(last["generated_tokens"], tokens)
        last["buffered_tokens"] = max(last["buffered_tokens"], tokens)
        last["billed_tokens"] = max(last["billed_tokens"], last["generated_tokens"])
        if rows:
            row = rows[-1]
            more = max(0, last["billed_tokens"] - row["output_tokens"])
            row |= {"outcome": OWNER_LOST, "status": CLIENT_CLOSED_REQUEST}
            row["output_tokens"] += more
            row["cost_micros"] += (more * output_price + 500_000) // 1_000_000
    return closed, rows


def _share(tokens: int, part: int, whole: int) -> int:
    return tokens if part >= whole else tokens * part // whole
