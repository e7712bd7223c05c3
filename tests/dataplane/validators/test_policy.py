"""Validator policies: read whole, or refused by path with what to do about it."""

from __future__ import annotations

from typing import Any

import pytest

from dataplane.documents import MalformedRelease, Node
from dataplane.validators.policy import KINDS, VALIDATOR_THRESHOLDS, ValidatorPolicy
from dataplane.validators.values import Layer, Verdict
from tests.dataplane.conftest import threshold
from tests.dataplane.validators.policies import ALL_PII, ALL_SECRETS, document, policy, rule

FINE: dict[str, dict[str, Any]] = {
    "schema": {"schema": {"type": "object"}},
    "pattern": {"pattern": "ab{1,3}", "expect": "must_not_match", "what": "inner name"},
    "terms": {"deny": ["guarantee"]},
    "toxicity": {"languages": ["en", "de"], "replacement": "[removed]"},
    "numbers": {"paths": [{"path": "$.price", "gt": 0}]},
    "dates": {"prose": {}},
    "units": {"forbid": ["oz"]},
    "checksums": {"kinds": ["iban"]},
    "pii": {"classes": ["email"]},
    "secrets": {"classes": ["aws"]},
    "citations": {"form": "numbers", "minimum": 1},
    "support": {"numbers": 1, "question": True},
    "judge": {"route": "judges"},
}


def test_policy_of_every_kind_is_read_cheapest_layer_first() -> None:
    """Whatever the order they are written in."""
    rules = [rule(f"r-{kind}", kind, params, budget_ms=threshold(5)) for kind, params in reversed(FINE.items())]

    read = policy(*rules, escalation="sorry", regulated=True)

    assert set(FINE) == set(KINDS)
    assert [one.layer for one in read.rules] == sorted((one.layer for one in read.rules), key=list(Layer).index)
    assert (read.escalation, read.streams, read.fails, read.regulated) == ("sorry", "window", "closed", True)
    assert [one.id for one in read.judges] == ["r-judge"]
    assert read.rules[0].on_failure is Verdict.BLOCK


def test_every_number_of_a_policy_has_its_name() -> None:
    """The window, and the budget of each rule under the rule's own name."""
    read = policy(rule("b", "terms", FINE["terms"], budget_ms=threshold(7)), rule("a", "pii", FINE["pii"]), window=400)

    assert {name: number.value for name, number in read.thresholds().items()} == {
        "window_characters": 400,
        "a.budget_ms": 1000,
        "b.budget_ms": 7,
    }
    assert VALIDATOR_THRESHOLDS == ("window_characters",)


@pytest.mark.parametrize(
    ("kind", "applies_to"),
    [("pii", "both"), ("secrets", "both"), ("checksums", "both"), ("pattern", "text"), ("citations", "text")],
)
def test_rule_looks_where_its_kind_usually_does(kind: str, applies_to: str) -> None:
    """Secrets and personal data are looked for in the arguments of tools too, unless somebody decides otherwise."""
    assert policy(rule("r", kind, FINE[kind])).rules[0].applies_to == applies_to


def test_what_rules_do_without_a_word_decides_how_the_policy_fails() -> None:
    """Closed or open if all do the same, else mixed."""
    closed, opened = rule("a", "pii", FINE["pii"]), rule("b", "terms", FINE["terms"], on_error="open")

    assert policy(closed).fails == "closed"
    assert policy(opened).fails == "open"
    assert policy(closed, opened).fails == "mixed"


def pattern(text: str, **changes: Any) -> dict[str, Any]:
    return rule("p", "pattern", {"pattern": text, "expect": "must_not_match", "what": "x"}, **changes)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (document(), "$.rules", "expected at least 1 element"),
    (document(rule("a", "pii", ALL_PII), rule("a", "terms", FINE["terms"])), "$.rules[1]", "'a' is given twice"),
    (document(rule("A b", "pii", ALL_PII)), "$.rules[0].id", "lower-case letters and digits"),
    (document(rule("a", "magic", {})), "$.rules[0].kind", "'magic' is not one of checksums, citations"),
    (document(rule("a", "pii", ALL_PII, on_failure="pass")), "$.rules[0].on_failure", "not one of block, repair, warn"),
    (document(rule("a", "pii", ALL_PII, budget_ms=threshold(0))), "$.rules[0].budget_ms.value", "is not above 0"),
    (document(rule("a", "pii", {"classes": ["shoe_size"]})), "$.rules[0].params.classes[0]", "not one of birth_date"),
    (document(rule("a", "secrets", {"classes": []})), "$.rules[0].params.classes", "at least 1 element"),
    (document(rule("a", "checksums", {"kinds": ["crc"]})), "$.rules[0].params.kinds[0]", "'crc' is not one of card"),
    (document(pattern("(?=a)b")), "$.rules[0].params.pattern", "no look-around"),
    (document(pattern("so…")), "$.rules[0].params.pattern", "answers are read with '...' in its place"),
    (document(pattern("a*")), "$.rules[0].params.pattern", "matches the empty text"),
    (document(pattern("ab+")), "$.rules[0].params", "set streams to 'hold'"),
    (document(pattern("a{600}"), window=599), "$.window_characters", "less than the 600 characters"),
    (document(rule("a", "pii", ALL_PII), window=10), "$.window_characters", "match of rule 'a' may have"),
    (document(rule("a", "pii", ALL_PII), window=0), "$.window_characters.value", "outside 1.."),
    (
        document(rule("a", "numbers", FINE["numbers"], on_failure="repair")),
        "$.rules[0].on_failure",
        "only what must not be there can be taken out",
    ),
    (
        document(rule("a", "terms", {"require": ["terms apply"]}, on_failure="repair")),
        "$.rules[0].on_failure",
        "use 'block' or 'warn'",
    ),
    (
        document(rule("a", "checksums", FINE["checksums"], on_failure="repair")),
        "$.rules[0].on_failure",
        "only what must not be there",
    ),
    (
        document(rule("a", "pii", ALL_PII), rule("b", "terms", FINE["terms"], on_error="open"), regulated=True),
        "$.rules[1].on_error",
        "regulated, so a rule that cannot say must block",
    ),
    (document(rule("a", "terms", {"deny": ["x"], "require": ["y"]})), "$.rules[0].params", "both are two rules"),
    (document(rule("a", "terms", {"deny": ["--"]})), "$.rules[0].params.deny[0]", "neither letter nor digit"),
    (document(rule("a", "terms", {"require": ["x"], "allow": ["y"]})), "$.rules[0].params.allow", "give 'deny'"),
    (document(rule("a", "toxicity", {"languages": []})), "$.rules[0].params.languages", "no word is looked for"),
    (document(rule("a", "toxicity", {"languages": ["xx"]})), "$.rules[0].params.languages[0]", "'xx'"),
    (
        document(rule("a", "secrets", ALL_SECRETS | {"replacement": "x" * 65})),
        "$.rules[0].params.replacement",
        "65 characters, more than 64",
    ),
    (
        document(rule("a", "schema", {"tool": "pay", "schema": {}}, applies_to="text")),
        "$.rules[0].applies_to",
        "looks at 'tool_arguments' only",
    ),
    (
        document(rule("a", "citations", FINE["citations"], applies_to="both")),
        "$.rules[0].applies_to",
        "looks at 'text' only",
    ),
    (document(rule("a", "pii", ALL_PII), streams="some"), "$.streams", "not one of hold, window"),
    (document(rule("a", "judge", {"route": "j", "question": "x" * 2001})), "$.rules[0].params.question", "ask less"),
]


@pytest.mark.parametrize(("written", "path", "words"), REFUSED, ids=[f"{path} {words}" for _, path, words in REFUSED])
def test_policy_that_cannot_be_kept_is_refused(written: dict[str, Any], path: str, words: str) -> None:
    """Where it is wrong, and what would do instead."""
    with pytest.raises(MalformedRelease) as refusal:
        ValidatorPolicy.parse("p", Node(written, "$"))

    assert refusal.value.path == path
    assert words in refusal.value.fact


def test_policy_that_holds_streams_needs_no_bounds() -> None:
    """An expression without a greatest length is fine where nothing leaves before all of it is there."""
    assert policy(pattern("ab+"), streams="hold", window=1).watches(is_tool=False) == ()


def test_policy_with_a_key_missing_is_refused() -> None:
    """There are no defaults that nobody decided."""
    for key in ("rules", "streams", "window_characters", "escalation", "regulated"):
        written = document(rule("a", "pii", ALL_PII))
        del written[key]
        with pytest.raises(MalformedRelease, match=f"missing key '{key}'"):
            ValidatorPolicy.parse("p", Node(written, "$"))
    for key in ("id", "version", "kind", "on_failure", "on_error", "budget_ms", "params"):
        written = document(rule("a", "pii", ALL_PII))
        del written["rules"][0][key]
        with pytest.raises(MalformedRelease, match=rf"^\$\.rules\[0\]: missing key '{key}'"):
            ValidatorPolicy.parse("p", Node(written, "$"))
