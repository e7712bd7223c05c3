"""What a caller may send, and how a wrong field is named."""

from __future__ import annotations

import json

import pytest

from dataplane.errors.requests import InvalidRequest
from dataplane.messages import (
    ChatResponse,
    ChunkEncoder,
    Finish,
    Start,
    StreamChunk,
    TextDelta,
    ToolCall,
    Usage,
    UsageDelta,
)
from dataplane.request_parser import parse_chat_request, parse_embedding_request

HELLO = [{"role": "user", "content": "Hello"}]


def parse(**fields):
    return parse_chat_request(json.dumps({"model": "chat", "messages": HELLO} | fields).encode())


def test_request_keeps_every_field_it_does_not_own():
    """Unknown fields and known ones stay in `parameters`; what the gateway owns is taken out."""
    request = parse(temperature=0.5, brand_new=[1], stream=True, stream_options={"include_usage": True}, user="ada")

    assert request.parameters == {"temperature": 0.5, "brand_new": [1], "user": "ada"}
    assert (request.route, request.stream, request.include_usage, request.user) == ("chat", True, True, "ada")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "boss", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            "messages[0].content[0].image_url.url",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].id"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}]},
            "messages[0].tool_calls[0].function",
        ),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {}}, "stream_options"),
        ({"stream": True, "stream_options": 1}, "stream_options"),
        ({"n": 2}, "n"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"user": 7}, "user"),
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function.name"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.name"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": []}}},
            "response_format.json_schema.schema",
        ),
        ({"prompt": "support"}, "prompt"),
        ({"prompt": {"id": ""}}, "prompt.id"),
        ({"prompt": {"id": "support", "version": 0}}, "prompt.version"),
        ({"prompt": {"id": "support", "variables": []}}, "prompt.variables"),
    ],
)
def test_wrong_field_is_named(fields, param):
    """Each wrong field is refused, and `param` says which."""
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)

    assert caught.value.param == param


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff"])
def test_body_that_is_no_json_object_is_refused(body):
    """Anything but a JSON object is an invalid request without a param."""
    with pytest.raises(InvalidRequest):
        parse_chat_request(body)


def test_managed_prompt_needs_neither_model_nor_messages():
    """Beside `prompt` both may be left out: the prompt brings its messages and its route."""
    request = parse_chat_request(b'{"prompt": {"id": "support"}}')

    assert (request.route, request.messages, request.prompt.variables) == ("", [], {})


def test_null_parameter_counts_as_absent():
    """OpenAI's own clients send null for what was not set."""
    assert parse(temperature=None, tools=None, response_format=None, stream=None).response_schema is None


@pytest.mark.parametrize("fields", [{}, {"input": ""}, {"input": []}, {"input": 3}])
def test_embeddings_need_an_input(fields):
    """Missing, empty and mistyped input are refused by name."""
    with pytest.raises(InvalidRequest) as caught:
        parse_embedding_request(json.dumps({"model": "embed"} | fields).encode())

    assert caught.value.param == "input"


def test_response_becomes_a_chat_completion():
    """An answer from another wire is written in OpenAI's shape."""
    response = ChatResponse(
        id="msg_1",
        model="m",
        created=5,
        text=None,
        finish_reason="tool_calls",
        usage=Usage(3, 4, 1),
        tool_calls=(ToolCall("t1", "f", "{}"),),
    )

    body = json.loads(response.to_openai())

    assert body["choices"][0]["message"]["tool_calls"] == [
        {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]
    assert body["usage"]["total_tokens"] == 7


def test_encoder_says_its_opening_with_the_first_chunk_alone():
    """In the provider's own bytes too, beside what these say already; those that follow are not touched."""
    raw = [json.dumps({"id": "c", "choices": [], "ballast": {"lane": "x"}}).encode(), b'{"as": "it came"}']
    passing = ChunkEncoder(include_usage=False, opening={"rung": 1})
    writing = ChunkEncoder(include_usage=False, opening={"rung": 1})

    passed = [passing.encode(StreamChunk((TextDelta("a"),), one))[0] for one in raw]
    written = [json.loads(one) for one in writing.encode(StreamChunk((TextDelta("a"), TextDelta("b"))))]

    assert json.loads(passed[0])["ballast"] == {"lane": "x", "rung": 1}
    assert passed[1] == raw[1]
    assert [one.get("ballast") for one in written] == [{"rung": 1}, None]


def test_encoder_says_the_role_once_and_usage_last():
    """The first chunk carries the role; usage is null until the closing chunk, which has no choices."""
    encoder = ChunkEncoder(include_usage=True)
    deltas = (Start("id", "m", 5), TextDelta("a"), UsageDelta(Usage(1, 2)), TextDelta("b"), Finish("stop"))

    payloads = [json.loads(payload) for payload in encoder.encode(StreamChunk(deltas)) + encoder.closing()]

    assert [choice["delta"] for payload in payloads for choice in payload["choices"]] == [
        {"role": "assistant", "content": "a"},
        {"content": "b"},
        {},
    ]
    assert [payload["usage"] and payload["usage"]["total_tokens"] for payload in payloads] == [None, None, None, 3]
