"""OpenAI's wire: chat completions and their chunks, errors, headers. The reference is the API's own documentation
and the openai package.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from dataplane.simulator.conversation import Answer, Ask, BadRequest, Kind, Stop, Tool, Usage, Wire
from dataplane.simulator.faults import Fault
from dataplane.simulator.limits import CONCURRENCY, NEVER, Shortage
from dataplane.simulator.profiles import SNAPSHOTS
from dataplane.simulator.rate_limits import go_duration, limited_headers, standing_headers, wait_headers
from dataplane.simulator.reading import (
    MISSING_MODEL_PREFIX,
    body_directive,
    count_prompt_tokens,
    flatten_content,
    join_directives,
    read_integer,
    read_object,
    read_stops,
    split_directive,
    take_fingerprint,
)
from dataplane.simulator.wire import Frame, FrameKind, Header, Reply, Stamp, Unauthorized, read_bearer

SYSTEM_FINGERPRINT = "fp_5b1f3c9a2e"
_DONE = Frame(FrameKind.TERMINATOR, b"data: [DONE]\n\n")
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_FINISH = {
    Stop.END: "stop",
    Stop.SEQUENCE: "stop",
    Stop.REFUSAL: "stop",
    Stop.LENGTH: "length",
    Stop.TOOL: "tool_calls",
    Stop.FILTERED: "content_filter",
}
# status: (message, type, code)
_ERRORS: dict[int, tuple[str, str, str | None]] = {
    400: ("Invalid request.", "invalid_request_error", None),
    401: (
        "Incorrect API key provided: invalid. You can find your API key at https://platform.openai.com/account/api-keys.",
        "invalid_request_error",
        "invalid_api_key",
    ),
    403: ("You are not allowed to use this model with this API key.", "invalid_request_error", "permission_denied"),
    404: ("Invalid URL.", "invalid_request_error", None),
    405: ("Method not allowed.", "invalid_request_error", None),
    408: ("Request timed out.", "server_error", "request_timeout"),
    409: ("The request conflicts with another one.", "invalid_request_error", "conflict"),
    413: ("The request body is too large.", "invalid_request_error", "request_too_large"),
    422: ("The request could not be processed.", "invalid_request_error", None),
    429: ("Rate limit reached for requests.", "requests", "rate_limit_exceeded"),
    500: ("The server had an error while processing your request. Sorry about that!", "server_error", None),
    503: ("The engine is currently overloaded, please try again later.", "server_error", "service_unavailable"),
    529: ("The engine is currently overloaded, please try again later.", "server_error", "overloaded"),
}


class OpenAIWire:
    """OpenAI's dialect of everything in VendorWire."""

    wire = Wire.OPENAI

    def authenticate(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the bearer token, or raise Unauthorized."""
        return read_bearer(headers)

    def read_chat(self, body: Any, *, model: str | None, headers: Mapping[bytes, bytes]) -> Ask:
        """Return the parsed request, or raise BadRequest in OpenAI's words."""
        body = read_object(body)
        model = model or body.get("model")
        if not isinstance(model, str) or not model:
            raise BadRequest("you must provide a model parameter")
        if model.startswith(MISSING_MODEL_PREFIX):
            raise BadRequest(
                f"The model `{model}` does not exist or you do not have access to it.",
                code="model_not_found",
                status=404,
            )
        if body.get("n") not in (None, 1):
            raise BadRequest(
                "Invalid 'n': this simulator answers with exactly one choice.", param="n", code="invalid_value"
            )
        _check_range(body, "temperature", 2)
        _check_range(body, "top_p", 1)
        texts, system, question, tool_result, images, directive = _read_messages(body.get("messages"))
        tools = _read_tools(body.get("tools"))
        wants_json, schema = _read_format(body.get("response_format"))
        limit = read_integer(body, "max_completion_tokens", minimum=1) or read_integer(body, "max_tokens", minimum=1)
        options = body.get("stream_options")
        tool_choice = _read_tool_choice(body.get("tool_choice"), tools)
        extra = [body.get("tools"), schema] if tools or schema else None
        return Ask(
            wire=self.wire,
            model=model,
            system=system,
            question=question,
            tool_result=tool_result,
            prompt_tokens=count_prompt_tokens(texts, images=images, extra=extra),
            max_tokens=limit,
            stop_sequences=read_stops(body.get("stop"), "stop"),
            stream=body.get("stream") is True,
            include_usage=isinstance(options, Mapping) and options.get("include_usage") is True,
            wants_json=wants_json,
            schema=schema,
            tools=tools,
            tool_choice=tool_choice,
            fingerprint=take_fingerprint(model, texts, extra, tool_choice, body.get("seed")),
            directive=join_directives(body_directive(body), directive),
        )

    def give_answer(self, ask: Ask, answer: Answer, stamp: Stamp, *, processing_ms: int) -> Reply:
        """Return a chat.completion, or its chunks as server-sent events."""
        headers = self._headers(stamp, ask.prompt_tokens, processing_ms)
        if ask.stream:
            frames = self._chunks(ask, answer, stamp)
            return Reply.events(headers, frames, tokens=len(answer.pieces), error_event=self._error_event())
        body = self._body_head(stamp) + self._body_tail(ask, answer, stamp.serial)
        return Reply.json(200, headers, body, tokens=len(answer.pieces))

    def answer_headers(self, ask: Ask, stamp: Stamp, *, processing_ms: int) -> tuple[Header, ...]:
        """Return the headers of a successful answer, content type and length excepted."""
        return self._headers(stamp, ask.prompt_tokens, processing_ms)

    def _body_head(self, stamp: Stamp) -> bytes:
        """Return a plain body up to what `_body_tail` gives."""
        return b'{"id":"chatcmpl-%b","object":"chat.completion","created":%d,' % (stamp.serial.encode(), int(stamp.now))

    def _body_tail(self, ask: Ask, answer: Answer, serial: str) -> bytes:
        """Return all of a plain body after `created`."""
        choice: dict[str, Any] = {
            "index": 0,
            "message": _message(answer, serial),
            "logprobs": None,
            "finish_reason": _finish_reason(ask, answer),
            **self._choice_extras(answer),
        }
        tail: dict[str, Any] = {"model": SNAPSHOTS.get(ask.model, ask.model), "choices": [choice]}
        if answer.usage is not None:
            tail["usage"] = _usage(answer.usage)
        tail |= {"service_tier": "default", "system_fingerprint": SYSTEM_FINGERPRINT, **self._body_extras()}
        return orjson.dumps(tail)[1:]

    def give_error(
        self,
        status: int,
        stamp: Stamp,
        *,
        message: str | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> Reply:
        """Return OpenAI's error envelope, or its edge's HTML page for 502 and 504."""
        headers = self._error_headers(stamp)
        if status in (502, 504):
            return Reply.edge_page(status, headers)
        usual, kind, usual_code = _ERRORS.get(status, _ERRORS[500])
        error = {
            "message": message or usual,
            "type": kind,
            "param": param,
            "code": code or (usual_code if message is None else None),
        }
        return Reply.json(status, headers, orjson.dumps({"error": error}))

    def give_unauthorized(self, refusal: Unauthorized, stamp: Stamp) -> Reply:
        """Return 401 in OpenAI's words for a missing or a wrong key, or 403."""
        if refusal.given:
            return self.give_error(refusal.status, stamp)
        message = (
            "You didn't provide an API key. You need to provide your API key in an Authorization header using "
            "Bearer auth "
            "(i.e. Authorization: Bearer YOUR_KEY)."
        )
        return self.give_error(401, stamp, message=message)

    def give_rate_limit(self, fault: Fault, stamp: Stamp, *, model: str) -> Reply:
        """Return OpenAI's 429; scope `quota` is the one that no waiting cures."""
        scope = fault.word("scope")
        if scope == "quota":
            message, kind, code = (
                "You exceeded your current quota, please check your plan and billing details.",
                "insufficient_quota",
                "insufficient_quota",
            )
        else:
            unit = "tokens per min (TPM)" if scope == "tokens" else "requests per min (RPM)"
            message = (
                f"Rate limit reached for {model} in organization org-simulator on {unit}: Limit 10000, Used 10000, "
                f"Requested 1. "
                f"Please try again in {go_duration(fault.number('retry_after_seconds'))}. "
                "Visit https://platform.openai.com/account/rate-limits to learn more."
            )
            kind, code = scope, "rate_limit_exceeded"
        body = orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})
        headers = (*self._error_headers(stamp), *limited_headers(self.wire, fault, now=stamp.now))
        return Reply.json(429, headers, body)

    def give_limited(self, shortage: Shortage, stamp: Stamp, *, model: str) -> Reply:
        """Return OpenAI's 429 with what is limited, and when to come again."""
        kind = "requests" if shortage.dimension in ("requests", CONCURRENCY) else "tokens"
        where = f"{model} in organization org-simulator on {_per(shortage)}"
        figures = f"Limit {shortage.limit}, Used {shortage.used}, Requested {shortage.asked}"
        if shortage.wait_seconds == NEVER:
            message = (
                f"Request too large for {where}: Limit {shortage.limit}, Requested {shortage.asked}. "
                "The input or output tokens must be reduced in order to run successfully."
            )
        else:
            wait = go_duration(math.ceil(shortage.wait_seconds * 1000) / 1000)
            message = f"Rate limit reached for {where}: {figures}. Please try again in {wait}."
        message += " Visit https://platform.openai.com/account/rate-limits to learn more."
        error = {"message": message, "type": kind, "param": None, "code": "rate_limit_exceeded"}
        headers = (*self._error_headers(stamp), *wait_headers(self.wire, shortage.wait_seconds))
        return Reply.json(429, headers, orjson.dumps({"error": error}))

    def give_content_filter(self, stamp: Stamp) -> Reply:
        """Return the safety system's 400."""
        message = (
            "Your request was rejected as a result of our safety system. "
            "Your prompt may contain text that is not allowed by our safety system."
        )
        return self.give_error(400, stamp, message=message, code="content_policy_violation")

    def _headers(self, stamp: Stamp, prompt_tokens: int, processing_ms: int) -> tuple[Header, ...]:
        return (
            (b"x-request-id", b"req_" + stamp.serial.encode()),
            (b"openai-processing-ms", str(processing_ms).encode()),
            (b"openai-organization", b"org-simulator"),
            (b"openai-version", b"2020-10-01"),
            *standing_headers(self.wire, prompt_tokens=prompt_tokens, now=stamp.now),
        )

    def _error_headers(self, stamp: Stamp) -> tuple[Header, ...]:
        return (
            (b"x-request-id", b"req_" + stamp.serial.encode()),
            (b"openai-processing-ms", b"4"),
            (b"openai-version", b"2020-10-01"),
        )

    def _error_event(self) -> bytes:
        message, kind, code = _ERRORS[500]
        return (
            b"data: "
            + orjson.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})
            + b"\n\n"
        )

    def _body_extras(self) -> dict[str, Any]:
        return {}

    def _choice_extras(self, answer: Answer) -> dict[str, Any]:
        return {}

    def _chunks(self, ask: Ask, answer: Answer, stamp: Stamp) -> Iterator[Frame]:
        """Yield the role chunk, the deltas, the finish, the usage if asked for, and [DONE]."""
        base: dict[str, Any] = {
            "id": f"chatcmpl-{stamp.serial}",
            "object": "chat.completion.chunk",
            "created": int(stamp.now),
            "model": SNAPSHOTS.get(ask.model, ask.model),
            "service_tier": "default",
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }
        # With include_usage every chunk carries the field, null until the last.
        usage_field: dict[str, Any] = {"usage": None} if ask.include_usage else {}

        def chunk(kind: FrameKind, delta: dict[str, Any], finish: str | None = None) -> Frame:
            choice = {
                "index": 0,
                "delta": delta,
                "logprobs": None,
                "finish_reason": finish,
                **self._chunk_extras(kind, answer),
            }
            return Frame(kind, b"data: " + orjson.dumps({**base, "choices": [choice], **usage_field}) + b"\n\n")

        yield chunk(FrameKind.OTHER, _opening_delta(answer, stamp.serial))
        for piece in answer.pieces:
            yield chunk(FrameKind.CONTENT, _delta(answer.kind, piece))
        yield chunk(FrameKind.FINISH, {}, _finish_reason(ask, answer))
        if ask.include_usage and answer.usage is not None:
            yield Frame(
                FrameKind.OTHER,
                b"data: " + orjson.dumps({**base, "choices": [], "usage": _usage(answer.usage)}) + b"\n\n",
            )
        yield _DONE

    def _chunk_extras(self, kind: FrameKind, answer: Answer) -> dict[str, Any]:
        return {}


def _per(shortage: Shortage) -> str:
    """Return what is limited as OpenAI names it, with the window where it is not the usual minute."""
    if shortage.dimension == CONCURRENCY:
        return "concurrent requests"
    unit = shortage.dimension.replace("_", " ")
    if shortage.window_seconds != 60:
        return f"{unit} per {shortage.window_seconds:g} s"
    return f"{unit} per min" + {"requests": " (RPM)", "tokens": " (TPM)"}.get(shortage.dimension, "")


def _message(answer: Answer, serial: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None, "annotations": []}
    if answer.kind is Kind.TOOL:
        function = {"name": answer.tool_name, "arguments": answer.text}
        message["tool_calls"] = [{"id": f"call_{serial}", "type": "function", "function": function}]
    else:
        message["refusal" if answer.kind is Kind.REFUSAL else "content"] = answer.text
    return message


def _opening_delta(answer: Answer, serial: str) -> dict[str, Any]:
    if answer.kind is Kind.TOOL:
        function = {"name": answer.tool_name, "arguments": ""}
        call = {"index": 0, "id": f"call_{serial}", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None}
    if answer.kind is Kind.REFUSAL:
        return {"role": "assistant", "content": None, "refusal": ""}
    return {"role": "assistant", "content": "", "refusal": None}


def _delta(kind: Kind, piece: str) -> dict[str, Any]:
    if kind is Kind.TOOL:
        return {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
    return {"refusal": piece} if kind is Kind.REFUSAL else {"content": piece}


def _finish_reason(ask: Ask, answer: Answer) -> str:
    # A call that the caller forced by name ends with "stop", as the API's guide to function calling says.
    if answer.stop is Stop.TOOL and ask.tool_choice.startswith("="):
        return "stop"
    return _FINISH[answer.stop]


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _read_messages(messages: Any) -> tuple[list[str], str, str, str | None, int, str | None]:
    """Return all texts, the system text, the last question, a tool result newer than it, the number of images, and
    a fault directive.
    """
    if messages is None:
        raise BadRequest("Missing required parameter: 'messages'.", param="messages", code="missing_required_parameter")
    if not isinstance(messages, list) or not messages:
        raise BadRequest(
            "Invalid 'messages': empty array. Expected an array with minimum length 1.",
            param="messages",
            code="empty_array",
        )
    texts: list[str] = []
    system: list[str] = []
    question, tool_result, directive, images = "", None, None, 0
    for at, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in _ROLES:
            raise BadRequest(
                f"Invalid value: {role!r}. Supported values are: {', '.join(sorted(_ROLES))}.",
                param=f"messages[{at}].role",
                code="invalid_value",
            )
        text, pictures = flatten_content(message.get("content"))
        images += pictures
        if role == "user":
            text, found = split_directive(text)
            directive = found or directive
            question, tool_result = text, None
        elif role in ("system", "developer"):
            system.append(text)
        elif role == "tool":
            tool_result = text
        elif message.get("tool_calls"):
            text += orjson.dumps(message["tool_calls"]).decode()
        texts.append(text)
    return texts, "\n".join(system), question, tool_result, images, directive


def _read_tools(tools: Any) -> tuple[Tool, ...]:
    if not tools:
        return ()
    read: list[Tool] = []
    for at, tool in enumerate(tools if isinstance(tools, list) else [tools]):
        function = tool.get("function") if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise BadRequest(
                f"Missing required parameter: 'tools[{at}].function'.",
                param=f"tools[{at}].function",
                code="missing_required_parameter",
            )
        read.append(
            Tool(
                function["name"],
                str(function.get("description") or ""),
                function.get("parameters") or {"type": "object", "properties": {}},
            )
        )
    return tuple(read)


def _read_tool_choice(choice: Any, tools: tuple[Tool, ...]) -> str:
    if choice is None:
        return "auto"
    if not tools:
        raise BadRequest(
            "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.",
            param="tool_choice",
        )
    if choice in ("auto", "none", "required"):
        return str(choice)
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if name not in {tool.name for tool in tools}:
        raise BadRequest(f"Tool choice {name!r} not found in 'tools' parameter.", param="tool_choice")
    return f"={name}"


def _read_format(value: Any) -> tuple[bool, Mapping[str, Any] | None]:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if value is None or kind == "text":
        return False, None
    if kind == "json_object":
        return True, None
    json_schema = value.get("json_schema") if kind == "json_schema" else None
    if not isinstance(json_schema, Mapping) or not isinstance(json_schema.get("schema"), Mapping):
        raise BadRequest(
            "Missing required parameter: 'response_format.json_schema'.",
            param="response_format.json_schema",
            code="missing_required_parameter",
        )
    return True, json_schema["schema"]


def _check_range(body: Mapping[str, Any], field: str, maximum: float) -> None:
    value = body.get(field)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRequest(
            f"Invalid type for '{field}': expected a decimal, but got {type(value).__name__} instead.",
            param=field,
            code="invalid_type",
        )
    if not 0 <= value <= maximum:
        raise BadRequest(
            f"Invalid '{field}': decimal out of range. Expected a value between 0 and {maximum}, but got {value} "
            f"instead.",
            param=field,
            code="decimal_out_of_range",
        )
