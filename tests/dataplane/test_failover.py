"""What one request does when lanes fail: the next lane, then signed copy, then an honest error; all of it on record."""

from __future__ import annotations

import asyncio
import json

import pytest

from dataplane.errors.upstream import UpstreamInterrupted, UpstreamUnreachable

from .bench import ANSWER, STREAM, Bench, FakeExchange, Gate
from .conftest import LANE, ROUTING, breaker_policy, copy_document, retry_policy, threshold
from .virtual_time import in_virtual_time

FIRST, SECOND, THIRD = "openai/eu/main/a", "openai/eu/main/b", "openai/us/main/c"
UNREACHABLE = UpstreamUnreachable("nobody there", lane=FIRST)
QUESTION = "How do I reset my password?"
SCHEMA = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
AS_JSON = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}


def document_with(make_document, *, route=None, fallback=True, template=True, embedding=None, retry=None, **policy):
    """A release whose route `chat` has three lanes with breakers, the third out of the first tenant's pin."""
    lane = LANE | {"breaker": "b"}
    lanes = {name: lane | {"model": name} for name in (FIRST, SECOND)}
    lanes[THIRD] = lane | {"model": THIRD, "residency": "us"}
    routes = {
        "chat": {
            "lanes": [FIRST, SECOND, THIRD],
            "deadline_ms": 30_000,
            "fallback": "help" if fallback else None,
            "retry": None if retry is None else "r",
            **(route or {}),
        }
    }
    answers = {"copy": "faq", "embedding_route": None, "minimum_score": None}
    if embedding is not None:
        lanes["embed"] = LANE | {"model": "e", "capabilities": ["embeddings"]}
        routes["embed"] = {"lanes": ["embed"], "deadline_ms": 5000}
        answers |= {"embedding_route": "embed", "minimum_score": threshold(embedding)}
    routing = ROUTING | {
        "lanes": lanes,
        "routes": routes,
        "breakers": {"b": breaker_policy(**policy)},
        "retries": {"r": retry_policy(**(retry or {}))},
        "fallbacks": {
            "help": {
                "answers": answers,
                "template": {"copy": "template"} if template else None,
                "outage": {"copy": "outage"},
            }
        },
    }
    copy = {
        slug: {"version": 2, "digest": "c" * 64, "document": copy_document(kind)}
        for slug, kind in (("faq", "answers"), ("template", "template"), ("outage", "outage"))
    }
    document = make_document(routing=routing, copy=copy)
    for tenant in document["sections"]["access"]["tenants"].values():
        tenant["residency"] = ["eu"]
    return document


@pytest.fixture
def life(make_document):
    """Makes benches; `lanes` says what each lane answers, `document` how the release differs."""

    def make(*, document=None, **options):
        options.setdefault("gate", Gate())
        return Bench(document_with(make_document, **(document or {})), **options)

    return make


def answer(gate, chunks=(ANSWER,), **options):
    return FakeExchange(chunks, gate, **options)


def ask(text=QUESTION):
    return [{"role": "user", "content": text}]


# --- lanes ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "outcome"),
    [(500, "upstream_unavailable"), (401, "upstream_auth_failed"), (429, "upstream_rate_limited")],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_next_lane_serves_when_one_fails(life, status, outcome, stream):
    """The caller gets the second lane's answer and its name; both attempts are billed, the second with its cause."""
    gate = Gate()
    good = answer(gate, STREAM if stream else (ANSWER,))
    bench = life(gate=gate, lanes={FIRST: [answer(gate, (b"{}",), status=status)], SECOND: [good]})

    await bench.start(stream=stream)

    assert bench.reply.status == 200
    assert bench.reply.headers[b"ballast-lane"] == SECOND.encode()
    assert bench.reply.headers[b"ballast-attempts"] == b"2"
    assert bench.reply.headers[b"ballast-fallback"] == b"alternate"
    first, second = bench.rows
    assert (first["kind"], first["attempt"], first["cause"], first["outcome"]) == ("primary", 1, "", outcome)
    assert (second["kind"], second["attempt"], second["cause"], second["outcome"]) == ("fallback", 2, outcome, "ok")
    assert bench.totals() == {
        "attempts": 2,
        "failures": int(status != 429),
        "throttled": int(status == 429),
        "requests": 1,
        "errors": 0,
        "fallbacks": 0,
    }


async def test_no_lane_outside_the_pin_is_tried_however_all_fail(life):
    """Residency is looked at before health: the third lane never hears of the request."""
    bench = life(failure=UNREACHABLE)

    await bench.start(messages=ask("Something nobody has written down"))

    assert bench.transport.lanes == [FIRST, SECOND]


@pytest.mark.parametrize("stream", [False, True])
async def test_callers_own_mistake_is_not_tried_elsewhere(life, stream):
    """A 400 would be a 400 anywhere."""
    bench = life(chunks=[b'{"error": {"message": "bad seed"}}'], status=400)

    await bench.start(stream=stream)

    assert bench.reply.status == 400
    assert bench.transport.lanes == [FIRST]
    assert bench.breakers.states()[0]["attempts"] == 0


async def test_stream_that_has_begun_is_not_begun_again(life):
    """Once the caller has a piece, a broken stream ends with an error event, and no other lane is called."""
    gate = Gate()
    bench = life(gate=gate, lanes={FIRST: [answer(gate, STREAM[:2], error=UpstreamInterrupted("cut", lane=FIRST))]})

    await bench.start(stream=True)

    assert bench.transport.lanes == [FIRST]
    last = bench.reply.data.split(b"\n\n")[-2]
    assert b'"code":"upstream_interrupted"' in last
    assert bench.reply.ended == 1
    assert bench.breakers.states()[0]["failures"] == 1


async def test_silent_stream_fails_over_within_the_first_token_limit(life):
    """A lane that accepts and says nothing is left after the route's limit; the caller sees the other's stream only."""
    gate = Gate("next_chunk")
    bench = life(
        document={"route": {"first_token_seconds": threshold(0.03)}},
        gate=gate,
        lanes={FIRST: [answer(gate, STREAM)], SECOND: [answer(Gate(), STREAM)]},
    )

    await bench.start(stream=True)

    assert bench.reply.headers[b"ballast-lane"] == SECOND.encode()
    assert bench.reply.data.endswith(b"data: [DONE]\n\n")
    assert [row["outcome"] for row in bench.rows] == ["upstream_timeout", "ok"]
    assert bench.totals()["timeouts"] == 1


async def test_slow_whole_answer_fails_over_within_its_limit(life):
    """The same for an answer that comes in one piece."""
    gate = Gate("read")
    bench = life(
        document={"route": {"whole_answer_seconds": threshold(0.03)}},
        gate=gate,
        lanes={FIRST: [answer(gate)], SECOND: [answer(Gate())]},
    )

    await bench.start()

    assert (bench.reply.status, bench.reply.data) == (200, ANSWER)
    assert [row["outcome"] for row in bench.rows] == ["upstream_timeout", "ok"]


async def test_stream_that_drags_before_anything_is_out_is_left(life):
    """With tokens held back, a lane slower than its floor is left before the caller has seen any of them."""
    gate = Gate("next_chunk", turn=2)
    bench = life(
        document={"route": {"held_tokens": 10}, "drain_tokens_per_second": 400},
        gate=gate,
        lanes={FIRST: [answer(gate, STREAM)], SECOND: [answer(Gate(), STREAM)]},
    )

    await bench.start(stream=True)

    assert bench.reply.headers[b"ballast-lane"] == SECOND.encode()
    assert bench.reply.data.count(b"Hello, ") == 1
    assert [row["outcome"] for row in bench.rows] == ["upstream_timeout", "ok"]


async def test_held_tokens_are_all_delivered_once_they_came_fast_enough(life):
    """Holding back loses and repeats nothing."""
    bench = life(document={"route": {"held_tokens": 3}}, chunks=STREAM)

    await bench.start(stream=True)

    ids = [int(line[4:]) for line in bench.reply.data.split(b"\n") if line.startswith(b"id: ")]
    assert ids == list(range(1, len(ids) + 1))
    assert b"".join(bench.contents()) == b"Hello, you there"


async def test_open_breaker_spares_its_lane_and_the_caller(life):
    """After enough failures the lane is not called any more, and the next one is the first attempt."""
    gate = Gate()
    bench = life(document={"minimum_attempts": 2}, gate=gate, lanes={FIRST: [UNREACHABLE], SECOND: [answer(gate)]})
    for _ in range(3):
        bench.exchange_again(SECOND, answer(gate))
        await bench.start()

    assert bench.transport.lanes == [FIRST, SECOND, FIRST, SECOND, SECOND]
    assert bench.reply.headers[b"ballast-attempts"] == b"1"
    assert bench.reply.headers[b"ballast-fallback"] == b"alternate"
    (changed,) = bench.events
    assert (changed.lane, changed.after) == (FIRST, "open")


async def test_route_with_nothing_below_goes_on_using_its_last_lane(life):
    """Every breaker is open and no copy is signed for it: an attempt that may fail is better than an error at once."""
    gate = Gate()
    bench = life(document={"fallback": False, "minimum_attempts": 1}, gate=gate, failure=UNREACHABLE)
    await bench.start()
    assert [state["state"] for state in bench.breakers.states()[:2]] == ["open", "open"]
    bench.exchange_again(FIRST, answer(gate))

    await bench.start()

    assert bench.reply.status == 200
    assert bench.transport.lanes == [FIRST, SECOND, FIRST]
    assert bench.breakers.states()[0]["state"] == "open"


@pytest.mark.parametrize("place", ["send", "read"])
async def test_caller_who_leaves_counts_neither_way_and_returns_the_permit(life, place):
    """Cancelled at any wait: the breaker has seen nothing, the attempt is recorded as cancelled."""
    bench = life(gate=Gate(place))
    task = bench.start()
    await bench.gate.reached.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    assert bench.breakers.states()[0]["attempts"] == 0
    assert [row["outcome"] for row in bench.rows] == ["cancelled"]
    assert bench.totals()["failures"] == 0


AGAIN_AT_ONCE = {"base_seconds": 0.001, "cap_seconds": 0.001, "floor_seconds": 0.001, "least_seconds": 0.001}


async def test_same_lane_is_tried_again_before_the_next(life):
    """Two attempts on the first lane, then the second; each row says what kind of attempt it was and why."""
    gate = Gate()
    bench = life(
        document={"retry": AGAIN_AT_ONCE},
        gate=gate,
        lanes={FIRST: [UNREACHABLE], SECOND: [answer(gate)]},
    )

    await bench.start()

    assert bench.transport.lanes == [FIRST, FIRST, SECOND]
    assert bench.reply.headers[b"ballast-attempts"] == b"3"
    assert bench.reply.status == 200
    assert [(row["kind"], row["attempt"], row["cause"]) for row in bench.rows] == [
        ("primary", 1, ""),
        ("retry", 2, "upstream_unreachable"),
        ("fallback", 3, "upstream_unreachable"),
    ]


async def test_retry_on_the_same_lane_may_be_all_it_takes(life):
    """A connection that broke once: the caller never hears of it."""
    gate = Gate()
    bench = life(document={"retry": AGAIN_AT_ONCE}, gate=gate, lanes={FIRST: [UNREACHABLE, answer(gate)]})

    await bench.start()

    assert bench.reply.headers[b"ballast-lane"] == FIRST.encode()
    assert bench.reply.headers[b"ballast-fallback"] == b"none"
    assert [row["outcome"] for row in bench.rows] == ["upstream_unreachable", "ok"]


async def test_lane_that_opens_during_the_wait_is_not_tried_again(life):
    """The breaker has the last word between two attempts."""
    gate = Gate()
    bench = life(
        document={"retry": AGAIN_AT_ONCE, "minimum_attempts": 1},
        gate=gate,
        lanes={FIRST: [UNREACHABLE], SECOND: [answer(gate)]},
    )

    await bench.start()

    assert bench.transport.lanes == [FIRST, SECOND]


@in_virtual_time
async def test_deadline_covers_the_waits_between_attempts(life):
    """A wait is cut by the deadline like everything else, and every attempt made is on record."""
    bench = life(
        document={"retry": {"base_seconds": 60, "cap_seconds": 60, "least_seconds": 0.001}, "fallback": False},
        failure=UNREACHABLE,
        clock=asyncio.get_running_loop().time,
    )

    await bench.start(deadline_ms="60")

    assert bench.reply.status == 502
    assert bench.transport.lanes == [FIRST, SECOND]
    assert len(bench.rows) == 2


async def test_work_with_effects_at_the_provider_is_not_repeated_and_says_so(life):
    """One attempt, and a hint that keeps the SDK from repeating it either."""
    tools = [{"type": "web_search", "function": {"name": "web_search"}}]
    bench = life(document={"fallback": False}, chunks=(b"{}",), status=503)

    await bench.start(tools=tools)

    assert bench.transport.lanes == [FIRST]
    assert bench.reply.headers[b"x-should-retry"] == b"false"


async def test_callers_word_about_its_tools_stays_here(life):
    """`tool_effects` allows another attempt, and is not passed to any provider."""
    gate = Gate()
    bench = life(gate=gate, lanes={FIRST: [answer(gate, (b"{}",), status=503)], SECOND: [answer(gate)]})

    await bench.start(tools=[{"type": "web_search", "function": {"name": "w"}}], tool_effects="idempotent")

    assert bench.transport.lanes == [FIRST, SECOND]
    assert all(b"tool_effects" not in call.body for call, _, _ in bench.transport.calls)


# --- signed copy ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("question", [QUESTION, "  how do I RESET my password ", "I forgot my password."])
async def test_known_question_is_answered_from_signed_copy(life, question):
    """With every lane down, a question that is written like a known one gets its signed answer, and says so."""
    bench = life(failure=UNREACHABLE)

    await bench.start(messages=ask(question))

    body = json.loads(bench.reply.data)
    assert bench.reply.status == 200
    assert bench.reply.headers[b"ballast-fallback"] == b"cached"
    assert b"ballast-lane" not in bench.reply.headers
    assert body["choices"][0]["message"]["content"] == "Choose “Forgot password” on the sign-in page."
    assert body["ballast"] == {"fallback": "cached", "copy": "faq@2", "locale": "en", "score": 1.0}
    assert bench.totals() == {
        "attempts": 2,
        "failures": 2,
        "throttled": 0,
        "requests": 1,
        "errors": 0,
        "fallbacks": 1,
    }


async def test_signed_answer_comes_as_a_stream_to_who_asked_for_one(life):
    """Numbered events, one terminal, the same header."""
    bench = life(failure=UNREACHABLE)

    await bench.start(stream=True, stream_options={"include_usage": True}, messages=ask())

    assert bench.reply.headers[b"ballast-fallback"] == b"cached"
    assert b"".join(bench.contents()) == "Choose “Forgot password” on the sign-in page.".encode()
    assert bench.reply.data.count(b"[DONE]") == 1
    assert b'"total_tokens":0' in bench.reply.data
    assert bench.reply.ended == 1


@pytest.mark.parametrize(("language", "words"), [("de-DE,de;q=0.9,en;q=0.5", "Täglich"), ("fr", "Every day")])
async def test_copy_speaks_the_callers_language_where_it_was_written_in_it(life, language, words):
    """Accept-Language chooses; a language that nobody signed falls back to the default."""
    bench = life(failure=UNREACHABLE)

    await bench.start(
        messages=ask("Wann haben Sie geöffnet?" if language[0] == "d" else "When are you open?"), language=language
    )

    assert words.encode() in bench.reply.data


async def test_unknown_question_gets_the_template(life):
    """No known answer: the same honest words for everybody, with the time until the next try filled in."""
    bench = life(failure=UNREACHABLE, document={"minimum_attempts": 1})

    await bench.start(messages=ask("What is the meaning of life?"))

    assert bench.reply.headers[b"ballast-fallback"] == b"template"
    content = json.loads(bench.reply.data)["choices"][0]["message"]["content"]
    assert content == "chat is back in 1 minutes."


async def test_conversation_that_went_on_is_not_answered_as_a_first_question(life):
    """The same words in the middle of a conversation may mean something else."""
    bench = life(failure=UNREACHABLE)

    await bench.start(messages=[*ask("Hello"), {"role": "assistant", "content": "Hi"}, *ask()])

    assert bench.reply.headers[b"ballast-fallback"] == b"template"


async def test_caller_of_a_schema_gets_copy_of_that_schema(life):
    """Never prose to a program that parses: the signed JSON, where it satisfies the schema."""
    bench = life(failure=UNREACHABLE)

    await bench.start(messages=ask(), response_format=AS_JSON)

    content = json.loads(bench.reply.data)["choices"][0]["message"]["content"]
    assert json.loads(content) == {"answer": "Choose “Forgot password” on the sign-in page."}


async def test_caller_of_another_schema_gets_an_honest_error(life):
    """No signed JSON fits, so neither rung is used and the notice says what is the matter."""
    schema = {"type": "object", "required": ["price"]}
    bench = life(failure=UNREACHABLE)

    await bench.start(
        messages=ask(), response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": schema}}
    )

    assert bench.reply.status == 502
    assert bench.reply.headers[b"ballast-fallback"] == b"outage"


async def test_outage_names_the_cause_in_signed_words_with_an_eta(life):
    """The error keeps its code, carries the words, the copy's version and Retry-After; never an empty 503."""
    bench = life(failure=UNREACHABLE, document={"template": False, "open_seconds": 90, "max_open_seconds": 90})

    await bench.start(messages=ask("What is the meaning of life?"))

    error = json.loads(bench.reply.data)["error"]
    assert bench.reply.status == 502
    assert error["code"] == "upstream_unreachable"
    assert error["message"] == "chat is back in 2 minutes."
    assert error["detail"] == "nobody there"
    assert (error["eta_seconds"], error["copy"], error["locale"]) == (90, "outage@2", "en")
    assert bench.reply.headers[b"retry-after"] == b"90"
    assert bench.totals()["errors"] == 1


async def test_route_with_every_breaker_open_answers_from_copy_without_an_attempt(life):
    """Held open by an operator: nothing is called, the caller gets signed words, and the hold's end is the ETA."""
    bench = life(document={"template": False})
    bench.hold_open(FIRST, SECOND, seconds=300)

    await bench.start(messages=ask("What is the meaning of life?"))

    error = json.loads(bench.reply.data)["error"]
    assert (bench.reply.status, error["code"], error["eta_seconds"]) == (503, "circuit_open", 300)
    assert "held open by an operator" in error["detail"]
    assert bench.reply.headers[b"ballast-attempts"] == b"0"
    assert bench.transport.calls == []
    assert bench.rows == []


async def test_lane_that_cannot_carry_the_request_is_no_reason_to_come_back_soon(make_document):
    """It is up and first in line after the one that is held, but for shorter conversations."""
    document = document_with(make_document, template=False)
    document["sections"]["routing"]["lanes"][SECOND]["context_tokens"] = 1
    bench = Bench(document, gate=Gate())
    bench.hold_open(FIRST, seconds=300)

    await bench.start(messages=ask("What is the meaning of life?"))

    error = json.loads(bench.reply.data)["error"]
    assert (bench.reply.status, error["code"], error["eta_seconds"]) == (503, "circuit_open", 300)
    assert SECOND not in error["detail"]
    assert bench.transport.calls == []


async def test_route_without_a_stack_says_which_lanes_are_held_back(life):
    """No copy below: the plain error names every lane and why."""
    bench = life(document={"fallback": False})
    bench.hold_open(FIRST, SECOND, seconds=300)

    await bench.start()

    error = json.loads(bench.reply.data)["error"]
    assert (bench.reply.status, error["code"]) == (503, "circuit_open")
    assert FIRST in error["message"]
    assert SECOND in error["message"]


@in_virtual_time
async def test_deadline_that_passes_at_the_providers_is_answered_from_copy(life):
    """The caller hears signed words right after its deadline instead of nothing."""
    bench = life(gate=Gate("send"), clock=asyncio.get_running_loop().time)

    await bench.start(deadline_ms="30", messages=ask())

    assert bench.reply.headers[b"ballast-fallback"] == b"cached"
    assert [row["outcome"] for row in bench.rows] == ["deadline_exceeded"]


def vectors(*pairs):
    rows = [{"index": index, "embedding": list(pair)} for index, pair in enumerate(pairs)]
    return json.dumps({"data": rows, "usage": {"prompt_tokens": 2, "total_tokens": 2}}).encode()


@pytest.mark.parametrize(("near", "rung"), [((0.9, 0.1), b"cached"), ((0.6, 0.8), b"template")])
async def test_question_of_the_same_meaning_is_answered_above_the_score_only(life, near, rung):
    """Learnt while all was well, compared when it is not: above 0.9 the signed answer, below it the template."""
    gate = Gate()
    learnt = vectors((1, 0), (1, 0), (0, -1))
    bench = life(
        document={"embedding": 0.9},
        gate=gate,
        failure=UNREACHABLE,
        lanes={"embed": [answer(gate, (one,)) for one in (learnt, vectors((0, -1)), vectors(near))]},
    )
    assert await bench.known_questions.learn()

    await bench.start(messages=ask("My password is gone, what now?"))

    assert bench.reply.headers[b"ballast-fallback"] == rung
    assert [row["lane"] for row in bench.rows] == ["embed", "embed", FIRST, SECOND, "embed"]
    assert {row["tenant"] for row in bench.rows[:2]} == {"ballast"}


async def test_embedding_lane_that_is_down_leaves_the_exact_match(life):
    """Meaning needs a lane; the same spelling needs none."""
    bench = life(document={"embedding": 0.9}, failure=UNREACHABLE)
    assert not await bench.known_questions.learn()

    await bench.start(messages=ask())

    assert bench.reply.headers[b"ballast-fallback"] == b"cached"
