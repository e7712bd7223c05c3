"""What becomes of every field on every wire: the table is whole, and what it says is what adapters do."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from openai.types.chat import (
    chat_completion_assistant_message_param,
    chat_completion_content_part_image_param,
    chat_completion_content_part_text_param,
    chat_completion_stream_options_param,
    completion_create_params,
)
from openai.types.shared_params import function_definition, response_format_json_schema

from dataplane.errors.requests import InvalidRequest
from dataplane.fields import EMBEDDING_FIELDS, FIELDS, OMITTABLE, WIRES, Fate, carriage
from dataplane.lane_fit import refuse_unknown_fields
from dataplane.providers import ADAPTERS
from dataplane.request_parser import parse_embedding_request

from .providers.test_adapters import HELLO, TOOL, account, build, lane, request

KNOWN = {one.path for one in FIELDS}
CALL = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
# A value that asks for something, for every field below which there is nothing, and what has to stand beside it.
SAMPLES = {
    "audio": {"audio": {"voice": "alloy", "format": "mp3"}},
    "data_sources": {"data_sources": [{"type": "azure_search"}]},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "function_call": {"function_call": "auto"},
    "functions": {"functions": [{"name": "f"}]},
    "logit_bias": {"logit_bias": {"50256": -100}},
    "logprobs": {"logprobs": True},
    "max_completion_tokens": {"max_completion_tokens": 9},
    "max_tokens": {"max_tokens": 9},
    "messages.annotations": {"messages": [HELLO[0] | {"annotations": [{"type": "url_citation"}]}]},
    "messages.audio": {"messages": [HELLO[0] | {"audio": {"id": "a"}}]},
    "messages.content.file": {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
    "messages.content.image_url.detail": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "https://a.example", "detail": "low"}}],
            }
        ]
    },
    "messages.content.input_audio": {
        "messages": [
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]}
        ]
    },
    "messages.content.prompt_cache_breakpoint": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "Hi", "prompt_cache_breakpoint": {"mode": "explicit"}}],
            }
        ]
    },
    "messages.function_call": {"messages": [HELLO[0] | {"function_call": {"name": "f", "arguments": "{}"}}]},
    "messages.name": {"messages": [HELLO[0] | {"name": "ada"}]},
    "messages.refusal": {"messages": [{"role": "assistant", "content": None, "refusal": "I will not"}, *HELLO]},
    "messages.tool_calls.custom": {
        "messages": [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "t", "type": "custom", "custom": {"name": "c"}}],
            },
            {"role": "tool", "tool_call_id": "t", "content": "x"},
        ]
    },
    "messages.tool_calls.function.arguments": {
        "messages": [
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [CALL | {"function": {"name": "f", "arguments": '{"a":1}'}}],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "x"},
        ]
    },
    "metadata": {"metadata": {"team": "blue"}},
    "modalities": {"modalities": ["text", "audio"]},
    "moderation": {"moderation": {"model": "omni-moderation-latest"}},
    "parallel_tool_calls": {"parallel_tool_calls": False, "tools": [TOOL]},
    "prediction": {"prediction": {"type": "content", "content": "Hi"}},
    "presence_penalty": {"presence_penalty": -1},
    "prompt_cache_key": {"prompt_cache_key": "k"},
    "prompt_cache_options": {"prompt_cache_options": {"ttl": "30m"}},
    "prompt_cache_retention": {"prompt_cache_retention": "24h"},
    "reasoning_effort": {"reasoning_effort": "low"},
    "response_format.json_schema.description": {
        "response_format": SCHEMA | {"json_schema": SCHEMA["json_schema"] | {"description": "An answer"}}
    },
    "response_format.json_schema.name": {"response_format": SCHEMA | {"json_schema": {"name": "other"}}},
    "response_format.json_schema.schema": {
        "response_format": SCHEMA | {"json_schema": {"name": "answer", "schema": {"properties": {"a": {}}}}}
    },
    "safety_identifier": {"safety_identifier": "u-1"},
    "seed": {"seed": 0},
    "service_tier": {"service_tier": "flex"},
    "stop": {"stop": "END"},
    "store": {"store": True},
    "stream_options.include_obfuscation": {"stream": True, "stream_options": {"include_obfuscation": True}},
    "temperature": {"temperature": 0},
    "tool_choice.allowed_tools": {
        "tools": [TOOL],
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
    },
    "tool_choice.custom": {"tools": [TOOL], "tool_choice": {"type": "custom", "custom": {"name": "c"}}},
    "tool_choice.function.name": {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    "tools.custom": {"tools": [{"type": "custom", "custom": {"name": "c"}}]},
    "tools.function.description": {"tools": [{"type": "function", "function": {"name": "f", "description": "other"}}]},
    "tools.function.name": {"tools": [{"type": "function", "function": {"name": "g"}}]},
    "tools.function.parameters": {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "title": "T"}}}]
    },
    "tools.function.strict": {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
    "top_logprobs": {"top_logprobs": 3},
    "top_p": {"top_p": 0.5},
    "user": {"user": "ada@example.com"},
    "verbosity": {"verbosity": "low"},
    "web_search_options": {"web_search_options": {}},
}
# Beside what a field is not asked for: the same request without it.
PLAIN = {
    "parallel_tool_calls": {"tools": [TOOL]},
    "messages.content.image_url.detail": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example"}}]}]
    },
    "messages.content.prompt_cache_breakpoint": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    },
    "stream_options.include_obfuscation": {"stream": True},
    "response_format.json_schema.description": {"response_format": SCHEMA},
    "response_format.json_schema.name": {"response_format": SCHEMA | {"json_schema": {"name": "answer"}}},
    "response_format.json_schema.schema": {"response_format": SCHEMA},
    "tool_choice.function.name": {"tools": [TOOL]},
    "tools.function.description": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "tools.function.name": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "tools.function.parameters": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "tools.function.strict": {"tools": [{"type": "function", "function": {"name": "f"}}]},
}


def test_table_has_every_field_that_openais_own_client_can_send():
    """A newer client with a field that the table lacks fails here, and not in silence."""
    sent = {
        "": completion_create_params.CompletionCreateParamsBase,
        "messages.": chat_completion_assistant_message_param.ChatCompletionAssistantMessageParam,
        "messages.content.": chat_completion_content_part_text_param.ChatCompletionContentPartTextParam,
        "messages.content.image_url.": chat_completion_content_part_image_param.ImageURL,
        "stream_options.": chat_completion_stream_options_param.ChatCompletionStreamOptionsParam,
        "tools.function.": function_definition.FunctionDefinition,
        "response_format.json_schema.": response_format_json_schema.JSONSchema,
    }

    missing = {
        prefix + name
        for prefix, shape in sent.items()
        for name in shape.__annotations__
        if prefix + name not in KNOWN | {"model"}
    }

    assert missing == set()


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("path", SAMPLES)
def test_no_field_vanishes_in_silence(wire, path):
    """Giving a field changes what is sent, or is told as dropped, or the wire refuses it: as the table says."""
    (fate,) = {one.fate(wire) for one in FIELDS if one.path == path}
    api_version = "2024-10-21" if wire == "azure-openai" else None

    def built(fields):
        fields = dict(fields)
        return build(wire, request(fields.pop("messages", HELLO), **fields), api_version=api_version)

    if fate is Fate.REFUSED:
        with pytest.raises(InvalidRequest) as caught:
            built(SAMPLES[path])
        assert path.rpartition(".")[2] in caught.value.param
        return
    call, body = built(SAMPLES[path])
    _, without = built(PLAIN.get(path, {}))

    assert (path in call.dropped) == (fate is Fate.DROPPED)
    assert (body == without) == (fate is Fate.DROPPED)


def test_every_field_is_tried():
    """The samples leave out only what stands above another field, what names a kind, and what every request has."""
    above = {path.rpartition(".")[0] for path in KNOWN}
    kinds = {"messages.role", "messages.content.type", "messages.tool_calls.type", "tools.type", "tool_choice.type"}
    always = {
        "messages.content.text",
        "messages.content.refusal",
        "messages.content.image_url.url",
        "messages.tool_call_id",
        "messages.tool_calls.id",
        "messages.tool_calls.function.name",
        "n",
        "response_format.type",
        "response_format.json_schema.strict",
        "stream",
        "stream_options.include_usage",
    }

    assert KNOWN - above - kinds - always == set(SAMPLES)


@pytest.mark.parametrize("one", [one for one in FIELDS if one.neutral], ids=lambda one: one.path)
def test_value_that_asks_for_nothing_is_neither_dropped_nor_refused(one):
    """null and the vendor's own default lose nothing by being left out."""
    for value in (*one.neutral, None):
        given = value
        for name in reversed(one.path.split(".")):
            given = {name: given}

        found = carriage(given, wire="anthropic")

        assert (found.dropped, found.refused, found.unknown) == ([], [], [])


def test_false_is_not_zero_and_zero_is_not_false():
    """Python holds them equal; a caller who sends the one has not sent the other."""
    assert carriage({"frequency_penalty": False}, wire="anthropic").dropped == ["frequency_penalty"]
    assert carriage({"logprobs": 0}, wire="anthropic").refused == ["logprobs"]


def test_unknown_field_is_named_by_its_place_wherever_it_stands():
    """At the top, in a message, in a part, in a tool; what is data, such as a schema, is not looked into."""
    fields = {
        "brand_new": 1,
        "messages": [{"role": "user", "mood": "good", "content": [{"type": "text", "text": "Hi", "font": "bold"}]}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"anything": 1}, "cost": 3}}],
        "metadata": {"anything": 1},
        "absent": None,
    }

    found = carriage(fields, wire="openai")

    assert found.unknown == ["brand_new", "messages[0].mood", "messages[0].content[0].font", "tools[0].function.cost"]
    assert (found.dropped, found.refused) == ([], [])


def test_strict_route_refuses_a_field_that_nobody_knows_and_no_other():
    """By its place, for chat and for embeddings; what one vendor knows is known."""
    refuse_unknown_fields(request(seed=1, data_sources=[{"type": "azure_search"}], stream=True, stream_options={}))
    asked = {"model": "e", "input": "a", "dimensions": 3}
    refuse_unknown_fields(parse_embedding_request(json.dumps(asked).encode()))

    for strange in (request(brand_new=1), parse_embedding_request(json.dumps(asked | {"brand_new": 1}).encode())):
        with pytest.raises(InvalidRequest) as caught:
            refuse_unknown_fields(strange)
        assert caught.value.param == "brand_new"
    assert "dimensions" in EMBEDDING_FIELDS


def test_openai_wires_pass_unknown_fields_on():
    """A field of tomorrow works today, where the vendor speaks OpenAI's JSON."""
    _, body = build("openai", request([HELLO[0] | {"mood": "good"}], brand_new={"a": 1}))

    assert body == {"model": "m-1", "messages": [HELLO[0] | {"mood": "good"}], "brand_new": {"a": 1}}


def test_field_that_a_model_refuses_is_left_out_and_told():
    """The lane names it; its limit on the answer goes under the name that the model takes."""
    picky = replace(lane(), unsupported_fields=frozenset({"temperature", "top_p", "max_tokens"}), max_output_tokens=50)

    def sent(wire, **fields):
        call = ADAPTERS[wire].chat_call(request(**fields), lane=picky, account=account("v1"), secret="s")
        body = json.loads(call.body)
        return {name: body[name] for name in body.keys() - {"model", "messages"}}, call.dropped, call.adjusted

    for wire in ("openai", "azure-openai"):
        assert sent(wire, temperature=0.2, top_p=1, max_tokens=60) == (
            {"max_completion_tokens": 50},
            ("temperature",),
            ("max_tokens",),
        )
        assert sent(wire, max_tokens=9, max_completion_tokens=8) == ({"max_completion_tokens": 8}, (), ())
    assert sent("anthropic", temperature=0.2, top_p=0.5, max_tokens=60) == (
        {"max_tokens": 50},
        ("temperature", "top_p"),
        ("max_tokens",),
    )
    assert {"temperature", "max_tokens"} <= OMITTABLE
    assert not OMITTABLE & {"tools", "response_format", "messages", "stop"}


def test_what_anthropic_takes_otherwise_is_told_as_adjusted():
    """Temperature above its end, empty stop sequences; of two samplers it takes one."""
    call, body = build("anthropic", request(temperature=1.7, top_p=0.9, stop=["END", " "]))

    assert (body["temperature"], body["stop_sequences"], "top_p" in body) == (1, ["END"], False)
    assert (call.dropped, call.adjusted) == (("top_p",), ("temperature", "stop"))
    assert build("anthropic", request(top_p=0.9))[1]["top_p"] == 0.9
