"""What of an answer is to be JSON, its text or the arguments of its tool calls, and how each part is read. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from dataplane.messages import ChatRequest, ChatResponse, Json, ToolCall, Usage
from dataplane.repair.labels import Edit, Label, Mode, Rung, worst
from dataplane.repair.reader import JsonReader
from dataplane.schema_check import SchemaChecker

TEXT: Final = "text"
MAX_EDITS_TOLD: Final = 20


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an answer that is to be JSON. `place` is TEXT, or the number of a tool call, counted from 0."""

    place: str | int
    tool: str
    text: str

    @property
    def name(self) -> str:
        """As people and callers are told of it."""
        return TEXT if self.place == TEXT else f"tool_calls[{self.place}]"


class Readers:
    """How the parts of the answers to one request are read."""

    __slots__ = ("_free", "_make", "_schema", "_tools", "wants_json")

    def __init__(
        self,
        request: ChatRequest,
        schemas: SchemaChecker,
        *,
        labels: frozenset[Label] = frozenset({Label.LOSSLESS}),
        coercions: frozenset[str] = frozenset(),
    ) -> None:
        """`labels` and `coercions` as of a `RepairPolicy`; without them, nothing is read that is not certain."""
        self.wants_json = request.wants_json
        self._tools: dict[str, Json | None] = {}
        self._free: set[str] = set()  # tools whose input is text
        for tool in request.parameters.get("tools") or ():
            if tool["type"] == "function":
                self._tools[tool["function"]["name"]] = tool["function"].get("parameters")
            elif isinstance(tool.get("custom"), dict):
                self._free.add(tool["custom"].get("name", ""))
        self._schema = request.response_schema
        self._make: Callable[[Json | None, bool], JsonReader] = lambda schema, wants_object: JsonReader(
            schema,
            coercions=coercions,
            labels=labels,
            schemas=schemas,
            wants="object" if wants_object else None,
        )

    @property
    def has_tools(self) -> bool:
        """Whether the model may call a tool."""
        return bool(self._tools or self._free)

    @property
    def are_needed(self) -> bool:
        """Whether an answer to the request may have a part that is to be JSON."""
        return self.wants_json or bool(self._tools)

    def is_free(self, tool: str) -> bool:
        """Whether the input of a tool is text of any kind."""
        return tool in self._free

    def schema_of(self, part: Part) -> Json | None:
        """What the part has to meet; None: any object."""
        return self._schema if part.place == TEXT else self._tools.get(part.tool)

    def text_reader(self) -> JsonReader:
        """A reader of the text."""
        return self._make(self._schema, self._schema is None)

    def tool_reader(self, tool: str) -> JsonReader:
        """A reader of the arguments of a tool; one that nobody declared takes any object."""
        return self._make(self._tools.get(tool), True)

    def reader_of(self, part: Part) -> JsonReader:
        """A reader of the part."""
        return self.text_reader() if part.place == TEXT else self.tool_reader(part.tool)

    def parts_of(self, response: ChatResponse) -> Iterator[Part]:
        """What of an answer is to be JSON. Beside a tool call, text is a remark."""
        for number, call in enumerate(response.tool_calls):
            if not self.is_free(call.name):
                yield Part(number, call.name, call.arguments)
        if self.wants_json and not response.tool_calls:
            yield Part(TEXT, "", response.text or "")


@dataclass(frozen=True, slots=True)
class Mended:
    """One part as it is handed over: JSON, the rung that gave it, and what was edited."""

    part: Part
    text: str
    rung: Rung
    mode: Mode | None
    edits: tuple[Edit, ...]

    @property
    def label(self) -> Label:
        """How far it may be trusted."""
        return worst(edit.label for edit in self.edits)

    @property
    def is_untouched(self) -> bool:
        """Whether it is what the model wrote."""
        return self.rung is Rung.STRICT

    def to_json(self) -> dict[str, Any]:
        """Shape: {"at": "text" | "tool_calls[i]", "rung", "label", "mode", "edits": [see `Edit.to_json`, the first
        MAX_EDITS_TOLD], "edit_count": int}.
        """
        return {
            "at": self.part.name,
            "rung": self.rung,
            "label": self.label,
            "mode": self.mode,
            "edits": [edit.to_json() for edit in self.edits[:MAX_EDITS_TOLD]],
            "edit_count": len(self.edits),
        }


def note_of(mended: Sequence[Mended]) -> dict[str, Any] | None:
    """What an answer's member `ballast` says of its repair; None where nothing was changed. Shape: {"repair": [see
    `Mended.to_json`]}.
    """
    changed = [one.to_json() for one in mended if not one.is_untouched]
    return {"repair": changed} if changed else None


def summary_of(mended: Sequence[Mended]) -> str:
    """The header `ballast-repair`: the highest rung and the worst label, such as 'r2_syntax; lossless'."""
    changed = [one for one in mended if not one.is_untouched]
    if not changed:
        return ""
    rungs = list(Rung)
    return f"{max((one.rung for one in changed), key=rungs.index)}; {worst(one.label for one in changed)}"


def with_parts(
    response: ChatResponse, mended: Sequence[Mended], *, spent: Usage, finish_reason: str, ballast: Json | None
) -> ChatResponse:
    """The answer with these parts as they are handed over.

    Args:
        spent: What the repair was billed beside the answer's own usage.
    """
    texts = {one.part.place: one.text for one in mended}
    calls = tuple(
        replace(call, arguments=texts.get(number, call.arguments)) for number, call in enumerate(response.tool_calls)
    )
    changed = replace(
        response,
        text=texts.get(TEXT, response.text),
        tool_calls=calls,
        usage=None if response.usage is None else response.usage + spent,
        finish_reason=finish_reason,
    )
    return rewritten(response, changed, ballast=ballast)


def rewritten(response: ChatResponse, changed: ChatResponse, *, ballast: Json | None) -> ChatResponse:
    """`response` as it is `changed`, written anew; what else the provider said of it stays as it came."""
    if response.raw is None:
        plain = replace(changed, raw=None)
        return replace(changed, raw=plain.to_openai(ballast=ballast))
    body: dict[str, Any] = orjson.loads(response.raw)
    choice = body["choices"][0]
    message = choice["message"]
    choice["finish_reason"] = changed.finish_reason
    if changed.text != response.text:
        message["content"] = changed.text
        if "logprobs" in choice:
            choice["logprobs"] = None  # they spell out the text that was there
    for call, before, after in zip(
        message.get("tool_calls") or (), response.tool_calls, changed.tool_calls, strict=True
    ):
        if before.arguments != after.arguments:
            _write_arguments(call, after.arguments)
    if changed.usage is not None and changed.usage != response.usage:
        body["usage"] = changed.usage.to_openai()
    if ballast is not None:
        body["ballast"] = body.get("ballast", {}) | ballast
    return replace(changed, raw=orjson.dumps(body))


def answer_of(body: Json) -> ChatResponse:
    """A `chat.completion` as an answer: see `ChatResponse.to_openai`, whose body it becomes again."""
    choice = body["choices"][0]
    message = choice["message"]
    calls = tuple(
        ToolCall(call.get("id", ""), call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
        if "function" in call
    )
    return ChatResponse(
        id=body["id"],
        model=body["model"],
        created=body["created"],
        text=message.get("content"),
        finish_reason=choice["finish_reason"],
        usage=None,
        refusal=message.get("refusal"),
        tool_calls=calls,
        raw=orjson.dumps(body),
    )


def _write_arguments(call: dict[str, Any], arguments: str) -> None:
    if (function := call.get("function")) is not None:
        function["arguments"] = arguments
    elif (custom := call.get("custom")) is not None:
        custom["input"] = arguments
