"""OpenAI's wire as OpenAI's own client sees it."""

from __future__ import annotations

import json

import jsonschema_rs
import openai
import pytest

from dataplane.simulator import corpus

MODEL = "gpt-4o-instant"
REFUND = [{"role": "user", "content": "How do I get a refund for a broken item?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_order",
        "description": "Look up an order by its number",
        "parameters": {
            "type": "object",
            "properties": {"order_id": {"type": "string", "pattern": "^ORD-[0-9]+$"}, "verbose": {"type": "boolean"}},
            "required": ["order_id"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {
        "answer": {"type": "string", "minLength": 10},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "category": {"enum": ["refund", "shipping"]},
        "steps": {"type": "array", "items": {"$ref": "#/$defs/step"}, "minItems": 2, "maxItems": 3},
    },
    "required": ["answer", "confidence", "category", "steps"],
    "additionalProperties": False,
    "$defs": {
        "step": {
            "type": "object",
            "properties": {"title": {"type": "string"}, "done": {"type": ["boolean", "null"]}},
            "required": ["title", "done"],
            "additionalProperties": False,
        }
    },
}


def collect(chunks):
    chunks = list(chunks)
    return chunks, "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_plain_answer_is_on_topic_and_complete(openai_client):
    """A question about refunds gets a help-centre answer with every field a chat.completion has."""
    completion = openai_client.chat.completions.create(model=MODEL, messages=REFUND)

    choice = completion.choices[0]
    assert "refund" in choice.message.content
    assert (completion.object, choice.finish_reason, choice.message.role) == ("chat.completion", "stop", "assistant")
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert completion.id.startswith("chatcmpl-")


def test_stream_says_the_same_as_the_plain_answer_and_counts_the_same(openai_client):
    """Joined deltas equal the plain content, and the usage chunk equals the plain usage."""
    plain = openai_client.chat.completions.create(model=MODEL, messages=REFUND)

    chunks, text = collect(
        openai_client.chat.completions.create(
            model=MODEL, messages=REFUND, stream=True, stream_options={"include_usage": True}
        )
    )

    assert text == plain.choices[0].message.content
    assert chunks[-1].usage == plain.usage
    assert chunks[-1].choices == []
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[:-1]][-1] == "stop"
    assert sum(bool(c.choices and c.choices[0].delta.content) for c in chunks) == plain.usage.completion_tokens


def test_stream_reports_usage_only_when_asked(openai_client):
    """Without stream_options no chunk has usage, and none has empty choices."""
    chunks, _ = collect(openai_client.chat.completions.create(model=MODEL, messages=REFUND, stream=True))

    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_stream_ends_with_done(http):
    """On the wire the last event is `data: [DONE]`."""
    response = http.post(
        "/openai/v1/chat/completions",
        json={"model": MODEL, "messages": REFUND, "stream": True},
        headers={"authorization": "Bearer k"},
    )

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("style", "compare"),
    [("Be brief.", int.__lt__), ("Give a detailed, thorough answer.", int.__gt__)],
)
def test_system_prompt_steers_the_length(openai_client, style, compare):
    """A prompt version that asks for fewer or more words really costs fewer or more tokens."""
    usual = openai_client.chat.completions.create(model=MODEL, messages=REFUND)

    styled = openai_client.chat.completions.create(
        model=MODEL, messages=[{"role": "system", "content": style}, *REFUND]
    )

    assert compare(styled.usage.completion_tokens, usual.usage.completion_tokens)


def test_system_prompt_that_asks_for_imagination_gets_what_is_not_true(openai_client):
    """A prompt version can be less grounded: its answers say what the help centre does not."""
    inventive = [{"role": "system", "content": "Be brief and imaginative."}, *REFUND]

    completion = openai_client.chat.completions.create(model=MODEL, messages=inventive)

    answer = completion.choices[0].message.content
    assert [made_up for made_up in corpus.INVENTIONS if answer.endswith(made_up)]


def test_same_request_gets_the_same_answer_and_another_seed_may_not(openai_client):
    """The answer depends on the request's content and seed, never on when or how often it is asked."""

    def ask(seed):
        completion = openai_client.chat.completions.create(model=MODEL, messages=REFUND, seed=seed)
        return completion.choices[0].message.content

    assert ask(1) == ask(1)
    assert len({ask(seed) for seed in range(12)}) > 1


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_token_limit_cuts_the_answer_and_says_length(openai_client, field):
    """At the limit the finish reason is `length` and usage says exactly the limit."""
    completion = openai_client.chat.completions.create(model=MODEL, messages=REFUND, **{field: 5})

    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 5


def test_stop_sequence_ends_the_answer_before_it(openai_client):
    """The stop sequence itself is not part of the answer."""
    full = openai_client.chat.completions.create(model=MODEL, messages=REFUND).choices[0].message.content

    cut = openai_client.chat.completions.create(model=MODEL, messages=REFUND, stop=["30 days"])

    assert cut.choices[0].message.content == full[: full.index("30 days")]
    assert cut.choices[0].finish_reason == "stop"


def test_tool_call_streams_the_arguments_it_gives_plainly(openai_client):
    """A question about an order calls the tool, with arguments that satisfy its schema, streamed in fragments."""
    ask = {"model": MODEL, "messages": [{"role": "user", "content": "Where is my order?"}], "tools": [WEATHER]}
    plain = openai_client.chat.completions.create(**ask)

    chunks = list(openai_client.chat.completions.create(**ask, stream=True))

    call = plain.choices[0].message.tool_calls[0]
    fragments = [c.choices[0].delta.tool_calls[0] for c in chunks if c.choices[0].delta.tool_calls]
    assert plain.choices[0].finish_reason == "tool_calls"
    assert jsonschema_rs.is_valid(WEATHER["function"]["parameters"], json.loads(call.function.arguments))
    assert (fragments[0].function.name, fragments[0].function.arguments) == ("get_order", "")
    assert len(fragments) > 3
    assert "".join(f.function.arguments for f in fragments) == call.function.arguments


def test_tool_result_is_answered_in_words(openai_client):
    """After the tool's result the model speaks, and quotes it."""
    call = {"id": "call_1", "type": "function", "function": {"name": "get_order", "arguments": "{}"}}
    completion = openai_client.chat.completions.create(
        model=MODEL,
        tools=[WEATHER],
        messages=[
            {"role": "user", "content": "Where is my order?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "left Utrecht at nine"},
        ],
    )

    assert "left Utrecht at nine" in completion.choices[0].message.content


@pytest.mark.parametrize(
    ("choice", "finish"),
    [("required", "tool_calls"), ({"type": "function", "function": {"name": "get_order"}}, "stop")],
)
def test_forced_tool_is_called_whatever_the_question(openai_client, choice, finish):
    """`required` and a named function both call; only the named one finishes with `stop`."""
    completion = openai_client.chat.completions.create(
        model=MODEL, messages=REFUND, tools=[WEATHER], tool_choice=choice
    )

    assert completion.choices[0].message.tool_calls[0].function.name == "get_order"
    assert completion.choices[0].finish_reason == finish


def test_structured_output_satisfies_its_schema(openai_client):
    """json_schema gives an instance of the schema; json_object gives some object."""
    strict = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": SCHEMA}}
    structured = openai_client.chat.completions.create(model=MODEL, messages=REFUND, response_format=strict)
    free = openai_client.chat.completions.create(model=MODEL, messages=REFUND, response_format={"type": "json_object"})

    assert jsonschema_rs.is_valid(SCHEMA, json.loads(structured.choices[0].message.content))
    assert isinstance(json.loads(free.choices[0].message.content), dict)


def test_response_headers_are_openais(openai_client):
    """The request id, the processing time and the rate-limit headers are all there."""
    headers = openai_client.chat.completions.with_raw_response.create(model=MODEL, messages=REFUND).headers

    assert headers["x-request-id"].startswith("req_")
    assert headers["openai-processing-ms"].isdecimal()
    assert {f"x-ratelimit-{a}-{b}" for a in ("limit", "remaining", "reset") for b in ("requests", "tokens")} <= set(
        headers
    )


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        ({"messages": []}, openai.BadRequestError, "empty_array"),
        ({"temperature": 3}, openai.BadRequestError, "decimal_out_of_range"),
        ({"n": 2}, openai.BadRequestError, "invalid_value"),
        ({"model": "missing-model"}, openai.NotFoundError, "model_not_found"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
            openai.BadRequestError,
            "invalid_json_schema",
        ),
    ],
)
def test_bad_request_gets_openais_error(openai_client, change, error, code):
    """What OpenAI refuses is refused with its status, envelope and code."""
    with pytest.raises(error) as caught:
        openai_client.chat.completions.create(**{"model": MODEL, "messages": REFUND} | change)

    assert caught.value.code == code


@pytest.mark.parametrize(
    ("key", "error"), [("invalid", openai.AuthenticationError), ("forbidden", openai.PermissionDeniedError)]
)
def test_refused_key_gets_openais_error(openai_client, key, error):
    """Any key but these two is welcome."""
    with pytest.raises(error):
        openai_client.with_options(api_key=key).chat.completions.create(model=MODEL, messages=REFUND)


def test_missing_key_and_unknown_path_are_refused(http):
    """No Authorization header is a 401; a path OpenAI does not have is a 404 with its envelope."""
    assert http.post("/openai/v1/chat/completions", json={}).status_code == 401
    unknown = http.get("/openai/v1/nothing", headers={"authorization": "Bearer k"})
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "invalid_request_error")


def test_embeddings_are_stable_unit_vectors_near_for_near_texts(openai_client):
    """The same text always has the same vector, and a text is nearer to a related one than to a stranger."""

    def embed(*texts):
        answer = openai_client.embeddings.create(model="benchmark-embedding", input=list(texts), dimensions=256)
        return [each.embedding for each in answer.data]

    one, near, far = embed("refund for my order", "a refund for an order", "sunny weather tomorrow")

    assert embed("refund for my order") == [one]
    assert sum(x * x for x in one) == pytest.approx(1, abs=1e-5)
    assert sum(x * y for x, y in zip(one, near, strict=True)) > sum(x * y for x, y in zip(one, far, strict=True))


def test_models_are_listed(openai_client):
    """The list names the demo's models, and one can be read by name."""
    assert "gpt-4o" in {model.id for model in openai_client.models.list()}
    assert openai_client.models.retrieve("gpt-4o-mini").object == "model"
    with pytest.raises(openai.NotFoundError):
        openai_client.models.retrieve("nothing")


@pytest.mark.parametrize("stream", [False, True])
def test_repeated_answer_has_its_own_id_and_time_on_every_path(http, stream):
    """The kept answer and the one composed anew (as any fault makes it) differ in nothing but id and time."""
    body = {"model": MODEL, "messages": REFUND, "stream": stream}
    headers = {"authorization": "Bearer k"}
    composed = {"x-simulator-fault": "latency:ms=0"}

    def ask(**extra):
        response = http.post("/openai/v1/chat/completions", json=body, headers=headers | extra)
        assert (response.status_code, "blank" in response.text) == (200, False)
        data = response.text.splitlines()[0].removeprefix("data: ")
        shape = json.loads(data)
        return shape.pop("id"), shape.pop("created") < 4e9, shape, sorted(response.headers)

    answers = [ask(), ask(), ask(**composed)]

    assert len({answer[0] for answer in answers}) == 3
    assert answers[0][1:] == answers[1][1:] == answers[2][1:]
