"""Spoilt JSON from a live simulator, mended by a live gateway, and completed by callers where nothing could mend it."""

from __future__ import annotations

import copy
import json

import httpx
import openai
import psycopg
import pytest

from dataplane.assembly import Stores
from dataplane.repair.kept import OPEN
from dataplane.stores.repairs import PostgresRepairStore
from tests.dataplane.conftest import repair_policy

from .conftest import SCHEMA, release_sections, run_gateway

pytestmark = pytest.mark.django_db  # asks for the tables; what the gateway writes there is committed

FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "answer", "parameters": SCHEMA}}
CALL = {"type": "function", "function": {"name": "answer"}}
ROUTES = ("chat", "azure", "claude")
CERTAIN = ("fence", "prose", "trailing_comma")


@pytest.fixture(scope="module")
def mending_gateway(simulator_url, keys_url):
    """A gateway whose routes hand over what is certain, and ask the model once more; it keeps what stays broken."""
    sections = copy.deepcopy(release_sections(simulator_url))
    sections["routing"]["repairs"] = {"json": repair_policy(), "streamed": repair_policy(streams="incremental")}
    for route in ROUTES:
        sections["routing"]["routes"][route]["repair"] = "json"
    wordy = sections["routing"]["lanes"]["openai/eu/main/gpt-4o"] | {"model": "wordy", "capabilities": ["chat"]}
    sections["routing"]["lanes"]["openai/eu/main/wordy"] = wordy
    sections["routing"]["routes"]["wordy"] = {
        "lanes": ["openai/eu/main/wordy"],
        "deadline_ms": 90_000,
        "repair": "json",
    }
    sections["routing"]["routes"]["streamed"] = sections["routing"]["routes"]["chat"] | {"repair": "streamed"}
    with run_gateway(sections, stores=Stores(repairs=PostgresRepairStore(keys_url, timeout_seconds=60))) as gateway:
        yield gateway


@pytest.fixture
def gateway(mending_gateway, simulator):
    """That gateway, with nothing recorded yet."""
    mending_gateway.wait_until_idle()
    mending_gateway.forget()
    return mending_gateway


def once(simulator, kind):
    """Have the simulator spoil its next answer, and no other."""
    rule = {"fault": f"malformed_answer:kind={kind}", "count": 1}
    assert simulator.post("/admin/faults", json=rule).status_code < 300


def value_of(text):
    value = json.loads(text)
    assert set(value) == {"answer", "confident"}
    assert isinstance(value["confident"], bool)
    return value


@pytest.mark.parametrize("kind", CERTAIN)
@pytest.mark.parametrize("route", ROUTES)
def test_what_is_certain_is_mended_without_asking_again(gateway, simulator, client, route, kind):
    """On every wire: the caller gets JSON of the schema, and one call was made."""
    once(simulator, kind)

    raw = client.chat.completions.with_raw_response.create(
        model=route, messages=[{"role": "user", "content": "Refunds?"}], response_format=FORMAT
    )

    value_of(raw.parse().choices[0].message.content)
    assert raw.headers["ballast-repair"].endswith("; lossless")
    assert raw.parse().model_extra["ballast"]["repair"][0]["edit_count"] >= 1
    assert [row["kind"] for row in gateway.rows()] == ["primary"]


def test_lane_without_a_mode_for_json_is_asked_in_words(gateway, client):
    """A model that has none reads the schema where it reads everything, and the caller sees no difference."""
    answer = client.chat.completions.create(
        model="wordy", messages=[{"role": "user", "content": "Refunds?"}], response_format=FORMAT
    )

    value_of(answer.choices[0].message.content)
    assert [row["kind"] for row in gateway.rows()] == ["primary"]


@pytest.mark.parametrize("route", ["chat", "claude"])
@pytest.mark.parametrize("kind", ["missing_field", "truncated"])
def test_what_cannot_be_known_is_asked_for_again(gateway, simulator, client, route, kind):
    """The same lane is asked once more, and both calls are on the bill."""
    once(simulator, kind)

    answer = client.chat.completions.create(
        model=route, messages=[{"role": "user", "content": "Refunds?"}], response_format=FORMAT
    )

    value_of(answer.choices[0].message.content)
    assert [row["kind"] for row in gateway.rows(2)] == ["primary", "repair"]


@pytest.mark.parametrize("stream", [False, True])
def test_arguments_of_tools_are_mended(gateway, simulator, client, stream):
    """Whole or streamed, no call is dropped and its arguments are JSON."""
    once(simulator, "trailing_comma")

    answer = client.chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": "Refunds?"}],
        tools=[TOOL],
        tool_choice=CALL,
        stream=stream,
    )

    if stream:
        calls = [call for chunk in answer for choice in chunk.choices for call in choice.delta.tool_calls or ()]
        assert [call.function.name for call in calls if call.function.name] == ["answer"]
        arguments = "".join(call.function.arguments or "" for call in calls)
    else:
        (call,) = answer.choices[0].message.tool_calls
        arguments = call.function.arguments
    value_of(arguments)


@pytest.mark.parametrize("route", ["chat", "streamed", "claude"])
@pytest.mark.parametrize("kind", CERTAIN)
def test_streams_are_mended_as_they_come_or_at_their_end(gateway, simulator, client, route, kind):
    """What the caller puts together is JSON of the schema, and it ends well."""
    once(simulator, kind)

    chunks = list(
        client.chat.completions.create(
            model=route, messages=[{"role": "user", "content": "Refunds?"}], response_format=FORMAT, stream=True
        )
    )

    value_of("".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices))
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"


def fail(client):
    """Ask for an answer that nothing mends; returns the error's body."""
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(
            model="chat",
            messages=[{"role": "user", "content": "Refunds? [[fault malformed_answer:kind=missing_field]]"}],
            response_format=FORMAT,
        )
    assert caught.value.response.status_code == 502
    assert caught.value.response.headers["x-should-retry"] == "false"
    return caught.value.body


def test_application_completes_what_nothing_could_mend(gateway, client, http):
    """The error names the field; supplying it gives the answer as if it had been right, and gives it again."""
    error = fail(client)
    assert error["code"] == "repair_failed"
    (missing,) = error["missing_fields"]
    path = f"/v1/repairs/{error['repair']['id']}"

    before = http.get(path).json()
    wrong = http.post(path, json={"fields": {missing: 7}})
    answer = http.post(path, json={"fields": {missing: "Within 30 days"}})

    assert (before["status"], before["missing_fields"], before["mode"]) == ("open", [missing], "missing_field")
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "fields"
    assert answer.status_code == 200
    completion = openai.types.chat.ChatCompletion.model_validate(answer.json())
    assert value_of(completion.choices[0].message.content)[missing[1:]] == "Within 30 days"
    assert completion.model_extra["ballast"]["repair"][0]["label"] == "invented"
    assert http.post(path, json={"fields": {missing: "Never"}}).json() == answer.json()
    after = http.get(path).json()
    assert (after["status"], after["response"]) == ("completed", answer.json())


def test_answer_that_is_kept_is_its_tenants_and_is_forgotten(gateway, client, http, keys_url):
    """Nobody else finds it, and nobody at all once its time is over."""
    path = f"/v1/repairs/{fail(client)['repair']['id']}"

    with httpx.Client(base_url=gateway.url, headers={"authorization": "Bearer bk-acme"}, timeout=90) as other:
        assert other.get(path).json()["error"]["code"] == "repair_not_found"
    with psycopg.connect(keys_url, autocommit=True) as sql:
        sql.execute("UPDATE ledger_repair SET expires_at = now() WHERE state = %s", [OPEN])
    for answer in (http.get(path), http.post(path, json={"value": {}})):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "repair_not_found")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{", "not valid JSON"),
        ("{}", "fields"),
        ('{"fields": {}}', "at least one JSON pointer"),
        ('{"fields": {"answer": 1}}', "no JSON pointer"),
        ('{"fields": {"/answer/deeper": 1}}', 'is not of type "string"'),
        ('{"value": [], "fields": {}}', "and nothing else"),
    ],
)
def test_completion_that_makes_no_sense_is_refused_in_words(gateway, client, http, body, said):
    """Bad input is told apart, and what is kept stays open."""
    path = f"/v1/repairs/{fail(client)['repair']['id']}"

    answer = http.post(path, content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert http.get(path).json()["status"] == "open"
