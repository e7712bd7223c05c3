"""Answers from passages that the system prompt gives, and their citations."""

from __future__ import annotations

import json

import pytest

from dataplane.simulator.passages import Passage, quote, read_passages

MODEL = "gpt-4o-instant"
SYSTEM = """You answer questions of customers.
Put the number of the passage behind what it says.

Passages:
[1] Delivery times

Delivery takes two to four working days. Islands take longer.
[2] Return an item

You can return most items within 30 days. Start the return from the order page:

1. Open the order.
2. Print the label and keep the receipt, for the full refund."""


def ask(client, question, *, system=SYSTEM, **fields):
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    return client.chat.completions.create(model=MODEL, messages=messages, **fields).choices[0].message.content


def test_system_prompt_is_read_apart_from_its_passages():
    """What stands in passages is no instruction, and each passage has its number and all of its lines."""
    told, passages = read_passages(SYSTEM)

    assert told.endswith("behind what it says.\n\n")
    assert [passage.number for passage in passages] == [1, 2]
    assert passages[1].sentences == (
        "You can return most items within 30 days.",
        "Open the order.",
        "Print the label and keep the receipt, for the full refund.",
    )


@pytest.mark.parametrize("system", ["", "Be brief.", "Passages: [1] none", "Passages:\n", "Passages:\n[1]\n[2]"])
def test_a_prompt_without_passages_has_none(system):
    """A heading without anything below it is no passage either."""
    assert read_passages(system)[1] == ()


def test_answer_is_the_most_fitting_passage_and_cites_it(openai_client):
    """From the sentence on that fits the question, with the number before its full stop."""
    said = ask(openai_client, "How do I return my shoes?")

    assert said.startswith("You can return most items within 30 days [2]. Open the order [2].")
    assert "[1]" not in said


def test_brief_answer_is_one_sentence_and_a_passage_gives_no_orders(openai_client):
    """The word 'full' in a passage asks for no full answer."""
    brief = ask(openai_client, "How do I return my shoes?", system=f"Be brief. {SYSTEM}")
    usual = ask(openai_client, "When does it come to our islands?")

    assert brief == "You can return most items within 30 days [2]."
    assert usual == "Islands take longer [1]."


def test_answer_of_a_schema_quotes_passages_too(openai_client):
    """The words in the JSON are the passage's."""
    schema = {
        "type": "object",
        "properties": {"answer": {"type": "string", "minLength": 1}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}

    said = json.loads(ask(openai_client, "How long does delivery take?", response_format=response_format))

    assert said["answer"].startswith("Delivery takes two to four working days [1].")


def test_same_words_come_from_every_vendor(anthropic_client):
    """A passage reaches Anthropic's wire in `system`."""
    message = anthropic_client.messages.create(
        model="claude-instant",
        max_tokens=200,
        system=SYSTEM,
        messages=[{"role": "user", "content": "How do I return my shoes?"}],
    )

    assert message.content[0].text.startswith("You can return most items within 30 days [2].")


def test_question_that_fits_nothing_is_answered_from_the_first_passage():
    """It was found first, for a reason that words do not show, such as another language."""
    passages = (Passage(3, "Das Paket kommt bald. Bitte warten Sie."), Passage(4, "We ship to Norway."))

    assert quote("Where is it?", passages, most=1) == ("Das Paket kommt bald [3].",)


def test_passage_without_a_whole_sentence_is_quoted_as_it_is():
    """A title alone is said with a full stop."""
    assert quote("Returns?", (Passage(1, "Return an\nitem"),), most=None) == ("Return an item [1].",)
