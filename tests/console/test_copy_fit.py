"""What reviewers are told of words and the prompts that ask for JSON: never more than workers do with them."""

import pytest

from controlplane.approvals.operations import apply_change
from controlplane.console.copy_content import SAMPLES, readings
from controlplane.console.copy_fit import json_checklist
from controlplane.ladder.models import Copy, CopyVersion
from controlplane.ladder.operations import live_activation, propose_version, submit_version
from controlplane.prompts import operations as prompts
from controlplane.rollouts import operations as rollouts
from controlplane.rollouts.models import DEFAULT_STAGES
from dataplane.fallback import template_answer
from dataplane.messages import ChatRequest
from dataplane.schema_check import SchemaChecker
from tests.console.conftest import words
from tests.factories import (
    NOW,
    VARIABLES,
    crew,
    make_demo_copy,
    make_policy,
    make_routing,
    routing_document,
    sign,
    sign_copy,
)

pytestmark = pytest.mark.django_db

TEMPLATE = "/ladder/copy/help-centre-template/"
# Holds once `{{eta_minutes}}` is filled in, and not before.
WAIT = {
    "type": "object",
    "properties": {"answer": {"type": "string", "pattern": "^Back in [0-9]+ min$"}, "resolved": {"type": "boolean"}},
    "required": ["answer"],
    "additionalProperties": False,
}
OBJECT = {"type": "json_object"}


@pytest.fixture(scope="module", autouse=True)
def deployment(lasting):
    with lasting():
        make_policy()
        make_demo_copy()
        make_routing(routing_document(fallbacks=True))


def meets(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def asking(slug, response_format=None, *, route="chat", **parameters):
    """A stored version of a new or known prompt that asks for answers of this format."""
    prompt = prompts.Prompt.objects.filter(slug=slug).first() or prompts.create_prompt(
        slug=slug, title=slug, route=route, actor=crew.owner, now=NOW
    )
    return prompts.submit_version(
        prompt=prompt,
        messages=[{"role": "user", "content": "{{name}}"}],
        variables_schema=VARIABLES,
        parameters={**({"response_format": response_format} if response_format else {}), **parameters},
        change_class="minor",
        rationale="r",
        actor=crew.owner,
        now=NOW,
    )


def live(version):
    change = prompts.propose_live(version=version, reason="r", actor=crew.owner, now=NOW)
    sign(change, crew.approver_one, crew.approver_two)
    apply_change(change=change, actor=crew.owner, now=NOW)


def planned(candidate):
    stages = [dict(stage) for stage in DEFAULT_STAGES]
    return rollouts.plan_canary(candidate=candidate, unit="user", stages=stages, reason="r", actor=crew.owner, now=NOW)


def start(canary):
    rollouts.start_canary(canary=canary, actor=crew.owner, now=NOW)


def document(**json):
    """A template whose JSON in each language is this."""
    locales = {locale: {"text": "Back in {{eta_minutes}} min", "json": said} for locale, said in json.items()}
    return {"kind": "template", "default_locale": next(iter(json)), "locales": locales}


def submitted(document):
    copy = Copy.objects.get(slug="help-centre-template")
    return submit_version(copy=copy, document=document, rationale="r", actor=crew.owner, now=NOW)


def told(slug, document):
    """The lines about words that were not stored."""
    draft = CopyVersion(copy=Copy.objects.get(slug=slug), number=0, digest="", document=document)
    return [line["text"] for line in json_checklist(draft.copy, readings(draft))]


def test_reviewer_reads_which_prompts_the_json_of_each_language_satisfies(signed_in):
    """Of what is live or in a running canary on the routes that fall back on it; and may sign it whatever it says."""
    live(asking("support-answer", meets(WAIT)))
    canary = planned(asking("support-answer", meets({**WAIT, "required": ["answer", "resolved"]})))
    asking("support-answer", meets({"type": "array"}))
    live(asking("summary", meets({"type": "array"}), route="summaries"))
    live(asking("small-talk"))
    fits, misses, prose = {"answer": "Back in {{eta_minutes}} min"}, {"answer": "Back in {{eta_minutes}} h"}, None
    version = submitted(document(en=fits, fr=fits, de=misses, nl=prose))
    change = propose_version(version=version, reason="r", actor=crew.owner, now=NOW)
    browser = signed_in(crew.exec)

    def lines():
        review, page = browser.get(f"/reviews/{change.pk}/"), browser.get(f"{TEMPLATE}versions/2/")
        checked = page.context["json_checklist"]
        assert review.context["content"]["checklist"][-len(checked) :] == checked
        assert all(line["text"] in words(shown) for line in checked for shown in (review, page))
        assert all(line["met"] is line["text"].startswith("Satisfies") for line in checked)
        return [line["text"] for line in checked]

    before = lines()
    start(canary)
    after = lines()
    sign_copy(change)

    instead = "so callers of this prompt get the error instead"
    no_wait = '"Back in 4 h" does not match "^Back in [0-9]+ min$"'
    missing = '"resolved" is a required property'
    assert before == [
        "Satisfies support-answer@1 in en, fr",
        f"Does not satisfy support-answer@1 in de: $.answer: {no_wait}, {instead}",
        f"Does not satisfy support-answer@1 in nl: no JSON is written, {instead}",
    ]
    assert after[:3] == before
    assert f"Does not satisfy support-answer@2 in en: $: {missing}, {instead}" in after
    assert live_activation(version.copy).version == version


def test_prompts_that_ask_for_the_same_share_their_lines(queries):
    """However many there are; beyond what anybody reads, they are counted."""
    live(asking("summary", meets({"type": "array"})))
    live(asking("ask-00", meets(WAIT)))
    said = document(en={"answer": "Back in {{eta_minutes}} min"}, de={"answer": 4})
    draft = submitted(said)
    few = queries(lambda: json_checklist(draft.copy, readings(draft)))

    for number in range(1, 42):
        live(asking(f"ask-{number:02}", meets(WAIT)))
    lines = told("help-centre-template", said)

    names = ", ".join(f"ask-{number:02}@1" for number in range(40))
    assert lines[0] == f"Satisfies {names} and 2 more that ask for the same in en"
    assert lines[1].startswith(f"Does not satisfy {names} and 2 more that ask for the same in de: $.answer: ")
    assert lines[1].endswith(", so callers of these prompts get the error instead")
    assert [line.partition(" in ")[0] for line in lines[2:]] == ["Does not satisfy summary@1"] * 2
    assert queries(lambda: json_checklist(draft.copy, readings(draft))) == few


def test_words_that_a_checklist_calls_suitable_are_those_that_workers_show():
    """In each language, for every kind of format that a prompt may ask for."""
    choice = {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}
    formats = {
        "wait": {"response_format": meets(WAIT)},
        "object": {"response_format": OBJECT},
        "broken": {"response_format": meets({"type": "poem"})},
        "calls": {"response_format": meets({}), **choice},
        "calls-object": {"response_format": OBJECT, **choice},
    }
    for slug, parameters in formats.items():
        live(asking(slug, **parameters))
    said = document(en={"answer": "Back in {{eta_minutes}} min"}, de={"answer": 4}, fr=None)
    version = submitted(said)

    lines = told("help-centre-template", said)

    for slug, parameters in formats.items():
        for locale in said["locales"]:
            request = ChatRequest(route="chat", messages=[], parameters=parameters)
            shown = template_answer(
                version.parsed(), SAMPLES, request=request, accepted=locale, schemas=SchemaChecker()
            )
            suits = any(line.startswith(f"Satisfies {slug}@1") and locale in line.split(" in ")[1] for line in lines)
            fails = any(line.startswith(f"Does not satisfy {slug}@1 in {locale}: ") for line in lines)
            assert (suits, fails) == (shown is not None, shown is None), (slug, locale)
    reasons = {line.split(", so ")[0].removeprefix("Does not satisfy ") for line in lines}
    assert any(reason.startswith("broken@1 in en: its schema is not a valid JSON Schema: ") for reason in reasons)
    assert {"calls@1 in en: it asks for a tool call", "calls-object@1 in en: it asks for a tool call"} <= reasons


def test_answers_are_told_by_their_question_and_outage_notices_need_no_json():
    """What does not suit falls to the template; an outage notice goes out in the error, as text."""
    live(asking("support-answer", meets(WAIT)))
    long = "why " * 100
    answers = [
        {"questions": [question], "text": "x", "json": json}
        for question, json in (
            ("When?", {"answer": "Back in 4 min"}),
            (long, {"answer": long}),
            ("Where?", None),
        )
    ]

    (line,) = told("help-centre-answers", {"kind": "answers", "default_locale": "en", "locales": {"en": answers}})
    outage = {"kind": "outage", "default_locale": "en", "locales": {"en": {"text": "Down", "json": {"answer": 4}}}}

    assert line.startswith(f'Does not satisfy support-answer@1 in en: {long[:160] + "…"!r}: $.answer: "why why ')
    assert line.endswith("… (and 1 more), so callers of this prompt get help-centre-template instead, or the error")
    assert told("help-centre-outage", outage) == []


def test_pages_take_as_many_queries_for_many_prompts_as_for_one(signed_in, queries):
    """Neither per prompt nor per language."""
    live(asking("support-answer", meets(WAIT)))
    version = submitted(document(en={"answer": "x"}))
    change = propose_version(version=version, reason="r", actor=crew.owner, now=NOW)
    browser = signed_in(crew.owner)
    urls = (f"/reviews/{change.pk}/", f"{TEMPLATE}versions/2/")
    few = [queries(lambda url=url: browser.get(url)) for url in urls for _ in "ab"][1::2]
    for slug in ("one", "two", "three"):
        live(asking(slug, OBJECT))
        start(planned(asking(slug, meets(WAIT))))

    many = [queries(lambda url=url: browser.get(url)) for url in urls]

    assert many == few
    assert "two@2" in words(browser.get(urls[0]))
