"""Answers that are to be JSON on their way up the repair ladder: what callers get, and what it is billed as."""

from __future__ import annotations

import copy
import json

import pytest

from dataplane.errors.upstream import UpstreamInterrupted, UpstreamUnavailable

from .bench import Bench, FakeExchange, Gate, event
from .conftest import LANE, ROUTING, repair_policy

EU = "openai/eu-west/main/gpt-4o"
SMALL = "openai/eu-west/main/small"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA}}
GOOD = '{"city": "Turin",\n "days": 3}'
TOOL = {"type": "function", "function": {"name": "book", "parameters": SCHEMA}}


def answer(text=None, *, finish="stop", tools=(), **more):
    """A whole answer in OpenAI's wire, with what only it knows of itself."""
    message = {"role": "assistant", "content": text}
    if tools:
        finish = "tool_calls" if finish == "stop" else finish
        message["tool_calls"] = [
            {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for number, (name, arguments) in enumerate(tools)
        ]
    body = {
        "id": "c1",
        "model": "m",
        "created": 1,
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
    }
    return json.dumps(body | more).encode()


def routing(policy, *, capabilities=("chat", "stream", "tools", "json_schema", "prefill")):
    """The table of the tests with this repair policy, and a route of a small model for surgery."""
    table = copy.deepcopy(ROUTING)
    table["lanes"][EU]["capabilities"] = list(capabilities)
    small = LANE | {"model": "small", "upstream_model": "small-1", "capabilities": ["chat", "json_object"]}
    table["lanes"][SMALL] = small
    table["routes"]["surgeon"] = {"lanes": [SMALL], "deadline_ms": 10_000}
    table["routes"]["chat"]["repair"] = "json"
    table["repairs"] = {"json": policy}
    return table


@pytest.fixture
def bench(make_document):
    """Makes benches whose route has a repair policy; `answers` are what its lane gives, one after the other."""

    def make(*answers, policy=None, small=(), capabilities=None, **options):
        more = {} if capabilities is None else {"capabilities": capabilities}
        document = make_document(routing=routing(policy or repair_policy(), **more))
        gate = Gate()
        lanes = {EU: [_exchange(one, gate) for one in answers]}
        if small:
            lanes[SMALL] = [_exchange(one, gate) for one in small]
        return Bench(document, lanes=lanes, gate=gate, **options)

    return make


def _exchange(given, gate):
    if isinstance(given, BaseException):
        return given
    return FakeExchange(given if isinstance(given, list) else (given,), gate)


def asked(life, number):
    """The body of one of the calls."""
    call, _, _ = life.transport.calls[number]
    return json.loads(call.body)


def told(life):
    """The body that the caller got."""
    return json.loads(life.reply.data)


def content(life):
    return told(life)["choices"][0]["message"]["content"]


def outputs(life):
    """What was counted of the answers' parts."""
    (rollup,) = life.aggregation.drain(1e12)
    return rollup["outputs"]


async def test_answer_that_is_json_leaves_as_it_came(bench):
    """The provider's own bytes, no second call, and one more answer that was right as it came."""
    life = bench(answer(GOOD))

    await life.start(response_format=FORMAT)

    assert life.reply.data == answer(GOOD)
    assert b"ballast-repair" not in life.reply.headers
    assert len(life.rows) == 1
    assert outputs(life) == {"repair:none:r0_strict:lossless": 1}


async def test_fence_is_taken_off_and_everything_else_of_the_answer_stays(bench):
    """JSON in a fence is handed over as JSON, character by character, and the caller is told what was done."""
    life = bench(answer(f"Here you are:\n```json\n{GOOD}\n```"))

    await life.start(response_format=FORMAT)

    body = told(life)
    assert content(life) == GOOD
    assert body["system_fingerprint"] == "fp_1"
    assert body["usage"] == {"prompt_tokens": 100, "completion_tokens": 10}
    (repair,) = body["ballast"]["repair"]
    assert (repair["at"], repair["rung"], repair["label"]) == ("text", "r1_extract", "lossless")
    assert life.reply.headers[b"ballast-repair"] == b"r1_extract; lossless"
    assert len(life.rows) == 1


async def test_model_is_asked_once_more_with_what_is_wrong(bench):
    """A missing field cannot be guessed: the lane that answered hears of it, and both calls are billed."""
    life = bench(answer('{"city": "Turin"}'), answer(GOOD))

    await life.start(response_format=FORMAT)

    assert content(life) == GOOD
    again = asked(life, 1)
    assert [message["role"] for message in again["messages"][-2:]] == ["assistant", "user"]
    assert "days" in again["messages"][-1]["content"]
    assert [(row["kind"], row["lane"]) for row in life.rows] == [("primary", EU), ("repair", EU)]
    assert told(life)["usage"]["prompt_tokens"] == 200
    assert life.reply.headers[b"ballast-repair"] == b"r6_ask_again; lossless"
    assert outputs(life) == {"repair:missing_field:r6_ask_again:lossless": 1}


@pytest.mark.parametrize("prefill", [True, False])
async def test_answer_that_was_cut_off_is_continued(bench, prefill):
    """With its words so far, by a lane that takes them as a beginning, or in words; then it is cut off no more."""
    capabilities = ["chat", "json_schema", *(["prefill"] if prefill else [])]
    life = bench(
        answer('{"city": "Tur', finish="length"),
        answer('in", "days": 3}' if prefill else '"city": "Turin", "days": 3}'),
        capabilities=capabilities,
    )

    await life.start(response_format=FORMAT)

    assert json.loads(content(life)) == {"city": "Turin", "days": 3}
    assert told(life)["choices"][0]["finish_reason"] == "stop"
    roles = [message["role"] for message in asked(life, 1)["messages"]]
    assert roles[-1] == ("assistant" if prefill else "user")
    assert "response_format" not in asked(life, 1)


async def test_answer_that_stays_cut_off_is_never_handed_over_as_if_it_were_whole(bench):
    """What closes its brackets is invented, which the policy does not allow, however often it is continued."""
    life = bench(*(answer(text, finish="length") for text in ('{"city": "Tur', 'in", "da', 'ys": ')))

    await life.start(response_format=FORMAT)

    assert life.reply.status == 502
    assert told(life)["error"]["code"] == "repair_failed"
    assert told(life)["error"]["mode"] == "truncated"
    assert [row["kind"] for row in life.rows] == ["primary", "repair", "repair"]


async def test_surgeon_sees_the_broken_text_alone(bench):
    """A small model on its own route gets no word of the conversation; what it makes counts as invented."""
    policy = repair_policy(labels=["lossless", "lossy", "invented"], surgeon_route="surgeon", ask_again=False)
    life = bench(
        answer('{"city": "Turin" "days" three}'), small=[answer('{"city": "Turin", "days": 3}')], policy=policy
    )

    await life.start(response_format=FORMAT)

    assert json.loads(content(life)) == {"city": "Turin", "days": 3}
    question = asked(life, 1)
    assert [message["role"] for message in question["messages"]] == ["system", "user"]
    assert "Hello" not in json.dumps(question["messages"])
    assert told(life)["ballast"]["repair"][0]["rung"] == "r5_surgeon"
    assert life.reply.headers[b"ballast-lane"] == EU.encode()


async def test_same_error_twice_stops(bench):
    """A model that answers as before is not asked a third time, and the caller hears which fields are missing."""
    policy = repair_policy(
        labels=["lossless", "invented"], surgeon_route="surgeon", continue_cut=False, max_calls=5, ask_again=True
    )
    wrong = answer('{"city": "Turin"}')
    life = bench(wrong, wrong, small=[wrong], policy=policy)

    await life.start(response_format=FORMAT)

    error = told(life)["error"]
    assert error["missing_fields"] == ["/days"]
    assert error["rungs"] == ["r5_surgeon"]
    assert "the same error came twice" in error["message"]
    assert life.reply.headers[b"x-should-retry"] == b"false"
    assert len(life.rows) == 2


@pytest.mark.parametrize(
    ("limits", "calls"),
    [
        ({"max_calls": 1}, 1),
        ({"max_output_tokens": 10}, 1),
        ({"max_cost_micros": 1}, 1),
        ({}, 2),
    ],
)
async def test_repair_stays_within_what_it_may_cost(bench, limits, calls):
    """Calls, tokens and money each end it by themselves."""
    life = bench(
        *(answer(text, finish="length") for text in ('{"city"', ': "Tu', 'rin"')), policy=repair_policy(**limits)
    )

    await life.start(response_format=FORMAT)

    assert told(life)["error"]["code"] == "repair_failed"
    assert len(life.rows) == 1 + calls


async def test_lane_that_fails_in_a_repair_costs_a_rung_and_not_the_answer(bench):
    """The surgeon's provider is down; the model that answered is asked, and the answer comes."""
    policy = repair_policy(labels=["lossless", "invented"], surgeon_route="surgeon")
    down = UpstreamUnavailable("no", lane=SMALL, status=503)
    life = bench(answer('{"city": "Turin"}'), answer(GOOD), small=[down], policy=policy)

    await life.start(response_format=FORMAT)

    assert content(life) == GOOD
    assert [(row["lane"], row["outcome"]) for row in life.rows] == [
        (EU, "ok"),
        (SMALL, "upstream_unavailable"),
        (EU, "ok"),
    ]


async def test_arguments_of_a_tool_are_mended_and_no_call_is_dropped(bench):
    """Of two calls the second is broken: the first stays as it is, the second is called again by name."""
    broken = [("book", GOOD), ("book", '{"city": "Oslo"}')]
    life = bench(answer(tools=broken), answer(tools=[("book", '{"city": "Oslo", "days": 1}')]))

    await life.start(tools=[TOOL])

    calls = told(life)["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["arguments"] for call in calls] == [GOOD, '{"city": "Oslo", "days": 1}']
    assert [call["id"] for call in calls] == ["call_0", "call_1"]
    assert asked(life, 1)["tool_choice"] == {"type": "function", "function": {"name": "book"}}
    assert told(life)["choices"][0]["finish_reason"] == "tool_calls"


async def test_lane_without_a_mode_for_json_is_told_in_words(bench):
    """The schema is where the model sees it, and a lane that has the mode itself would have come first."""
    life = bench(answer(GOOD), capabilities=["chat"])

    await life.start(response_format=FORMAT)

    assert content(life) == GOOD
    body = asked(life, 0)
    assert "response_format" not in body
    assert '"days"' in body["messages"][0]["content"]


async def test_refusal_is_no_answer_to_mend(bench):
    """A model that declines is passed on as it is."""
    refused = {
        "choices": [{"message": {"role": "assistant", "content": None, "refusal": "No."}, "finish_reason": "stop"}]
    }
    life = bench(answer(**refused))

    await life.start(response_format=FORMAT)

    assert life.reply.data == answer(**refused)


# Streams.


def stream(*pieces, finish="stop", usage=True):
    """A stream of these pieces of text, in OpenAI's wire."""
    events = [event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])]
    events += [event(choices=[{"index": 0, "delta": {"content": piece}}]) for piece in pieces]
    events.append(event(choices=[{"index": 0, "delta": {}, "finish_reason": finish}]))
    if usage:
        events.append(event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 4}))
    return [*events, b"data: [DONE]\n\n"]


def streamed(life):
    """The text that went out in a stream, and the last chunk with an ending."""
    datas = [line[6:] for line in life.reply.data.split(b"\n") if line.startswith(b"data: {")]
    chunks = [json.loads(data) for data in datas]
    choices = [choice for chunk in chunks for choice in chunk.get("choices", [])]
    ends = [chunk for chunk in chunks if any(choice.get("finish_reason") for choice in chunk.get("choices", []))]
    return "".join(choice["delta"].get("content") or "" for choice in choices), (ends or [None])[-1]


@pytest.mark.parametrize("mode", ["incremental", "whole"])
async def test_stream_of_json_leaves_byte_by_byte(bench, mode):
    """In any mode, what the caller puts together is what the model wrote."""
    life = bench(stream(GOOD[:7], GOOD[7:12], GOOD[12:]), policy=repair_policy(streams=mode))

    await life.start(stream=True, response_format=FORMAT)

    text, end = streamed(life)
    assert text == GOOD
    assert "ballast" not in end
    assert life.reply.ended == 1
    assert life.reply.data.rstrip().endswith(b"data: [DONE]")


async def test_incremental_stream_passes_pieces_on_as_they_come(bench):
    """Each piece that is certain is out before the next is there, in the provider's own bytes."""
    life = bench(stream('{"city": "Turin', '", "days": 3}'), policy=repair_policy(streams="incremental"))

    await life.start(stream=True, response_format=FORMAT)

    assert life.contents()[:3] == [b"", b'{"city": "Turin', b'", "days": 3}']
    assert b'"delta": {"content": "{\\"city\\": \\"Turin"}' in life.reply.data


@pytest.mark.parametrize("mode", ["incremental", "whole"])
async def test_fence_never_leaves_in_a_stream(bench, mode):
    """What is around the JSON is dropped, and the end says what was done."""
    life = bench(stream("Sure!\n```js", f"on\n{GOOD[:9]}", GOOD[9:], "\n```\nBye"), policy=repair_policy(streams=mode))

    await life.start(stream=True, response_format=FORMAT)

    text, end = streamed(life)
    assert text == GOOD
    assert end["ballast"]["repair"][0]["rung"] == "r1_extract"


async def test_stream_held_back_is_mended_by_the_model_before_anything_leaves(bench):
    """The answer that is asked for again takes the place of the first, of which nothing went out."""
    life = bench(stream('{"city": "Tu', 'rin"}'), answer(GOOD))

    await life.start(stream=True, response_format=FORMAT)

    text, end = streamed(life)
    assert text == GOOD
    assert end["ballast"]["repair"][0]["rung"] == "r6_ask_again"
    assert life.reply.headers[b"ballast-repair"] == b"r6_ask_again; lossless"
    assert [row["kind"] for row in life.rows] == ["primary", "repair"]
    assert life.reply.ended == 1


async def test_stream_that_cannot_be_mended_ends_in_an_error_and_never_as_complete(bench):
    """What went out was the beginning of something else: one terminal event says that it is worth nothing."""
    policy = repair_policy(streams="incremental", max_calls=1)
    life = bench(stream('{"city": "Tu', 'rin"}'), answer('{"days": 3}'), policy=policy)

    await life.start(stream=True, response_format=FORMAT)

    text, end = streamed(life)
    assert text.startswith('{"city": "Tu')
    assert end is None
    assert b'"code":"repair_failed"' in life.reply.data
    assert life.reply.ended == 1
    assert b"[DONE]" not in life.reply.data


async def test_incremental_stream_goes_on_with_a_new_answer_that_begins_in_the_same_way(bench):
    """A model that answers with the same beginning and the missing field gives the rest."""
    policy = repair_policy(streams="incremental")
    life = bench(stream('{"city": "Turin"', ""), answer('{"city": "Turin", "days": 3}'), policy=policy)

    await life.start(stream=True, response_format=FORMAT)

    text, end = streamed(life)
    assert text == '{"city": "Turin", "days": 3}'
    assert end["choices"][0]["finish_reason"] == "stop"


async def test_provider_that_breaks_off_a_held_stream_is_replaced_unseen(make_document):
    """Nothing had gone out, so the next lane gives the whole answer."""
    table, gate = routing(repair_policy()), Gate()
    table["lanes"][SMALL]["capabilities"] = ["chat", "stream", "json_schema"]
    table["routes"]["chat"]["lanes"] = [EU, SMALL]
    cut = FakeExchange(stream('{"city"')[:2], gate, error=UpstreamInterrupted("no"))
    lanes = {EU: [cut], SMALL: [FakeExchange(stream(GOOD), gate)]}
    life = Bench(make_document(routing=table), lanes=lanes, gate=gate)

    await life.start(stream=True, response_format=FORMAT)

    assert streamed(life)[0] == GOOD
    assert life.reply.headers[b"ballast-lane"] == SMALL.encode()
    assert [row["outcome"] for row in life.rows] == ["upstream_interrupted", "ok"]


async def test_streamed_arguments_are_mended_too(bench):
    """Pieces of a tool call are read as they come; its name and id come once, its arguments are JSON."""
    pieces = [
        event(
            choices=[{"delta": {"role": "assistant", "tool_calls": [_piece(0, '{"city": ', id="call_1", name="book")]}}]
        ),
        event(choices=[{"delta": {"tool_calls": [_piece(0, "'Turin', 'days': 3,}")]}}]),
        event(choices=[{"delta": {}, "finish_reason": "tool_calls"}]),
        b"data: [DONE]\n\n",
    ]
    life = bench(pieces, policy=repair_policy(streams="incremental"))

    await life.start(stream=True, tools=[TOOL])

    datas = [json.loads(line[6:]) for line in life.reply.data.split(b"\n") if line.startswith(b"data: {")]
    calls = [call for data in datas for choice in data["choices"] for call in choice["delta"].get("tool_calls", ())]
    assert [call.get("id") for call in calls if call.get("id")] == ["call_1"]
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"city": "Turin", "days": 3}


def _piece(index, arguments, *, id=None, name=None):
    function = {"arguments": arguments} if name is None else {"name": name, "arguments": arguments}
    return {"index": index, "function": function} | ({} if id is None else {"id": id, "type": "function"})
