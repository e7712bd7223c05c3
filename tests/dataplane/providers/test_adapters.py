"""The three wires as tables: requests out, answers, streams and errors in, against shapes the vendors document."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.errors.requests import InvalidRequest
from dataplane.errors.upstream import (
    UpstreamAuthFailed,
    UpstreamInterrupted,
    UpstreamMalformed,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnavailable,
)
from dataplane.messages import Finish, RefusalDelta, Start, TextDelta, ToolCallDelta, Usage, UsageDelta
from dataplane.providers import ADAPTERS
from dataplane.providers.anthropic_schema import reduce_schema
from dataplane.providers.base import MAX_EVENT_BYTES, SseDecoder, read_limits, read_retry_after
from dataplane.request_parser import parse_chat_request, parse_embedding_request
from dataplane.routing import Account, Lane

WALL = 1_760_000_000.0
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


def lane(upstream_model="m-1"):
    return Lane(
        id="p/eu/a/m",
        provider="p",
        region="eu",
        account="a",
        model="m",
        upstream_model=upstream_model,
        residency="eu",
        capabilities=frozenset({"chat"}),
        input_micros_per_million_tokens=0,
        output_micros_per_million_tokens=0,
        connect_timeout_seconds=1,
        first_byte_timeout_seconds=1,
        idle_timeout_seconds=1,
    )


def account(api_version=None):
    return Account("a", "p", "https://vendor.example", "env:KEY", api_version)


def request(messages=HELLO, **fields):
    return parse_chat_request(json.dumps({"model": "chat", "messages": messages} | fields).encode())


def build(wire, asked, **changes):
    call = ADAPTERS[wire].chat_call(asked, lane=lane(), account=account(**changes), secret="s3cret")
    return call, json.loads(call.body)


def read_stream(wire, data):
    """Feed `data` at once, and return the deltas and the parser."""
    parser = ADAPTERS[wire].stream_parser(request(stream=True), created=7)
    return [delta for piece in parser.feed(data) for delta in piece.deltas], parser


def sse(*events, name=False):
    parts = []
    for event in events:
        data = event if isinstance(event, str) else json.dumps(event)
        head = f"event: {event['type']}\n" if name else ""
        parts.append(f"{head}data: {data}\n\n")
    return "".join(parts).encode()


def chunk(delta=None, finish=None, **more):
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "c1", "object": "chat.completion.chunk", "created": 5, "model": "m-1", "choices": choices} | more


OPENAI_STREAM = sse(
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Grüß "}),
    chunk({"content": "Gott"}),
    chunk({"tool_calls": [{"index": 0, "id": "t1", "function": {"name": "f", "arguments": ""}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]}),
    chunk({}, "tool_calls"),
    chunk(usage={"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}}),
    "[DONE]",
)
OPENAI_DELTAS = [
    Start("c1", "m-1", 5),
    TextDelta("Grüß "),
    TextDelta("Gott"),
    ToolCallDelta(0, "t1", "f", ""),
    ToolCallDelta(0, None, None, '{"a":1}'),
    Finish("tool_calls"),
    UsageDelta(Usage(9, 4, 2)),
]
ANTHROPIC_STREAM = sse(
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "model": "claude",
            "content": [],
            "usage": {
                "input_tokens": 5,
                "cache_read_input_tokens": 2,
                "cache_creation_input_tokens": 1,
                "output_tokens": 1,
            },
        },
    },
    {"type": "ping"},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Grüß Gott"}},
    {"type": "content_block_stop", "index": 1},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "t1", "name": "f", "input": {}},
    },
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ""}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'}},
    {"type": "content_block_stop", "index": 2},
    {
        "type": "content_block_start",
        "index": 3,
        "content_block": {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
    },
    {"type": "content_block_stop", "index": 3},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 12}},
    {"type": "message_stop"},
    name=True,
)
ANTHROPIC_DELTAS = [
    Start("msg_1", "claude", 7),
    UsageDelta(Usage(8, 1, 2)),
    TextDelta("Grüß Gott"),
    ToolCallDelta(0, "t1", "f", ""),
    ToolCallDelta(0, None, None, '{"a":1}'),
    ToolCallDelta(1, "t2", "g", ""),
    ToolCallDelta(1, None, None, "{}"),
    UsageDelta(Usage(8, 12, 2)),
    Finish("tool_calls"),
]
STREAMS = {
    "openai": (OPENAI_STREAM, OPENAI_DELTAS),
    "azure-openai": (OPENAI_STREAM, OPENAI_DELTAS),
    "anthropic": (ANTHROPIC_STREAM, ANTHROPIC_DELTAS),
}


@pytest.mark.parametrize(
    ("wire", "api_version", "url", "header"),
    [
        ("openai", None, "https://vendor.example/chat/completions", ("authorization", "Bearer s3cret")),
        (
            "azure-openai",
            "2024-10-21",
            "https://vendor.example/openai/deployments/m-1/chat/completions?api-version=2024-10-21",
            ("api-key", "s3cret"),
        ),
        ("azure-openai", "v1", "https://vendor.example/openai/v1/chat/completions", ("api-key", "s3cret")),
        ("anthropic", None, "https://vendor.example/v1/messages", ("x-api-key", "s3cret")),
    ],
)
def test_call_goes_to_the_vendors_address_with_its_credential(wire, api_version, url, header):
    """Address, credential and model are each vendor's own."""
    call, body = build(wire, request(), api_version=api_version)

    assert call.url == url
    assert header in call.headers
    assert body["model"] == "m-1"


def test_openai_body_is_the_callers_with_another_model():
    """Every field goes through; a stream always asks for usage and keeps the caller's other options."""
    _, body = build("openai", request(stream=True, stream_options={"include_obfuscation": False}, seed=3, brand_new=1))

    assert body == {
        "model": "m-1",
        "messages": HELLO,
        "seed": 3,
        "brand_new": 1,
        "stream": True,
        "stream_options": {"include_obfuscation": False, "include_usage": True},
    }


def test_anthropic_body_follows_the_translation_rules():
    """System text is joined, tool results share a turn, images become sources, hints without a counterpart are
    dropped.
    """
    messages = [
        {"role": "system", "content": "One."},
        {"role": "user", "content": [
            {"type": "text", "text": "Look"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
            {"type": "image_url", "image_url": {"url": "https://pic.example/a.png"}},
        ]},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
            {"id": "t2", "type": "function", "function": {"name": "f", "arguments": ""}},
        ]},
        {"role": "tool", "tool_call_id": "t1", "content": "one"},
        {"role": "tool", "tool_call_id": "t2", "content": "two"},
        {"role": "user", "content": "Go on"},
        {"role": "developer", "content": [{"type": "text", "text": "Two."}]},
    ]  # fmt: skip

    _, body = build(
        "anthropic",
        request(
            messages, temperature=1.7, stop=["END", " "], seed=1, logit_bias={}, max_completion_tokens=50, tools=[TOOL]
        ),
    )

    assert body == {
        "model": "m-1",
        "max_tokens": 50,
        "system": "One.\n\nTwo.",
        "temperature": 1,
        "stop_sequences": ["END"],
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "Look"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
                {"type": "image", "source": {"type": "url", "url": "https://pic.example/a.png"}},
            ]},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
                {"type": "tool_use", "id": "t2", "name": "f", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "one"}]},
                {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "two"}]},
                {"type": "text", "text": "Go on"},
            ]},
        ],
    }  # fmt: skip


def test_anthropic_conversation_of_system_text_only_becomes_a_turn():
    """This wire refuses an empty conversation, so the last system message is the user's turn."""
    _, body = build("anthropic", request([{"role": "system", "content": "A"}, {"role": "system", "content": "B"}]))

    assert (body["system"], body["messages"]) == ("A", [{"role": "user", "content": "B"}])


@pytest.mark.parametrize(
    ("fields", "native"),
    [
        ({}, None),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, {"type": "tool", "name": "f"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"tool_choice": "required", "parallel_tool_calls": False}, {"type": "any", "disable_parallel_tool_use": True}),
    ],
)
def test_anthropic_tool_choice(fields, native):
    """Each choice has its counterpart; saying nothing sends nothing."""
    _, body = build("anthropic", request(tools=[TOOL], **fields))

    assert body.get("tool_choice") == native


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [{}]}, "functions"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [{"role": "function", "content": "x", "name": "f"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, "messages[0].content[0].file"),
        ({"brand_new": 1}, "brand_new"),
        ({"messages": [HELLO[0] | {"mood": "good"}]}, "messages[0].mood"),
        ({"moderation": {"model": "omni-moderation-latest"}}, "moderation"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "Hi"}]}, "messages[1].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}]},
            "messages[0].content[0].image_url.url",
        ),
    ],
)
def test_anthropic_refuses_what_it_would_have_to_fake(fields, param):
    """A field whose loss would change the answer is refused by name."""
    with pytest.raises(InvalidRequest) as caught:
        build("anthropic", request(fields.pop("messages", HELLO), **fields))

    assert caught.value.param == param


def test_anthropic_schema_is_closed_and_keeps_its_constraints_as_words():
    """Objects are closed, oneOf becomes anyOf, and what cannot be enforced is told."""
    reduced = reduce_schema(
        {
            "type": "object",
            "properties": {
                "age": {"type": "integer", "minimum": 3, "description": "Years."},
                "mail": {"type": "string", "format": "email", "maxLength": 9},
                "either": {"oneOf": [{"type": "null"}, {"type": "array", "items": True, "minItems": 2}]},
            },
            "required": ["age"],
        }
    )

    assert reduced["additionalProperties"] is False
    assert reduced["required"] == ["age"]
    age, mail, either = reduced["properties"].values()
    assert age == {"type": "integer", "description": 'Years.\n\n{"minimum":3}'}
    assert mail == {"type": "string", "format": "email", "description": '{"maxLength":9}'}
    assert either["anyOf"][1]["description"] == '{"minItems":2}'


@pytest.mark.parametrize("wire", STREAMS)
def test_stream_becomes_deltas(wire):
    """A recorded stream gives its deltas, and is finished."""
    data, expected = STREAMS[wire]

    deltas, parser = read_stream(wire, data)

    assert deltas == expected
    assert parser.finished


@pytest.mark.parametrize("wire", STREAMS)
@given(cuts=st.lists(st.integers(min_value=1, max_value=40), min_size=1), crlf=st.booleans())
def test_stream_means_the_same_however_it_is_cut(wire, cuts, crlf):
    """Bytes may be split anywhere, inside characters and line ends too, and lines may end in CRLF."""
    data, expected = STREAMS[wire]
    if crlf:
        data = data.replace(b"\n", b"\r\n")
    parser = ADAPTERS[wire].stream_parser(request(stream=True), created=7)
    deltas = []
    position = turn = 0

    while position < len(data):
        size = cuts[turn % len(cuts)]
        for piece in parser.feed(data[position : position + size]):
            deltas.extend(piece.deltas)
        position, turn = position + size, turn + 1

    assert deltas == expected
    assert parser.finished


@pytest.mark.parametrize("wire", STREAMS)
@given(data=st.data())
def test_stream_cut_short_is_never_finished(wire, data):
    """Any proper prefix of a stream is unfinished: only its last event ends it."""
    whole, _ = STREAMS[wire]
    length = data.draw(st.integers(min_value=0, max_value=len(whole) - 2))

    _, parser = read_stream(wire, whole[:length])

    assert not parser.finished


@pytest.mark.parametrize("missing", ["finish", "end"])
@pytest.mark.parametrize("wire", STREAMS)
def test_stream_needs_both_its_reason_and_its_end(wire, missing):
    """A finish reason without the end marker, or the marker without a reason, is not complete."""
    whole, _ = STREAMS[wire]
    marks = {"finish": (b'"finish_reason": "tool_calls"', b"message_delta"), "end": (b"[DONE]", b"message_stop")}[
        missing
    ]
    blocks = [block for block in whole.split(b"\n\n") if block and not any(mark in block for mark in marks)]

    _, parser = read_stream(wire, b"\n\n".join(blocks) + b"\n\n")

    assert not parser.finished


def test_openai_chunks_pass_through_but_bookkeeping_does_not():
    """A chunk goes on byte for byte; usage and Azure's prompt filter have no choices and stay, unless asked for."""
    filtered = sse(chunk(prompt_filter_results=[{"prompt_index": 0}]))
    silent = ADAPTERS["azure-openai"].stream_parser(request(stream=True), created=7)
    asked = request(stream=True, stream_options={"include_usage": True})
    curious = ADAPTERS["azure-openai"].stream_parser(asked, created=7)

    quiet = [piece.raw for piece in silent.feed(filtered + OPENAI_STREAM)]
    full = [piece.raw for piece in curious.feed(filtered + OPENAI_STREAM)]

    payloads = [line[6:] for line in OPENAI_STREAM.split(b"\n\n")[:-2]]
    assert full == payloads
    assert quiet == [*payloads[:-1], None]


@pytest.mark.parametrize(
    ("wire", "event", "error"),
    [
        ("openai", {"error": {"message": "boom"}}, UpstreamInterrupted),
        ("anthropic", {"type": "error", "error": {"type": "overloaded_error"}}, UpstreamInterrupted),
        ("openai", "{oops", UpstreamMalformed),
        ("openai", {"choices": [3]}, UpstreamMalformed),
        ("anthropic", {"type": "content_block_delta"}, UpstreamMalformed),
        ("anthropic", "[]", UpstreamMalformed),
    ],
)
def test_error_inside_a_stream_comes_after_what_was_good(wire, event, error):
    """The pieces before a broken event are given before it is raised."""
    whole, _ = STREAMS[wire]
    parser = ADAPTERS[wire].stream_parser(request(stream=True), created=7)
    good = []

    data = whole[: whole.index(b"Gott") + 300].rsplit(b"\n\n", 1)[0] + b"\n\n" + sse(event)

    with pytest.raises(error):
        good.extend(parser.feed(data))

    assert good


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("something_new", "length"),
    ],
)
def test_anthropic_answer_becomes_a_response(stop_reason, finish_reason):
    """Text blocks join, tool input becomes arguments, stop reasons have their names, a refusal its explanation."""
    body = json.dumps(
        {
            "id": "msg_1",
            "model": "claude",
            "content": [{"type": "text", "text": "a"}, {"type": "tool_use", "id": "t", "name": "f", "input": {"x": 1}}],
            "stop_reason": stop_reason,
            "stop_details": {"explanation": "no"} if stop_reason == "refusal" else None,
            "usage": {"input_tokens": 1, "cache_read_input_tokens": 2, "output_tokens": 3},
        }
    ).encode()

    response = ADAPTERS["anthropic"].parse_chat(body, request=request(), created=7)

    assert (response.text, response.finish_reason, response.created) == ("a", finish_reason, 7)
    assert response.tool_calls[0].arguments == '{"x":1}'
    assert response.usage == Usage(3, 3, 2)
    assert response.refused == (stop_reason == "refusal")


def test_anthropic_refusal_in_a_stream_has_its_explanation():
    """The explanation comes as refusal text before the finish."""
    delta = {"stop_reason": "refusal", "stop_details": {"type": "refusal", "explanation": "no"}}

    deltas, _ = read_stream("anthropic", sse({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 0}}))

    assert deltas[-2:] == [RefusalDelta("no"), Finish("content_filter")]


@pytest.mark.parametrize("wire", STREAMS)
@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"choices": []}', b'{"content": [{}]}', b'{"content": null, "id": "x"}']
)
def test_answer_that_is_not_whole_is_malformed(wire, body):
    """HTML from an edge, cut JSON and missing fields never pass as an answer."""
    with pytest.raises(UpstreamMalformed):
        ADAPTERS[wire].parse_chat(body, request=request(), created=7)


@pytest.mark.parametrize("wire", ["openai", "azure-openai"])
def test_answer_without_a_finish_reason_is_malformed(wire):
    """An answer that does not say why it ended may be cut short."""
    body = json.dumps({"choices": [{"message": {"content": "a"}, "finish_reason": None}]}).encode()

    with pytest.raises(UpstreamMalformed):
        ADAPTERS[wire].parse_chat(body, request=request(), created=7)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, UpstreamRejected),
        (401, UpstreamAuthFailed),
        (402, UpstreamAuthFailed),
        (403, UpstreamAuthFailed),
        (404, UpstreamAuthFailed),
        (413, UpstreamRejected),
        (422, UpstreamRejected),
        (429, UpstreamRateLimited),
        (500, UpstreamUnavailable),
        (529, UpstreamUnavailable),
        (302, UpstreamUnavailable),
    ],
)
@pytest.mark.parametrize("wire", STREAMS)
@pytest.mark.parametrize(
    "body", [b'{"error": {"message": "words", "param": "seed"}}', b"<html>", b'{"error": "words"}']
)
def test_status_becomes_an_error(wire, status, error, body):
    """The status decides, whatever the body looks like."""
    assert type(ADAPTERS[wire].error(status, {}, body, lane="l", wall=WALL)) is error


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "12"}, 12),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Thu, 09 Oct 2025 08:53:50 GMT"}, 30),
        ({"retry-after": "1m30.5s"}, 90.5),
        ({"retry-after": "250ms"}, 0.25),
        ({"retry-after": "2025-10-09T08:53:50Z"}, 30),
        ({"retry-after": "2025-10-09T10:53:35+02:00"}, 15),
        ({"retry-after": "Thu, 09 Oct 2025 08:00:00 GMT"}, 0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "6m0s"}, None),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1s500ms"}, 1.5),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2025-10-09T08:53:50Z",
            },
            30,
        ),
    ],
)
def test_retry_after_in_every_dialect(headers, seconds):
    """The vendor's wait in seconds, or None when it does not say."""
    assert read_retry_after(headers, wall=WALL) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        ({"x-ratelimit-limit-requests": "10000", "x-ratelimit-limit-tokens": "2000000"}, {0: 10_000, 1: 2_000_000}),
        (
            {
                "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-tokens-limit": "99",
                "anthropic-ratelimit-input-tokens-limit": "30000",
                "anthropic-ratelimit-output-tokens-limit": "8000",
            },
            {0: 50, 2: 30_000, 3: 8_000},
        ),
        ({"x-ratelimit-limit-requests": "0", "x-ratelimit-limit-tokens": "soon"}, {}),
        ({}, {}),
    ],
)
def test_limits_in_every_dialect(headers, limits):
    """Requests, tokens, and tokens in either direction; what is no limit is none."""
    assert read_limits(headers) == limits


def test_endless_event_is_refused():
    """An event that never ends cannot fill the memory."""
    decoder = SseDecoder()
    decoder.feed(b"data: " + b"x" * (MAX_EVENT_BYTES - 6))

    with pytest.raises(UpstreamMalformed, match=str(MAX_EVENT_BYTES)):
        decoder.feed(b"x")


@given(st.lists(st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1)))
def test_decoder_gives_back_every_payload(payloads):
    """Multi-line data joins, comments and other fields vanish."""
    text = "".join(f": note\nid: 1\ndata: {payload}\ndata: more\n\n" for payload in payloads)

    assert SseDecoder().feed(text.encode()) == [f"{payload}\nmore".encode() for payload in payloads]


def test_embeddings_go_where_they_exist():
    """OpenAI's wires carry them, Anthropic refuses by name."""
    asked = parse_embedding_request(b'{"model": "e", "input": ["a"], "dimensions": 3}')

    call = ADAPTERS["openai"].embedding_call(asked, lane=lane(), account=account(), secret="s")

    assert json.loads(call.body) == {"model": "m-1", "input": ["a"], "dimensions": 3}
    with pytest.raises(InvalidRequest):
        ADAPTERS["anthropic"].embedding_call(asked, lane=lane(), account=account(), secret="s")
