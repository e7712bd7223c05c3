"""One request with fields that not every lane can carry: where it goes, what its caller and the metrics are told."""

from __future__ import annotations

import json

import pytest

from .bench import ANSWER, BODY, STREAM, Bench, FakeExchange, Gate
from .conftest import LANE, ROUTING, TENANT, US_LANE

OPENAI, CLAUDE, ROOMY = "openai/eu-west/main/gpt-4o", "anthropic/us-east/claude/claude", "openai/eu-west/main/roomy"
CLAUDE_ANSWER = json.dumps(
    {
        "id": "msg",
        "model": "claude",
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    }
).encode()


@pytest.fixture
def bench(make_document):
    """Makes benches whose lanes answer with these (status, body), and whose route is these lanes with this policy."""

    def make(order, answers, *, route=None, **lanes):
        document = make_document(
            access={
                "tenants": {"acme": TENANT | {"residency": []}},
                "keys": make_document()["sections"]["access"]["keys"],
            },
            routing=ROUTING
            | {
                "lanes": {
                    OPENAI: LANE | lanes.get("openai", {}),
                    CLAUDE: US_LANE | lanes.get("claude", {}),
                    ROOMY: LANE | {"model": "roomy"} | lanes.get("roomy", {}),
                },
                "routes": {"chat": {"lanes": list(order), "deadline_ms": 30_000, **(route or {})}},
            },
        )
        gate = Gate()
        given = {
            lane: [FakeExchange([body] if isinstance(body, bytes) else body, gate, status=status)]
            for lane, (status, body) in answers.items()
        }
        return Bench(document, gate=gate, lanes=given)

    return make


def told(life, name):
    return life.reply.headers.get(name)


def error_of(life):
    return json.loads(life.reply.data)["error"]


def counted(life):
    lines = life.metrics.render().decode().splitlines()
    return sorted(line for line in lines if line.startswith("ballast_gateway_request_fields_total"))


async def test_what_was_not_sent_is_told_and_counted(bench):
    """Dropped and adjusted, in the order in which the caller gave them; nothing where all of it went."""
    life = bench([CLAUDE], {CLAUDE: (200, CLAUDE_ANSWER)})
    plain = bench([OPENAI], {OPENAI: (200, STREAM)})

    await life.start(seed=1, logit_bias={"1": 2}, temperature=2, user="ada")
    await plain.start(seed=1, logit_bias={"1": 2}, temperature=2, user="ada", stream=True)

    assert life.reply.status == 200
    assert told(life, b"ballast-dropped") == b"seed, logit_bias, user"
    assert told(life, b"ballast-adjusted") == b"temperature"
    assert counted(life) == [
        f'ballast_gateway_request_fields_total{{field="{name}",lane="{CLAUDE}",what="{what}"}} 1.0'
        for name, what in (
            ("logit_bias", "dropped"),
            ("seed", "dropped"),
            ("temperature", "adjusted"),
            ("user", "dropped"),
        )
    ]
    assert plain.reply.status == 200
    assert (told(plain, b"ballast-dropped"), told(plain, b"ballast-adjusted"), counted(plain)) == (None, None, [])


async def test_only_the_lane_that_answers_says_what_it_was_not_sent(bench):
    """The first lane failed, so what it was not sent has nothing to do with the answer."""
    life = bench([CLAUDE, OPENAI], {CLAUDE: (500, b"{}"), OPENAI: (200, ANSWER)})

    await life.start(seed=1)

    assert (told(life, b"ballast-lane"), told(life, b"ballast-dropped")) == (OPENAI.encode(), None)


async def test_field_that_a_lane_cannot_carry_takes_the_request_to_one_that_can(bench):
    """It is no fallback: the lane that cannot was none for this request. Without another, field and lane are named."""
    both = bench([CLAUDE, OPENAI], {OPENAI: (200, ANSWER)})
    alone = bench([CLAUDE], {CLAUDE: (200, CLAUDE_ANSWER)})

    await both.start(brand_new={"a": 1})
    await alone.start(brand_new={"a": 1})

    assert (both.transport.lanes, told(both, b"ballast-fallback")) == ([OPENAI], b"none")
    assert json.loads(both.transport.calls[0][0].body)["brand_new"] == {"a": 1}
    assert (alone.reply.status, alone.transport.calls) == (400, [])
    assert (error_of(alone)["code"], error_of(alone)["param"]) == ("invalid_request", "brand_new")
    assert CLAUDE in error_of(alone)["message"]


async def test_lane_that_cannot_carry_a_field_is_passed_over_when_the_first_one_failed(bench):
    """With nothing sent to it; the failure of the first stays what the caller hears when nobody else is left."""
    three = bench([OPENAI, CLAUDE, ROOMY], {OPENAI: (500, b"{}"), ROOMY: (200, ANSWER)})
    two = bench([OPENAI, CLAUDE], {OPENAI: (500, b"{}")})

    await three.start(brand_new=1)
    await two.start(brand_new=1)

    assert (three.reply.status, three.transport.lanes) == (200, [OPENAI, ROOMY])
    assert (told(three, b"ballast-fallback"), told(three, b"ballast-attempts")) == (b"alternate", b"2")
    assert (error_of(two)["code"], two.transport.lanes) == ("upstream_unavailable", [OPENAI])


async def test_strict_route_refuses_unknown_fields_whatever_its_lanes(bench):
    """`unknown_fields: refuse`, and nothing was sent."""
    life = bench([OPENAI], {OPENAI: (200, ANSWER)}, route={"unknown_fields": "refuse"})

    await life.start(brand_new=1)
    refused = error_of(life)
    await life.start(seed=1)

    assert (refused["code"], refused["param"]) == ("invalid_request", "brand_new")
    assert (life.reply.status, len(life.transport.calls)) == (200, 1)


TOO_LONG = {"message": "This model's maximum context length is 9 tokens.", "code": "context_length_exceeded"}


async def test_conversation_too_long_for_one_lane_is_tried_on_a_larger_one_and_no_smaller(bench):
    """The vendor counts better than we do. Its words come back when nobody else has more room."""
    answers = {
        OPENAI: (400, json.dumps({"error": TOO_LONG}).encode()),
        CLAUDE: (200, CLAUDE_ANSWER),
        ROOMY: (200, ANSWER),
    }
    sizes = {"openai": {"context_tokens": 1000}, "claude": {"context_tokens": 1000}, "roomy": {"context_tokens": 2000}}
    helped = bench([OPENAI, CLAUDE, ROOMY], answers, **sizes)
    stuck = bench([OPENAI, CLAUDE], answers, **sizes)

    await helped.start()
    await stuck.start()

    assert (helped.reply.status, helped.transport.lanes) == (200, [OPENAI, ROOMY])
    assert [row["outcome"] for row in helped.rows] == ["context_length_exceeded", "ok"]
    assert (stuck.reply.status, stuck.transport.lanes) == (400, [OPENAI])
    assert (error_of(stuck)["code"], error_of(stuck)["param"]) == ("context_length_exceeded", "messages")
    assert error_of(stuck)["message"] == TOO_LONG["message"]


async def test_conversation_that_is_clearly_too_long_is_sent_nowhere(bench):
    """Nobody is billed for finding out."""
    life = bench([OPENAI], {OPENAI: (200, ANSWER)}, openai={"context_tokens": 100})

    await life.start(messages=[BODY["messages"][0] | {"content": "word " * 200}])

    assert (error_of(life)["code"], life.transport.calls) == ("context_length_exceeded", [])


@pytest.mark.parametrize(
    ("lane", "error"),
    [
        (OPENAI, {"code": "content_policy_violation", "message": "Your request was rejected by our safety system."}),
        (OPENAI, {"code": "content_filter", "message": "The response was filtered due to the prompt triggering ..."}),
        (CLAUDE, {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"}),
    ],
)
async def test_conversation_that_a_filter_refused_is_not_taken_round_it(bench, lane, error):
    """One code for all vendors, and no other lane."""
    life = bench([lane, ROOMY], {lane: (400, json.dumps({"error": error}).encode()), ROOMY: (200, ANSWER)})

    await life.start()

    assert (error_of(life)["code"], error_of(life)["param"]) == ("content_filter", "messages")
    assert life.transport.lanes == [lane]


@pytest.mark.parametrize(("lane", "began"), [(OPENAI, 0), (OPENAI, 1), (CLAUDE, 0)])
async def test_filter_that_steps_in_within_a_stream_is_not_gone_round_either(bench, lane, began):
    """Before the first word it is a plain error, after it the stream says so and ends."""
    event = {"type": "error", "error": {"code": "content_filter", "message": "The response was filtered"}}
    data = [*STREAM[:began], b"data: " + json.dumps(event).encode() + b"\n\n"]
    life = bench([lane, ROOMY], {lane: (200, data), ROOMY: (200, STREAM)})

    await life.start(stream=True)

    assert life.transport.lanes == [lane]
    assert life.reply.status == (200 if began else 400)
    last = json.loads(life.reply.data.rstrip().rpartition(b"data: ")[2]) if began else json.loads(life.reply.data)
    assert last["error"].get("reason" if began else "code") == "content_filter"
    assert b"[DONE]" not in life.reply.data
