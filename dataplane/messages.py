"""The one internal schema: what a caller asked, what a model answered, whatever the vendor.

Callers speak OpenAI's JSON, so the schema keeps OpenAI's shapes where it can (messages, tools, `response_format`) and
names only what a policy or an adapter must look at. Rules that every adapter follows:

- What becomes of each field on each wire stands in one table, `fields.py`. No field vanishes in silence: what is not
  sent, or not as asked for, is told to the caller in `ballast-dropped` and `ballast-adjusted`.
- A field that the gateway does not know passes through untouched to lanes that speak OpenAI's wire, and only there; the
  route may refuse it instead.
- The bytes of an answer in OpenAI's wire are forwarded as they came (`raw`); they are parsed, never rebuilt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from dataplane.records import record
from dataplane.retrieval.requests import CorpusReference
from dataplane.validators.values import Source

Json = dict[str, Any]


@record
class PromptReference:
    """A managed prompt as the caller names it: `{"id": slug, "version"?: n, "variables": {...}}`."""

    slug: str
    version: int | None
    variables: Mapping[str, Any]


@record
class ChatRequest:
    """One chat completion as asked for, checked as far as the gateway relies on it.

    `route` is the caller's `model`; it may be empty beside a managed prompt, which runs on its own route.
    `parameters` holds every other field in OpenAI's own names and shapes (temperature, tools, response_format, and
    what the gateway does not know), without model, messages, prompt, stream, stream_options, sources, tool_effects and
    corpus.
    `sources` are what the answer is to rest on, for validators: they are sent to nobody. `tool_effects` is what the
    caller says of its tools: none (they change nothing), idempotent (twice is as once), once (never again), or nothing.
    `ballast` is what the caller tells the gateway alone (see `destinations.read_destination`), unread. `corpus` is what
    the answer is to be composed from.
    """

    route: str
    messages: list[Json]
    parameters: Json
    stream: bool = False
    include_usage: bool = False
    stream_options: Json | None = None
    prompt: PromptReference | None = None
    user: str | None = None
    tool_effects: str | None = None
    sources: tuple[Source, ...] = ()
    ballast: Any = None
    corpus: CorpusReference | None = None

    def changed(
        self,
        *,
        messages: list[Json] | None = None,
        parameters: Json | None = None,
        sources: tuple[Source, ...] | None = None,
    ) -> ChatRequest:
        """The same, as it is put before a model: with these in the place of its own, where they are given."""
        return ChatRequest(
            route=self.route,
            messages=self.messages if messages is None else messages,
            parameters=self.parameters if parameters is None else parameters,
            stream=self.stream,
            include_usage=self.include_usage,
            stream_options=self.stream_options,
            prompt=self.prompt,
            user=self.user,
            tool_effects=self.tool_effects,
            sources=self.sources if sources is None else sources,
            corpus=self.corpus,
        )

    @property
    def wants_json(self) -> bool:
        """Whether the answer's text is to be JSON."""
        wanted = self.parameters.get("response_format")
        return wanted is not None and wanted["type"] in ("json_object", "json_schema")

    @property
    def response_schema(self) -> Json | None:
        """The JSON Schema the answer has to meet, or None. A missing `schema` means any object."""
        response_format = self.parameters.get("response_format")
        if response_format is None or response_format["type"] != "json_schema":
            return None
        schema: Json = response_format["json_schema"].get("schema", {"type": "object"})
        return schema


@record
class EmbeddingRequest:
    """One embeddings call; `parameters` are the caller's other fields (dimensions, encoding_format, ...)."""

    route: str
    input: str | list[Any]
    parameters: Json
    user: str | None = None


@record
class Usage:
    """Tokens a vendor billed. Input counts cached tokens too, output counts reasoning tokens too."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    def to_openai(self) -> Json:
        """Shape: {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details",
        "completion_tokens_details"}.
        """
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_input_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }


@record
class ToolCall:
    """One call of a function; `arguments` is JSON text exactly as the model wrote it."""

    id: str
    name: str
    arguments: str


@record
class ChatResponse:
    """A finished answer. `raw` is the vendor's body when that already is OpenAI's JSON."""

    id: str
    model: str
    created: int
    text: str | None
    finish_reason: str
    usage: Usage | None
    refusal: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    raw: bytes | None = None

    @property
    def refused(self) -> bool:
        """True when the model or its content filter declined to answer."""
        return self.refusal is not None or self.finish_reason == "content_filter"

    def to_openai(self, *, ballast: Json | None = None) -> bytes:
        """The body of a `chat.completion` for the caller; `ballast` is what the gateway has to say about it."""
        if self.raw is not None:
            return self.raw
        more = {} if ballast is None else {"ballast": ballast}
        message: Json = {"role": "assistant", "content": self.text, "refusal": self.refusal}
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        return orjson.dumps(
            {
                "id": self.id,
                "object": "chat.completion",
                "created": self.created,
                "model": self.model,
                "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}],
                "usage": None if self.usage is None else self.usage.to_openai(),
            }
            | more
        )


@record
class EmbeddingResponse:
    """Embeddings as the vendor sent them (OpenAI's JSON), and what they cost."""

    raw: bytes
    usage: Usage | None


# A streamed answer is a sequence of these. They carry what policies need; `StreamChunk.raw` carries what callers get.


@record
class Start:
    """The answer exists: its id, the model that writes it, and when it began (Unix seconds)."""

    id: str
    model: str
    created: int


@record
class TextDelta:
    """More of the answer's text."""

    text: str


@record
class RefusalDelta:
    """More of the words in which the model declines."""

    text: str


@record
class ToolCallDelta:
    """More of tool call number `index`: id and name come once, with the first delta; arguments are pieces of JSON
    text.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str


@record
class UsageDelta:
    """Tokens so far; a later one replaces an earlier one."""

    usage: Usage


@record
class Finish:
    """Why the model stopped, in OpenAI's words: stop, length, tool_calls or content_filter."""

    reason: str


Delta = Start | TextDelta | RefusalDelta | ToolCallDelta | UsageDelta | Finish


@record
class StreamChunk:
    """What one upstream event meant. `raw` is its payload when that already is an OpenAI chunk that the caller may
    have; `ballast` is what the gateway has to say with it.
    """

    deltas: tuple[Delta, ...]
    raw: bytes | None = None
    ballast: Json | None = None


@dataclass(frozen=True, slots=True)
class TakesUp:
    """An answer that a provider broke off and another takes up: its chunks keep the id, the first of them says so with
    its member `ballast`, asked for when it goes out, and the usage at the end counts what was `spent` before.
    """

    id: str
    ballast: Callable[[], Json]
    spent: Usage


class ChunkEncoder:
    """Writes deltas as `chat.completion.chunk` payloads. One per stream: it remembers id, model and creation time."""

    __slots__ = ("_envelope", "_id", "_include_usage", "_note", "_once", "_opening", "_role_sent", "_spent", "_usage")

    def __init__(
        self,
        *,
        include_usage: bool,
        ballast: Json | None = None,
        opening: Json | None = None,
        takes_up: TakesUp | None = None,
    ) -> None:
        """`ballast` is what the gateway has to say about the answer; it goes out with every chunk, and `opening` with
        the first.
        """
        self._note: Json | None = None
        self._opening = opening
        self._include_usage = include_usage
        self._envelope: Json = {"id": "", "object": "chat.completion.chunk", "created": 0, "model": ""}
        if ballast is not None:
            self._envelope["ballast"] = ballast
        self._id = None if takes_up is None else takes_up.id
        self._once = None if takes_up is None else takes_up.ballast
        self._spent = Usage() if takes_up is None else takes_up.spent
        self._role_sent = takes_up is not None
        self._usage: Usage | None = None

    def encode(self, chunk: StreamChunk) -> list[bytes]:
        """Payloads for the caller, none when the chunk holds nothing for a caller (usage that nobody asked for)."""
        if chunk.raw is not None:
            if not self._role_sent:
                self._note_beginning(chunk)
                if self._opening is not None:
                    return [self._opened(chunk.raw)]
            return [chunk.raw]
        payloads: list[bytes] = []
        self._note = chunk.ballast
        for delta in chunk.deltas:
            match delta:
                case Start():
                    self._envelope |= {"id": self._id or delta.id, "model": delta.model, "created": delta.created}
                case TextDelta():
                    payloads.append(self._choice({"content": delta.text}))
                case RefusalDelta():
                    payloads.append(self._choice({"refusal": delta.text}))
                case ToolCallDelta():
                    payloads.append(self._choice({"tool_calls": [_tool_call_piece(delta)]}))
                case UsageDelta():
                    self._usage = delta.usage
                case Finish():
                    payloads.append(self._choice({}, finish_reason=delta.reason))
        return payloads

    def _note_beginning(self, chunk: StreamChunk) -> None:
        """Take note of what the provider's own bytes say, should not all of them go out as they came."""
        self._role_sent = True
        for delta in chunk.deltas:
            if isinstance(delta, Start):
                self._envelope |= {"id": self._id or delta.id, "model": delta.model, "created": delta.created}

    def _opened(self, raw: bytes) -> bytes:
        """The provider's first bytes, and with them what there is to say."""
        fields: Json = orjson.loads(raw)
        fields["ballast"] = fields.get("ballast", {}) | self._opening
        self._opening = None
        return orjson.dumps(fields)

    def closing(self) -> list[bytes]:
        """What goes out between the finish and the end: one usage chunk with no choices, when the caller asked for
        it.
        """
        if not self._include_usage or self._usage is None:
            return []
        usage = self._usage if self._id is None else self._usage + self._spent
        return [orjson.dumps(self._envelope | {"choices": [], "usage": usage.to_openai()})]

    def _choice(self, delta: Json, *, finish_reason: str | None = None) -> bytes:
        if not self._role_sent:
            self._role_sent = True
            delta = {"role": "assistant", **delta}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        payload = self._envelope | {"choices": [choice]}
        if self._once is not None:
            payload["ballast"], self._once = self._once(), None
        if self._opening is not None:
            payload["ballast"], self._opening = payload.get("ballast", {}) | self._opening, None
        if finish_reason is not None and self._note is not None:
            payload["ballast"] = payload.get("ballast", {}) | self._note
        if self._include_usage:
            payload["usage"] = None
        return orjson.dumps(payload)


def _tool_call_piece(delta: ToolCallDelta) -> Json:
    function: Json = {"arguments": delta.arguments}
    piece: Json = {"index": delta.index, "function": function}
    if delta.id is not None:
        piece |= {"id": delta.id, "type": "function"}
        function["name"] = delta.name
    return piece
