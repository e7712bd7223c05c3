"""What requests count for and against a canary, each once, and whom they expose, however they come and end."""

from __future__ import annotations

import asyncio
import copy
import json
from contextlib import suppress

import pytest

from dataplane.cohorts import bucket
from dataplane.evidence import CELL
from dataplane.journey import Inbound
from dataplane.release import parse_document

from .bench import BODY, STREAM, Bench, FakeExchange, Gate
from .conftest import CANARY
from .key_world import KeyedWorld, streamed, whole
from .stream_world import FINISHED, FIRST, calm, done, say, until
from .stream_world import document_with as document_with_streams
from .test_failover import document_with as document_with_fallback
from .test_taking_up import cut, going_on
from .test_taking_up import whole as whole_stream
from .test_validating import CARD, CARDS, EU, JUDGE, JUDGED, answer, policy, rule, stream
from .test_validating import document_with as document_with_validators

PROMPT = {"id": "support-answer", "variables": {"company": "Acme", "question": "Why?"}}
SOURCES = [{"id": "faq", "text": "Refunds take 14 days."}]
GROUNDED = rule("grounded", "support", {"numbers": 1, "question": False}, on_failure="warn")


def salt_for(low, high):
    """A salt with which `ada` falls into a bucket of [low, high)."""
    return next(salt for salt in map(str, range(100_000)) if low <= bucket(salt, "ada") < high)


def with_canary(document, low=0, high=500, *, weight=500, pinnable=(1,)):
    """A release whose canary has this weight, and `ada` in a bucket of [low, high)."""
    document = copy.deepcopy(document)
    stage = CANARY["reach"][0] | {"weight": weight}
    canary = CANARY | {"salt": salt_for(low, high), "reach": [stage]}
    document["sections"]["canaries"] = {"support-answer-2": canary}
    document["sections"]["prompts"]["support-answer"]["pinnable"] = list(pinnable)
    return document


def counted(life):
    """What was counted, by arm, without what is zero; of one group at most."""
    found = {}
    for row in life.evidence.drain(is_last=True):
        ((_, *sums),) = row["cells"]
        found[row["arm"]] = {name: value for name, value in zip(CELL, sums, strict=True) if value}
    return found


def told(life):
    """Who was told of."""
    return [(row["arm"], row["version"], row["served"]) for row in life.evidence.drain_exposures()]


def without_time(sums):
    return {name: value for name, value in sums.items() if name != "log2_ms"}


GOOD = {"answerable": 1, "reached": 1, "cost_micros": 7_500_000, "timed": 1, "answered": 1}


@pytest.fixture
def bench(make_document):
    """Makes benches on a release with a canary."""

    def make(*, canary=None, **options):
        return Bench(with_canary(make_document(), **(canary or {})), **options)

    return make


@pytest.fixture
async def keyed_world(make_document, clock):
    """A fleet on one store of keys."""
    world = KeyedWorld(make_document, clock)
    yield world
    await world.end_all()


async def on_canary(world, make_document, *, pinnable=(1,), **options):
    """A process of `world` on a release with a canary that has `ada` in its arm."""
    life = await world.process("a", **options)
    document = with_canary(document_with_streams(make_document), pinnable=pinnable)
    life.current = parse_document(document, digest="d" * 64)
    life.evidence.adopt(life.current.canaries)
    return life


@pytest.fixture
def validated(make_document):
    """Makes benches on a release with a canary whose route has validators."""

    def make(validators, given, *, judgement=b"", words=True):
        document = with_canary(document_with_validators(make_document, validators, words=words))
        gate = Gate()
        chunks = given if isinstance(given, list) else [given]
        lanes = {EU: [FakeExchange(chunks, gate)], JUDGE: [FakeExchange([judgement], gate)]}
        return Bench(document, lanes=lanes, gate=gate)

    return make


@pytest.mark.parametrize(
    ("low", "arm", "version", "served"), [(0, "canary", 2, "candidate"), (5000, "control", 1, "control")]
)
async def test_answer_counts_in_the_arm_of_its_unit(bench, low, arm, version, served):
    """Fit, answerable, answered, timed, with what it cost; and its unit is told of with the version that it saw."""
    life = bench(canary={"low": low, "high": low + 500})

    await life.start(prompt=PROMPT)

    found = counted(life)
    assert without_time(found[arm]) == GOOD
    assert list(found) == [arm]
    assert told(life) == [(arm, version, served)]


async def test_stream_counts_once(bench):
    """From its start to its end, whoever reads it."""
    life = bench(chunks=STREAM)

    await life.start(prompt=PROMPT, stream=True)

    assert without_time(counted(life)["canary"]) == GOOD | {"cost_micros": life.rows[0]["cost_micros"]}


async def test_stream_that_lives_on_counts_once_when_it_ends(world, make_document):
    """A caller who leaves it, and reads on later, has not given anything up."""
    life = await on_canary(world, make_document)
    task, _ = await world.begin(life, "Hello, ", prompt=PROMPT)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    before = counted(life)

    life.source.feed(say("you"), *FINISHED)
    await until(lambda: life.rows)
    await calm()

    found = counted(life)["canary"]
    assert before == {}
    assert (found["reached"], found["answered"], found["timed"]) == (1, 1, 1)


async def test_refusal_is_an_answer_that_declines(validated):
    """It came whole from a lane, and validators leave it alone."""
    life = validated(policy(CARDS), answer(None, refusal="I will not"))

    await life.start(prompt=PROMPT)

    found = counted(life)["canary"]
    assert (found["answered"], found["refused"], found["timed"]) == (1, 1, 1)
    assert "validated" not in found


async def test_schema_is_counted_where_there_is_one(bench):
    """Checked, and not met: as telemetry has it."""
    schema = {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}
    life = bench()

    await life.start(
        prompt=PROMPT, response_format={"type": "json_schema", "json_schema": {"name": "t", "schema": schema}}
    )

    found = counted(life)["canary"]
    assert found["schema_checked"] == 1
    assert "schema_passed" not in found


@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("stream_it", [False, True])
async def test_blocked_answer_is_no_answer(validated, words, stream_it):
    """Neither answered nor timed; and an error only where no signed words took its place, or could any more."""
    given = stream("Your card is ", CARD) if stream_it else answer(f"Your card is {CARD}")
    life = validated(policy(CARDS, escalation="withheld" if words else None), given)

    await life.start(prompt=PROMPT, stream=stream_it)

    expected = {"answerable": 1, "reached": 1, "validated": 1, "blocked": 1}
    expected |= {"cost_micros": life.rows[0]["cost_micros"]} | ({} if words and not stream_it else {"errors": 1})
    assert counted(life) == {"canary": expected}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Refunds take 14 days.", {"validated": 1, "grounding_checked": 1, "grounded": 1}),
        ("Refunds take 30 days.", {"validated": 1, "grounding_checked": 1}),
    ],
)
@pytest.mark.parametrize("stream_it", [False, True])
async def test_grounding_is_what_the_rules_of_its_layer_say(validated, text, expected, stream_it):
    """A warning too says that an answer does not rest on its sources."""
    life = validated(policy(CARDS, GROUNDED), stream(text) if stream_it else answer(text))

    await life.start(prompt=PROMPT, sources=SOURCES, stream=stream_it)

    found = counted(life)["canary"]
    assert {name: found[name] for name in CELL[10:] if name in found} == expected
    assert found["answered"] == 1


async def test_grounding_that_cannot_be_said_is_not_counted(validated):
    """A rule without time to look abstains: the answer counts neither as grounded nor as not."""
    hurried = rule(
        "grounded",
        "support",
        {"numbers": 1, "question": False},
        on_failure="warn",
        on_error="open",
        budget_ms=0.000001,
    )
    life = validated(policy(hurried), answer("Refunds take 30 days. " * 500))

    await life.start(prompt=PROMPT, sources=SOURCES)

    found = counted(life)["canary"]
    assert found["validated"] == 1
    assert "grounding_checked" not in found


async def test_cost_is_that_of_all_attempts(validated):
    """Of the judge as well, whom the answer made necessary."""
    judgement = answer(json.dumps({"supported": True, "why": "it is"}))
    life = validated(policy(JUDGED), answer("Hello"), judgement=judgement)

    await life.start(prompt=PROMPT)

    assert len(life.rows) == 2
    assert counted(life)["canary"]["cost_micros"] == sum(row["cost_micros"] for row in life.rows)


@pytest.mark.parametrize("place", ["send", "read", "send_whole"])
async def test_caller_who_leaves_gives_up_the_answer_and_not_its_cost(bench, place):
    """It was fit to be served, and what was spent on it counts; one who has had all of it has been answered."""
    gate = Gate(place)
    life = bench(gate=gate)
    task = life.start(prompt=PROMPT)
    await gate.reached.wait()

    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    spent = sum(row["cost_micros"] for row in life.rows)
    expected = GOOD if place == "send_whole" else {"reached": 1} | ({"cost_micros": spent} if spent else {})
    assert without_time(counted(life)["canary"]) == expected


async def test_callers_own_mistake_counts_nothing_and_exposes_nobody(bench):
    """A variable is missing: no version was served."""
    life = bench()

    await life.start(prompt={"id": "support-answer", "variables": {}})

    assert life.reply.status == 400
    assert (counted(life), told(life)) == ({}, [])


async def test_failure_counts_as_one(bench):
    """Answerable, and not answered; its unit has been exposed all the same."""
    life = bench(chunks=(b"{}",), status=503)

    await life.start(prompt=PROMPT)

    assert counted(life) == {"canary": {"answerable": 1, "reached": 1, "errors": 1}}
    assert told(life) == [("canary", 2, "candidate")]


async def test_signed_copy_in_the_place_of_a_lane_is_an_error_of_the_version(make_document):
    """The caller is told something; whether the version works, that does not hide."""
    life = Bench(with_canary(document_with_fallback(make_document)), chunks=(b"{}",), status=503)

    await life.start(prompt=PROMPT)

    assert life.reply.headers[b"ballast-fallback"] == b"template"
    assert counted(life) == {"canary": {"answerable": 1, "reached": 1, "errors": 1}}


async def test_replay_of_a_key_counts_nothing(keyed_world, make_document):
    """What is executed once counts once, however many ask with its key, as a whole or as a stream."""
    world = keyed_world
    life = await on_canary(world, make_document, lanes={FIRST: [whole("Hi"), streamed("Hi")]})

    for key, fields in (("a", {}), ("b", {"stream": True})):
        for _ in range(3):
            await world.answered(world.ask(life, key, prompt=PROMPT, **fields))

    found = counted(life)["canary"]
    assert len(life.transport.calls) == 2
    assert (found["reached"], found["answered"], found["timed"]) == (2, 2, 2)
    assert told(life) == [("canary", 2, "candidate")]


async def test_question_without_a_unit_is_in_no_arm(bench):
    """It is served control, and compared with nobody."""
    life = bench()
    body = json.dumps(BODY | {"prompt": PROMPT}).encode()
    inbound = Inbound("req_1", body, asyncio.get_running_loop().time(), authorization="Bearer bk-acme")

    await life.pipeline.serve_chat(inbound, life.reply)

    assert life.reply.headers[b"ballast-cohort"] == b"control"
    assert (counted(life), told(life)) == ({}, [])


async def test_question_of_a_unit_outside_both_arms_counts_nothing(bench):
    """It is served what is live, as without a canary."""
    life = bench(canary={"low": 600, "high": 5000})

    await life.start(prompt=PROMPT)

    assert life.reply.status == 200
    assert (counted(life), told(life)) == ({}, [])


@pytest.mark.parametrize(
    ("low", "pinned", "expected"),
    [
        (0, 1, [("canary", 1, "control")]),
        (0, 2, []),
        (5000, 1, []),
        (5000, 2, [("control", 2, "candidate")]),
        (600, 2, []),
    ],
)
async def test_version_that_the_caller_names_counts_nothing(bench, low, pinned, expected):
    """It is outside the comparison; but a unit of an arm that saw the other arm's version is told of."""
    life = bench(canary={"low": low, "high": low + 400, "pinnable": (1, 2)})

    await life.start(prompt=PROMPT | {"version": pinned})

    assert life.reply.status == 200
    assert counted(life) == {}
    assert told(life) == expected


@pytest.mark.parametrize(
    ("low", "high", "arms"), [(0, 5000, ["canary"]), (5000, 7500, []), (7500, 10_000, ["control"])]
)
async def test_beyond_half_only_those_count_who_were_never_in_the_other_arm(bench, low, high, arms):
    """Who was control until the canary grew over them carries that over; and unequal arms are not held side by side."""
    life = bench(canary={"low": low, "high": high, "weight": 7500})

    await life.start(prompt=PROMPT)

    assert list(counted(life)) == arms
    assert told(life) == []


async def test_continuation_of_a_stream_counts_nothing(world, make_document):
    """It is the rest of an answer that has counted, and its caller named no version."""
    life = await on_canary(
        world, make_document, pinnable=(1, 2), lanes={FIRST: [cut("Hello, "), whole_stream("Hello, you there")]}
    )
    await life.start(stream=True, prompt=PROMPT)
    await world.pass_seconds(1)
    before, exposed = counted(life)["canary"], told(life)
    view = await life.streams.find(life.reply.headers[b"ballast-stream-id"].decode(), tenant="acme")

    reply, task = going_on(life, await life.streams.claim_continuation(view))
    await done(task)

    assert reply.status == 200
    assert (before["reached"], before["errors"]) == (1, 1)
    assert exposed == [("canary", 2, "candidate")]
    assert (counted(life), told(life)) == ({}, [])
