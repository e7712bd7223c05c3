"""Answers held against the validators of their route: what callers get in the place of what they must not have."""

from __future__ import annotations

import copy
import json

import pytest

from dataplane.documents import MalformedRelease
from dataplane.release import parse_document
from dataplane.validators.pace import BOUNDS

from .bench import Bench, FakeExchange, Gate, event
from .conftest import LANE, ROUTING, copy_document, repair_policy, threshold

EU = "openai/eu-west/main/gpt-4o"
JUDGE = "openai/eu-west/main/judge"
CARD = "4111 1111 1111 1111"
KEY = "sk-proj-" + "Qx7Lm2VtR9zKc4Nw8Jp5Yh3Bd6Gf1Sa0TuEoWiXvMkZqPrLy"


def rule(id, kind, params, *, on_failure="block", on_error="closed", budget_ms=1000, **more):
    """One rule as a release carries it."""
    return {
        "id": id,
        "version": 3,
        "kind": kind,
        "on_failure": on_failure,
        "on_error": on_error,
        "budget_ms": threshold(budget_ms),
        "params": params,
        **more,
    }


CARDS = rule("no-cards", "pii", {"classes": ["card"]})
REMOVED = rule("no-mail", "pii", {"classes": ["email"], "replacement": "[mail]"}, on_failure="repair")
POLITE = rule(
    "greets", "pattern", {"pattern": "(?i)hello", "expect": "must_match", "what": "a greeting"}, on_failure="warn"
)
JUDGED = rule("supported", "judge", {"route": "judge"}, budget_ms=30_000)


def policy(*rules, streams="window", escalation=None, window=400):
    return {
        "rules": list(rules),
        "streams": streams,
        "window_characters": threshold(window),
        "escalation": escalation,
        "regulated": False,
    }


def document_with(make_document, validators, *, repair=None, words=True):
    """A release whose route `chat` has this policy."""
    table = copy.deepcopy(ROUTING)
    table["lanes"][JUDGE] = LANE | {"model": "judge", "upstream_model": "judge-1"}
    table["routes"]["judge"] = {"lanes": [JUDGE], "deadline_ms": 10_000}
    table["routes"]["chat"]["validators"] = "careful"
    table["validators"] = {"careful": validators}
    if repair is not None:
        table["repairs"], table["routes"]["chat"]["repair"] = {"json": repair}, "json"
    sections = {"routing": table}
    if words:
        document = copy_document("escalation")
        sections["copy"] = {"withheld": {"version": 2, "digest": "c" * 64, "document": document}}
    return make_document(**sections)


@pytest.fixture
def bench(make_document):
    """Makes benches whose route has validators; `answers` are what its lane gives, `judgements` what its judge does."""

    def make(validators, *answers, judgements=(), **options):
        gate = Gate()
        lanes = {EU: [_exchange(one, gate) for one in answers]}
        if judgements:
            lanes[JUDGE] = [_exchange(one, gate) for one in judgements]
        return Bench(document_with(make_document, validators, **options), lanes=lanes, gate=gate)

    return make


def _exchange(given, gate):
    return FakeExchange(given if isinstance(given, list) else (given,), gate)


def answer(text, *, finish="stop", **message):
    choice = {"index": 0, "message": {"role": "assistant", "content": text} | message, "finish_reason": finish}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return json.dumps({"id": "c1", "model": "m", "created": 1, "choices": [choice], "usage": usage}).encode()


def stream(*pieces):
    events = [event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])]
    events += [event(choices=[{"index": 0, "delta": {"content": piece}}]) for piece in pieces]
    events.append(event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    return [*events, event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 4}), b"data: [DONE]\n\n"]


def body(life):
    return json.loads(life.reply.data)


def text_of(life):
    datas = [json.loads(line[6:]) for line in life.reply.data.split(b"\n") if line.startswith(b"data: {")]
    choices = [choice for data in datas for choice in data.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices), choices[-1].get("finish_reason")


def outputs(life, *, system="validator"):
    rollups = life.aggregation.drain(1e12)
    return {key: count for one in rollups for key, count in one["outputs"].items() if key.startswith(f"{system}:")}


async def test_answer_that_every_rule_passes_leaves_as_it_came(bench):
    """The provider's own bytes, and each rule is counted, and the answer as a whole."""
    life = bench(policy(CARDS, POLITE), answer("Hello Ada"))

    await life.start()

    assert life.reply.data == answer("Hello Ada")
    assert b"ballast-validation" not in life.reply.headers
    assert outputs(life) == {
        "validator:no-cards@3:pass:": 1,
        "validator:greets@3:pass:": 1,
        "validator:answer:pass:": 1,
    }


async def test_metrics_tell_verdicts_by_rule_and_layer(bench):
    """Whatever the version of a rule: of each that looked at the answer, what it said."""
    life = bench(policy(CARDS, POLITE), answer("Good day, Ada"))

    await life.start()
    [verdicts] = life.metrics.validators.families()
    told = {tuple(sample.labels.values()): sample.value for sample in verdicts.samples if sample.value}

    assert told == {("no-cards", "rules", "pass"): 1, ("greets", "rules", "warn"): 1}


async def test_time_of_each_rule_is_counted_in_classes(bench):
    """By rule and version, so that a page can say what 99 % of answers did not go beyond."""
    life = bench(policy(CARDS, POLITE), answer("Hello Ada"))

    await life.start()

    times = outputs(life, system="validator_time")
    assert {key.split(":")[1] for key in times} == {"no-cards@3", "greets@3"}
    assert {int(key.split(":")[2]) for key in times} <= set(BOUNDS)
    assert set(times.values()) == {1}


@pytest.mark.parametrize(
    ("language", "said"),
    [(None, "We cannot answer that here; your case is req_1."), ("de", "Das können wir hier nicht beantworten.")],
)
async def test_blocked_answer_gives_way_to_signed_words(bench, language, said):
    """The caller gets what people signed, in its language, marked as what it is, and no word of the answer."""
    life = bench(policy(CARDS, escalation="withheld"), answer(f"Your card is {CARD}"))

    await life.start(language=language)

    told = body(life)
    assert life.reply.status == 200
    assert told["choices"][0]["message"]["content"] == said
    assert told["choices"][0]["finish_reason"] == "content_filter"
    assert told["model"] == "copy:withheld@2"
    assert told["ballast"]["copy"] == "withheld@2"
    assert told["ballast"]["validation"][0]["rule"] == "no-cards"
    assert life.reply.headers[b"ballast-validation"] == b"no-cards@3=block"
    assert b"1111" not in life.reply.data
    assert [row["outcome"] for row in life.rows] == ["ok"]
    assert outputs(life) == {"validator:no-cards@3:block:": 1, "validator:answer:block:": 1}


async def test_blocked_answer_without_signed_words_is_an_error_in_words(bench):
    """Never nothing, never a part: an error that names the rule, and that an SDK does not repeat."""
    life = bench(policy(CARDS), answer(f"Your card is {CARD}"))

    await life.start()

    error = body(life)["error"]
    assert life.reply.status == 502
    assert (error["code"], error["escalation"]) == ("validation_failed", None)
    assert [one["rule"] for one in error["rules"]] == ["no-cards"]
    assert life.reply.headers[b"x-should-retry"] == b"false"
    assert b"1111" not in life.reply.data


async def test_signed_words_that_do_not_suit_the_request_stand_in_an_error(bench):
    """Who asked for JSON of another schema is never handed prose."""
    schema = {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}
    life = bench(policy(CARDS, escalation="withheld"), answer(json.dumps({"total": 1, "card": CARD})))

    await life.start(response_format={"type": "json_schema", "json_schema": {"name": "t", "schema": schema}})

    error = body(life)["error"]
    assert error["code"] == "validation_failed"
    assert error["escalation"] == {
        "message": "We cannot answer that here; your case is req_1.",
        "copy": "withheld@2",
        "locale": "en",
    }


async def test_what_can_be_taken_out_is_taken_out_and_the_rest_stays(bench):
    """The answer with a replacement, its log probabilities gone with the word that they spelt, and a note."""
    life = bench(policy(REMOVED), answer("Write to ada@example.com today"))

    await life.start()

    assert body(life)["choices"][0]["message"]["content"] == "Write to [mail] today"
    assert body(life)["ballast"]["validation"][0]["rule"] == "no-mail"
    assert life.reply.headers[b"ballast-validation"] == b"no-mail@3=repair"


async def test_warning_goes_out_beside_the_answer(bench):
    """The bytes are the provider's; the header says which rule is not content."""
    life = bench(policy(POLITE), answer("Bye"))

    await life.start()

    assert life.reply.data == answer("Bye")
    assert life.reply.headers[b"ballast-validation"] == b"greets@3=warn"


@pytest.mark.parametrize(
    ("judgement", "status", "outcome", "in_all"),
    [
        ('{"supported": true, "why": "it says so"}', 200, "pass:", "pass:"),
        ('{"supported": false, "why": "nobody said ten"}', 502, "block:", "block:"),
        ("Yes!", 502, "abstain:block", "block:abstained"),
    ],
)
async def test_judge_is_asked_on_its_own_route_and_abstains_if_it_says_nothing_clear(
    bench, judgement, status, outcome, in_all
):
    """It sees question, sources and answer as data; what it costs is on the bill beside the answer."""
    life = bench(policy(JUDGED), answer("Ten days."), judgements=[answer(judgement)])

    await life.start(sources=[{"id": "faq", "text": "Ten days at most."}])

    assert life.reply.status == status
    assert outputs(life) == {f"validator:supported@3:{outcome}": 1, f"validator:answer:{in_all}": 1}
    assert [(row["kind"], row["lane"]) for row in life.rows] == [("primary", EU), ("judge", JUDGE)]
    asked = json.loads(life.transport.calls[1][0].body)
    assert "Ten days at most." in asked["messages"][1]["content"]
    assert "sources" not in json.loads(life.transport.calls[0][0].body)
    assert life.reply.headers[b"ballast-lane"] == EU.encode()


async def test_judge_that_cannot_be_asked_never_passes_an_answer(bench):
    """Closed, its abstention blocks; open, it warns."""
    for on_error, status in (("closed", 502), ("open", 200)):
        life = bench(policy(JUDGED | {"on_error": on_error}), answer("Ten days."), judgements=[answer("")])
        life.transport.answers[JUDGE] = [FakeExchange((b"{}",), Gate(), status=500)]

        await life.start()

        assert life.reply.status == status


async def test_no_judge_is_asked_about_what_is_blocked_already(bench):
    """The cheap layers decide first."""
    life = bench(policy(CARDS, JUDGED), answer(CARD), judgements=[answer("")])

    await life.start()

    assert [row["kind"] for row in life.rows] == ["primary"]


# Streams.


@pytest.mark.parametrize("streams", ["window", "hold"])
async def test_clean_stream_arrives_whole(bench, streams):
    """Whatever is held back on the way, all of it is there at the end."""
    words = ["Hello ", "Ada, ", "your order ", "left on ", "Monday."]
    life = bench(policy(CARDS, POLITE, streams=streams), stream(*words))

    await life.start(stream=True)

    assert text_of(life) == ("".join(words), "stop")
    assert life.reply.ended == 1


@pytest.mark.parametrize("streams", ["window", "hold"])
async def test_secret_that_comes_in_pieces_never_leaves(bench, streams):
    """Before anything went out the caller gets the signed words; after that, an error event ends the stream."""
    secrets = rule("no-keys", "secrets", {"classes": ["openai"]})
    life = bench(
        policy(secrets, streams=streams, escalation="withheld"), stream("The key ", "is ", KEY[:9], KEY[9:], " ok")
    )

    await life.start(stream=True)

    assert KEY[:12].encode() not in life.reply.data
    assert life.reply.ended == 1
    if streams == "hold":
        assert text_of(life) == ("We cannot answer that here; your case is req_1.", "content_filter")
    else:
        assert b'"code":"validation_failed"' in life.reply.data
        assert b"We cannot answer that here; your case is req_1." in life.reply.data
        assert b"[DONE]" not in life.reply.data


async def test_judge_decides_about_a_stream_before_it_ends(bench):
    """The words that are out are followed by an error, not by an end."""
    judgement = answer('{"supported": false, "why": "no"}')
    life = bench(policy(JUDGED, CARDS, escalation="withheld"), stream("Ten ", "days."), judgements=[judgement])

    await life.start(stream=True)

    assert b'"code":"validation_failed"' in life.reply.data
    assert b"[DONE]" not in life.reply.data
    assert [row["kind"] for row in life.rows] == ["primary", "judge"]


async def test_what_is_taken_out_of_a_stream_is_replaced_across_its_pieces(bench):
    """The replacement stands where the address was, however it was cut."""
    life = bench(policy(REMOVED), stream("Write to ada", "@exam", "ple.com", " today"))

    await life.start(stream=True)

    assert text_of(life) == ("Write to [mail] today", "stop")


@pytest.mark.parametrize("stream_it", [False, True])
async def test_json_is_mended_first_and_checked_then(bench, stream_it):
    """The validators see what the caller would get."""
    text = '```json\n{"mail": "ada@example.com", "n": 1.0}\n```'
    given = stream(text[:12], text[12:30], text[30:]) if stream_it else answer(text)
    life = bench(policy(REMOVED), given, repair=repair_policy())

    await life.start(stream=stream_it, response_format={"type": "json_schema", "json_schema": {"name": "any"}})

    said = text_of(life)[0] if stream_it else body(life)["choices"][0]["message"]["content"]
    assert said == '{"mail": "[mail]", "n": 1.0}'


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda table, sections: table["validators"]["careful"].update(escalation="nowhere"), "no signed copy"),
        (
            lambda table, sections: table["validators"]["careful"]["rules"][0]["params"].update(route="no"),
            "not a route",
        ),
        (lambda table, sections: table["routes"]["chat"].update(validators="other"), "not a validator policy"),
        (lambda table, sections: sections["copy"]["withheld"]["document"].update(kind="template"), "not 'escalation'"),
    ],
)
def test_release_whose_validators_lead_nowhere_is_refused(make_document, spoil, said):
    """Unsigned words, a judge without a route, a policy that nobody wrote: each is named."""
    document = document_with(make_document, policy(JUDGED, escalation="withheld"))
    spoil(document["sections"]["routing"], document["sections"])

    with pytest.raises(MalformedRelease, match=said):
        parse_document(document, digest="d" * 64)


# Samples.


@pytest.mark.parametrize("stream_it", [False, True])
@pytest.mark.parametrize("checked", [False, True])
async def test_answers_are_kept_as_samples_where_their_tenant_lets_them_be(make_document, stream_it, checked):
    """What the model wrote, before anything is taken out of it, with what it was to rest on; one in a while."""
    document = document_with(make_document, policy(REMOVED))
    if not checked:
        del document["sections"]["routing"]["routes"]["chat"]["validators"]
    document["sections"]["access"]["tenants"]["acme"]["log_content"] = True
    text = "Write to ada@example.com today"
    gate = Gate()
    given = stream(text[:14], text[14:]) if stream_it else answer(text)
    life = Bench(document, lanes={EU: [_exchange(given, gate), _exchange(given, gate)]}, gate=gate)

    for _ in range(2):
        await life.start(stream=stream_it, sources=[{"id": "faq", "text": "Write to us."}])

    (sample,) = life.rows.samples
    assert (sample["text"], sample["tenant"], sample["route"], sample["lane"]) == (text, "acme", "chat", EU)
    assert (sample["sources"], sample["question"]) == ([{"id": "faq", "text": "Write to us."}], "Hello")


async def test_no_word_is_kept_of_a_tenant_who_did_not_say_so(bench):
    """Nothing of an answer is reported."""
    life = bench(policy(POLITE), answer("Hello"))

    await life.start()

    assert life.rows.samples == []
