"""What validator policies do, in words: each rule in one sentence, and what a change of them does."""

import pytest

from controlplane.console.policy_words import table_effects
from controlplane.console.release_content import words as release_words
from controlplane.console.validator_words import (
    changed_rules,
    looks_for,
    rule_sentence,
    validator_note,
    validator_sentences,
    validator_warnings,
)
from dataplane.documents import Node
from dataplane.routing import RoutingTable
from dataplane.validators.policy import KINDS, ValidatorPolicy
from tests.validator_tables import document_with, number, policy, rule

ANYWHERE = "in the text or the arguments of tool calls"
# Of each kind of rule, parameters and what they ask for.
ASKED = {
    "schema": [
        ({"schema": {"type": "object"}}, "an answer in JSON keeps to its schema"),
        ({"schema": {"type": "object"}, "must_be_json": True}, "an answer is JSON that keeps to its schema"),
        ({"schema": {"type": "object"}, "tool": "refund"}, "arguments of tool refund keep to its schema"),
    ],
    "pattern": [
        ({"pattern": "ab{1,3}", "expect": "must_not_match", "what": "order id"}, "no order id may be in the text"),
        ({"pattern": "ab", "expect": "must_match", "what": "a greeting"}, "a greeting has to be in the text"),
    ],
    "terms": [
        ({"deny": ["refund", "cash"]}, "not “refund” or “cash” may be in the text"),
        (
            {"deny": ["a", "b", "c", "d", "e"], "allow": ["a list"]},
            "not “a”, “b”, “c” or 2 more may be in the text, apart from “a list”",
        ),
        ({"require": ["thank you"]}, "“thank you” has to be in the text"),
    ],
    "toxicity": [
        ({"languages": ["en"]}, "no abusive word of English may be in the text"),
        (
            {"languages": ["de", "fr"], "allow": ["nude mice"]},
            "no abusive word of German or French may be in the text, apart from “nude mice”",
        ),
    ],
    "numbers": [
        (
            {"money": {"ge": 0, "le": 100}, "paths": [{"path": "$.price", "gt": 0, "integer": True}]},
            "numbers make sense: $.price whole and above 0 and amounts of money at least 0 and at most 100",
        ),
        (
            {"paths": [{"path": "$.total", "sum_of": "$.items[*].price"}]},
            "numbers make sense: $.total a number and $.total is the sum of $.items[*].price",
        ),
    ],
    "dates": [
        (
            {"paths": [{"path": "$.on", "format": "iso", "not_before": "2020-01-01"}]},
            "$.on is a date from 2020-01-01",
        ),
        ({"prose": {"not_after": "2030-12-31"}}, "dates in the text exist to 2030-12-31"),
    ],
    "units": [
        (
            {"forbid": ["lb"], "require": ["kg"], "about": ["weight"]},
            "no number in the text is in lb and a number in a sentence about weight is in kg",
        ),
    ],
    "checksums": [({"kinds": ["iban", "card"]}, f"what looks like an IBAN or card number {ANYWHERE} is a valid one")],
    "pii": [
        ({"classes": ["email", "card"]}, f"no e-mail address or card number may be {ANYWHERE}"),
        (
            {"classes": ["email"], "allow": ["@acme.example"]},
            f"no e-mail address may be {ANYWHERE}, apart from @acme.example",
        ),
    ],
    "secrets": [
        ({"classes": ["aws", "jwt"]}, f"no key, token or password (aws, jwt) may be {ANYWHERE}"),
        (
            {"classes": ["aws", "gcp", "azure", "github", "jwt"]},
            f"no key, token or password (aws, gcp, azure, 2 more) may be {ANYWHERE}",
        ),
    ],
    "citations": [
        (
            {"form": "numbers", "minimum": 1, "each_number": True},
            "citations such as [1] name sources that there are, there is at least 1 and each sentence with a number "
            "has one",
        ),
    ],
    "support": [
        (
            {"numbers": 1.0, "names": 0.8, "question": True},
            "all numbers and 80 % of names occur in the sources or the question",
        ),
    ],
    "judge": [
        ({"route": "chat"}, "a model of route chat is asked whether every claim is supported by the sources"),
        ({"route": "chat", "question": "Is it kind?"}, "a model of route chat is asked “Is it kind?”"),
    ],
}


def parsed(*rules, **fields):
    return ValidatorPolicy.parse("careful", Node(policy(*rules, **fields), "$"))


def test_every_kind_of_rule_has_words():
    """A kind without any would have a page of its own that cannot be shown."""
    assert ASKED.keys() == KINDS.keys()


@pytest.mark.parametrize(
    ("kind", "params", "said"), [(kind, params, said) for kind, cases in ASKED.items() for params, said in cases]
)
def test_each_rule_is_said_in_one_sentence(kind, params, said):
    """What it asks of an answer, by its parameters."""
    (read,) = parsed(rule(kind=kind, params=params, on_failure="warn")).rules

    assert looks_for(read) == said


@pytest.mark.parametrize(
    ("fields", "follows"),
    [
        ({}, "Otherwise the answer is withheld; if it cannot say within 50 ms, the answer is withheld"),
        (
            {"on_failure": "repair", "on_error": "open"},
            "What it finds is taken out, and '[removed]' put in its place; if it cannot say within 50 ms, the answer "
            "goes out with a warning",
        ),
        ({"on_failure": "warn"}, "Otherwise the answer goes out with a warning; if it cannot say within 50 ms, the an"),
    ],
)
def test_what_follows_is_said_with_it(fields, follows):
    """And what happens if the rule cannot say."""
    (read,) = parsed(rule(**fields)).rules

    assert rule_sentence(read).startswith(f"no-mail: no e-mail address may be in the text. {follows}")


def test_what_all_of_a_policy_decides_is_said_first():
    """How streams go, which words stand for what is withheld, and whether anything may pass unseen."""
    windowed = parsed(streams="window", escalation="withheld", regulated=True)

    said = validator_sentences(windowed)

    assert said[0].startswith("Of a stream, up to 400 characters are held back")
    assert said[1] == "In the place of an answer that is withheld stand the signed words of withheld"
    assert said[2].startswith("It is regulated")
    assert validator_note(windowed) == "1 rule, of which 1 can withhold an answer"


def test_who_reviews_is_warned_of_what_can_only_be_said_too_late():
    """A rule that needs the whole answer cannot withhold a stream that is out already."""
    late = rule("cites", kind="citations", params={"form": "numbers", "minimum": 1})

    assert validator_warnings(parsed(rule(), escalation="withheld")) == []
    warned = validator_warnings(parsed(rule(), late, streams="window"))
    assert "Rule cites can only say at the end of a stream" in warned[0]
    assert "Nobody wrote words" in warned[1]


def test_a_change_of_rules_is_said_rule_by_rule():
    """Those that came, went, and do something else now."""
    before = parsed(rule(), rule("gone"), rule("calm", on_error="closed"), rule("other"))
    after = parsed(
        rule(on_failure="warn"),
        rule("calm", on_error="open"),
        rule("other", version=2, params={"classes": ["iban"]}),
        rule("new"),
        regulated=False,
        streams="window",
    )

    said = changed_rules(before, after)

    assert "Rule no-mail now warns instead of blocking" in said
    assert "Rule gone is gone: nothing sees to it any more that no e-mail address may be in the text" in said
    assert "Rule calm lets an answer go out with a warning now where it cannot say" in said
    assert "Rule other asks another thing now: no IBAN may be in the text; until now: no e-mail address may" in str(
        said
    )
    assert "Rule new is new: no e-mail address may be in the text. Otherwise the answer is withheld" in str(said)
    assert said[0].startswith("Of a stream, up to 400 characters")
    assert changed_rules(before, before) == []


def test_reviewer_reads_what_becomes_of_answers_when_a_route_gets_or_loses_validators():
    """What the policy does stands under the change; without one, nothing looks at answers."""
    bare, careful = (RoutingTable.parse(one) for one in (document_with(), document_with(careful=policy())))
    stricter = RoutingTable.parse(document_with(careful=policy(rule(budget_ms=number(5), on_failure="warn"))))

    (gained,) = table_effects(bare, careful)
    (lost,) = table_effects(careful, bare)
    (moved,) = table_effects(careful, stricter)

    assert gained.sentence == "Route chat takes validator policy careful"
    assert "no-mail: no e-mail address may be in the text" in str(gained.details)
    assert lost.sentence == "Route chat loses validator policy careful: nothing looks at its answers before they go out"
    assert moved.sentence == "Validator policy careful: Time for no-mail 50 ms → 5 ms"
    assert moved.details == ("Rule no-mail now warns instead of blocking",)


def test_release_says_which_validators_a_route_takes():
    """In the words of a release's differences."""
    before, after = ({"routing": document_with(**one)} for one in ({}, {"careful": policy()}))

    assert release_words(before, after) == [
        "route chat changes: takes validator policy careful",
        "validator policy careful is added",
    ]
