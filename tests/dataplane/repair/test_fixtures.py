"""Malformed JSON as models wrote it: every case of `fixtures/json_repair/`, whole and in pieces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dataplane.repair.labels import Label
from dataplane.repair.reader import JsonReader, Repaired, Unrepaired
from dataplane.repair.stream import JsonStream
from dataplane.schema_check import SchemaChecker

FILES = sorted((Path(__file__).parents[3] / "fixtures" / "json_repair").glob("*.json"))
CASES = [(path.stem, case) for path in FILES for case in json.loads(path.read_text())]
SCHEMAS = SchemaChecker()
# A text is cut in two at every place, or at so many that lie as far apart.
MAX_CUTS = 60

each_case = pytest.mark.parametrize("case", [pytest.param(case, id=f"{stem}: {case['name']}") for stem, case in CASES])


def reader_of(case: dict[str, Any], labels: frozenset[Label] = frozenset(Label)) -> JsonReader:
    """The reader that a case asks for."""
    return JsonReader(
        case.get("schema"),
        coercions=frozenset(case.get("coercions", ())),
        labels=labels,
        wants=case["wants"],
        schemas=SCHEMAS,
    )


def read(case: dict[str, Any], labels: frozenset[Label] = frozenset(Label)) -> Repaired | Unrepaired:
    """What a case is read as."""
    return reader_of(case, labels).read(case["text"], is_cut=case.get("is_cut", False))


def test_there_are_cases_of_every_kind():
    """Sixty cases at least, under names of their own, of every rung below the models and every label."""
    names = [case["name"] for _, case in CASES]
    expected = [case["expect"] for _, case in CASES]

    assert len(names) >= 60
    assert len(set(names)) == len(names)
    assert {one["rung"] for one in expected if "rung" in one} == {"r0_strict", "r1_extract", "r2_syntax", "r3_coerce"}
    assert {one["label"] for one in expected if "label" in one} == set(Label)


@each_case
def test_case_is_read_as_it_says(case):
    """Rung, label and value, or the mode of what cannot be read and the fields that it lacks."""
    result, expected = read(case), case["expect"]

    if "unrepaired" in expected:
        assert isinstance(result, Unrepaired), result
        assert result.mode == expected["unrepaired"]
        assert list(result.missing) == expected.get("missing", list(result.missing))
        return
    assert isinstance(result, Repaired), result
    assert (result.rung, result.label) == (expected["rung"], expected["label"]), result.edits
    if "text" in expected:
        assert result.text == expected["text"]
    else:
        assert json.loads(result.text) == expected["value"]


@each_case
def test_case_is_only_handed_over_where_its_label_is_allowed(case):
    """With lossless edits alone, a reading with another is told as the best one, and not handed over."""
    result, expected = read(case, frozenset({Label.LOSSLESS})), case["expect"]

    if expected.get("label") == Label.LOSSLESS:
        assert result == read(case)
    else:
        assert isinstance(result, Unrepaired)
        assert result == read(case, frozenset({Label.LOSSLESS}))
        if "label" in expected:
            assert result.best is not None
            assert expected["label"] in result.why


@each_case
def test_case_in_pieces_is_the_same_or_refused(case):
    """Cut anywhere, a text is read as in one piece, or what was handed over of it is said to stand in the way."""
    for labels in (frozenset(Label), frozenset({Label.LOSSLESS})):
        whole, reader, text = read(case, labels), reader_of(case, labels), case["text"]
        for cut in range(0, len(text) + 1, max(1, len(text) // MAX_CUTS)):
            stream = JsonStream(reader, incremental=True)
            given = [stream.feed(text[:cut]), stream.feed(text[cut:])]
            result = stream.finish(is_cut=case.get("is_cut", False))
            assert stream.sent == "".join(given)
            if isinstance(result, Repaired):
                assert result.text.startswith(stream.sent)
                assert isinstance(whole, Repaired)
                assert json.loads(result.text) == json.loads(whole.text) or result.label is not Label.LOSSLESS
            elif isinstance(whole, Repaired):
                assert "cannot be taken back" in result.why
                assert not whole.text.startswith(stream.sent)
