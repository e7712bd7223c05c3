"""Anthropic's wire: `POST {base_url}/v1/messages`, translated to and from OpenAI's shapes.

Translation rules, each chosen so that an application need not know which vendor answered:

- Every field goes by the table in `fields.py`: translated as it says, dropped and told, or the lane is no lane for it.
- System and developer messages, wherever they stand, are joined by blank lines into `system`. When there is nothing
  else, the last of them is sent as the user's turn: this wire refuses an empty conversation.
- `max_tokens` is mandatory here; without one from the prompt or the caller it is DEFAULT_MAX_TOKENS, and never more
  than the lane's `max_output_tokens`, which this wire would refuse.
- `temperature` above 1 is sent as 1, this wire's upper end. Beside it `top_p` is dropped: current models take one.
- `response_format` json_schema becomes `output_config.format`, its schema reduced to what this wire accepts (a
  dropped constraint moves into the description; the gateway still checks the answer against the full schema).
  json_object has no native form: the model is made to call one tool, and that tool's input is the answer's text.
- Texts of nothing but white space, which this wire refuses, are left out.
- A conversation that ends with the assistant's words is continued from there, by lanes that can do so (`prefill`).
- A `refusal` stop becomes finish_reason `content_filter`, with the vendor's explanation as `refusal`.
- A reason to stop that says the answer is not complete, or that is new, becomes `length`: nothing that may have been
  cut short passes for whole. Server tools, which `pause_turn` is about, are never sent.

Source: Anthropic, "Messages API", "Streaming messages", "Structured outputs", "Handling stop reasons"; header
`anthropic-version: 2023-06-01`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import orjson

from dataplane.errors import GatewayError
from dataplane.errors.requests import InvalidRequest
from dataplane.errors.upstream import UpstreamMalformed
from dataplane.fields import ANTHROPIC, Carriage, asks_for
from dataplane.lane_fit import DEFAULT_MAX_TOKENS, asked_output, carriage_of, misfit_of
from dataplane.messages import (
    ChatRequest,
    ChatResponse,
    Delta,
    EmbeddingRequest,
    EmbeddingResponse,
    Finish,
    Json,
    RefusalDelta,
    Start,
    StreamChunk,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
    UsageDelta,
)
from dataplane.providers.anthropic_schema import reduce_schema
from dataplane.providers.base import (
    SseDecoder,
    StreamParser,
    UpstreamCall,
    error_fields,
    error_in_stream,
    parse_json_object,
    translate_error,
)
from dataplane.routing import Account, Lane

API_VERSION: Final = "2023-06-01"
JSON_TOOL: Final = "json_object"
STOP_REASONS: Final[Mapping[str, str]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
TOOL_CHOICES: Final[Mapping[str, str]] = {"none": "none", "auto": "auto", "required": "any"}


class AnthropicAdapter:
    """The adapter for Anthropic."""

    def chat_call(self, request: ChatRequest, *, lane: Lane, account: Account, secret: str) -> UpstreamCall:
        carried = carriage_of(request, wire=ANTHROPIC)
        misfit = misfit_of(request, lane, wire=ANTHROPIC, lost=carried.lost, estimate=0)
        if misfit is not None:
            raise misfit
        body, adjusted = _body(request, lane, carried)
        return UpstreamCall(
            url=f"{account.base_url}/v1/messages",
            headers=(
                ("x-api-key", secret),
                ("anthropic-version", account.api_version or API_VERSION),
                ("content-type", "application/json"),
            ),
            body=orjson.dumps(body),
            dropped=tuple(carried.dropped),
            adjusted=adjusted,
        )

    def embedding_call(self, request: EmbeddingRequest, *, lane: Lane, account: Account, secret: str) -> UpstreamCall:
        raise InvalidRequest("the provider of this route has no embeddings", param="model")

    def parse_chat(self, body: bytes, *, request: ChatRequest, created: int) -> ChatResponse:
        answer = parse_json_object(body, what="the provider's answer")
        texts: list[str] = []
        calls: list[ToolCall] = []
        as_text = _wants_json_object(request)
        try:
            for block in answer["content"]:
                if block["type"] == "text":
                    texts.append(block["text"])
                elif block["type"] == "tool_use":
                    arguments = orjson.dumps(block["input"]).decode()
                    if as_text:
                        texts.append(arguments)
                    else:
                        calls.append(ToolCall(id=block["id"], name=block["name"], arguments=arguments))
            reason = _finish_reason(answer["stop_reason"], as_text=as_text)
            return ChatResponse(
                id=answer["id"],
                model=answer["model"],
                created=created,
                text="".join(texts) if texts else None,
                finish_reason=reason,
                usage=_read_usage(answer.get("usage")),
                refusal=_explanation(answer) if reason == "content_filter" else None,
                tool_calls=tuple(calls),
            )
        except (KeyError, TypeError, AttributeError) as exc:
            raise UpstreamMalformed("the provider's answer is not a complete message") from exc

    def parse_embeddings(self, body: bytes) -> EmbeddingResponse:
        raise UpstreamMalformed("this provider has no embeddings")

    def stream_parser(self, request: ChatRequest, *, created: int) -> StreamParser:
        return AnthropicStreamParser(created=created, as_text=_wants_json_object(request))

    def error(self, status: int, headers: Mapping[str, str], body: bytes, *, lane: str, wall: float) -> GatewayError:
        return translate_error(status, headers, error=error_fields(body), lane=lane, wall=wall)


def _wants_json_object(request: ChatRequest) -> bool:
    response_format = request.parameters.get("response_format")
    return response_format is not None and response_format["type"] == "json_object"


def _body(request: ChatRequest, lane: Lane, carried: Carriage) -> tuple[Json, tuple[str, ...]]:
    """Return the request in this wire's words, and the fields that it holds otherwise than asked for.

    Fields that are not in it for another reason than the table's are noted in `carried`.
    """
    parameters = request.parameters
    adjusted: list[str] = []
    system, messages = _conversation(request.messages)
    body: Json = {"model": lane.upstream_model, "max_tokens": _max_tokens(request, lane), "messages": messages}
    for name in ("max_tokens", "max_completion_tokens"):
        if (parameters.get(name) or 0) > body["max_tokens"]:
            adjusted.append(name)
    if system:
        body["system"] = system
    _add_sampling(body, parameters, lane, carried, adjusted)
    if stop := parameters.get("stop"):
        # This wire refuses stop sequences of nothing but white space.
        asked = [stop] if isinstance(stop, str) else stop
        sequences = [text for text in asked if text.strip()]
        if sequences:
            body["stop_sequences"] = sequences
        if len(sequences) < len(asked):
            adjusted.append("stop")
    if (identifier := parameters.get("safety_identifier")) is not None:
        body["metadata"] = {"user_id": identifier}
    if request.stream:
        body["stream"] = True
    _add_tools(body, parameters, carried)
    _add_response_format(body, parameters.get("response_format"))
    return body, tuple(adjusted)


def _max_tokens(request: ChatRequest, lane: Lane) -> int:
    asked = asked_output(request, lane)
    if asked is not None:
        return asked
    return DEFAULT_MAX_TOKENS if lane.max_output_tokens is None else min(DEFAULT_MAX_TOKENS, lane.max_output_tokens)


def _add_sampling(body: Json, parameters: Json, lane: Lane, carried: Carriage, adjusted: list[str]) -> None:
    for name in ("temperature", "top_p"):
        value = parameters.get(name)
        if value is None:
            continue
        if name in lane.unsupported_fields or (name == "top_p" and "temperature" in body):
            if asks_for(name, value):
                carried.drop(name)
        else:
            body[name] = min(value, 1)
            if value > 1:
                adjusted.append(name)


def _add_tools(body: Json, parameters: Json, carried: Carriage) -> None:
    choice = parameters.get("tool_choice")
    if not (tools := parameters.get("tools")):
        if choice not in (None, "none", "auto"):
            raise InvalidRequest("'tool_choice' is only allowed when 'tools' are given", param="tool_choice")
        if parameters.get("parallel_tool_calls") is not None:
            carried.drop("parallel_tool_calls")
        return
    body["tools"] = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    native: Json = {"type": "auto"}
    if isinstance(choice, str):
        native = {"type": TOOL_CHOICES[choice]}
    elif choice is not None:
        if choice["type"] != "function":
            raise InvalidRequest(
                "only a function can be chosen on the provider that serves this route", param="tool_choice"
            )
        native = {"type": "tool", "name": choice["function"]["name"]}
    if parameters.get("parallel_tool_calls") is False and native["type"] != "none":
        native["disable_parallel_tool_use"] = True
    if choice is not None or len(native) > 1:
        body["tool_choice"] = native


def _tool(tool: Json, at: str) -> Json:
    if tool["type"] != "function":
        raise InvalidRequest(f"'{at}' is not a function, which is all the provider of this route can call", param=at)
    function = tool["function"]
    native: Json = {
        "name": function["name"],
        "input_schema": function.get("parameters") or {"type": "object", "properties": {}},
    }
    if function.get("description"):
        native["description"] = function["description"]
    if function.get("strict"):
        native |= {"strict": True, "input_schema": reduce_schema(native["input_schema"])}
    return native


def _add_response_format(body: Json, response_format: Json | None) -> None:
    if response_format is None or response_format["type"] == "text":
        return
    if response_format["type"] == "json_schema":
        inner = response_format["json_schema"]
        schema = {"title": inner["name"], **(inner.get("schema") or {"type": "object"})}
        if inner.get("description") and not schema.get("description"):
            schema["description"] = inner["description"]
        body["output_config"] = {"format": {"type": "json_schema", "schema": reduce_schema(schema)}}
        return
    body["tools"] = [
        {"name": JSON_TOOL, "description": "Give the answer as one JSON object.", "input_schema": {"type": "object"}}
    ]
    body["tool_choice"] = {"type": "tool", "name": JSON_TOOL}


def _conversation(messages: Iterable[Json]) -> tuple[str, list[Json]]:
    """Return the system text and the turns; neighbours of one role become one turn, as this wire wants tool results
    together.
    """
    system: list[str] = []
    turns: list[Json] = []
    for index, message in enumerate(messages):
        at = f"messages[{index}]"
        role = message["role"]
        if role in ("system", "developer"):
            system.append(_plain_text(message["content"], at))
            continue
        if role == "function":
            raise InvalidRequest(
                f"'{at}.role' function is not supported by the provider of this route", param=f"{at}.role"
            )
        blocks = _blocks(message, role, at)
        if not blocks:
            continue
        turn_role = "assistant" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == turn_role:
            turns[-1]["content"].extend(blocks)
        else:
            turns.append({"role": turn_role, "content": blocks})
    if not turns and system:
        turns.append({"role": "user", "content": [{"type": "text", "text": system.pop()}]})
    for turn in turns:
        if len(turn["content"]) == 1 and turn["content"][0]["type"] == "text":
            turn["content"] = turn["content"][0]["text"]
    return "\n\n".join(system), turns


def _blocks(message: Json, role: str, at: str) -> list[Json]:
    if role == "tool":
        result: Json = {"type": "tool_result", "tool_use_id": message["tool_call_id"]}
        if content := _content_blocks(message["content"], at):
            result["content"] = content
        return [result]
    blocks = _content_blocks(message.get("content"), at)
    if role == "assistant":
        if message.get("refusal"):
            blocks.append({"type": "text", "text": message["refusal"]})
        blocks.extend(
            _tool_use(call, f"{at}.tool_calls[{index}]") for index, call in enumerate(message.get("tool_calls") or ())
        )
    return blocks


def _content_blocks(content: str | list[Json] | None, at: str) -> list[Json]:
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content.strip() else []
    blocks = []
    for index, part in enumerate(content):
        where = f"{at}.content[{index}]"
        if part["type"] in ("text", "refusal"):
            text = part.get(part["type"])
            if text and text.strip():
                blocks.append({"type": "text", "text": text})
        elif part["type"] == "image_url":
            blocks.append({"type": "image", "source": _image_source(part["image_url"]["url"], where)})
        else:
            raise InvalidRequest(
                f"'{where}' of type {part['type']!r} cannot be read by the provider of this route", param=where
            )
    return blocks


def _image_source(url: str, at: str) -> Json:
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    header, _, data = url.removeprefix("data:").partition(",")
    media_type, _, encoding = header.partition(";")
    if encoding != "base64" or not data:
        raise InvalidRequest(
            f"'{at}.image_url.url' must be a web address or a base64 data URL", param=f"{at}.image_url.url"
        )
    return {"type": "base64", "media_type": media_type, "data": data}


def _plain_text(content: str | list[Json], at: str) -> str:
    if isinstance(content, str):
        return content
    for index, part in enumerate(content):
        if part["type"] != "text":
            raise InvalidRequest(
                f"'{at}.content[{index}]' of a system message must be text", param=f"{at}.content[{index}]"
            )
    return "\n\n".join(part["text"] for part in content)


def _tool_use(call: Json, at: str) -> Json:
    if call.get("type", "function") != "function":
        raise InvalidRequest(
            f"'{at}' is not a function call, which is all the provider of this route can read", param=at
        )
    arguments = call["function"]["arguments"]
    try:
        value = orjson.loads(arguments) if arguments.strip() else {}
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"'{at}.function.arguments' is not valid JSON", param=f"{at}.function.arguments") from exc
    if not isinstance(value, dict):
        raise InvalidRequest(f"'{at}.function.arguments' must be a JSON object", param=f"{at}.function.arguments")
    return {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": value}


def _finish_reason(stop_reason: str, *, as_text: bool) -> str:
    reason = STOP_REASONS.get(stop_reason, "length")
    return "stop" if as_text and reason == "tool_calls" else reason


def _explanation(holder: Mapping[str, Any]) -> str | None:
    explanation = (holder.get("stop_details") or {}).get("explanation")
    return explanation if isinstance(explanation, str) else None


def _read_usage(value: Any, before: Usage | None = None) -> Usage | None:
    """Return Anthropic's `usage` as tokens; a stream's later counts are cumulative and may leave the input out."""
    if not isinstance(value, dict):
        return before
    output_tokens = _count(value, "output_tokens")
    reasoning_tokens = _count(value.get("output_tokens_details") or {}, "thinking_tokens")
    if before is not None and value.get("input_tokens") is None:
        return Usage(before.input_tokens, output_tokens, before.cached_input_tokens, reasoning_tokens)
    cached = _count(value, "cache_read_input_tokens")
    return Usage(
        input_tokens=_count(value, "input_tokens") + _count(value, "cache_creation_input_tokens") + cached,
        output_tokens=output_tokens,
        cached_input_tokens=cached,
        reasoning_tokens=reasoning_tokens,
    )


def _count(value: Mapping[str, Any], name: str) -> int:
    number = value.get(name)
    return number if isinstance(number, int) and number > 0 else 0


class AnthropicStreamParser:
    """Reads message_start … message_stop. Thinking, citations and pings have no place in OpenAI's chunks and are
    dropped.
    """

    __slots__ = (
        "_as_text",
        "_created",
        "_decoder",
        "_empty_calls",
        "_finish_seen",
        "_stopped",
        "_tool_index",
        "_usage",
    )

    def __init__(self, *, created: int, as_text: bool) -> None:
        self._decoder = SseDecoder()
        self._created = created
        self._as_text = as_text
        self._tool_index: dict[int, int] = {}
        self._empty_calls: set[int] = set()
        self._usage: Usage | None = None
        self._finish_seen = False
        self._stopped = False

    @property
    def finished(self) -> bool:
        return self._stopped and self._finish_seen

    def feed(self, data: bytes) -> Iterator[StreamChunk]:
        for payload in self._decoder.feed(data):
            if self._stopped:
                break
            event = parse_json_object(payload, what="an event of the provider's stream")
            try:
                deltas = self._read(event)
            except (KeyError, TypeError, AttributeError) as exc:
                raise UpstreamMalformed(
                    f"a {event.get('type')!r} event of the provider's stream is not understood"
                ) from exc
            if deltas:
                yield StreamChunk(tuple(deltas))

    def _read(self, event: Json) -> list[Delta]:
        match event["type"]:
            case "content_block_delta":
                return self._read_delta(event["index"], event["delta"])
            case "content_block_start":
                return self._read_block_start(event["index"], event["content_block"])
            case "content_block_stop" if event["index"] in self._empty_calls:
                self._empty_calls.discard(event["index"])
                return self._arguments(event["index"], "{}")
            case "message_start":
                message = event["message"]
                start = Start(id=message["id"], model=message["model"], created=self._created)
                self._usage = _read_usage(message.get("usage"))
                return [start] if self._usage is None else [start, UsageDelta(self._usage)]
            case "message_delta":
                return self._read_message_delta(event)
            case "message_stop":
                self._stopped = True
            case "error":
                raise error_in_stream(event.get("error"))
        return []

    def _read_delta(self, index: int, delta: Json) -> list[Delta]:
        if delta["type"] == "text_delta":
            return [TextDelta(delta["text"])] if delta["text"] else []
        if delta["type"] == "input_json_delta" and delta["partial_json"]:
            self._empty_calls.discard(index)
            return self._arguments(index, delta["partial_json"])
        return []

    def _read_block_start(self, index: int, block: Json) -> list[Delta]:
        if block["type"] == "text":
            return [TextDelta(block["text"])] if block.get("text") else []
        if block["type"] != "tool_use":
            return []
        self._empty_calls.add(index)
        position = self._tool_index[index] = len(self._tool_index)
        return [] if self._as_text else [ToolCallDelta(position, block["id"], block["name"], "")]

    def _read_message_delta(self, event: Json) -> list[Delta]:
        deltas: list[Delta] = []
        self._usage = _read_usage(event.get("usage"), self._usage)
        if self._usage is not None:
            deltas.append(UsageDelta(self._usage))
        if (stop_reason := event["delta"].get("stop_reason")) is not None:
            self._finish_seen = True
            reason = _finish_reason(stop_reason, as_text=self._as_text)
            if reason == "content_filter" and (explanation := _explanation(event["delta"])):
                deltas.append(RefusalDelta(explanation))
            deltas.append(Finish(reason))
        return deltas

    def _arguments(self, index: int, text: str) -> list[Delta]:
        if index not in self._tool_index:
            return []
        return [TextDelta(text)] if self._as_text else [ToolCallDelta(self._tool_index[index], None, None, text)]
