"""Which lanes can carry a request as it is: its fields on their wires, its length in their context.

Pure. What the lanes can do at all (capabilities, residency) is decided before, in `routing.py`; here it is about this
one request. A lane that cannot carry it is no lane for it, and only when none can does the caller hear why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from dataplane.errors.requests import ContextLengthExceeded, InvalidRequest
from dataplane.fields import ANTHROPIC, EMBEDDING_FIELDS, OPENAI, Carriage, carriage, refused_fields
from dataplane.messages import ChatRequest, EmbeddingRequest
from dataplane.routing import Lane, Provider

# About four characters of English make a token; other texts have fewer. An estimate this far over the limit is over it.
CHARACTERS_PER_TOKEN: Final = 4
CLEARLY_OVER: Final = 1.25
# What Anthropic's wire is asked for when nobody says how long the answer may be; the wire wants a number.
DEFAULT_MAX_TOKENS: Final = 4096


def carriage_of(request: ChatRequest, *, wire: str) -> Carriage:
    """What `wire` makes of the fields of `request`."""
    return carriage(_fields_of(request), wire=wire)


def lost_on(wire: str, request: ChatRequest) -> str | None:
    """The first field of `request` that would be lost on `wire`; None when it carries all of them.

    Wires of OpenAI's JSON drop nothing and pass on what nobody knows, so there only a few fields are looked at.
    """
    if wire == ANTHROPIC:
        return carriage_of(request, wire=wire).lost
    for name in refused_fields(wire):
        if request.parameters.get(name) is not None:
            return name
    return None


def _fields_of(request: ChatRequest) -> dict[str, Any]:
    fields = {"messages": request.messages, **request.parameters}
    if request.stream_options:
        fields["stream_options"] = request.stream_options
    return fields


def refuse_unknown_fields(request: ChatRequest | EmbeddingRequest) -> None:
    """Return if the gateway knows every field of the request.

    Raises:
        InvalidRequest: naming the first that it does not know.
    """
    if isinstance(request, EmbeddingRequest):
        unknown = [name for name in request.parameters if name not in EMBEDDING_FIELDS]
    else:
        unknown = carriage(_fields_of(request), wire=OPENAI).unknown
    if unknown:
        raise InvalidRequest(
            f"{unknown[0]!r} is not a field that this gateway knows, and the route refuses those; leave it out",
            param=unknown[0],
        )


class LaneFit:
    """Which lanes can carry one request. Each lane is looked at when its turn comes, and each wire once: nearly every
    request is answered by the first, and a long conversation takes long to walk through.
    """

    __slots__ = ("_estimate", "_lost", "_providers", "_request")

    def __init__(self, request: ChatRequest, *, providers: Mapping[str, Provider]) -> None:
        self._request = request
        self._providers = providers
        self._lost: dict[str, str | None] = {}
        self._estimate: int | None = None

    @property
    def estimated_tokens(self) -> int:
        """See `estimate_tokens`; counted once, if anybody asks."""
        if self._estimate is None:
            self._estimate = estimate_tokens(self._request)
        return self._estimate

    def fits(self, lane: Lane) -> bool:
        """True when `lane` can carry the request."""
        return self.misfit(lane) is None

    def from_first(self, lanes: tuple[Lane, ...]) -> tuple[Lane, ...]:
        """`lanes` from the first one on that can carry the request. Those behind it have not been looked at.

        Raises:
            InvalidRequest: none can; it says why the first one cannot. ContextLengthExceeded is one of its kind.
        """
        problem: InvalidRequest | None = None
        for place, lane in enumerate(lanes):
            misfit = self.misfit(lane)
            if misfit is None:
                return lanes[place:]
            problem = problem or misfit
        if problem is not None:
            raise problem
        return lanes

    def misfit(self, lane: Lane) -> InvalidRequest | None:
        """Why `lane` cannot carry the request; None when it can."""
        wire = self._providers[lane.provider].wire
        if wire not in self._lost:
            self._lost[wire] = lost_on(wire, self._request)
        estimate = 0 if lane.context_tokens is None else self.estimated_tokens
        return misfit_of(self._request, lane, wire=wire, lost=self._lost[wire], estimate=estimate)


def misfit_of(request: ChatRequest, lane: Lane, *, wire: str, lost: str | None, estimate: int) -> InvalidRequest | None:
    """Why `lane` cannot carry `request`; None when it can.

    Args:
        lost: See `lost_on`.
        estimate: See `estimate_tokens`.
    """
    if lost is not None:
        return cannot_carry(lost, lane)
    if wire == ANTHROPIC and (path := _combination_refused_by_anthropic(request, lane)) is not None:
        return cannot_carry(path, lane)
    if lane.context_tokens is not None:
        needed = estimate + (asked_output(request, lane) or 0)
        if needed > CLEARLY_OVER * lane.context_tokens:
            return ContextLengthExceeded(lane=lane.id, estimated_tokens=needed, context_tokens=lane.context_tokens)
    return None


def cannot_carry(path: str, lane: Lane) -> InvalidRequest:
    """The error that names a field and a lane which cannot carry it."""
    return InvalidRequest(
        f"lane {lane.id!r} cannot carry {path!r}, nor can another lane of the route; leave it out or use another route",
        param=path,
    )


def _combination_refused_by_anthropic(request: ChatRequest, lane: Lane) -> str | None:
    """Return the field that is refused for what stands beside it.

    Models without `prefill` want the last word to be the user's. json_object is one forced tool, so it leaves no room
    for others.
    """
    last = request.messages[-1] if request.messages else None
    if last is not None and last["role"] == "assistant" and "prefill" not in lane.capabilities:
        return f"messages[{len(request.messages) - 1}].role"
    response_format = request.parameters.get("response_format")
    if response_format is not None and response_format["type"] == "json_object" and request.parameters.get("tools"):
        return "response_format"
    return None


def asked_output(request: ChatRequest, lane: Lane) -> int | None:
    """How many tokens the answer may have at most, as far as the caller says and the lane can give; None: unsaid.

    A limit above the lane's own is no promise that anybody could keep, and every vendor refuses it, so it is lowered.
    """
    parameters = request.parameters
    asked: int | None = parameters.get("max_completion_tokens") or parameters.get("max_tokens")
    if asked is None or lane.max_output_tokens is None:
        return asked
    return min(asked, lane.max_output_tokens)


def is_roomier(lane: Lane, *, than: Lane) -> bool:
    """False when `lane` is known to hold no longer conversations than the other."""
    if lane.context_tokens is None or than.context_tokens is None:
        return True
    return lane.context_tokens > than.context_tokens


def estimate_tokens(request: ChatRequest) -> int:
    """About how many tokens the request's words, tools and schema have; pictures, sounds and files count nothing."""
    characters = 0
    for message in request.messages:
        characters += _characters(message)
    for name in ("tools", "functions", "response_format"):
        if (value := request.parameters.get(name)) is not None:
            characters += len(orjson.dumps(value))
    return characters // CHARACTERS_PER_TOKEN


def _characters(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    total = len(content) if isinstance(content, str) else sum(len(text) for text in _texts(content or ()))
    for call in message.get("tool_calls") or ():
        function = call.get("function")
        if isinstance(function, Mapping) and isinstance(function.get("arguments"), str):
            total += len(function["arguments"])
    return total


def _texts(parts: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    for part in parts:
        text = part.get("text")
        if isinstance(text, str):
            yield text
