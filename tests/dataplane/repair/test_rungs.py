"""The parts of the ladder that the reader is made of, each for itself."""

from __future__ import annotations

import json

import pytest

from dataplane.repair import missing
from dataplane.repair.candidates import MAX_CHANGES, Counted, TooManyLooks, changes, library_reading
from dataplane.repair.coerce import LABELS, MAX_COERCIONS, Coercer
from dataplane.repair.extraction import OBJECT, extract, readings
from dataplane.repair.labels import Edit, Label, Mode
from dataplane.repair.modes import mode_of_edits, problem_of
from dataplane.repair.policy import COERCIONS
from dataplane.repair.values import NotJson, Reading, is_too_deep, key, locate, parse, pointer
from dataplane.schema_check import SchemaChecker

SCHEMAS = SchemaChecker()


def missing_in(text, **options):
    """The texts with one mark more, and whether every place was tried."""
    options = {"failed_at": len(text), "is_cut": False} | options
    found, is_all = missing.readings(text, **options)
    return [one.text for one in found], is_all


def coerced(text, schema, *coercions):
    """The text as it meets the schema, and the edits; None where it does not."""
    reading, _ = Coercer(schema, SCHEMAS.validator(schema), coercions=frozenset(coercions)).coerce(Reading(text, ()))
    return reading


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a" 1}', ['{"a" :1}']),
        ('{"a": 1 "b": 2}', ['{"a": 1 ,"b": 2}']),
        ('{"a": [1, 2, "b": 3}', ['{"a": [1, 2], "b": 3}']),
        ('{"a": "x", b": 1}', ['{"a": "x"," b": 1}', '{"a": "x", "b": 1}']),
        ('{"a": 1, "b: 2}', ['{"a": 1, "b": 2}']),
        ("[true false]", ["[true ,false]"]),
        ("[truefalse]", ["[true,false]"]),
        ('{"a": {{{}', []),
        ('{"a" "b" "c"}', []),
    ],
)
def test_readings_with_one_mark_more_are_found(text, found):
    """All of them, in the order of their places; none where one mark is not enough."""
    assert missing_in(text) == (found, True)


def test_search_for_a_mark_ends_with_its_budget():
    """Then not every place was tried, and nothing is proof."""
    text = '{"a": [' + '{"b": 1}, ' * 200 + '{"b": 1}}'

    assert missing_in(text)[1]
    assert not missing_in(text, budget=1_000)[1]
    assert missing_in("[" + "1," * missing.MAX_CHARACTERS) == ([], False)


def test_mark_is_no_proof_beside_another_fault():
    """With single quotes, a missing comma is put in by a guess."""
    text = "{'a': 1 'b': 2}"

    (found,), _ = missing.readings(text, failed_at=8, is_cut=False)

    assert [edit.label for edit in found.edits if edit.kind == "missing_mark"] == [Label.INVENTED]


def test_values_in_fences_come_first():
    """What stands outside is told of, and not taken."""
    found = extract('Not {"a": 0}:\n```json\n{"a": 1}\n```\n~~~\n{"b": 2}\n~~~', starts=OBJECT)

    assert [json.loads(one.text) for one in found.found] == [{"a": 1}, {"b": 2}]
    assert [json.loads(one.text) for one in found.aside] == [{"a": 0}]


def test_text_of_nothing_but_brackets_is_not_looked_at_for_ever():
    """After so many places, the rest may hold anything, and what was found is a guess."""
    found = extract("{x " * 1_000 + '{"a": 1}', starts=OBJECT)

    assert not found.is_all
    assert found.found == ()
    many = readings(extract('{"a": 1} ' + "{x} " * 100, starts=OBJECT))
    assert {edit.label for edit in many[0].edits} >= {Label.INVENTED}


@pytest.mark.parametrize(
    ("text", "made", "found"),
    [
        ('{"a": 1, "b": "x"}', '{"a": 1, "b": "x"}', []),
        ("{'a': True, 'b': None}", '{"a": true, "b": null}', []),
        ('{"a": 1, "b": 2}', '{"a": 1}', ["left_out"]),
        ('{"a": 1}', '{"a": 1, "b": "new"}', ["added", "added"]),
        ('{"a": "xylophone"}', '{"a": "phone"}', ["added", "left_out"]),
        ('{"a": 1.50}', '{"a": 1.5}', []),
        ('{"a": 12}', '{"a": 1}', ["added", "left_out"]),
        ('{"a": "é"}', '{"a": "\\u00e9"}', []),
        ('{"a": ""}', '{"a": ""}', []),
        ('{"a": }', '{"a": ""}', ["added"]),
    ],
)
def test_what_was_added_and_left_out_is_told(text, made, found):
    """Strings, numbers and literals of what somebody made are looked for in the text, in order."""
    assert [edit.kind for edit in changes(text, made)] == found


def test_changes_are_told_up_to_a_limit():
    """What shares nothing with the text does not take for ever to say so."""
    made = json.dumps([f"word{number}" for number in range(5_000)])

    assert len(changes("x" * 50_000, made)) == MAX_CHANGES


def test_library_is_believed_where_it_adds_nothing():
    """Its numbers are written as the text has them, and it is never better than a guess."""
    guess = library_reading('{"a": 1.50 "b": "he said "hi""')

    assert guess is not None
    assert guess.text == '{"a": 1.50, "b": "he said \\"hi\\""}'
    assert guess.edits[0].label is Label.INVENTED


@pytest.mark.parametrize("text", ['{"a": }', "no json", "[" * 500, '("' * 8_000, '{"' * 8_000])
def test_library_is_not_believed_otherwise(text):
    """Where it invents a value, gives none, or would take too long."""
    assert library_reading(text) is None


def test_looks_of_the_library_are_counted():
    """Text that is looked at too often says so."""
    text = Counted("abc")

    with pytest.raises(TooManyLooks):
        [text[1] for _ in range(10**6)]


def test_every_coercion_that_a_policy_may_declare_has_a_label():
    """The names are those of the policy."""
    assert set(LABELS) == set(COERCIONS)


def test_coercions_leave_everything_else_as_it_was_written():
    """White space, escapes, the text of numbers, the order of members."""
    schema = {"properties": {"a": {"type": "integer"}}}

    reading = coerced('{ "z":1.50,\n "a" : "2" , "q":"\\u00e9" }', schema, "string_to_number")

    assert reading is not None
    assert reading.text == '{ "z":1.50,\n "a" : 2 , "q":"\\u00e9" }'
    assert [(edit.kind, edit.path, edit.before, edit.after) for edit in reading.edits] == [
        ("string_to_number", "/a", '"2"', "2")
    ]


def test_members_that_go_leave_valid_json():
    """First, last, several in a row, all."""
    schema = {"properties": {"a": {}}, "additionalProperties": False}

    for text in ('{"x": 1, "a": 2}', '{"a": 2, "x": 1}', '{"x": 1, "a": 2, "y": 3, "z": 4}'):
        assert json.loads(coerced(text, schema, "drop_unknown").text) == {"a": 2}
    assert coerced('{"x": 1, "y": 2}', schema, "drop_unknown").text == "{}"


def test_key_that_is_there_twice_is_not_coerced():
    """Which of the two is meant, nobody knows."""
    assert coerced('{"a": "1", "a": "2"}', {"properties": {"a": {"type": "integer"}}}, "string_to_number") is None


def test_coercions_come_to_an_end():
    """What would go back and forth is made once at each place; what needs too many is refused."""
    both = {"allOf": [{"properties": {"a": {"type": "string"}}}, {"properties": {"a": {"type": "integer"}}}]}
    many = json.dumps(["1"] * (MAX_COERCIONS + 1))

    assert coerced('{"a": "1"}', both, "string_to_number", "number_to_string") is None
    assert coerced(many, {"items": {"type": "integer"}}, "string_to_number") is None
    assert coerced(many.replace('"1", ', "", 1), {"items": {"type": "integer"}}, "string_to_number") is not None


def test_default_is_added_where_members_stand():
    """In the style of the rest; in an empty object too."""
    schema = {"required": ["b"], "properties": {"b": {"default": [1]}}}

    assert coerced('{"a":1 }', schema, "fill_default").text == '{"a":1,"b":[1] }'
    assert coerced("{}", schema, "fill_default").text == '{"b":[1]}'


def test_nearest_alternative_says_what_is_missing():
    """Of alternatives, the only one of the value's own type."""
    schema = {"anyOf": [{"type": "string"}, {"type": "object", "required": ["q"]}]}
    error = next(SCHEMAS.validator(schema).iter_errors({}))

    assert problem_of(error).missing == ("/q",)
    assert problem_of(error).mode is Mode.MISSING_FIELD


@pytest.mark.parametrize(
    ("edits", "mode"),
    [
        ([], None),
        ([("fence", Label.LOSSLESS), ("prose", Label.LOSSLESS)], Mode.EXTRA_PROSE),
        ([("trailing_comma", Label.LOSSLESS), ("fence", Label.LOSSLESS)], Mode.FENCED),
        ([("fence", Label.LOSSLESS), ("not_a_number", Label.LOSSY)], Mode.LITERALS),
        ([("drop_unknown", Label.LOSSY), ("fill_default", Label.INVENTED)], Mode.MISSING_FIELD),
        ([("a kind of another rung", Label.LOSSY)], Mode.SYNTAX),
    ],
)
def test_mode_is_that_of_the_edit_that_is_trusted_least(edits, mode):
    """Among equals, of the mode that stands first."""
    assert mode_of_edits([Edit.of(kind, 0, "", "", label) for kind, label in edits]) is mode


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ((), '{ "a": [1, {"b/c": 2}] }'),
        (("a", 1), '{"b/c": 2}'),
        (("a", 1, "b/c"), "2"),
        (("x",), None),
        (("a", 5), None),
    ],
)
def test_path_leads_to_a_place_in_the_text(path, found):
    """Or to none."""
    text = '{ "a": [1, {"b/c": 2}] }'
    place = locate(text, path)

    assert (None if place is None else text[place.start : place.end]) == found


def test_pointer_escapes_its_marks():
    """As RFC 6901 has it."""
    assert pointer(("a/b", 0, "c~d")) == "/a~1b/0/c~0d"


def test_values_are_compared_by_what_they_say():
    """Order and white space do not count; how a number is written does, and a key that is there twice."""
    assert key('{"a":1,"b":2}') == key('{ "b": 2, "a": 1 }')
    assert key("[1.0]") != key("[1]")
    assert key('["1"]') != key("[1]")
    assert key('{"a":1,"a":1}') != key('{"a":1}')


@pytest.mark.parametrize("text", ["[NaN]", '["\ud83d"]', "[1,]", "[" * 201 + "]" * 201, ""])
def test_what_is_not_json_has_no_value(text):
    """Nor has what is too deep to be looked at."""
    with pytest.raises(NotJson):
        parse(text)


def test_brackets_in_strings_are_not_deep():
    """Only those of JSON count."""
    assert not is_too_deep(json.dumps(["[" * 1_000]))
    assert is_too_deep("[" * 201 + "]" * 201)
