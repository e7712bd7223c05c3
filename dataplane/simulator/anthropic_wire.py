"""Anthropic's wire: messages and their events, errors, headers. The reference is the API's own documentation and
the anthropic package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from dataplane.simulator.conversation import Answer, Ask, BadRequest, Kind, Stop, Tool, Wire
from dataplane.simulator.faults import Fault
from dataplane.simulator.limits import CONCURRENCY, Shortage
from dataplane.simulator.profiles import SNAPSHOTS
from dataplane.simulator.rate_limits import limited_headers, standing_headers, wait_headers
from dataplane.simulator.reading import (
    MISSING_MODEL_PREFIX,
    body_directive,
    count_prompt_tokens,
    flatten_content,
    join_directives,
    read_object,
    split_directive,
    take_fingerprint,
)
from dataplane.simulator.wire import Frame, FrameKind, Header, Reply, Stamp, Unauthorized, known_key, read_bearer

_STOP = {
    Stop.END: "end_turn",
    Stop.LENGTH: "max_tokens",
    Stop.SEQUENCE: "stop_sequence",
    Stop.TOOL: "tool_use",
    Stop.REFUSAL: "refusal",
    Stop.FILTERED: "refusal",
}
# status: (type, message)
_ERRORS: dict[int, tuple[str, str]] = {
    400: ("invalid_request_error", "Invalid request"),
    401: ("authentication_error", "invalid x-api-key"),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "Not found"),
    405: ("invalid_request_error", "Method Not Allowed"),
    408: ("timeout_error", "Request timed out"),
    409: ("invalid_request_error", "The request conflicts with another one"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    422: ("invalid_request_error", "The request could not be processed"),
    429: ("rate_limit_error", "This request would exceed your organization's rate limit."),
    500: ("api_error", "Internal server error"),
    503: ("api_error", "Service temporarily unavailable"),
    504: ("timeout_error", "Request timed out"),
    529: ("overloaded_error", "Overloaded"),
}


class AnthropicWire:
    """Anthropic's dialect of everything in VendorWire."""

    wire = Wire.ANTHROPIC

    def authenticate(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the key in `x-api-key`, or the bearer token that newer versions of the vendor's package send."""
        if key := headers.get(b"x-api-key"):
            return known_key(key.decode("latin-1"))
        return read_bearer(headers)

    def read_chat(self, body: Any, *, model: str | None, headers: Mapping[bytes, bytes]) -> Ask:
        """Return the parsed request, or raise BadRequest in Anthropic's words."""
        if not headers.get(b"anthropic-version"):
            raise BadRequest("anthropic-version: header is required")
        body = read_object(body)
        model = _require(body, "model", str)
        max_tokens = _require(body, "max_tokens", int)
        if max_tokens < 1:
            raise BadRequest(f"max_tokens: {max_tokens} must be greater than or equal to 1")
        if model.startswith(MISSING_MODEL_PREFIX):
            raise BadRequest(f"model: {model}", status=404)
        temperature = body.get("temperature")
        if temperature is not None and not (isinstance(temperature, int | float) and 0 <= temperature <= 1):
            raise BadRequest("temperature: range: 0..1")
        messages = _require(body, "messages", list)
        texts, question, tool_result, images, directive = _read_messages(messages)
        prefix = _read_prefix(messages)
        system, _ = flatten_content(body.get("system"))
        tools = _read_tools(body.get("tools"))
        schema = _read_schema(body)
        extra = [body.get("tools"), schema] if tools or schema else None
        tool_choice = _read_tool_choice(body.get("tool_choice"), tools)
        stops = body.get("stop_sequences") or []
        if not isinstance(stops, list) or not all(isinstance(stop, str) and stop.strip() for stop in stops):
            raise BadRequest("stop_sequences: each stop sequence must contain non-whitespace")
        return Ask(
            wire=self.wire,
            model=model,
            system=system,
            question=question,
            tool_result=tool_result,
            prompt_tokens=count_prompt_tokens([system, *texts] if system else texts, images=images, extra=extra),
            max_tokens=max_tokens,
            stop_sequences=tuple(stops),
            stream=body.get("stream") is True,
            include_usage=True,
            wants_json=schema is not None,
            schema=schema,
            tools=tools,
            tool_choice=tool_choice,
            # Without the prefix: the answer that goes on is the one that it began.
            fingerprint=take_fingerprint(model, system, texts[:-1] if prefix else texts, extra, tool_choice),
            directive=join_directives(body_directive(body), directive),
            prefix=prefix,
        )

    def give_answer(self, ask: Ask, answer: Answer, stamp: Stamp, *, processing_ms: int) -> Reply:
        """Return a message, or its events."""
        headers = self._headers(ask, stamp)
        if ask.stream:
            frames = self._events(ask, answer, stamp)
            return Reply.events(headers, frames, tokens=len(answer.pieces), error_event=self._error_event())
        body = self._body_head(stamp) + self._body_tail(ask, answer, stamp.serial)
        return Reply.json(200, headers, body, tokens=len(answer.pieces))

    def answer_headers(self, ask: Ask, stamp: Stamp, *, processing_ms: int) -> tuple[Header, ...]:
        """Return the headers of a successful answer, content type and length excepted; Anthropic tells no
        processing time.
        """
        return self._headers(ask, stamp)

    def _body_head(self, stamp: Stamp) -> bytes:
        """Return a plain body up to what `_body_tail` gives."""
        return b'{"id":"msg_%b",' % stamp.serial.encode()

    def _body_tail(self, ask: Ask, answer: Answer, serial: str) -> bytes:
        """Return all of a plain body after `id`."""
        tail: dict[str, Any] = {
            "type": "message",
            "role": "assistant",
            "model": SNAPSHOTS.get(ask.model, ask.model),
            "content": _content(answer, serial),
            **_ending(answer),
        }
        if answer.usage is not None:
            tail["usage"] = _usage(answer.usage.prompt_tokens, answer.usage.completion_tokens)
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
        """Return Anthropic's error envelope, or its edge's HTML page for 502."""
        headers = self._error_headers(stamp)
        if status == 502:
            return Reply.edge_page(status, headers)
        kind, usual = _ERRORS.get(status, _ERRORS[500])
        body = {
            "type": "error",
            "error": {"type": kind, "message": message or usual},
            "request_id": f"req_{stamp.serial}",
        }
        return Reply.json(status, headers, orjson.dumps(body))

    def give_unauthorized(self, refusal: Unauthorized, stamp: Stamp) -> Reply:
        """Return 401 in Anthropic's words for a missing or a wrong key, or 403."""
        return self.give_error(refusal.status, stamp, message=None if refusal.given else "x-api-key header is required")

    def give_rate_limit(self, fault: Fault, stamp: Stamp, *, model: str) -> Reply:
        """Return Anthropic's 429."""
        limit = {
            "requests": "the rate limit for your organization of 50 requests per minute",
            "tokens": "the rate limit for your organization of 40,000 input tokens per minute",
            "quota": "your organization's monthly spend limit",
        }[fault.word("scope")]
        reply = self.give_error(429, stamp, message=f"This request would exceed {limit} (model: {model}).")
        return Reply(429, (*reply.headers, *limited_headers(self.wire, fault, now=stamp.now)), reply.frames)

    def give_limited(self, shortage: Shortage, stamp: Stamp, *, model: str) -> Reply:
        """Return Anthropic's 429 with what is limited."""
        if shortage.dimension == CONCURRENCY:
            limit = f"concurrent connections rate limit of {shortage.limit}"
        else:
            per = "minute" if shortage.window_seconds == 60 else f"{shortage.window_seconds:g} seconds"
            limit = f"rate limit of {shortage.limit:,} {shortage.dimension.replace('_', ' ')} per {per}"
        message = f"This request would exceed your organization's {limit} (model: {model})."
        reply = self.give_error(429, stamp, message=message)
        return Reply(429, (*reply.headers, *wait_headers(self.wire, shortage.wait_seconds)), reply.frames)

    def give_content_filter(self, stamp: Stamp) -> Reply:
        """Return the filter's 400."""
        return self.give_error(400, stamp, message="Output blocked by content filtering policy")

    def _headers(self, ask: Ask, stamp: Stamp) -> tuple[Header, ...]:
        return (
            *self._error_headers(stamp),
            *standing_headers(self.wire, prompt_tokens=ask.prompt_tokens, now=stamp.now),
        )

    def _error_headers(self, stamp: Stamp) -> tuple[Header, ...]:
        return ((b"request-id", b"req_" + stamp.serial.encode()), (b"anthropic-organization-id", b"org-simulator"))

    def _error_event(self) -> bytes:
        kind, message = _ERRORS[529]
        return _event("error", {"type": "error", "error": {"type": kind, "message": message}}, FrameKind.OTHER).data

    def _events(self, ask: Ask, answer: Answer, stamp: Stamp) -> Iterator[Frame]:
        """Yield message_start, the one block with its deltas and a ping, message_delta and message_stop."""
        message: dict[str, Any] = {
            "id": f"msg_{stamp.serial}",
            "type": "message",
            "role": "assistant",
            "model": SNAPSHOTS.get(ask.model, ask.model),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }
        if answer.usage is not None:
            # The opening count of output tokens is one, or none when there will be none; the final one comes with
            # message_delta.
            message["usage"] = _usage(answer.usage.prompt_tokens, min(1, answer.usage.completion_tokens))
        yield _event("message_start", {"message": message})
        if answer.kind is not Kind.REFUSAL:
            yield from _block_events(answer, stamp.serial)
        delta: dict[str, Any] = {"delta": _ending(answer)}
        if answer.usage is not None:
            delta["usage"] = {
                "input_tokens": answer.usage.prompt_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": answer.usage.completion_tokens,
            }
        yield _event("message_delta", delta, FrameKind.FINISH)
        yield _event("message_stop", {}, FrameKind.TERMINATOR)


def _block_events(answer: Answer, serial: str) -> Iterator[Frame]:
    is_tool = answer.kind is Kind.TOOL
    block: dict[str, Any] = (
        {"type": "tool_use", "id": f"toolu_{serial}", "name": answer.tool_name, "input": {}}
        if is_tool
        else {"type": "text", "text": ""}
    )
    yield _event("content_block_start", {"index": 0, "content_block": block})
    yield _event("ping", {})
    if is_tool:
        yield _event("content_block_delta", {"index": 0, "delta": {"type": "input_json_delta", "partial_json": ""}})
    for piece in answer.pieces:
        delta = (
            {"type": "input_json_delta", "partial_json": piece} if is_tool else {"type": "text_delta", "text": piece}
        )
        yield _event("content_block_delta", {"index": 0, "delta": delta}, FrameKind.CONTENT)
    yield _event("content_block_stop", {"index": 0})


def _event(name: str, data: Mapping[str, Any], kind: FrameKind = FrameKind.OTHER) -> Frame:
    return Frame(kind, b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, **data})))


def _content(answer: Answer, serial: str) -> list[dict[str, Any]]:
    match answer.kind:
        case Kind.REFUSAL:
            return []
        case Kind.TOOL:
            try:
                arguments = orjson.loads(answer.text)
            except orjson.JSONDecodeError:
                # A plain body has no way to carry broken arguments; this is the wrapper that Anthropic's
                # documentation suggests for them.
                arguments = {"INVALID_JSON": answer.text}
            return [{"type": "tool_use", "id": f"toolu_{serial}", "name": answer.tool_name, "input": arguments}]
        case Kind.TEXT:
            return [{"type": "text", "text": answer.text}]


def _ending(answer: Answer) -> dict[str, Any]:
    ending: dict[str, Any] = {"stop_reason": _STOP[answer.stop], "stop_sequence": answer.stop_sequence}
    if ending["stop_reason"] == "refusal":
        explanation = answer.text if answer.kind is Kind.REFUSAL else "The answer was stopped by a safety classifier."
        ending["stop_details"] = {"type": "refusal", "category": "general_harms", "explanation": explanation}
    return ending


def _usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }


def _require(body: Mapping[str, Any], field: str, kind: type) -> Any:
    if field not in body:
        raise BadRequest(f"{field}: Field required")
    value = body[field]
    if isinstance(value, bool) or not isinstance(value, kind):
        name = {str: "string", int: "integer", list: "array"}[kind]
        raise BadRequest(f"{field}: Input should be a valid {name}")
    return value


def _read_messages(messages: list[Any]) -> tuple[list[str], str, str | None, int, str | None]:
    """Return all texts, the last question, a tool result newer than it, the number of images, and a fault directive."""
    if not messages:
        raise BadRequest("messages: at least one message is required")
    texts: list[str] = []
    question, tool_result, directive, images = "", None, None, 0
    for at, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ("user", "assistant"):
            raise BadRequest(
                f'messages.{at}.role: Unexpected role "{role}". The Messages API accepts a top-level `system` '
                f'parameter, not "system" as an input message role.'
            )
        content = message.get("content")
        text, pictures = flatten_content(content)
        images += pictures
        if role == "user":
            text, found = split_directive(text)
            directive = found or directive
            if isinstance(content, list) and any(
                isinstance(part, Mapping) and part.get("type") == "tool_result" for part in content
            ):
                tool_result = text
            else:
                question, tool_result = text, None
        elif isinstance(content, list):
            text += "".join(
                orjson.dumps(part).decode()
                for part in content
                if isinstance(part, Mapping) and part.get("type") == "tool_use"
            )
        texts.append(text)
    return texts, question, tool_result, images, directive


def _read_prefix(messages: list[Any]) -> str:
    """Return the words with which the answer begins: those of a last message that is the assistant's."""
    last = messages[-1]
    if last.get("role") != "assistant":
        return ""
    text, _ = flatten_content(last.get("content"))
    if text != text.rstrip():
        raise BadRequest("messages: final assistant content cannot end with trailing whitespace")
    return text


def _read_tools(tools: Any) -> tuple[Tool, ...]:
    read: list[Tool] = []
    for at, tool in enumerate(tools or ()):
        if not isinstance(tool, Mapping) or not isinstance(tool.get("name"), str):
            raise BadRequest(f"tools.{at}.name: Field required")
        if not isinstance(tool.get("input_schema"), Mapping):
            raise BadRequest(f"tools.{at}.input_schema: Field required")
        read.append(Tool(tool["name"], str(tool.get("description") or ""), tool["input_schema"]))
    return tuple(read)


def _read_tool_choice(choice: Any, tools: tuple[Tool, ...]) -> str:
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    if choice is None or kind in ("auto", "none"):
        return str(kind or "auto")
    if not tools:
        raise BadRequest("tool_choice: tool_choice may only be specified while providing tools")
    if kind == "any":
        return "required"
    if kind == "tool" and choice.get("name") in {tool.name for tool in tools}:
        return f"={choice['name']}"
    raise BadRequest("tool_choice: tool not found in provided tools")


def _read_schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the JSON Schema of structured output, from `output_config.format` or the older `output_format`."""
    config = body.get("output_config")
    wanted = (config.get("format") if isinstance(config, Mapping) else None) or body.get("output_format")
    if not isinstance(wanted, Mapping):
        return None
    if wanted.get("type") != "json_schema" or not isinstance(wanted.get("schema"), Mapping):
        raise BadRequest("output_config.format.schema: Field required")
    schema: Mapping[str, Any] = wanted["schema"]
    return schema
