import json
import shutil
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from controlplane.evals.asking import MAX_ANSWER_BYTES, Answered, Embeddings, JudgesAsker, NotAnswered
from controlplane.evals.errors import NoAnswer, UnknownSubject
from controlplane.evals.placing import live_lane, place, prompt_subject
from controlplane.evals.subjects import EVAL_ROUTE, PromptSubject, lane_subject
from controlplane.prompts.models import Prompt
from controlplane.releases.operations import current_release
from controlplane.releases.signing import signing_key
from dataplane.eval_tokens import read
from dataplane.release import Envelope, key_id_of, parse_document, verify_sandbox
from dataplane.release import Release as Servable
from tests.eval_runs import FakeGateway, answer, refusal
from tests.eval_sets import SENTENCE, read_row
from tests.factories import NOW, make_version, routing_document

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

LANE = "openai/us-east/main/gpt-4o"
SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "a", "schema": {"type": "object", "required": ["answer"]}},
}


def live():
    return place(prompt_subject("support-answer", 1))


def ask(gateway, row=None, *, subject=None, residency=(), **clocks):
    with gateway.open(run="eval-7", residency=residency, **clocks) as asker:
        return asker.ask(subject or live(), row or read_row())


def trusted():
    key = signing_key().public_key()
    return {key_id_of(key): key}


def serving() -> Servable:
    return parse_document(current_release().content, digest="")


def test_a_version_that_is_served_is_asked_as_it_is():
    """By its number, with the row's variables and sources and no sandbox; the answer comes with what it took."""
    gateway = FakeGateway()
    row = read_row(variables={"question": "How long?"}, sources=[{"id": "help/refunds", "text": SENTENCE}])

    came = ask(gateway, row)

    assert gateway.bodies == [
        {
            "prompt": {"id": "support-answer", "version": 1, "variables": {"question": "How long?"}},
            "sources": [{"id": "help/refunds", "text": SENTENCE}],
        }
    ]
    assert came == Answered(text="Within 30 days", cost_micros=100, latency_ms=12.5, lane="a/lane", request_id="r-1")


def test_the_token_says_for_which_run_where_to_and_until_when():
    """Gateways read it: the run's name, the residency of the data, no sandbox, and an end within the hour."""
    gateway = FakeGateway()

    ask(gateway, residency=["eu"])
    claims = read(gateway.tokens[0], trusted(), now=NOW.timestamp())

    assert (claims.run, claims.residency, claims.sandbox) == ("eval-7", {"eu"}, None)
    assert 0 < claims.until - NOW.timestamp() < 3600


def test_a_token_is_renewed_before_it_lapses():
    """One serves many requests, and none is used in its last minutes."""
    gateway, moments = FakeGateway(), iter([NOW, NOW, NOW + timedelta(minutes=41)])
    subject = live()

    with gateway.open(run="r", residency=[], now=lambda: next(moments)) as asker:
        for _ in range(3):
            asker.ask(subject, read_row())

    first, second, third = gateway.tokens
    assert first == second != third


def test_a_token_is_made_anew_as_soon_as_another_key_signs(settings, tmp_path):
    """A key that was replaced is needed by no token any more, long before the token would have lapsed."""
    settings.SIGNING_KEY_FILE = Path(shutil.copy(settings.SIGNING_KEY_FILE, tmp_path / "signing.pem"))
    gateway = FakeGateway()
    old = trusted()

    with gateway.open(run="eval-7", residency=()) as asker:
        asker.ask(live(), read_row())
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / "next").write_bytes(pem)
        (tmp_path / "next").replace(settings.SIGNING_KEY_FILE)
        asker.ask(live(), read_row())

    first, second = gateway.tokens
    assert read(first, old, now=NOW.timestamp()).run == "eval-7"
    assert read(second, trusted(), now=NOW.timestamp()).run == "eval-7"
    assert trusted().keys().isdisjoint(old)


def test_a_version_that_is_in_no_release_comes_in_a_sandbox():
    """Beside those that are served, signed, and named by the token; the next version of a prompt without a live one
    too.
    """
    make_version(Prompt.objects.get(slug="support-answer"), "Something else")
    gateway = FakeGateway()

    ask(gateway, subject=place(prompt_subject("support-answer", 2)))
    envelope = Envelope.from_mapping(gateway.bodies[0]["ballast_sandbox"])
    sandbox = verify_sandbox(envelope, trusted=trusted(), current=serving())
    claims = read(gateway.tokens[0], trusted(), now=NOW.timestamp())

    assert claims.sandbox == envelope.digest
    assert sorted(sandbox.prompts["support-answer"].versions) == [1, 2]
    assert sandbox.prompts["support-answer"].live == 1


def test_a_lane_comes_alone_on_a_route_of_its_own():
    """With its provider and account and no other lane, so that no other can answer for it."""
    gateway = FakeGateway()
    row = read_row(messages=[{"role": "user", "content": "Hello"}])

    ask(gateway, row, subject=place(live_lane(LANE)))
    sandbox = verify_sandbox(
        Envelope.from_mapping(gateway.bodies[0]["ballast_sandbox"]), trusted=trusted(), current=serving()
    )

    assert gateway.bodies[0]["model"] == EVAL_ROUTE
    assert [lane.id for lane in sandbox.routing.routes[EVAL_ROUTE].lanes] == [LANE]
    assert set(sandbox.routing.lanes) == {LANE}
    assert sandbox.routing.accounts.keys() == {routing_document()["lanes"][LANE]["account"]}


def test_a_lane_is_asked_variables_by_a_managed_prompt():
    """The live version of the prompt, on the lane's route, so that what is asked of prompts can be asked of lanes."""
    gateway = FakeGateway()

    ask(gateway, subject=place(live_lane(LANE, prompt="support-answer")))
    sandbox = verify_sandbox(
        Envelope.from_mapping(gateway.bodies[0]["ballast_sandbox"]), trusted=trusted(), current=serving()
    )

    assert gateway.bodies[0]["prompt"]["version"] == 1
    assert sandbox.prompts["support-answer"].route == EVAL_ROUTE


def test_subjects_that_are_not_there_are_named():
    """A version, a lane, and a version whose content is not what it was asked about."""
    with pytest.raises(UnknownSubject, match="'support-answer' has no version 9"):
        prompt_subject("support-answer", 9)
    with pytest.raises(UnknownSubject, match="no lane 'x'"):
        live_lane("x")
    with pytest.raises(UnknownSubject, match="is not what it was"):
        place(PromptSubject("support-answer", 1, "0" * 64))


def test_another_model_is_another_lane_and_another_price_is_not():
    """What has a part in the answer is in the digest; what guards, times and prices the lane is not."""
    document = routing_document()
    digest = lane_subject(document, LANE).digest
    document["lanes"][LANE] |= {"input_micros_per_million_tokens": 7, "idle_timeout_seconds": 3, "quota": None}
    dearer = lane_subject(document, LANE).digest
    document["lanes"][LANE]["upstream_model"] = "gpt-5"
    other = lane_subject(document, LANE).digest
    document["lanes"][LANE]["upstream_model"] = routing_document()["lanes"][LANE]["upstream_model"]
    document["accounts"][document["lanes"][LANE]["account"]]["base_url"] += "/elsewhere"

    assert digest == dearer
    assert len({digest, other, lane_subject(document, LANE).digest}) == 3


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (answer(None, refusal="I can't help with that"), {"text": "I can't help with that", "refused": True}),
        (
            answer(None, tool_calls=[{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]),
            {"text": "", "tool_calls": (("f", "{}"),)},
        ),
        (answer('{"answer": "x"}'), {"text": '{"answer": "x"}', "is_json": True, "schema": True}),
        (answer('{"other": "x"}'), {"text": '{"other": "x"}', "is_json": True, "schema": False}),
        (answer("prose"), {"text": "prose", "is_json": True, "schema": False}),
        (refusal("content_filter", 400), {"text": "", "refused": True}),
    ],
)
def test_what_came_is_read(said, expected):
    """Words, calls, refusals in either form, and whether it is of the schema that the row asks for."""
    came = ask(FakeGateway(says=lambda body: said), read_row(response_format=SCHEMA))

    assert isinstance(came, Answered)
    assert {name: getattr(came, name) for name in expected} == expected


@pytest.mark.parametrize(("code", "fault"), [("validation_failed", True), ("repair_failed", True), ("shed", False)])
def test_a_bad_answer_is_told_from_none(code, fault):
    """What the gateway withheld was an answer, and a bad one; anything else says nothing of the subject."""
    headers = {"ballast-cost-micros": "42", "x-should-retry": "false"}

    came = ask(FakeGateway(says=lambda body: refusal(code, 502, "why", **headers)))

    assert came == NotAnswered(code, "why", fault, cost_micros=42, request_id="r-0")


@pytest.mark.parametrize(
    ("said", "code", "times"),
    [
        (refusal("upstream_unavailable", 503), "upstream_unavailable", 3),
        (refusal("quota_exhausted", 429), "quota_exhausted", 3),
        (refusal("deadline_exceeded", 504, **{"x-should-retry": "false"}), "deadline_exceeded", 1),
        (refusal("unauthorized", 401), "unauthorized", 1),
        (httpx.ConnectError("refused"), "gateway_unreachable", 3),
        (httpx.ReadTimeout("slow"), "gateway_timeout", 3),
        (httpx.Response(502, text="<html>"), "malformed_answer", 3),
        (httpx.Response(200, text="<html>"), "malformed_answer", 1),
        (httpx.Response(200, json={"choices": []}), "malformed_answer", 1),
        (httpx.Response(200, content=b" " * (MAX_ANSWER_BYTES + 1)), "answer_too_large", 1),
    ],
)
def test_the_world_is_asked_again_where_that_can_help(said, code, times):
    """Up to three times in all, with a wait before each; then there is no answer, and the answer is not to blame."""
    gateway = FakeGateway(says=lambda body: said)

    came = ask(gateway)

    assert isinstance(came, NotAnswered)
    assert (came.code, came.is_answers_fault, len(gateway.bodies)) == (code, False, times)
    assert len(gateway.slept) == times - 1


def test_an_answer_at_the_second_try_is_an_answer():
    """And what says how long to wait is heeded, within reason."""
    came = iter([refusal("quota_exhausted", 429, **{"retry-after": "9"}), answer()])
    gateway = FakeGateway(says=lambda body: next(came))

    assert isinstance(ask(gateway), Answered)
    assert gateway.slept == [9.0]


def test_nobody_is_asked_again_after_too_long():
    """A worker has so much time for a piece of work and no more."""
    ticks = iter([0.0, 46.0])
    gateway = FakeGateway(says=lambda body: refusal("upstream_timeout", 504))

    ask(gateway, clock=lambda: next(ticks))

    assert len(gateway.bodies) == 1


def test_judges_ask_routes_of_the_live_release():
    """Within the residency of the rows, without the sandbox; what it costs is added up."""
    embedding = {"data": [{"index": 1, "embedding": [0.0, 1]}, {"index": 0, "embedding": [1.0, 0]}]}
    gateway = FakeGateway(says=lambda body: embedding if "input" in body else answer('{"pass": true}'))

    with gateway.open(run="r", residency=["eu"]) as asker:
        judges = JudgesAsker(asker)
        found = judges.embed("embed", ["a", "b"])
        text = judges.ask("summaries", [{"role": "user", "content": "?"}], {"type": "json_object"})

    assert (found, text, judges.cost_micros) == ([[1.0, 0.0], [0.0, 1.0]], '{"pass": true}', 200)
    assert gateway.paths == ["/v1/embeddings", "/v1/chat/completions"]
    assert read(gateway.tokens[0], trusted(), now=NOW.timestamp()).sandbox is None


def test_embeddings_come_with_what_they_took_and_who_gave_them():
    """What a route is told beside the texts cannot replace them; tokens are the provider's count."""
    said = {"data": [{"index": 0, "embedding": [1, 0]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    gateway = FakeGateway(says=lambda body: said)

    with gateway.open(run="r", residency=[]) as asker:
        found = asker.embed("embed", ["a"], {"input_type": "document", "model": "other"})

    assert found == Embeddings([[1.0, 0.0]], tokens=3, cost_micros=100, lane="a/lane")
    assert gateway.bodies[0] == {"model": "embed", "input": ["a"], "encoding_format": "float", "input_type": "document"}


@pytest.mark.parametrize("said", [refusal("unauthorized", 401), {"data": [{"index": 0, "embedding": "x"}]}, {}])
def test_judges_are_told_that_there_is_no_answer(said):
    """Whatever the gateway said instead."""
    with FakeGateway(says=lambda body: said).open(run="r", residency=[]) as asker:
        with pytest.raises(NoAnswer):
            asker.embed("embed", ["a"])
        with pytest.raises(NoAnswer):
            asker.ask_route("chat", [], {})


def test_a_sandbox_is_the_same_from_piece_to_piece():
    """So that gateways read it once."""
    first, second = (place(live_lane(LANE)).sandbox for _ in range(2))

    assert first.digest == second.digest
    assert json.loads(first.document)["revision"] == 0
