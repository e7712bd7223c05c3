"""What each rung does to a request on its way through the pipeline, and that whoever entered the ladder leaves it."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.errors import JobsUnavailable, UpstreamUnreachable
from dataplane.journey import Inbound
from dataplane.release import parse_document
from tests.dataplane.bench import ANSWER, STREAM, WALL, FakeExchange, Gate
from tests.dataplane.conftest import CANARY, threshold
from tests.dataplane.eval_world import token_for
from tests.dataplane.shadow.shadow_world import shadow_policy, shadow_routing
from tests.dataplane.stream_world import calm, done
from tests.dataplane.virtual_time import in_virtual_time
from tests.ladders import rung_copy, rungs, surface

from .steps_world import (
    AS_JSON,
    BANNER,
    CHEAP,
    CHEAP_US,
    DEAR,
    DEAR_US,
    DETAIL,
    EMBEDDING,
    LANES,
    PIECES,
    QUESTION,
    TOOLS,
    Promises,
    Standing,
    ladder_document,
)

SAID = {
    "surface": "web-chat",
    "name": "Shorter answers",
    "rung": 1,
    "banner": BANNER,
    "locale": "en",
    "eta_seconds": 900,
    "copy": "rung-1@1",
}
HTML = '<p>We are <strong>very busy</strong>. See <a href="https://gw.example/status/web-chat">our status page</a>.</p>'
PROMPT = {"id": "support-answer", "variables": {"company": "Acme", "question": QUESTION}}


@pytest.fixture
def stand(make_document):
    """Makes pipelines whose surface stands on a rung."""

    def make(rung, *, document=None, **options):
        return Standing(ladder_document(make_document, **(document or {})), rung=rung, **options)

    return make


# --- rungs 0 to 3 -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stream", [False, True])
async def test_request_below_the_first_rung_is_served_as_if_there_were_no_ladder(stand, stream):
    """What goes out and what comes back are the caller's and the provider's own; the header says 0."""
    bench = stand(0, chunks=STREAM if stream else (ANSWER,))

    await bench.start(stream=stream)

    assert bench.header["ballast-rung"] == "0"
    assert bench.asked[0]["messages"] == [{"role": "user", "content": "Hello"}]
    if stream:
        assert not any("ballast" in chunk for chunk in bench.chunks)
    else:
        assert bench.reply.data == ANSWER
    assert bench.holds == (0, 0)


async def test_rung_1_asks_for_less_and_says_so_beside_the_answer(stand):
    """The model is told to be short, the answer is capped, and the caller reads the signed banner."""
    bench = stand(1)

    await bench.start(messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}])

    (asked,) = bench.asked
    assert [one["content"] for one in asked["messages"]] == ["Be kind.", "Answer in three sentences.", "Hello"]
    assert asked["max_completion_tokens"] == 200
    assert (bench.reply.status, bench.header["ballast-rung"]) == (200, "1")
    assert bench.body["ballast"] == SAID
    assert bench.body["choices"] == json.loads(ANSWER)["choices"]


async def test_stream_says_with_its_first_chunk_on_which_rung_it_is_served(stand):
    """The chunks after it are the provider's own bytes."""
    bench = stand(1, chunks=STREAM)

    await bench.start(stream=True, language="de")

    said = [chunk.get("ballast") for chunk in bench.chunks]
    assert said == [SAID | {"banner": "Web chat antwortet kürzer.", "locale": "de"}, None, None]
    assert bench.contents() == [b"Hello, ", b"you there", b""]
    assert bench.header["ballast-rung"] == "1"


async def test_managed_prompt_is_told_behind_its_own_instructions(stand):
    """The version that its cohort gets still decides; the rung adds to what it says."""
    bench = stand(1)

    await bench.start(prompt=PROMPT, messages=[])

    roles = [(one["role"], one["content"]) for one in bench.asked[0]["messages"]]
    assert roles == [
        ("system", "You help customers of Acme."),
        ("system", "Answer in three sentences."),
        ("user", QUESTION),
    ]
    assert bench.header["ballast-prompt"] == "support-answer@1"


async def test_rung_2_takes_tools_away_and_keeps_the_rung_below(stand):
    """The model is told so; words of rung 2 are what the caller reads."""
    bench = stand(2)

    await bench.start(tools=TOOLS, tool_choice="auto")

    (asked,) = bench.asked
    assert "tools" not in asked
    assert "tool_choice" not in asked
    assert [one["content"] for one in asked["messages"]] == [
        "Answer in three sentences.",
        "Tools are switched off; answer from what you know.",
        "Hello",
    ]
    assert (bench.header["ballast-rung"], bench.body["ballast"]["name"]) == ("2", "No tools")


@pytest.mark.parametrize("stream", [False, True])
async def test_request_that_only_a_call_answers_is_shed_in_signed_words(stand, stream):
    """It is told why and until when, an SDK does not come back by itself, and no lane is asked."""
    bench = stand(2, chunks=STREAM if stream else (ANSWER,))

    await bench.start(tools=TOOLS, tool_choice="required", stream=stream)

    error = bench.body["error"]
    assert (bench.reply.status, error["code"], error["message"]) == (503, "shed", DETAIL)
    assert error["why"] == "no tools are called now, and only a call of one would be an answer"
    assert (error["rung"], error["copy"], error["banner"], error["html"]) == (2, "rung-2@1", BANNER, HTML)
    assert error["status_url"] == "https://gw.example/status/web-chat"
    assert (bench.header["retry-after"], bench.header["x-should-retry"]) == ("900", "false")
    assert bench.header["ballast-rung"] == "2"
    assert (bench.transport.calls, bench.holds) == ([], (0, 0))


async def test_rung_3_asks_the_lanes_of_the_cheaper_route(stand):
    """Deadline and all that looks at the answer stay the route's own; what is below the rung stays too."""
    bench = stand(3)

    await bench.start(tools=TOOLS)

    assert bench.transport.lanes == [CHEAP]
    assert (bench.asked[0]["max_completion_tokens"], "tools" in bench.asked[0]) == (200, False)
    assert (bench.header["ballast-lane"], bench.header["ballast-rung"]) == (CHEAP, "3")
    assert bench.header["ballast-fallback"] == "none"
    assert bench.body["ballast"]["name"] == "Cheaper model"


async def test_request_that_may_go_to_no_cheaper_lane_stays_on_the_rung_below(stand):
    """A pin is kept on every rung: the lane is the route's own, and so the words are those of rung 2."""
    document = {"cheap": (CHEAP_US,)}
    pinned, free = stand(3, document=document), stand(3, document=document)

    await pinned.start(key="bk-acme")
    await free.start(key="bk-globex")

    assert (pinned.transport.lanes, free.transport.lanes) == ([DEAR], [CHEAP_US])
    assert (pinned.header["ballast-rung"], free.header["ballast-rung"]) == ("2", "3")
    assert (pinned.body["ballast"]["rung"], free.body["ballast"]["rung"]) == (2, 3)
    assert pinned.holds == free.holds == (0, 0)


async def test_where_no_rung_below_can_be_engaged_the_request_stands_on_none(stand):
    """Nothing of the ladder is done to it, and nothing said."""
    only = surface(rungs={"3": rungs()["3"]}, triggers={})
    bench = stand(3, document={"cheap": (CHEAP_US,), "ladder": {"web-chat": only}})

    await bench.start()

    assert (bench.transport.lanes, bench.header["ballast-rung"], bench.reply.data) == ([DEAR], "0", ANSWER)
    assert bench.holds == (0, 0)


async def test_rung_whose_words_nobody_signed_does_nothing_below_another_either(stand):
    """Tools stay where nobody signed what users would read of their absence."""
    signed = {slug: words for slug, words in rung_copy().items() if slug != "rung-2"}
    bench = stand(3, document={"copy": signed})

    await bench.start(tools=TOOLS)

    assert "tools" in bench.asked[0]
    assert bench.asked[0]["messages"][0]["content"] == "Answer in three sentences."
    assert bench.transport.lanes == [CHEAP]


async def test_degraded_answer_is_no_evidence_about_a_version(stand):
    """Below the first rung the same request is."""
    canary = {"support-answer-2": CANARY | {"reach": [CANARY["reach"][0] | {"weight": 5000}]}}
    counted = []
    for rung in (0, 1):
        bench = stand(rung, document={"canaries": canary})
        await bench.start(prompt=PROMPT, messages=[])
        assert bench.header["ballast-cohort"] in ("canary", "control")
        counted.append(len(bench.evidence.drain(is_last=True)))

    assert counted == [1, 0]


@pytest.mark.parametrize("stream", [False, True])
async def test_degraded_request_is_not_asked_again_by_a_shadow(make_document, stream):
    """Where capacity is short, nothing is asked twice to compare it; below the first rung it is."""
    trial = shadow_routing(shadow_policy(noise_lanes=()))
    document = ladder_document(make_document, route={"shadow": "trial"}, routing={"accounts": trial["accounts"]})
    routing = document["sections"]["routing"]
    routing |= {"shadows": trial["shadows"], "lanes": routing["lanes"] | trial["lanes"]}
    heard = []
    for rung in (0, 1, 3):
        shadows = SimpleNamespace(offer=heard.append)
        bench = Standing(document, rung=rung, shadows=shadows, chunks=STREAM if stream else (ANSWER,))
        await bench.start(stream=stream)
        assert bench.reply.status == 200

    assert [journey.stand.rung for journey in heard] == [0]


async def test_words_that_stand_in_for_an_answer_say_the_rung_too(stand):
    """`copy` is that of the words in the answer; the banner is the rung's."""
    fallback = {"answers": None, "template": {"copy": "template"}, "outage": {"copy": "outage"}}
    document = {"route": {"fallback": "help"}, "routing": {"fallbacks": {"help": fallback}}}
    bench = stand(1, document=document, failure=UpstreamUnreachable("nobody there", lane=DEAR))

    await bench.start()

    said = bench.body["ballast"]
    assert (said["fallback"], said["copy"], said["rung"], said["banner"]) == ("template", "template@2", 1, BANNER)
    assert bench.header["ballast-fallback"] == "template"


async def test_lane_that_fails_is_followed_by_the_next_which_says_the_rung(stand):
    """Only an answer that goes out says it, and it says it once."""
    lanes = {DEAR: [UpstreamUnreachable("nobody there", lane=DEAR)], DEAR_US: [FakeExchange(STREAM, Gate())]}
    bench = stand(1, lanes=lanes)

    await bench.start(key="bk-globex", stream=True)

    assert [chunk.get("ballast", {}).get("rung") for chunk in bench.chunks] == [1, None, None]
    assert (bench.header["ballast-lane"], bench.header["ballast-fallback"]) == (DEAR_US, "alternate")


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


# --- who is exempt ----------------------------------------------------------------------------------------------------
async def test_reserved_places_are_served_in_full_and_the_next_request_is_not(stand):
    """Both are the same tenant's; the place is free again once its holder has been answered."""
    held = Gate("read")
    bench = stand(
        3, places={"vip": 1}, lanes={DEAR: [FakeExchange((ANSWER,), held)], CHEAP: [FakeExchange((ANSWER,), Gate())]}
    )
    first = bench.start()
    place = bench.reply
    await held.reached.wait()

    await bench.start()
    assert (bench.header["ballast-rung"], bench.holds) == ("3", (1, 1))
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    bench.exchange_again(DEAR, FakeExchange((ANSWER,), Gate()))
    await bench.start()

    assert not place.opened
    assert (bench.header["ballast-rung"], bench.header["ballast-lane"], bench.holds) == ("0", DEAR, (0, 0))


async def test_eval_never_enters(stand, signing_key, trusted):
    """What it measures does not depend on the load."""
    bench = stand(6, trusted=trusted)

    await bench.start(key=token_for(signing_key, now=WALL))

    assert (bench.reply.status, bench.header["ballast-rung"], bench.reply.data) == (200, "0", ANSWER)


async def test_looking_at_a_request_beforehand_lets_nobody_in(stand):
    """A job is checked when it is handed in, and asked when it is run."""
    bench = stand(6)
    body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}).encode()

    bench.pipeline.check(Inbound("req_1", body, 0.0, "Bearer bk-acme"), path="/v1/chat/completions")

    assert bench.holds == (0, 0)


# --- embeddings -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rung", "status", "code"), [(1, 200, ""), (4, 200, ""), (5, 503, "shed"), (6, 503, "maintenance")]
)
async def test_embeddings_pass_as_long_as_anything_is_generated(stand, rung, status, code):
    """None is shorter or cheaper; what is asked of them goes out as it came."""
    bench = stand(rung, chunks=(EMBEDDING,))
    body = json.dumps({"model": "vectors", "input": "Hello"}).encode()
    started = asyncio.get_running_loop().time()

    await bench.pipeline.serve_embeddings(Inbound("req_1", body, started, "Bearer bk-acme"), bench.reply)

    assert (bench.reply.status, bench.header["ballast-rung"]) == (status, str(rung))
    assert (bench.reply.data == EMBEDDING) if status == 200 else bench.body["error"]["code"] == code
    assert bench.holds == (0, 0)


# --- whoever enters leaves --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rung", [0, 1, 3])
@pytest.mark.parametrize(
    ("place", "stream"),
    [
        ("send", False),
        ("read", False),
        ("send_whole", False),
        ("next_chunk", True),
        ("open_stream", True),
        ("send_events", True),
    ],
)
async def test_request_that_is_cancelled_anywhere_has_left(stand, rung, place, stream):
    """Its place is free, whatever it waited for."""
    gate = Gate(place)
    bench = stand(rung, gate=gate, chunks=PIECES if stream else (ANSWER,), places={"vip": 1} if rung == 1 else {})
    task = bench.start(stream=stream)
    await gate.reached.wait()
    assert bench.holds == (1, 1 if rung == 1 else 0)

    task.cancel()
    with suppress(asyncio.CancelledError):
        await done(task)

    assert bench.holds == (0, 0)


@pytest.mark.parametrize("place", ["send_whole", "open_stream", "send_events"])
async def test_caller_who_hangs_up_on_signed_words_has_left(stand, place):
    """Nothing of the ladder is held for whoever is gone."""
    gate = Gate(place)
    bench = stand(5, gate=gate)
    task = bench.start(stream=place != "send_whole")
    await gate.reached.wait()

    task.cancel()
    with suppress(asyncio.CancelledError):
        await done(task)

    assert bench.holds == (0, 0)


@in_virtual_time
async def test_request_whose_deadline_passes_has_left(stand):
    """It is told so as on any rung, and which one it was."""
    bench = stand(1, gate=Gate("read"), clock=asyncio.get_running_loop().time)

    await bench.start(deadline_ms="50")

    assert (bench.body["error"]["code"], bench.header["ballast-rung"]) == ("deadline_exceeded", "1")
    assert bench.holds == (0, 0)


@pytest.mark.parametrize("fields", [{"messages": []}, {"model": "nowhere"}, {"messages": [{"role": "user"}]}])
async def test_request_that_is_refused_before_its_route_is_known_never_entered(stand, fields):
    """A mistake is a mistake on every rung."""
    bench = stand(6)

    await bench.start(**fields)

    assert bench.body["error"]["code"] in ("invalid_request", "model_not_found")
    assert bench.holds == (0, 0)


async def test_words_are_those_of_the_release_that_the_ladder_follows(make_document):
    """A request that was admitted under the release before finds a rung that this had no words for, and no answers."""
    document = ladder_document(make_document, ladder={})
    document["sections"]["copy"] = {}
    bench = Standing(document, rung=5)
    bench.ladder.adopt(parse_document(ladder_document(make_document), digest="e" * 64))

    await bench.start(messages=[{"role": "user", "content": QUESTION}])

    assert bench.body["choices"][0]["message"]["content"] == DETAIL
    assert (bench.reply.status, bench.header["ballast-rung"], bench.body["ballast"]["copy"]) == (200, "5", "rung-5@1")


class Held(FakeExchange):
    """An answer that comes, or fails, when a test says so."""

    def __init__(self):
        super().__init__((ANSWER,), Gate())
        self.outcome = None

    async def read(self):
        self.outcome = asyncio.get_running_loop().create_future()
        await self.outcome
        return ANSWER


ENDS = {
    "answered": lambda outcome: outcome.set_result(None),
    "failed": lambda outcome: outcome.set_exception(UpstreamUnreachable("nobody there", lane=DEAR)),
}


@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["ask", "engage", "answered", "failed", "cancelled"]), st.integers(0, 6)), max_size=25
    )
)
def test_whoever_enters_leaves_whatever_becomes_of_the_others(make_document, moves):
    """Answered, failed, cancelled or served from signed copy, in any order and on any rungs: at the end nobody is in,
    and no place is taken.
    """

    async def live():
        held = [Held() for _ in range(4 * len(moves) + 1)]
        lanes = {lane: held[number :: len(LANES)] for number, lane in enumerate(LANES)}
        bench = Standing(ladder_document(make_document), places={"vip": 2}, lanes=lanes)
        tasks = []
        for move, number in moves:
            waiting = [one.outcome for one in held if one.outcome is not None and not one.outcome.done()]
            if move == "engage":
                bench.levels.engaged["web-chat"] = number
            elif move == "ask":
                tasks.append(bench.start(key=("bk-acme", "bk-globex")[number % 2]))
            elif move == "cancelled" and tasks:
                tasks[number % len(tasks)].cancel()
            elif move in ENDS and waiting:
                ENDS[move](waiting[number % len(waiting)])
            await calm(20)
            assert bench.holds[0] == sum(not task.done() for task in tasks)
            assert bench.holds[1] <= 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return bench.holds

    assert asyncio.run(live()) == (0, 0)
