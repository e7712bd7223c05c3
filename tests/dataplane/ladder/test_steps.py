"""What the rungs on which lanes are asked do to a request on its way through the pipeline, and who is exempt."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from types import SimpleNamespace

import pytest

from dataplane.errors.upstream import UpstreamUnreachable
from dataplane.journey import Inbound
from tests.dataplane.bench import ANSWER, STREAM, WALL, FakeExchange, Gate
from tests.dataplane.conftest import CANARY
from tests.dataplane.eval_world import token_for
from tests.dataplane.shadow.shadow_world import shadow_policy, shadow_routing
from tests.ladders import rung_copy, rungs, surface

from .steps_world import (
    BANNER,
    CHEAP,
    CHEAP_US,
    DEAR,
    DEAR_US,
    DETAIL,
    EMBEDDING,
    HTML,
    PROMPT,
    QUESTION,
    SAID,
    TOOLS,
    Standing,
    ladder_document,
)


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
