"""What an application gets from the gateway through OpenAI's own client, on each of the three wires."""

from __future__ import annotations

import json

import pytest

from .conftest import CHAT_ROUTES, SCHEMA, wait_until

WEATHER = {
    "type": "function",
    "function": {
        "name": "track_parcel",
        "description": "Track a parcel by its number",
        "parameters": {"type": "object", "properties": {"number": {"type": "string"}}, "required": ["number"]},
    },
}


@pytest.mark.parametrize("route", CHAT_ROUTES)
def test_plain_answer_is_openais_whatever_the_vendor(ask, gateway, route):
    """Each wire gives a chat.completion with text, finish reason and usage, and one usage row."""
    answer = ask(route).answer

    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    (row,) = gateway.rows()
    assert (row["input_tokens"], row["output_tokens"]) == (answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert (row["outcome"], row["status"], row["stream"]) == ("ok", 200, False)


@pytest.mark.parametrize("route", CHAT_ROUTES)
def test_stream_says_what_the_plain_answer_says(ask, gateway, route):
    """The pieces of a stream add up to the plain answer, and its usage is billed though nobody asked to see it."""
    plain = ask(route).answer

    chunks = list(ask(route, stream=True).answer)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == plain.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert not any(chunk.usage for chunk in chunks)
    plain_row, stream_row = gateway.rows(2)
    assert stream_row["output_tokens"] == plain_row["output_tokens"] > 0
    assert stream_row["ttft_ms"] is not None


@pytest.mark.parametrize("route", CHAT_ROUTES)
def test_stream_shows_usage_when_asked(ask, route):
    """With include_usage the last chunk has the usage and no choices."""
    chunks = list(ask(route, stream=True, stream_options={"include_usage": True}).answer)

    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > 0
    assert chunks[-2].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", CHAT_ROUTES)
def test_tool_calls_arrive_in_openais_shape(client, route, stream):
    """A forced tool is called with JSON arguments, and its result can be sent back on every wire."""
    question = [{"role": "user", "content": "Where is parcel 12?"}]
    options = {
        "model": route,
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "track_parcel"}},
    }

    answer = client.chat.completions.create(messages=question, stream=stream, **options)

    if stream:
        pieces = [call for chunk in answer for call in chunk.choices[0].delta.tool_calls or []]
        call_id, name = pieces[0].id, pieces[0].function.name
        arguments = "".join(piece.function.arguments or "" for piece in pieces)
    else:
        (call,) = answer.choices[0].message.tool_calls
        call_id, name, arguments = call.id, call.function.name, call.function.arguments
    assert name == "track_parcel"
    assert "number" in json.loads(arguments)
    call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    follow_up = client.chat.completions.create(
        model=route,
        tools=[WEATHER],
        messages=[
            *question,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call_id, "content": "It is in Utrecht."},
        ],
    )
    assert "Utrecht" in follow_up.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", CHAT_ROUTES)
def test_structured_answer_is_checked_against_its_schema(ask, gateway, route, stream):
    """With a json_schema the answer satisfies it on every wire, and telemetry counts that it was checked."""
    response_format = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}

    answer = ask(route, stream=stream, response_format=response_format).answer

    text = (
        "".join(chunk.choices[0].delta.content or "" for chunk in answer)
        if stream
        else answer.choices[0].message.content
    )
    assert set(json.loads(text)) == {"answer", "confident"}
    gateway.rows()
    (rollup,) = gateway.rollups()
    assert (rollup["schema_checked"], rollup["schema_passed"]) == (1, 1)


def test_answer_that_misses_its_schema_is_delivered_and_counted(ask, gateway):
    """The check only measures: a malformed answer reaches the caller as it is."""
    response_format = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}

    answer = ask(fault="malformed_answer:kind=fence", response_format=response_format).answer

    assert answer.choices[0].message.content.startswith("```")
    gateway.rows()
    (rollup,) = gateway.rollups()
    assert (rollup["schema_checked"], rollup["schema_passed"]) == (1, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_json_object_is_given_by_a_wire_that_has_no_such_mode(ask, stream):
    """Anthropic is made to answer through a tool, and the caller sees plain JSON text."""
    answer = ask("claude", stream=stream, response_format={"type": "json_object"}).answer

    if stream:
        chunks = list(answer)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        finish_reason = chunks[-1].choices[0].finish_reason
    else:
        text, finish_reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert isinstance(json.loads(text), dict)
    assert finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", CHAT_ROUTES)
def test_refusals_are_counted(ask, gateway, route, stream):
    """A refusal in a vendor's own form is delivered as one and counted as one."""
    answer = ask(route, fault="refusal", stream=stream).answer

    if stream:
        list(answer)
    else:
        assert answer.choices[0].message.refusal
    gateway.rows()
    (rollup,) = gateway.rollups()
    assert rollup["refusals"] == 1


def test_headers_tell_what_served_the_request(ask, gateway):
    """Release, lane, attempts, cohort, rung and fallback are on every answer; the prompt only with a managed one."""
    headers = ask().headers

    assert headers["ballast-release"] == "1"
    assert headers["ballast-lane"] == "openai/eu/main/gpt-4o"
    assert [headers[f"ballast-{name}"] for name in ("attempts", "cohort", "rung", "fallback")] == [
        "1",
        "none",
        "0",
        "none",
    ]
    assert headers["ballast-request-id"] == gateway.rows()[0]["request_id"]
    assert "ballast-prompt" not in headers


def test_embeddings_pass_through(client, gateway):
    """Embeddings come back in order, on the route that has the capability."""
    answer = client.embeddings.create(model="embed", input=["one", "two"])

    assert [item.index for item in answer.data] == [0, 1]
    assert len(answer.data[0].embedding) == 1536
    (row,) = gateway.rows()
    assert (row["lane"], row["input_tokens"]) == ("openai/eu/main/embedding", answer.usage.prompt_tokens)


def test_models_are_the_routes(client):
    """`GET /v1/models` lists the routes of the release, and each can be asked for."""
    listed = [model.id for model in client.models.list()]

    assert "chat" in listed
    assert client.models.retrieve("chat").id == "chat"


def test_unknown_openai_field_reaches_an_openai_lane(client, simulator):
    """A field that the gateway does not know goes through: the simulator reads its fault from `metadata`."""
    answer = client.chat.completions.with_raw_response.create(
        model="chat",
        messages=[{"role": "user", "content": "Hello"}],
        metadata={"simulator_fault": "wrong_usage:kind=inflated,factor=1000"},
    )

    assert answer.parse().usage.completion_tokens > 1000
    assert simulator.get("/admin/state").json()["faults"] == {"wrong_usage": 1}


def test_connections_to_the_provider_are_reused(ask, gateway, http):
    """The in-flight gauge falls back to zero and requests are counted by outcome."""
    for _ in range(3):
        ask()

    wait_until(lambda: gateway.reports.in_flight == 0)
    metrics = http.get("/metrics").text
    assert 'ballast_gateway_requests_total{operation="chat",outcome="ok"}' in metrics
    assert "ballast_gateway_in_flight 0.0" in metrics
