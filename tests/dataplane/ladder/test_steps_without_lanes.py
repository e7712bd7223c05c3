"""What the rungs do on which no lane is asked: a promise, signed words in the place of an answer, or none."""

from __future__ import annotations

import json

import pytest

from dataplane.errors.jobs import JobsUnavailable
from tests.dataplane.bench import FakeExchange, Gate
from tests.dataplane.conftest import threshold

from .steps_world import (
    AS_JSON,
    DETAIL,
    HTML,
    QUESTION,
    SAID,
    TOOLS,
    Promises,
)


# --- rung 4 -----------------------------------------------------------------------------------------------------------
async def test_rung_4_hands_the_request_over_as_it_was_asked(stand):
    """Whoever answers later does so as if nothing were engaged; no lane is asked now."""
    later = Promises()
    bench = stand(4, later=later)

    await bench.start(tools=TOOLS)

    ((chat, where),) = later.taken
    assert (chat.request.parameters["tools"], where.rung) == (TOOLS, 4)
    assert (bench.reply.status, bench.header["ballast-rung"]) == (202, "4")
    assert (bench.transport.calls, bench.holds) == ([], (0, 0))


@pytest.mark.parametrize("later", [None, Promises(JobsUnavailable("the database is away"))])
async def test_where_no_answer_can_come_later_the_request_is_shed(stand, later):
    """In the words of the rung, with the reason beside them for whoever reads logs."""
    bench = stand(4, later=later)

    await bench.start()

    error = bench.body["error"]
    assert (bench.reply.status, error["code"], error["message"], error["rung"]) == (503, "shed", DETAIL, 4)
    assert error["why"]
    assert bench.holds == (0, 0)


# --- rung 5 -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stream", [False, True])
async def test_rung_5_answers_known_questions_from_signed_copy(stand, stream):
    """No lane is asked; the answer says whose words it is and on which rung it is given."""
    bench = stand(5)

    await bench.start(messages=[{"role": "user", "content": QUESTION}], stream=stream)

    first = bench.chunks[0] if stream else bench.body
    text = b"".join(bench.contents()).decode() if stream else first["choices"][0]["message"]["content"]
    assert text == "Choose “Forgot password” on the sign-in page."
    assert first["ballast"] == SAID | {
        "rung": 5,
        "name": "Known answers only",
        "copy": "help-answers@2",
        "fallback": "cached",
        "score": 1.0,
    }
    assert (bench.header["ballast-fallback"], bench.header["ballast-rung"]) == ("cached", "5")
    assert (bench.transport.calls, bench.holds) == ([], (0, 0))


async def test_rung_5_answers_any_other_question_in_the_words_of_the_rung(stand):
    """In the caller's language, whole, and with all there is to show beside."""
    bench = stand(5)

    await bench.start(language="de-AT", messages=[{"role": "user", "content": "Wo ist mein Paket?"}])

    choice, said = bench.body["choices"][0], bench.body["ballast"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (DETAIL, "stop")
    assert (said["locale"], said["html"], said["copy"]) == ("de", '<p lang="de">Es ist sehr viel los.</p>', "rung-5@1")
    assert (said["fallback"], bench.header["ballast-fallback"]) == ("template", "template")
    assert bench.body["model"] == "copy:rung-5@1"
    assert bench.transport.calls == []


async def test_rung_5_knows_questions_by_meaning_where_the_route_has_them_learnt(stand):
    """The route's own stack names the copy and an embedding route; nothing else is asked of a lane."""
    vectors = json.dumps({"data": [{"index": index, "embedding": [1.0, 0.0]} for index in range(1)]}).encode()
    learnt = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]
    known = json.dumps({"data": [{"index": i, "embedding": one} for i, one in enumerate(learnt)]}).encode()
    german = json.dumps({"data": [{"index": 0, "embedding": [0.0, 1.0]}]}).encode()
    stack = {
        "answers": {"copy": "help-answers", "embedding_route": "vectors", "minimum_score": threshold(0.9)},
        "template": None,
        "outage": {"copy": "outage"},
    }
    document = {"route": {"fallback": "help"}, "routing": {"fallbacks": {"help": stack}}}
    answers = [FakeExchange((body,), Gate()) for body in (known, german, vectors)]
    bench = stand(5, document=document, lanes={"openai/eu/main/vectors": answers})
    assert await bench.known_questions.learn()

    await bench.start(messages=[{"role": "user", "content": "password gone, what now"}])

    assert bench.body["choices"][0]["message"]["content"] == "Choose “Forgot password” on the sign-in page."
    assert set(bench.transport.lanes) == {"openai/eu/main/vectors"}


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": AS_JSON},
        {"tools": TOOLS, "tool_choice": "required"},
        {"stream": True} | {"response_format": AS_JSON},
    ],
)
async def test_application_that_words_do_not_suit_is_shed_on_rung_5(stand, fields):
    """Who asked for JSON, or for a call, is never handed prose."""
    bench = stand(5)

    await bench.start(**fields)

    error = bench.body["error"]
    assert (bench.reply.status, error["code"], error["rung"]) == (503, "shed", 5)
    assert bench.transport.calls == []


# --- rung 6 -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stream", [False, True])
async def test_rung_6_says_in_signed_words_until_when_nothing_is_answered(stand, stream):
    """A stream is refused before it opens; reserved places do not help."""
    bench = stand(6, places={"vip": 40})

    await bench.start(stream=stream)

    error = bench.body["error"]
    assert (bench.reply.status, error["code"], error["message"]) == (503, "maintenance", DETAIL)
    assert {name: error[name] for name in SAID} == SAID | {"rung": 6, "name": "Maintenance", "copy": "rung-6@1"}
    assert (error["detail"], error["html"]) == (DETAIL, HTML)
    assert error["status_url"] == "https://gw.example/status/web-chat"
    assert (bench.header["retry-after"], bench.header["ballast-rung"]) == ("900", "6")
    assert (bench.transport.calls, bench.holds) == ([], (0, 0))
    assert bench.rollup()["errors"] == 1
