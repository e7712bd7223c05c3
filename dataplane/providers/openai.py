"""OpenAI's wire: `POST {base_url}/chat/completions` and `/embeddings`. Also what vLLM and most self-hosted servers
speak.

`base_url` ends in the version, as in OpenAI's own SDK: `https://api.openai.com/v1`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from dataplane.errors import GatewayError
from dataplane.errors.upstream import UpstreamMalformed
from dataplane.fields import OPENAI, asks_for, refused_fields
from dataplane.frames import DONE
from dataplane.lane_fit import cannot_carry
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

CONTENT_TYPE: Final = ("content-type", "application/json")


class OpenAIAdapter:
    """The adapter for OpenAI and for servers that copy its wire."""

    def chat_call(self, request: ChatRequest, *, lane: Lane, account: Account, secret: str) -> UpstreamCall:
        body, dropped, adjusted = chat_body(request, lane=lane, wire=OPENAI)
        return UpstreamCall(
            url=f"{account.base_url}/chat/completions",
            headers=(("authorization", f"Bearer {secret}"), CONTENT_TYPE),
            body=orjson.dumps(body),
            dropped=dropped,
            adjusted=adjusted,
        )

    def embedding_call(self, request: EmbeddingRequest, *, lane: Lane, account: Account, secret: str) -> UpstreamCall:
        return UpstreamCall(
            url=f"{account.base_url}/embeddings",
            headers=(("authorization", f"Bearer {secret}"), CONTENT_TYPE),
            body=orjson.dumps({"model": lane.upstream_model, "input": request.input, **request.parameters}),
        )

    def parse_chat(self, body: bytes, *, request: ChatRequest, created: int) -> ChatResponse:
        answer = parse_json_object(body, what="the provider's answer")
        try:
            choice = answer["choices"][0]
            message = choice["message"]
            calls = message.get("tool_calls")
            finish_reason = choice["finish_reason"]
            response = ChatResponse(
                id=answer.get("id", ""),
                model=answer.get("model", ""),
                created=answer.get("created", created),
                text=message.get("content"),
                refusal=message.get("refusal"),
                tool_calls=() if not calls else tuple(_tool_call(call) for call in calls),
                finish_reason=finish_reason,
                usage=read_usage(answer.get("usage")),
                raw=body,
            )
        except (KeyError, IndexError, TypeError, AttributeError) as exc:
            raise UpstreamMalformed("the provider's answer is not a chat completion") from exc
        if not isinstance(finish_reason, str):
            raise UpstreamMalformed("the provider's answer has no finish_reason, so it may be cut short")
        return response

    def parse_embeddings(self, body: bytes) -> EmbeddingResponse:
        answer = parse_json_object(body, what="the provider's answer")
        if not isinstance(answer.get("data"), list):
            raise UpstreamMalformed("the provider's answer holds no embeddings")
        return EmbeddingResponse(raw=body, usage=read_usage(answer.get("usage")))

    def stream_parser(self, request: ChatRequest, *, created: int) -> StreamParser:
        return OpenAIStreamParser(include_usage=request.include_usage)

    def error(self, status: int, headers: Mapping[str, str], body: bytes, *, lane: str, wall: float) -> GatewayError:
        return translate_error(status, headers, error=error_fields(body), lane=lane, wall=wall)


def chat_body(request: ChatRequest, *, lane: Lane, wire: str) -> tuple[Json, tuple[str, ...], tuple[str, ...]]:
    """Return OpenAI's JSON for `request`, the fields that are not in it, and those that are in it otherwise than asked.

    A stream always asks for usage: the gateway bills by it even when the caller does not. What the lane's model refuses
    is left out; its limit on the answer's length goes under the name that it takes.

    Raises:
        InvalidRequest: a field that this wire cannot carry.
    """
    parameters = request.parameters
    for name in refused_fields(wire):
        if parameters.get(name) is not None:
            raise cannot_carry(name, lane)
    body: Json = {"model": lane.upstream_model, "messages": request.messages, **parameters}
    dropped: list[str] = []
    adjusted: list[str] = []
    if lane.max_output_tokens is not None:
        for name in ("max_tokens", "max_completion_tokens"):
            if (body.get(name) or 0) > lane.max_output_tokens:
                body[name] = lane.max_output_tokens
                adjusted.append(name)
    for name in sorted(lane.unsupported_fields.intersection(body)):
        value = body.pop(name)
        if name == "max_tokens":
            if value is not None and body.get("max_completion_tokens") is None:
                body["max_completion_tokens"] = value
        elif asks_for(name, value):
            dropped.append(name)
    if request.stream:
        body["stream"] = True
        body["stream_options"] = {**(request.stream_options or {}), "include_usage": True}
    return body, tuple(dropped), tuple(adjusted)


def read_usage(value: Any) -> Usage | None:
    """Return OpenAI's `usage` object as tokens, or None when it is missing. Counts that are not whole numbers read
    as 0.
    """
    if not isinstance(value, dict):
        return None
    return Usage(
        input_tokens=_count(value.get("prompt_tokens")),
        output_tokens=_count(value.get("completion_tokens")),
        cached_input_tokens=_count((value.get("prompt_tokens_details") or {}).get("cached_tokens")),
        reasoning_tokens=_count((value.get("completion_tokens_details") or {}).get("reasoning_tokens")),
    )


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _tool_call(call: Json) -> ToolCall:
    function = call.get("function") or call.get("custom") or {}
    return ToolCall(
        id=call.get("id", ""),
        name=function.get("name", ""),
        arguments=function.get("arguments") or function.get("input", ""),
    )


class OpenAIStreamParser:
    """Reads `chat.completion.chunk` events up to `[DONE]`."""

    __slots__ = ("_decoder", "_done", "_finish_seen", "_include_usage", "_started")

    def __init__(self, *, include_usage: bool) -> None:
        self._decoder = SseDecoder()
        self._include_usage = include_usage
        self._started = False
        self._finish_seen = False
        self._done = False

    @property
    def finished(self) -> bool:
        return self._done and self._finish_seen

    def feed(self, data: bytes) -> Iterator[StreamChunk]:
        for payload in self._decoder.feed(data):
            if self._done:
                break
            if payload == DONE:
                self._done = True
            elif (chunk := self._read(payload)) is not None:
                yield chunk

    def _read(self, payload: bytes) -> StreamChunk | None:
        fields = parse_json_object(payload, what="a chunk of the provider's stream")
        if error := fields.get("error"):
            raise error_in_stream(error)
        deltas: list[Delta] = []
        try:
            choices = fields.get("choices")
            if choices:
                if not self._started:
                    self._started = True
                    deltas.append(
                        Start(id=fields.get("id", ""), model=fields.get("model", ""), created=fields.get("created", 0))
                    )
                choice = choices[0]
                _read_delta(choice.get("delta") or {}, deltas)
                if (reason := choice.get("finish_reason")) is not None:
                    self._finish_seen = True
                    deltas.append(Finish(reason))
        except (KeyError, IndexError, TypeError, AttributeError) as exc:
            raise UpstreamMalformed("a chunk of the provider's stream is not a chat completion chunk") from exc
        if (usage := read_usage(fields.get("usage"))) is not None:
            deltas.append(UsageDelta(usage))
        if not deltas:
            return None
        # A chunk without choices is bookkeeping (usage, Azure's prompt filter): callers index `choices[0]`, so they
        # only get one when they asked for usage, as OpenAI itself does.
        forward = bool(choices) or (self._include_usage and usage is not None)
        return StreamChunk(tuple(deltas), payload if forward else None)


def _read_delta(delta: Json, deltas: list[Delta]) -> None:
    if text := delta.get("content"):
        deltas.append(TextDelta(text))
    if refusal := delta.get("refusal"):
        deltas.append(RefusalDelta(refusal))
    for call in delta.get("tool_calls") or ():
        function = call.get("function") or {}
        deltas.append(
            ToolCallDelta(call.get("index", 0), call.get("id"), function.get("name"), function.get("arguments") or "")
        )
