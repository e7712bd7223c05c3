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
from typing import Any, Final

import orjson

from dataplane.errors import InvalidRequest
from dataplane.records import record

Json = dict[str, Any]

ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
PART_TYPES: Final = frozenset({"text", "image_url", "input_audio", "file", "refusal"})
TOOL_CHOICES: Final = frozenset({"none", "auto", "required"})
RESPONSE_FORMATS: Final = frozenset({"text", "json_object", "json_schema"})
TOOL_EFFECTS: Final = frozenset({"none", "idempotent", "once"})
MAX_STOP_SEQUENCES: Final = 4


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
    what the gateway does not know), without model, messages, prompt, stream, stream_options and tool_effects.
    `tool_effects` is what the caller says of its tools: none (they change nothing), idempotent (twice is as once), once
    (never again), or nothing.
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
    have.
    """

    deltas: tuple[Delta, ...]
    raw: bytes | None = None


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

    __slots__ = ("_envelope", "_id", "_include_usage", "_once", "_role_sent", "_spent", "_usage")

    def __init__(self, *, include_usage: bool, ballast: Json | None = None, takes_up: TakesUp | None = None) -> None:
        """`ballast` is what the gateway has to say about the answer; it goes out with every chunk."""
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
            return [chunk.raw]
        payloads: list[bytes] = []
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


def parse_chat_request(body: bytes) -> ChatRequest:
    """Read a caller's `POST /v1/chat/completions` body.

    Raises:
        InvalidRequest: not JSON, or a field the gateway relies on has the wrong shape; `param` names it.
    """
    fields = _parse_object(body)
    prompt = _parse_prompt(fields.pop("prompt")) if fields.get("prompt") is not None else None
    route = _pop_route(fields, optional=prompt is not None)
    messages = fields.pop("messages", None)
    if messages is None:
        if prompt is None:
            raise InvalidRequest("missing required parameter 'messages'", param="messages")
        messages = []
    _check_messages(messages, may_be_empty=prompt is not None)
    stream = fields.pop("stream", None)
    if stream is not None and not isinstance(stream, bool):
        raise InvalidRequest(f"'stream' must be a boolean, got {_name(stream)}", param="stream")
    stream_options = fields.pop("stream_options", None)
    if stream_options is not None:
        if not isinstance(stream_options, dict):
            raise InvalidRequest(
                f"'stream_options' must be an object, got {_name(stream_options)}", param="stream_options"
            )
        if not stream:
            raise InvalidRequest("'stream_options' is only allowed when 'stream' is true", param="stream_options")
    tool_effects = fields.pop("tool_effects", None)
    if tool_effects is not None and tool_effects not in TOOL_EFFECTS:
        raise InvalidRequest(
            f"'tool_effects' must be one of {', '.join(sorted(TOOL_EFFECTS))}, got {_name(tool_effects)}",
            param="tool_effects",
        )
    check_parameters(fields)
    return ChatRequest(
        route=route,
        messages=messages,
        parameters=fields,
        stream=bool(stream),
        include_usage=bool(stream_options and stream_options.get("include_usage")),
        stream_options=stream_options,
        prompt=prompt,
        user=fields.get("user"),
        tool_effects=tool_effects,
    )


def parse_embedding_request(body: bytes) -> EmbeddingRequest:
    """Read a caller's `POST /v1/embeddings` body.

    Raises:
        InvalidRequest: not JSON, or `input` is neither text nor a list; `param` names the field.
    """
    fields = _parse_object(body)
    route = _pop_route(fields)
    if "input" not in fields:
        raise InvalidRequest("missing required parameter 'input'", param="input")
    text = fields.pop("input")
    if not isinstance(text, str | list) or not text:
        raise InvalidRequest("'input' must be a non-empty string or array", param="input")
    _check_user(fields.get("user"), "user")
    return EmbeddingRequest(route=route, input=text, parameters=fields, user=fields.get("user"))


def check_parameters(parameters: Mapping[str, Any], *, at: str = "") -> None:
    """Check the fields whose meaning the gateway relies on; unknown ones are left alone.

    Args:
        at: What to put before a field's name in an error, for parameters that do not come from the caller's top level.
    Raises:
        InvalidRequest: a known field has the wrong shape; `param` names it.
    """
    for name, value in parameters.items():
        check = _PARAMETER_CHECKS.get(name)
        if check is not None and value is not None:
            check(value, at + name)


def _parse_object(body: bytes) -> Json:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"the request body is not valid JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise InvalidRequest(f"the request body must be a JSON object, got {_name(fields)}")
    return fields


def _pop_route(fields: Json, *, optional: bool = False) -> str:
    route = fields.pop("model", None)
    if route is None and optional:
        return ""
    if route is None:
        raise InvalidRequest("missing required parameter 'model': it names a route", param="model")
    if not isinstance(route, str) or not route:
        raise InvalidRequest("'model' must be a non-empty string that names a route", param="model")
    return route


def _parse_prompt(value: object) -> PromptReference:
    if not isinstance(value, dict):
        raise InvalidRequest(f"'prompt' must be an object with an 'id', got {_name(value)}", param="prompt")
    slug = value.get("id")
    if not isinstance(slug, str) or not slug:
        raise InvalidRequest("'prompt.id' must be a non-empty string", param="prompt.id")
    version = value.get("version")
    if isinstance(version, str) and version.isascii() and version.isdigit():
        version = int(version)  # OpenAI's own shape carries the version as text
    if version is not None and (not isinstance(version, int) or isinstance(version, bool) or version < 1):
        raise InvalidRequest("'prompt.version' must be a positive whole number", param="prompt.version")
    variables = value.get("variables")
    if variables is None:
        variables = {}
    if not isinstance(variables, dict):
        raise InvalidRequest(f"'prompt.variables' must be an object, got {_name(variables)}", param="prompt.variables")
    return PromptReference(slug, version, variables)


def _check_messages(messages: object, *, may_be_empty: bool) -> None:
    if not isinstance(messages, list):
        raise InvalidRequest(f"'messages' must be an array, got {_name(messages)}", param="messages")
    if not messages and not may_be_empty:
        raise InvalidRequest("'messages' must hold at least one message", param="messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequest(
                f"'messages[{index}]' must be an object, got {_name(message)}", param=f"messages[{index}]"
            )
        role = message.get("role")
        if role not in ROLES:
            raise InvalidRequest(
                f"'messages[{index}].role' must be one of {_listing(ROLES)}", param=f"messages[{index}].role"
            )
        content = message.get("content")
        if not isinstance(content, str):
            _check_content(content, message, role, f"messages[{index}]")
        if role == "tool" and not isinstance(message.get("tool_call_id"), str):
            raise InvalidRequest(
                f"'messages[{index}].tool_call_id' is required for role 'tool'", param=f"messages[{index}].tool_call_id"
            )
        if message.get("tool_calls") is not None:
            _check_tool_calls(message["tool_calls"], f"messages[{index}].tool_calls")


def _check_content(content: object, message: Json, role: str, at: str) -> None:
    if content is None:
        if role == "assistant" and (
            message.get("tool_calls") or message.get("refusal") or message.get("function_call")
        ):
            return
        raise InvalidRequest(f"'{at}.content' is required for role {role!r}", param=f"{at}.content")
    if not isinstance(content, list) or not content:
        raise InvalidRequest(f"'{at}.content' must be a string or a non-empty array of parts", param=f"{at}.content")
    for index, part in enumerate(content):
        where = f"{at}.content[{index}]"
        if not isinstance(part, dict) or part.get("type") not in PART_TYPES:
            raise InvalidRequest(f"'{where}.type' must be one of {_listing(PART_TYPES)}", param=f"{where}.type")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise InvalidRequest(f"'{where}.text' must be a string", param=f"{where}.text")
        if part["type"] == "image_url":
            image = part.get("image_url")
            if not isinstance(image, dict) or not isinstance(image.get("url"), str):
                raise InvalidRequest(f"'{where}.image_url.url' must be a string", param=f"{where}.image_url.url")


def _check_tool_calls(calls: object, at: str) -> None:
    if not isinstance(calls, list):
        raise InvalidRequest(f"'{at}' must be an array, got {_name(calls)}", param=at)
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(call, dict) or not isinstance(call.get("id"), str):
            raise InvalidRequest(f"'{at}[{index}].id' must be a string", param=f"{at}[{index}].id")
        if call.get("type", "function") != "function":
            continue  # another kind of tool: for the vendor to judge
        if (
            not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
            or not isinstance(function.get("arguments"), str)
        ):
            raise InvalidRequest(
                f"'{at}[{index}].function' must hold a name and its arguments as text", param=f"{at}[{index}].function"
            )


def _check_number(low: float, high: float) -> Callable[[object, str], None]:
    def check(value: object, at: str) -> None:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidRequest(f"'{at}' must be a number from {low:g} to {high:g}", param=at)

    return check


def _check_positive(value: object, at: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidRequest(f"'{at}' must be a whole number of at least 1", param=at)


def _check_integer(value: object, at: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidRequest(f"'{at}' must be a whole number", param=at)


def _check_one(value: object, at: str) -> None:
    if value != 1 or isinstance(value, bool):
        raise InvalidRequest(f"'{at}' must be 1: the gateway serves one choice per request", param=at)


def _check_user(value: object, at: str) -> None:
    if value is not None and not isinstance(value, str):
        raise InvalidRequest(f"'{at}' must be a string, got {_name(value)}", param=at)


def _check_flag(value: object, at: str) -> None:
    if not isinstance(value, bool):
        raise InvalidRequest(f"'{at}' must be a boolean, got {_name(value)}", param=at)


def _check_stop(value: object, at: str) -> None:
    if isinstance(value, str):
        return
    if (
        not isinstance(value, list)
        or len(value) > MAX_STOP_SEQUENCES
        or not all(isinstance(item, str) for item in value)
    ):
        raise InvalidRequest(f"'{at}' must be a string or an array of up to {MAX_STOP_SEQUENCES} strings", param=at)


def _check_tools(value: object, at: str) -> None:
    if not isinstance(value, list) or not value:
        raise InvalidRequest(f"'{at}' must be a non-empty array", param=at)
    for index, tool in enumerate(value):
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            raise InvalidRequest(f"'{at}[{index}].type' must be a string", param=f"{at}[{index}].type")
        if tool["type"] != "function":
            continue
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise InvalidRequest(
                f"'{at}[{index}].function.name' must be a non-empty string", param=f"{at}[{index}].function.name"
            )
        if not isinstance(function.get("parameters", {}), dict):
            raise InvalidRequest(
                f"'{at}[{index}].function.parameters' must be an object", param=f"{at}[{index}].function.parameters"
            )


def _check_tool_choice(value: object, at: str) -> None:
    if isinstance(value, str):
        if value not in TOOL_CHOICES:
            raise InvalidRequest(f"'{at}' must be one of {_listing(TOOL_CHOICES)} or name a function", param=at)
        return
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        raise InvalidRequest(f"'{at}' must be a string or an object with a type", param=at)
    function = value.get("function")
    if value["type"] == "function" and (not isinstance(function, dict) or not isinstance(function.get("name"), str)):
        raise InvalidRequest(f"'{at}.function.name' must be a string", param=f"{at}.function.name")


def _check_response_format(value: object, at: str) -> None:
    if not isinstance(value, dict) or value.get("type") not in RESPONSE_FORMATS:
        raise InvalidRequest(f"'{at}.type' must be one of {_listing(RESPONSE_FORMATS)}", param=f"{at}.type")
    if value["type"] != "json_schema":
        return
    inner = value.get("json_schema")
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise InvalidRequest(f"'{at}.json_schema.name' must be a string", param=f"{at}.json_schema.name")
    if not isinstance(inner.get("schema", {}), dict):
        raise InvalidRequest(f"'{at}.json_schema.schema' must be an object", param=f"{at}.json_schema.schema")


_PARAMETER_CHECKS: Final[dict[str, Callable[[object, str], None]]] = {
    "temperature": _check_number(0, 2),
    "top_p": _check_number(0, 1),
    "max_tokens": _check_positive,
    "max_completion_tokens": _check_positive,
    "n": _check_one,
    "seed": _check_integer,
    "stop": _check_stop,
    "user": _check_user,
    "tools": _check_tools,
    "tool_choice": _check_tool_choice,
    "parallel_tool_calls": _check_flag,
    "response_format": _check_response_format,
}


def _name(value: object) -> str:
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), "null")


def _listing(values: frozenset[str]) -> str:
    return ", ".join(repr(value) for value in sorted(values))
