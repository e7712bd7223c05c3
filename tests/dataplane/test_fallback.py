"""Below the lanes: which failures signed copy answers, which question it finds, how it is written, and until when."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane import errors
from dataplane.credentials import SecretUnavailable
from dataplane.documents import Node
from dataplane.errors import admission, upstream
from dataplane.fallback import (
    DEFAULT_ETA_SECONDS,
    answers_from_copy,
    eta_of,
    exact_answer,
    outage_notice,
    placeholder_values,
    questions_of,
    suitable_text,
    template_answer,
)
from dataplane.messages import ChatRequest, PromptReference
from dataplane.release import MalformedRelease
from dataplane.routing import Lane, RoutingTable
from dataplane.schema_check import SchemaChecker
from dataplane.signed_copy import PLACEHOLDERS, SignedCopy, Words, parse_copy
from tests.dataplane.conftest import ERRORS, ROUTING, breaker_policy, copy_document

QUESTION = "How do I reset my password?"
WORDS = Words("Choose “Forgot password”.", {"answer": "Choose “Forgot password”."})
STRICT = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
FUNCTION = {"type": "function", "function": {"name": "f"}}


def ask(*messages: dict[str, Any], variables: dict[str, Any] | None = None, **parameters: Any) -> ChatRequest:
    prompt = None if variables is None else PromptReference("p", None, variables)
    return ChatRequest("chat", list(messages or [user(QUESTION)]), parameters, prompt=prompt)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def schema(value: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": value}}


def signed(kind: str) -> SignedCopy:
    return parse_copy("help", Node(copy_document(kind), "$"), version=3, digest="d" * 64)


def test_copy_answers_where_no_lane_could_and_never_a_mistake_of_the_caller() -> None:
    """Over every error: what a lane, its quota or the clock is to blame for, and nothing else."""
    answered = {
        type(error) for error in (*ERRORS, SecretUnavailable("env:KEY", "is empty")) if answers_from_copy(error)
    }

    assert answered == {
        SecretUnavailable,
        admission.BreakerOpen,
        admission.NoLaneLeft,
        admission.DeadlineExceeded,
        admission.QuotaExhausted,
        upstream.UpstreamError,
        upstream.UpstreamUnreachable,
        upstream.UpstreamTimeout,
        upstream.UpstreamAuthFailed,
        upstream.UpstreamRateLimited,
        upstream.UpstreamUnavailable,
        upstream.UpstreamInterrupted,
        upstream.UpstreamMalformed,
    }
    assert not answers_from_copy(MalformedRelease("$", "no"))


@pytest.mark.parametrize(
    ("request_", "questions"),
    [
        (ask(user("Why?")), ("Why?",)),
        (ask({"role": "system", "content": "s"}, {"role": "developer", "content": "d"}, user("Why?")), ("Why?",)),
        (ask(user([part("Why"), part("now?")])), ("Why\nnow?",)),
        (ask(user("Help with: Why?"), variables={"q": "Why?", "n": 3, "no": " "}), ("Why?", "Help with: Why?")),
        (ask(user("Why?"), variables={"q": "Why?"}), ("Why?",)),
        (ask(user("Why?"), tool_choice="auto"), ("Why?",)),
        # What has no known answer: a conversation, a reply to somebody else, nothing, or more than words.
        (ask(user("Why?"), {"role": "assistant", "content": "So."}, user("Why?")), ()),
        (ask({"role": "assistant", "content": "Why?"}), ()),
        (ask({"role": "system", "content": "Why?"}), ()),
        (ask(user("  \n")), ()),
        (ask(user(None)), ()),
        (ask(user([part("What is this?"), {"type": "image_url", "image_url": {"url": "https://a.example"}}])), ()),
        (ask(user("Why?"), tool_choice="required"), ()),
        (ask(user("Why?"), tool_choice=FUNCTION), ()),
    ],
)
def test_question_is_what_the_user_said_first_and_in_words(request_: ChatRequest, questions: tuple[str, ...]) -> None:
    """The variables of a prompt come before the whole message, each once."""
    assert questions_of(request_) == questions


@pytest.mark.parametrize(
    ("words", "parameters", "text"),
    [
        (WORDS, {}, WORDS.text),
        (WORDS, {"response_format": {"type": "text"}}, WORDS.text),
        (WORDS, {"response_format": {"type": "json_object"}}, json.dumps(WORDS.json)),
        (WORDS, {"response_format": schema(STRICT)}, json.dumps(WORDS.json)),
        (WORDS, {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, json.dumps(WORDS.json)),
        (WORDS, {"response_format": schema(STRICT | {"required": ["answer", "sources"]})}, None),
        (WORDS, {"response_format": schema({"type": "nonsense"})}, None),
        (Words("Plain.", None), {"response_format": {"type": "json_object"}}, None),
        (WORDS, {"tool_choice": "auto"}, WORDS.text),
        (WORDS, {"tool_choice": "required"}, None),
        (WORDS, {"tool_choice": FUNCTION}, None),
    ],
)
def test_words_are_written_as_the_application_asked_or_not_at_all(
    words: Words, parameters: dict[str, Any], text: str | None
) -> None:
    """Prose never goes to a caller who parses, and JSON only if it meets his schema."""
    found = suitable_text(ask(**parameters), words, SchemaChecker())

    assert (found if found is None or found == text else json.dumps(json.loads(found))) == text


def test_known_question_is_answered_in_the_language_of_the_caller() -> None:
    """The first of the caller's questions that is known, in one language; what does not suit is passed over."""
    copy, schemas = signed("answers"), SchemaChecker()

    def answer(*questions: str, accepted: str | None = None, **parameters: Any) -> Any:
        return exact_answer(copy, questions, request=ask(**parameters), accepted=accepted, schemas=schemas)

    found = answer("No idea", "when are you OPEN", QUESTION)
    assert (found.rung, found.locale, found.text, found.score) == ("cached", "en", "Every day from 9 to 17.", 1.0)
    assert found.to_json() == {"fallback": "cached", "copy": "help@3", "locale": "en", "score": 1.0}
    assert answer("Wann haben Sie geöffnet?", accepted="de-AT, en;q=0.5").text == "Täglich von 9 bis 17 Uhr."
    assert answer("Wann haben Sie geöffnet?") is None
    assert answer() is None
    as_json = answer("When are you open?", QUESTION, response_format={"type": "json_object"})
    assert json.loads(as_json.text) == {"answer": "Choose “Forgot password” on the sign-in page."}


def test_template_answers_every_question_that_it_suits() -> None:
    """Filled in, in the caller's language, as JSON where that is asked; None where that language has none."""
    copy, schemas = signed("template"), SchemaChecker()
    values = placeholder_values(eta_seconds=90, request_id="req_1", route="chat")

    def answer(accepted: str | None = None, **parameters: Any) -> Any:
        return template_answer(copy, values, request=ask(**parameters), accepted=accepted, schemas=schemas)

    assert answer().text == "chat is back in 2 minutes."
    assert answer().to_json() == {"fallback": "template", "copy": "help@3", "locale": "en", "score": None}
    assert answer("de").text == "chat ist in 2 Minuten zurück."
    as_json = answer(response_format=schema(STRICT)).text
    assert json.loads(as_json) == {"answer": "Back in 2 minutes", "sources": ["req_1"], "final": False}
    assert answer("de", response_format=schema(STRICT)) is None


def test_outage_notice_says_when_to_come_back() -> None:
    """In whole seconds, rounded up, so that nobody comes back too early."""
    values = placeholder_values(eta_seconds=61.2, request_id="req_1", route="chat")

    notice = outage_notice(signed("outage"), values, eta_seconds=61.2, accepted="fr, de")

    assert notice.to_json() == {
        "message": "chat ist in 2 Minuten zurück.",
        "eta_seconds": 62,
        "copy": "help@3",
        "locale": "de",
    }


@given(eta_seconds=st.floats(0, 1e6))
def test_placeholders_all_have_a_value_and_never_promise_too_early(eta_seconds: float) -> None:
    """Whatever copy may use is filled in; times are whole and rounded up, and there is no such thing as 0 minutes."""
    values = placeholder_values(eta_seconds=eta_seconds, request_id="req_1", route="chat")

    assert values.keys() == PLACEHOLDERS
    assert int(values["eta_seconds"]) - 1 <= eta_seconds <= int(values["eta_seconds"])
    assert int(values["eta_minutes"]) >= 1
    assert int(values["eta_minutes"]) * 60 >= eta_seconds


def lanes(*, guarded: tuple[str, ...] = ()) -> tuple[Lane, ...]:
    """The two lanes of the route, `a` and `b`; those named have a breaker that opens for 10 s."""
    document = json.loads(json.dumps(ROUTING))
    document["breakers"] = {"standard": breaker_policy(open_seconds=10)}
    documents = dict(zip("ab", document["lanes"].values(), strict=True))
    for name in guarded:
        documents[name]["breaker"] = "standard"
    document["lanes"], document["routes"]["chat"]["lanes"] = documents, ["a", "b"]
    return RoutingTable.parse(document).routes["chat"].lanes


UNAVAILABLE = upstream.UpstreamUnavailable("no", lane="a", status=503)
ASKED_FOR_7 = upstream.UpstreamRateLimited(lane="b", retry_after_seconds=7.0)


@pytest.mark.parametrize(
    ("guarded", "open_seconds", "error", "expected"),
    [
        ((), {}, UNAVAILABLE, DEFAULT_ETA_SECONDS),
        (("a",), {}, UNAVAILABLE, 10.0),
        (("a", "b"), {"a": 4.0, "b": 20.0}, UNAVAILABLE, 4.0),
        (("a", "b"), {"a": 40.0}, UNAVAILABLE, 10.0),
        (("a", "b"), {"a": 40.0}, ASKED_FOR_7, 7.0),
        (("a", "b"), {"a": 5.0}, ASKED_FOR_7, 5.0),
        (("a", "b"), {"a": None, "b": 12.0}, UNAVAILABLE, 12.0),
        (("a", "b"), {"a": None, "b": None}, ASKED_FOR_7, DEFAULT_ETA_SECONDS),
        (("a", "b"), {"a": 0.0, "b": 3.0}, UNAVAILABLE, 1.0),
    ],
)
def test_answer_is_expected_when_the_first_lane_is_tried_again(
    guarded: tuple[str, ...], open_seconds: dict[str, float | None], error: errors.GatewayError, expected: float
) -> None:
    """A lane that an operator holds open promises nothing; an estimate is never under a second."""
    assert eta_of(lanes(guarded=guarded), open_seconds=open_seconds, error=error) == expected


def test_route_without_lanes_has_the_usual_wait() -> None:
    """Where no breaker and no provider says anything, so does a request that was never given a lane."""
    assert eta_of((), open_seconds={}, error=UNAVAILABLE) == DEFAULT_ETA_SECONDS
