"""How a stream goes on after its provider broke it off, when a caller has a part of the answer already. Pure.

Either a lane is given the words so far and writes on (prefill), or the question is asked anew and what the caller has
is dropped from the new answer (regenerate), which can only be done unseen if that begins with the very same words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from dataplane.blame import Blame, blame_for
from dataplane.errors import GatewayError
from dataplane.errors.streams import AnswerDiverged
from dataplane.errors.upstream import UpstreamError
from dataplane.messages import ChatRequest, Delta, Start, StreamChunk, TextDelta, UsageDelta
from dataplane.policies import CONTINUE, END, REGENERATE
from dataplane.routing import Lane
from dataplane.stream_rows import PREFILL, REGENERATED, Origin, Partial

_LIMITS: Final = ("max_completion_tokens", "max_tokens")


@dataclass(frozen=True, slots=True)
class Continuation:
    """One way to go on: the request to send, the lanes to try in order, and what is dropped of their answers."""

    how: str
    request: ChatRequest
    lanes: tuple[Lane, ...]
    expected: str
    is_required: bool = True

    def overlap(self) -> Overlap:
        """A fresh guard for one attempt."""
        return Overlap(self.expected, OVERLAPS[self.how, self.is_required])


def why_broken_off(error: GatewayError) -> str | None:
    """Why an answer that `error` broke off would end in the same way elsewhere; None when it need not."""
    if not isinstance(error, UpstreamError) or blame_for(error) not in (Blame.LANE, Blame.QUOTA):
        return f"it ended with {error.code}, which another lane would not change"
    return None


def why_not(request: ChatRequest, partial: Partial) -> str | None:
    """Why an answer of which a part is there cannot be taken up; None when it can."""
    if partial.called_tools:
        return "it was calling a tool, and half a call cannot be taken up"
    if partial.refused:
        return "the model was declining to answer"
    parameters = request.parameters
    if (parameters.get("n") or 1) > 1:
        return "it has several choices"
    if parameters.get("logprobs"):
        return "its log probabilities would not be of one model"
    if "audio" in (parameters.get("modalities") or ()):
        return "it is sound"
    if (limit := _limit(parameters)) is not None and limit <= partial.tokens:
        return "what was left of its length limit is spent"
    return None


def ways_on(
    request: ChatRequest, partial: Partial, *, on_cut: str, lanes: Sequence[Lane], cut: str
) -> Iterator[Continuation]:
    """Give the ways to go on that a policy allows, the better first.

    Args:
        on_cut: As `StreamPolicy.on_cut`.
        lanes: Those that may serve the request, in order.
        cut: The id of the lane that broke off; it comes last, where it comes at all.
    """
    if on_cut == END:
        return
    others = sorted(lanes, key=lambda lane: lane.id == cut)
    able = tuple(lane for lane in others if "prefill" in lane.capabilities)
    if able and partial.text.strip() and request.parameters.get("response_format") is None:
        yield Continuation(PREFILL, prefilled(request, partial), able, partial.text[len(partial.text.rstrip()) :])
    if on_cut == REGENERATE:
        model = next((lane.model for lane in lanes if lane.id == cut), "")
        alike = tuple(sorted(others, key=lambda lane: lane.model != model))
        yield Continuation(REGENERATED, request, alike, partial.text)


def ways_asked_for(request: ChatRequest, partial: Partial, *, lanes: tuple[Lane, ...]) -> Iterator[Continuation]:
    """Give the ways to go on with an answer whose caller asks for that: they always include an answer anew."""
    yield from ways_on(request, partial, on_cut=CONTINUE, lanes=lanes, cut="")
    yield Continuation(REGENERATED, request, lanes, partial.text, is_required=False)


def prefilled(request: ChatRequest, partial: Partial) -> ChatRequest:
    """The request with the words so far as the beginning of the answer, and its length limit less what is used up.

    Without the white space at their end: Anthropic refuses it there.
    """
    parameters = dict(request.parameters)
    for name in _LIMITS:
        if parameters.get(name) is not None:
            parameters[name] = max(1, parameters[name] - partial.tokens)
    words = {"role": "assistant", "content": partial.text.rstrip()}
    return replace(request, messages=[*request.messages, words], parameters=parameters)


def note_of(
    origin: Origin | None, stream: str, partial: Partial, how: str, lane: Lane, overlap: Overlap
) -> dict[str, Any]:
    """What the first chunk after a cut says, as its member `ballast`.

    Shape: {"resumed" (in the same stream) or "continues" (another): {"stream", "after": number of its last frame that
    counts, "how": prefill | regenerated, "lane", "model", "prefix_characters": int, "prefix_sha256": of the words
    before}}. No characters: the answer is a new one, and what the caller has is to be thrown away.
    """
    words = "" if overlap.has_diverged else partial.text
    note = {
        "stream": stream if origin is None else origin.stream,
        "how": how,
        "lane": lane.id,
        "model": lane.model,
        "prefix_characters": len(words),
        "prefix_sha256": hashlib.sha256(words.encode()).hexdigest(),
    }
    return {"resumed": note} if origin is None else {"continues": note | {"after": origin.after}}


class IfNot(Enum):
    """What follows when an answer does not begin with what the caller has."""

    REFUSE = "refuse"
    PASS = "pass"  # noqa: S105 - no password
    GIVE_ALL = "give_all"


OVERLAPS: Final = {
    (PREFILL, True): IfNot.PASS,
    (REGENERATED, True): IfNot.REFUSE,
    (REGENERATED, False): IfNot.GIVE_ALL,
}


class Overlap:
    """Drops from the beginning of an answer what a caller has already.

    An answer that begins otherwise is refused; or passes from there on, where a beginning of white space is all that is
    expected; or is given whole, as a new answer.
    """

    __slots__ = ("_if_not", "_left", "_whole", "has_diverged")

    def __init__(self, expected: str, if_not: IfNot) -> None:
        self._whole = self._left = expected
        self._if_not = if_not
        self.has_diverged = False

    @property
    def dropped_characters(self) -> int:
        """How much of the answer was dropped."""
        return 0 if self.has_diverged else len(self._whole) - len(self._left)

    def feed(self, chunk: StreamChunk) -> StreamChunk:
        """Return what of a chunk is new, never in the provider's own bytes.

        Raises:
            AnswerDiverged: the answer does not begin with what the caller has.
        """
        deltas: list[Delta] = []
        for delta in chunk.deltas:
            if isinstance(delta, TextDelta):
                if text := self._new(delta.text):
                    deltas.append(TextDelta(text))
                continue
            if self._left and not isinstance(delta, Start | UsageDelta) and (text := self._missed()):
                deltas.append(TextDelta(text))  # before a tool call, a refusal or an end, where words were still due
            deltas.append(delta)
        return StreamChunk(tuple(deltas), ballast=chunk.ballast)

    def _new(self, text: str) -> str:
        if not self._left:
            return text
        same = common_characters(text, self._left)
        self._left = self._left[same:]
        if self._left and same < len(text):
            return self._missed() + text[same:]
        return text[same:]

    def _missed(self) -> str:
        """Note that the answer is not the one that was expected; returns what has to be given of it after all."""
        seen = self._whole[: len(self._whole) - len(self._left)]
        if self._if_not is IfNot.REFUSE:
            raise AnswerDiverged(after_characters=len(seen))
        if self._if_not is IfNot.PASS:
            self._whole, self._left = seen, ""
            return ""
        self.has_diverged = True
        self._left = ""
        return seen


def common_characters(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    for place, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return place
    return min(len(one), len(other))


def _limit(parameters: Mapping[str, Any]) -> int | None:
    return next((parameters[name] for name in _LIMITS if parameters.get(name) is not None), None)
