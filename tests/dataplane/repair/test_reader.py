"""Reading what a model wrote: what is certain, what is only likely, what is refused, and that it always ends."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.repair.labels import Label, Mode, Rung
from dataplane.repair.reader import JsonReader, Repaired, Unrepaired
from dataplane.repair.values import MAX_CHARACTERS
from dataplane.schema_check import SchemaChecker

from .broken_json import ADVERSARIAL, MUTATIONS, document, is_json, meant, value, written
from .test_transducer import DOCUMENTS

ALL = frozenset(Label)
CERTAIN = frozenset({Label.LOSSLESS})
SCHEMAS = SchemaChecker()
ADDRESS = {
    "type": "object",
    "required": ["street", "number"],
    "properties": {"street": {"type": "string"}, "number": {"type": "integer"}},
}


def read(text, schema=None, *, labels=ALL, wants=None, coercions=(), is_cut=False, sent=""):
    """What a reader made for this one text says."""
    reader = JsonReader(schema, coercions=frozenset(coercions), labels=labels, wants=wants, schemas=SCHEMAS)
    return reader.read(text, is_cut=is_cut, sent=sent)


@settings(max_examples=60)
@given(DOCUMENTS)
def test_json_is_handed_over_as_the_very_same_text(text):
    """It stays on the first rung: not a copy, no edit, nothing wrong."""
    result = read(text, wants="value")

    assert isinstance(result, Repaired)
    assert result.text is text
    assert (result.rung, result.edits, result.mode, result.label) == (Rung.STRICT, (), None, Label.LOSSLESS)


@pytest.mark.parametrize("mutation", MUTATIONS)
@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_nothing_is_accepted_as_certain_that_was_not_meant(mutation, seed):
    """Of a document that was broken in any way, a lossless reading has the value of the original, or there is none."""
    rng = Random(seed)
    wants = rng.choice(["object", "value"])
    given_value = document(rng) if wants == "object" else [value(rng, 1) for _ in range(rng.randrange(1, 4))]
    text = written(given_value, rng)
    mutant = MUTATIONS[mutation](text, rng)
    if is_json(mutant):
        return

    result = read(mutant, labels=CERTAIN, wants=wants)

    if isinstance(result, Repaired):
        assert result.label is Label.LOSSLESS
        assert json.loads(result.text) == meant(mutation, text, mutant)


@pytest.mark.parametrize("around", ["```json\n{}\n```", "Here it is:\n{}\nDone.", "{}</tool_call>"])
@settings(max_examples=25)
@given(st.integers(0, 2**32), st.sampled_from(["drop quote", "drop comma", "drop colon", "drop brace"]))
def test_what_stands_around_a_broken_value_makes_no_other_certain(around, seed, mutation):
    """No piece of a value that lacks a mark is taken for the whole, in a fence or in prose."""
    rng = Random(seed)
    text = written(document(rng), rng)
    mutant = MUTATIONS[mutation](text, rng)
    if is_json(mutant):
        return

    result = read(around.replace("{}", mutant), labels=CERTAIN, wants="object")

    assert isinstance(result, Unrepaired) or json.loads(result.text) == json.loads(text)


@pytest.mark.parametrize("unit", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_a_million_characters_made_to_take_long_end_in_an_answer(unit):
    """Whatever it is made of, the reader returns, and what it gives is JSON."""
    text = (unit * (1_000_000 // len(unit) + 1))[:1_000_000]

    result = read(text, ADDRESS, coercions=["json_string", "scalar_to_list", "fill_default"])

    if isinstance(result, Repaired):
        json.loads(result.text)
    else:
        assert result.why


@pytest.mark.parametrize("unit", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_text_that_is_short_enough_for_every_rung_ends_too(unit):
    """Where the search for a mark and the library take part, their work is counted."""
    result = read("{" + (unit * 16_000)[:16_000])

    assert isinstance(result, Repaired | Unrepaired)


def test_text_that_is_too_long_is_not_looked_at():
    """A mebibyte is read, a character more is not, JSON or no."""
    text = '{"a":"' + "x" * (MAX_CHARACTERS - 8) + '"}'

    assert isinstance(read(text), Repaired)
    refused = read(text + " ")
    assert isinstance(refused, Unrepaired)
    assert refused.mode is Mode.TOO_LARGE
    assert str(MAX_CHARACTERS) in refused.why


def test_reason_names_place_fact_and_what_is_missing():
    """Of a value that its schema refuses, everything that is wrong is told, in the same words each time."""
    text = '{"home": {"street": 7}, "work": {"number": 1}}'
    schema = {"type": "object", "properties": {"home": ADDRESS, "work": ADDRESS}}

    refused = read(text, schema)

    assert isinstance(refused, Unrepaired)
    assert refused == read(text, schema)
    assert refused.why == (
        '/home: "number" is a required property; /home/street: 7 is not of type "string"; '
        '/work: "street" is a required property'
    )
    assert refused.missing == ("/home/number", "/work/street")
    assert refused.mode is Mode.WRONG_TYPE
    assert refused.best is not None
    assert refused.best.text == text


def test_reason_names_the_character_that_cannot_be_read():
    """And what would have been expected there."""
    refused = read('{"a": 1 2 3}', labels=CERTAIN)

    assert isinstance(refused, Unrepaired)
    assert refused.why.startswith("character 8: a comma or '}' was expected")


def test_schema_tells_several_values_apart():
    """The only one that meets it is taken, and the others are lost; where two do, each is a guess."""
    one = read('{"street": "x", "number": 1} or {"number": 2}', ADDRESS)
    two = read('{"street": "x", "number": 1} or {"street": "y", "number": 2}', ADDRESS)

    assert isinstance(one, Repaired)
    assert isinstance(two, Repaired)
    assert (json.loads(one.text)["number"], one.label) == (1, Label.LOSSY)
    assert (json.loads(two.text)["number"], two.label) == (1, Label.INVENTED)


def test_piece_of_a_broken_list_is_no_answer():
    """Beside a mark of a source, a broken value stays broken."""
    refused = read('As [1] says: [2 3, {"a": 1]', labels=CERTAIN, wants="value")

    assert isinstance(refused, Unrepaired)


def test_what_was_cut_off_is_never_certain():
    """A mark that could stand in one place only is no proof where the provider says that more was to come."""
    text = '{"a": 1 "b": 2}'

    assert read(text).label is Label.LOSSLESS
    assert read(text, is_cut=True).label is Label.INVENTED


def test_what_was_whole_before_the_cut_is_certain():
    """A value that had ended needs nothing to complete it."""
    assert read('{"a": 1}\n\nThis me', is_cut=True).label is Label.LOSSLESS


def test_reading_goes_on_from_what_was_handed_over():
    """Of two readings that say the same, the one that begins with what the caller has comes first."""
    text = '{"a":1}\n{"a": 1}'

    assert read(text).text == '{"a":1}'
    assert read(text, sent='{"a": ').text == '{"a": 1}'


@pytest.mark.parametrize(
    ("schema", "text", "is_read"),
    [
        (None, "[1]", False),
        ({"type": "object"}, "[1]", False),
        ({"properties": {}}, "[1]", False),
        ({"type": "array"}, "[1]", True),
        ({"type": "string"}, '"x"', True),
        ({"type": "nonsense"}, "[1]", True),
    ],
)
def test_schema_says_whether_an_object_is_wanted(schema, text, is_read):
    """Without one, nothing but an object will do; one that cannot be compiled is not checked."""
    assert isinstance(read(text, schema), Repaired) is is_read


def test_compiled_schemas_are_kept_for_other_readers():
    """Readers are made for each request; what is compiled is not."""
    schemas = SchemaChecker()

    first = schemas.validator(ADDRESS)
    JsonReader(ADDRESS, coercions=frozenset(), labels=ALL, schemas=schemas).read("{}")

    assert schemas.validator(dict(ADDRESS)) is first


def test_number_that_floats_cannot_hold_is_held_against_the_schema():
    """It counts as the greatest, and keeps its text."""
    schema = {"type": "object", "properties": {"a": {"type": "number", "maximum": 10}}}

    assert isinstance(read('{"a": 1e400}', schema), Unrepaired)
    assert read('{"a": -1e400}', schema).text == '{"a": -1e400}'


def test_lone_surrogate_is_held_against_the_schema():
    """As the one character that stands for it."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 1}}}

    assert isinstance(read('{"a": "\\ud83d"}', schema), Repaired)
    assert isinstance(read('{"a": "\\ud83dx"}', schema), Unrepaired)
