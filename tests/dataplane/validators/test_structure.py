"""Schemas and models: JSON that has not the shape it was to have is shown where it has not."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.documents import MalformedRelease
from dataplane.validators.check import check
from dataplane.validators.values import Output, Verdict
from tests.dataplane.validators.policies import no_time, one

MODEL: dict[str, Any] = {
    "fields": {
        "name": {"type": "string", "min_length": 1, "max_length": 20, "pattern": "^[A-Z]"},
        "price": {"type": "number", "gt": 0, "le": 1000},
        "count": {"type": "integer", "ge": 1, "lt": 10, "optional": True},
        "size": {"type": "string", "enum": ["S", "M"], "null": True},
        "day": {"type": "date"},
        "tags": {"type": "list", "items": {"type": "string"}, "min_length": 1},
        "from": {"type": "object", "unknown": "allow", "fields": {"zip": {"type": "string"}}},
    },
    "unknown": "forbid",
}
FITS = '{"name": "Ada", "price": 9.5, "size": null, "day": "2026-03-04", "tags": ["a"], "from": {"zip": "1", "x": 1}}'


def objections(params: dict[str, Any], output: Output) -> list[tuple[str, str]]:
    (finding,) = check([one("schema", params)], output, cpu_clock=no_time).findings
    texts = {"text": output.text} | {f"tool_calls[{n}]": call[1] for n, call in enumerate(output.tool_calls)}
    return [(span.what, texts[span.where][span.start : span.end]) for span in finding.spans]


def test_json_that_fits_a_model_passes() -> None:
    """With its optional fields and without."""
    assert objections(MODEL, Output(FITS, is_json=True)) == []
    assert objections(MODEL, Output(FITS.replace("9.5", '9.5, "count": 3'), is_json=True)) == []


@pytest.mark.parametrize(
    ("old", "new", "rule", "part"),
    [
        ('"Ada"', f'"A{"d" * 20}"', "properties/name/maxLength", f'"A{"d" * 20}"'),
        ('"Ada"', '"ada"', "properties/name/pattern", '"ada"'),
        ("9.5", "0", "properties/price/exclusiveMinimum", "0"),
        ("9.5", "1000.5", "properties/price/maximum", "1000.5"),
        ("9.5", '9.5, "count": 1.5', "properties/count/type", "1.5"),
        ("9.5", '9.5, "count": 10', "properties/count/exclusiveMaximum", "10"),
        ("null", '"L"', "properties/size/anyOf", '"L"'),
        ("2026-03-04", "2026-02-30", "properties/day/format", '"2026-02-30"'),
        ('["a"]', "[]", "properties/tags/minItems", "[]"),
        ('["a"]', '["a", 1]', "properties/tags/items/type", "1"),
        ('"zip": "1", ', "", "properties/from/required", '{"x": 1}'),
    ],
)
def test_each_constraint_of_a_model_is_kept(old: str, new: str, rule: str, part: str) -> None:
    """And what breaks it is shown, by the model's words and the place in the text."""
    text = FITS.replace(old, new, 1)
    assert text != FITS

    assert objections(MODEL, Output(text, is_json=True)) == [(f"does not satisfy {rule}", part)]


def test_field_that_a_model_forbids_is_found_without_telling_it() -> None:
    """A finding repeats nothing of the answer."""
    text = FITS.replace("{", '{"s3cr3t": 1, ', 1)

    assert objections(MODEL, Output(text, is_json=True)) == [("does not satisfy additionalProperties", text)]


def test_schema_of_a_tool_is_for_the_calls_of_that_tool() -> None:
    """Other calls, and the answer's text, are not its business."""
    params = {"tool": "pay", "schema": {"type": "object", "required": ["to"]}}
    output = Output("no JSON", tool_calls=(("look", "{}"), ("pay", '{"n": 1}'), ("pay", "{"), ("pay", '{"to": 1}')))

    assert objections(params, output) == [("does not satisfy required", '{"n": 1}'), ("no JSON", "")]


@pytest.mark.parametrize(
    ("must_be_json", "is_json", "verdict"),
    [(False, False, Verdict.PASS), (True, False, Verdict.BLOCK), (False, True, Verdict.BLOCK)],
)
def test_prose_is_held_to_a_schema_only_if_it_was_to_be_json(
    must_be_json: bool, is_json: bool, verdict: Verdict
) -> None:
    """Because the caller asked for JSON, or because the rule asks it of every answer."""
    rule = one("schema", {"schema": {}, "must_be_json": must_be_json})

    assert check([rule], Output("Hello.", is_json=is_json), cpu_clock=no_time).verdict is verdict


def test_equal_keys_and_escaped_ones_lead_to_the_right_place() -> None:
    """The last of two counts, as it does for whoever parses it."""
    schema = {"schema": {"properties": {"a": {"type": "string"}}}}

    assert objections(schema, Output(r'{"a": "x", "\u0061": [1, {"a": 2}] }', is_json=True)) == [
        ("does not satisfy properties/a/type", '[1, {"a": 2}]')
    ]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "either 'schema'"),
        ({"schema": {}, "fields": {}}, "either 'schema'"),
        ({"schema": {"type": "strange"}}, "not a valid JSON Schema"),
        ({"schema": {"$ref": "https://elsewhere.example/x"}}, "not a valid JSON Schema"),
        ({"schema": {}, "unknown": "allow"}, "additionalProperties"),
        ({"fields": {"a": {"type": "string"}}}, "missing key 'unknown'"),
        ({"fields": {}, "unknown": "allow"}, "name at least one"),
        ({"fields": {"a": {"type": "str"}}, "unknown": "allow"}, "'str' is not one of boolean, date"),
        ({"fields": {"a": {"type": "string", "gt": 1}}, "unknown": "allow"}, "says nothing about a field of type"),
        ({"fields": {"a": {"type": "list"}}, "unknown": "allow"}, "needs 'items'"),
        ({"fields": {"a": {"type": "string", "pattern": "(?=x)"}}, "unknown": "allow"}, "RE2 does not take it"),
        ({"tool": "t", "must_be_json": True, "schema": {}}, "always JSON"),
    ],
)
def test_schema_or_model_that_cannot_be_kept_is_refused(params: dict[str, Any], words: str) -> None:
    """Where it is read, not where an answer is waited for."""
    with pytest.raises(MalformedRelease, match=words):
        one("schema", params)
