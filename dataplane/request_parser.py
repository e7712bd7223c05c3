"""Callers' bodies as requests of the internal schema: checked as far as the gateway relies on them, and no further.

Pure. Every refusal names the field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from dataplane.destinations import MEMBER
from dataplane.errors.requests import InvalidRequest
from dataplane.messages import ChatRequest, EmbeddingRequest, Json, PromptReference
from dataplane.retrieval.requests import parse_reference
from dataplane.validators.values import Source

# The addresses whose bodies these are.
CHAT_PATH: Final = "/v1/chat/completions"
EMBEDDINGS_PATH: Final = "/v1/embeddings"
ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
PART_TYPES: Final = frozenset({"text", "image_url", "input_audio", "file", "refusal"})
TOOL_CHOICES: Final = frozenset({"none", "auto", "required"})
RESPONSE_FORMATS: Final = frozenset({"text", "json_object", "json_schema"})
# The member with which an eval brings a release of its own; it is gone before the rest is read.
SANDBOX: Final = "ballast_sandbox"
TOOL_EFFECTS: Final = frozenset({"none", "idempotent", "once"})
MAX_STOP_SEQUENCES: Final = 4
MAX_SOURCES: Final = 200
MAX_SOURCE_CHARACTERS: Final = 1_000_000


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
    sources = _pop_sources(fields)
    ballast = fields.pop(MEMBER, None)
    corpus = fields.pop("corpus", None)
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
        sources=sources,
        ballast=ballast,
        corpus=None if corpus is None else parse_reference(corpus),
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
    if SANDBOX in fields:
        raise InvalidRequest(f"'{SANDBOX}' is for evals; show the token of one, or leave it out", param=SANDBOX)
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


def _pop_sources(fields: Json) -> tuple[Source, ...]:
    """Read `sources`. Shape: [{"id": text that is there once, "text": text}]."""
    given = fields.pop("sources", None)
    if given is None:
        return ()
    if not isinstance(given, list) or len(given) > MAX_SOURCES:
        raise InvalidRequest(f"'sources' must be an array of at most {MAX_SOURCES}", param="sources")
    found: dict[str, Source] = {}
    for index, one in enumerate(given):
        at = f"sources[{index}]"
        name, text = (one.get("id"), one.get("text")) if isinstance(one, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(text, str) or not name or not text:
            raise InvalidRequest(f"'{at}' must be an object with an 'id' and a 'text'", param=at)
        if name in found:
            raise InvalidRequest(f"'{at}.id' is there before: {name[:40]!r}", param=f"{at}.id")
        found[name] = Source(name, text)
    if (size := sum(len(one.text) for one in found.values())) > MAX_SOURCE_CHARACTERS:
        raise InvalidRequest(f"'sources' have {size} characters; {MAX_SOURCE_CHARACTERS} are the most", param="sources")
    return tuple(found.values())


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
