"""Answers that must not be given, said by a live simulator and withheld by a live gateway, whatever client asks."""

from __future__ import annotations

import copy
import json

import openai
import pytest

from tests.dataplane.conftest import copy_document
from tests.dataplane.test_validating import CARDS, REMOVED, policy

from .conftest import release_sections, run_gateway

ROUTES = ("chat", "azure", "claude")
CARD = "4111 1111 1111 1111"
SAID = f"Of course. The card on file is {CARD}, and it is valid."


@pytest.fixture(scope="module")
def checking_gateway(simulator_url):
    """A gateway whose routes withhold card numbers and take addresses out."""
    sections = copy.deepcopy(release_sections(simulator_url))
    routing = sections["routing"]
    routing["validators"] = {
        "careful": policy(CARDS, REMOVED, escalation="withheld"),
        "held": policy(CARDS, REMOVED, streams="hold", escalation="withheld"),
    }
    for route in ROUTES:
        routing["routes"][route]["validators"] = "careful"
        routing["routes"][f"{route}-held"] = routing["routes"][route] | {"validators": "held"}
    document = copy_document("escalation")
    document["locales"] = {"en": {"text": "Please call us.", "json": None}}
    sections["copy"] = {"withheld": {"version": 2, "digest": "c" * 64, "document": document}}
    with run_gateway(sections) as gateway:
        yield gateway


@pytest.fixture
def gateway(checking_gateway, simulator):
    """That gateway, with nothing recorded yet."""
    checking_gateway.wait_until_idle()
    checking_gateway.forget()
    return checking_gateway


def say(simulator, text, *, slowly=False):
    """Have the model say this, whatever it is asked."""
    faults = [{"name": "say", "text": text}] + [{"name": "slow_drip", "ms": 20}] * slowly
    assert simulator.post("/admin/faults", json={"fault": faults}).status_code < 300


def ask(client, route, *, stream=False):
    messages = [{"role": "user", "content": "Which card do you have?"}]
    return client.chat.completions.create(model=route, messages=messages, stream=stream)


@pytest.mark.parametrize("route", ROUTES)
def test_card_number_is_withheld_and_the_caller_reads_signed_words(gateway, simulator, client, route):
    """An unchanged client shows what people signed, and can tell that it is not the model's answer."""
    say(simulator, SAID)

    answer = ask(client, route)

    assert answer.choices[0].message.content == "Please call us."
    assert answer.choices[0].finish_reason == "content_filter"
    assert answer.model_extra["ballast"]["copy"] == "withheld@2"
    assert "4111" not in answer.model_dump_json()


@pytest.mark.parametrize("route", ROUTES)
def test_card_number_in_a_stream_never_leaves(gateway, simulator, client, route):
    """Held, the stream is the signed words; in a window, what is certain is out when it ends in an error with them."""
    say(simulator, SAID, slowly=True)

    held = [
        chunk.choices[0].delta.content or "" for chunk in ask(client, f"{route}-held", stream=True) if chunk.choices
    ]
    heard: list[str] = []
    with pytest.raises(openai.APIError, match="withheld") as caught:
        _listen(ask(client, route, stream=True), heard)

    assert "".join(held) == "Please call us."
    assert caught.value.body["escalation"]["message"] == "Please call us."
    said = "".join(heard)
    assert said
    assert SAID.startswith(said)
    assert "4111" not in said


def _listen(chunks, heard):
    for chunk in chunks:
        heard += [choice.delta.content or "" for choice in chunk.choices]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ROUTES)
def test_address_is_taken_out_wherever_the_provider_cuts_it(gateway, simulator, client, route, stream):
    """What is left reads as before, and says that something is gone."""
    say(simulator, "Write to ada.lovelace@example.com about it.")

    answer = ask(client, route, stream=stream)

    if stream:
        text = "".join(choice.delta.content or "" for chunk in answer for choice in chunk.choices)
    else:
        text = answer.choices[0].message.content
    assert text == "Write to [mail] about it."


def test_answer_with_nothing_wrong_is_the_providers_own(gateway, simulator, http):
    """Byte for byte, but for what differs between two answers anyway."""
    say(simulator, "All is well.")
    body = {"model": "chat", "messages": [{"role": "user", "content": "How are things?"}]}

    answer = http.post("/v1/chat/completions", json=body)

    assert json.loads(answer.content)["choices"][0]["message"]["content"] == "All is well."
    assert "ballast" not in json.loads(answer.content)
    assert "ballast-validation" not in answer.headers
