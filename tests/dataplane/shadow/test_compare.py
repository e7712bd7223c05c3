"""How far two answers are apart, as numbers: each by its own table."""

from __future__ import annotations

import json

import pytest

from dataplane.shadow.compare import Side, Tools, compare, compare_tools
from dataplane.shadow.offers import Given
from dataplane.validators.values import Finding, Layer, Report, Verdict


def given(text="", *, calls=(), finish="stop", refused=False, cost=10, latency=100.0):
    return Given("lane", text, tuple(calls), finish, refused, cost, latency)


def finding(rule, layer, verdict, *, is_closed=True):
    return Finding(rule, 2, layer, "terms", verdict, is_closed=is_closed)


@pytest.mark.parametrize(
    ("control", "shadow", "overlap", "ratio"),
    [
        ("", "", None, None),
        ("Fourteen days.", "fourteen DAYS", 1.0, 1.0),
        ("a b c d", "a b", 2 * 2 / 6, 0.5),
        ("yes yes", "yes", 2 * 1 / 3, 0.5),
        ("a b", "c d e f", 0.0, 2.0),
        ("a", "", 0.0, None),
        ("Größe", "große", 1.0, 1.0),
    ],
)
def test_words(control, shadow, overlap, ratio):
    """Words are folded like those of validators, and count as often as they occur."""
    found = compare(Side(given(control)), Side(given(shadow)))

    assert found.overlap == (None if overlap is None else pytest.approx(overlap))
    assert found.length_ratio == ratio


@pytest.mark.parametrize(
    ("control", "shadow", "citations"),
    [
        ("nothing", "nothing either", None),
        ("as [1] says", "[1] says so", 1.0),
        ("[1] and [2, 3]", "[2-4]", 2 / 4),
        ("[returns-policy#3]", "[returns-policy#4]", 0.0),
        ("[doc-1]", "", 0.0),
        ("[a link](https://example.com/1) and [sic]", "", None),
    ],
)
def test_citations(control, shadow, citations):
    """By number or by name; what only looks like one is none."""
    assert compare(Side(given(control)), Side(given(shadow))).citations == citations


@pytest.mark.parametrize(
    ("control", "shadow", "expected"),
    [
        ([], [], None),
        ([("find", '{"id": 1}')], [("find", '{ "id":1 }')], Tools(1.0, 1.0)),
        ([("find", '{"id": 1}')], [("find", '{"id": 2}')], Tools(1.0, 0.0)),
        ([("find", '{"id": 1, "x": [1, {"a": null}]}')], [("find", '{"id": 2, "x": [1, {"a": null}]}')], Tools(1, 0.5)),
        ([("find", '{"id": true}')], [("find", '{"id": 1}')], Tools(1.0, 0.0)),
        ([("find", '{"id": 1}')], [("find", '{"id": 1.0}')], Tools(1.0, 1.0)),
        ([("find", "{")], [("find", "{")], Tools(1.0, 1.0)),
        ([("find", "{")], [("find", "{}")], Tools(1.0, 0.0)),
        ([("find", "[1]")], [("find", "[2]")], Tools(1.0, 0.0)),
        ([("find", "{}"), ("find", '{"id": 2}')], [("find", "{}")], Tools(2 / 3, 1.0)),
        ([("find", "{}")], [("refund", "{}")], Tools(0.0, None)),
        ([("find", "{}")], [], Tools(0.0, None)),
    ],
)
def test_tools(control, shadow, expected):
    """Names as often as they are called; arguments as JSON, where true is not 1."""
    assert compare_tools(control, shadow) == expected


@pytest.mark.parametrize(
    ("control", "shadow", "schema"),
    [
        (True, True, "both"),
        (True, False, "control"),
        (False, True, "shadow"),
        (False, False, "neither"),
        (None, True, None),
        (True, None, None),
    ],
)
def test_schema(control, shadow, schema):
    """Whichever was not looked at, there is nothing to compare."""
    assert compare(Side(given(), control), Side(given(), shadow)).schema == schema


def test_verdicts_are_told_by_layer_and_by_rule():
    """The worst of each layer, and each rule that does not let both pass, with its version; never a word of either."""
    control = Report.of(
        [
            finding("no-cards", Layer.RULES, Verdict.PASS),
            finding("polite", Layer.RULES, Verdict.WARN),
            finding("cited", Layer.GROUNDING, Verdict.PASS),
        ]
    )
    shadow = Report.of(
        [
            finding("no-cards", Layer.RULES, Verdict.BLOCK),
            finding("polite", Layer.RULES, Verdict.PASS),
            finding("cited", Layer.GROUNDING, Verdict.ABSTAIN, is_closed=False),
        ]
    )

    found = compare(Side(given(), report=control), Side(given(), report=shadow))

    assert found.layers == (("rules", "warn", "block"), ("grounding", "pass", "warn"))
    assert set(found.rules) == {
        ("no-cards@2", "pass", "block"),
        ("polite@2", "warn", "pass"),
        ("cited@2", "pass", "abstain"),
    }
    assert found.verdicts_agree is False


def test_verdicts_of_one_answer_alone_are_no_comparison():
    """A refusal is not validated, so nothing is said of the other."""
    report = Report.of([finding("no-cards", Layer.RULES, Verdict.BLOCK)])

    found = compare(Side(given(), report=report), Side(given("I cannot", refused=True)))

    assert (found.layers, found.rules, found.verdicts_agree) == ((), (), None)
    assert found.refused == (False, True)


def test_diff_holds_numbers_and_known_words_alone():
    """What a provider says of its end is not repeated unless it is one of the words that there are."""
    control = Side(given("The secret is 42", cost=30, latency=100.04))
    shadow = Side(given("The secret is 43", finish="secret\0", cost=20, latency=50))

    told = json.dumps(compare(control, shadow).to_json())

    assert "secret" not in told
    assert json.loads(told) == {
        "schema": None,
        "overlap": 0.75,
        "length_ratio": 1.0,
        "citations": None,
        "tools": None,
        "refused": [False, False],
        "layers": {},
        "rules": [],
        "finish_reasons": ["stop", "other"],
        "cost_micros": [30, 20],
        "latency_ms": [100.0, 50],
    }


def test_long_answers_are_compared_by_their_beginning():
    """A megabyte of words is no reason to stand still."""
    found = compare(Side(given("word " * 200_000)), Side(given("word " * 20_000 + "other " * 200_000)))

    assert found.overlap == 1.0
