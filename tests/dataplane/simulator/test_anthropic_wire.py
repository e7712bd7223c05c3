"""Anthropic's wire as Anthropic's own client sees it."""

from __future__ import annotations

import json

import anthropic
import jsonschema_rs
import pytest

MODEL = "claude-sonnet-instant"
REFUND = [{"role": "user", "content": "How do I get a refund for a broken item?"}]
ASK = {"model": MODEL, "max_tokens": 400, "messages": REFUND}
TOOL = {
    "name": "get_order",
    "description": "Look up an order",
    "input_schema": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
}


def test_stream_says_the_same_as_the_plain_message_and_counts_the_same(anthropic_client):
    """The accumulated stream has the plain message's text, stop reason and usage."""
    plain = anthropic_client.messages.create(**ASK)

    with anthropic_client.messages.stream(**ASK) as stream:
        streamed = stream.get_final_message()

    assert "refund" in plain.content[0].text
    assert streamed.content[0].text == plain.content[0].text
    assert (plain.stop_reason, streamed.stop_reason) == ("end_turn", "end_turn")
    assert streamed.usage.input_tokens == plain.usage.input_tokens
    assert streamed.usage.output_tokens == plain.usage.output_tokens


def test_events_come_in_anthropics_order(http):
    """On the wire: message_start, the block with a ping, message_delta, message_stop."""
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    response = http.post("/anthropic/v1/messages", json=ASK | {"stream": True}, headers=headers)

    names = [line.removeprefix("event: ") for line in response.text.splitlines() if line.startswith("event: ")]
    distinct = list(dict.fromkeys(names))
    assert distinct == [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_tool_use_streams_the_input_it_gives_plainly(anthropic_client):
    """input_json_delta fragments add up to the plain block's input."""
    ask = ASK | {"messages": [{"role": "user", "content": "Where is my order?"}], "tools": [TOOL]}
    plain = anthropic_client.messages.create(**ask)

    events = list(anthropic_client.messages.create(**ask, stream=True))

    fragments = [event.delta.partial_json for event in events if event.type == "content_block_delta"]
    assert plain.stop_reason == "tool_use"
    assert (plain.content[0].type, plain.content[0].name) == ("tool_use", "get_order")
    assert fragments[0] == ""
    assert json.loads("".join(fragments)) == plain.content[0].input


def test_forced_tool_and_tool_result(anthropic_client):
    """tool_choice `tool` calls; after the tool's result the model speaks."""
    forced = anthropic_client.messages.create(**ASK, tools=[TOOL], tool_choice={"type": "tool", "name": "get_order"})
    block = forced.content[0]

    spoken = anthropic_client.messages.create(
        **ASK
        | {
            "tools": [TOOL],
            "messages": [
                *REFUND,
                {"role": "assistant", "content": [block.model_dump(include={"type", "id", "name", "input"})]},
                {
                    "role": "user",
                    "content": [{"type": "tool_result", "tool_use_id": block.id, "content": "left Utrecht"}],
                },
            ],
        }
    )

    assert "left Utrecht" in spoken.content[0].text


def test_structured_output_satisfies_its_schema(anthropic_client):
    """output_config.format gives an instance of the schema."""
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    message = anthropic_client.messages.create(
        **ASK, output_config={"format": {"type": "json_schema", "schema": schema}}
    )

    assert jsonschema_rs.is_valid(schema, json.loads(message.content[0].text))


@pytest.mark.parametrize(
    ("change", "reason", "sequence"),
    [({"max_tokens": 5}, "max_tokens", None), ({"stop_sequences": ["30 days"]}, "stop_sequence", "30 days")],
)
def test_stop_reason_says_why(anthropic_client, change, reason, sequence):
    """The token limit and a stop sequence are told apart."""
    message = anthropic_client.messages.create(**ASK | change)

    assert (message.stop_reason, message.stop_sequence) == (reason, sequence)


def test_response_headers_are_anthropics(anthropic_client):
    """The request id and the RFC 3339 resets are there."""
    headers = anthropic_client.messages.with_raw_response.create(**ASK).headers

    assert headers["request-id"].startswith("req_")
    assert headers["anthropic-ratelimit-requests-reset"].endswith("Z")


@pytest.mark.parametrize(
    ("change", "error", "kind"),
    [
        ({"model": "missing-model"}, anthropic.NotFoundError, "not_found_error"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error"),
        ({"messages": [{"role": "system", "content": "x"}]}, anthropic.BadRequestError, "invalid_request_error"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error"),
    ],
)
def test_bad_request_gets_anthropics_error(anthropic_client, change, error, kind):
    """What Anthropic refuses is refused with its status and envelope."""
    with pytest.raises(error) as caught:
        anthropic_client.messages.create(**ASK | change)

    assert caught.value.body["error"]["type"] == kind
    assert caught.value.body["request_id"] == caught.value.response.headers["request-id"]


def test_version_header_and_key_are_required(http):
    """Both are checked, and either way of sending the key is welcome."""
    path, version = "/anthropic/v1/messages", {"anthropic-version": "2023-06-01"}

    assert http.post(path, json=ASK, headers={"x-api-key": "k"}).status_code == 400
    assert http.post(path, json=ASK, headers=version).status_code == 401
    assert http.post(path, json=ASK, headers=version | {"x-api-key": "invalid"}).status_code == 401
    assert http.post(path, json=ASK, headers=version | {"authorization": "Bearer k"}).status_code == 200


def test_version_header_is_asked_for_even_of_a_known_question(http):
    """An answer kept from an earlier request does not let a later one off its header."""
    headers = {"x-api-key": "k", "anthropic-version": "2023-06-01"}

    assert http.post("/anthropic/v1/messages", json=ASK, headers=headers).status_code == 200
    assert http.post("/anthropic/v1/messages", json=ASK, headers={"x-api-key": "k"}).status_code == 400
