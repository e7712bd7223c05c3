"""Checks of finished answers: verdicts, budgets, failures, repairs, and that the order of rules is nothing to them."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.validators.check import check
from dataplane.validators.kinds import Meter, Problem
from dataplane.validators.policy import Rule
from dataplane.validators.values import Channel, Finding, Layer, Output, Report, Source, Verdict
from tests.dataplane.validators.policies import ALL_PII, ALL_SECRETS, no_time, one, policy, rule

CARD = "4111 1111 1111 1111"
MANY = [
    one("terms", {"deny": ["guarantee"]}, id="words", on_failure="warn"),
    one("pii", ALL_PII, id="people", on_failure="repair"),
    one("secrets", ALL_SECRETS, id="keys", on_failure="repair"),
    one("numbers", {"percent": {"le": 100}}, id="percent", on_failure="warn"),
    one("dates", {"prose": {"not_before": "2020-01-01"}}, id="days"),
    one("support", {"numbers": 1, "question": False}, id="grounded", on_failure="warn"),
    one("citations", {"form": "numbers", "minimum": 1}, id="cited", on_failure="warn"),
    one("schema", {"schema": {"type": "object"}, "must_be_json": True}, id="shape", on_failure="warn"),
]
OUTPUTS = [
    Output(
        "We guarantee 120 % from 3 March 2026; write to ada@engine.org [2].", sources=(Source("a", "3 March 2026"),)
    ),
    Output(f"Card {CARD}, born 12 May 1815, since 1999-01-01."),
    Output("", tool_calls=(("mail", '{"to": "ada@engine.org", "card": "4111111111111111"}'),)),
    Output("Fine."),
]


@settings(max_examples=40)
@given(st.randoms(use_true_random=False), st.sampled_from(OUTPUTS))
def test_order_of_the_rules_is_nothing_to_the_report(rng: Random, output: Output) -> None:
    """Verdict, findings, who blocked, and the repaired answer are the same."""
    shuffled = list(MANY)
    rng.shuffle(shuffled)

    assert check(shuffled, output, cpu_clock=no_time) == check(MANY, output, cpu_clock=no_time)


def test_report_names_rule_version_place_and_kind_and_never_the_thing_itself() -> None:
    """What an auditor needs, without what must not be kept."""
    report = check(
        [replace(MANY[1], version=7, on_failure=Verdict.BLOCK)], Output(f"Card {CARD} ok"), cpu_clock=no_time
    )

    told = report.to_json()
    assert told == {
        "verdict": "block",
        "blocked_by": "people",
        "findings": [
            {
                "rule": "people",
                "version": 7,
                "layer": "rules",
                "kind": "pii",
                "verdict": "block",
                "effect": "block",
                "why": "card number",
                "spans": [{"where": "text", "start": 5, "end": 24, "what": "card number"}],
                "span_count": 1,
                "micros": 0,
            }
        ],
    }
    assert "4111" not in json.dumps(told)


def finding(name: str, verdict: Verdict, *, layer: Layer = Layer.RULES, is_closed: bool = True) -> Finding:
    return Finding(name, 1, layer, "pattern", verdict, is_closed=is_closed)


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        ([], Verdict.PASS),
        ([Verdict.PASS, Verdict.WARN], Verdict.WARN),
        ([Verdict.WARN, Verdict.REPAIR, Verdict.PASS], Verdict.REPAIR),
        ([Verdict.BLOCK, Verdict.REPAIR], Verdict.BLOCK),
        ([Verdict.PASS, Verdict.ABSTAIN], Verdict.BLOCK),
    ],
)
def test_verdict_of_a_report_is_the_worst_of_its_findings(verdicts: list[Verdict], worst: Verdict) -> None:
    """An abstention of a rule that fails closed blocks."""
    report = Report.of(finding(f"r{place}", verdict) for place, verdict in enumerate(verdicts))

    assert report.verdict is worst


def test_abstention_of_a_rule_that_fails_open_warns() -> None:
    """And is told as what it is."""
    report = Report.of([finding("r", Verdict.ABSTAIN, is_closed=False)])

    assert (report.verdict, report.blocked_by) == (Verdict.WARN, None)
    assert [one.verdict for one in report.failed] == [Verdict.ABSTAIN]


def test_first_of_the_cheapest_layer_is_who_blocked() -> None:
    """Of several that block."""
    report = Report.of(
        [
            finding("a", Verdict.BLOCK, layer=Layer.GROUNDING),
            finding("c", Verdict.BLOCK, layer=Layer.RULES),
            finding("b", Verdict.BLOCK, layer=Layer.RULES),
            finding("z", Verdict.WARN, layer=Layer.STRUCTURE),
        ]
    )

    assert report.blocked_by is not None
    assert report.blocked_by.rule == "b"


def ticking(step: float) -> Callable[[], float]:
    """A clock that goes on by so many seconds each time somebody looks."""
    times = iter(range(10**9))
    return lambda: next(times) * step


@pytest.mark.parametrize(("on_error", "effect"), [("closed", Verdict.BLOCK), ("open", Verdict.WARN)])
def test_rule_over_its_budget_abstains_and_never_passes(on_error: str, effect: Verdict) -> None:
    """The answer has nothing wrong in it; but nobody saw that in time."""
    slow = one("terms", {"deny": ["guarantee"]}, on_error=on_error)

    (found,) = check([slow], Output("fine"), cpu_clock=ticking(2.0)).findings

    assert (found.verdict, found.effect) == (Verdict.ABSTAIN, effect)
    assert found.why == "more than 1000 ms of processor time"


@pytest.mark.parametrize(
    ("on_failure", "on_error", "verdict"),
    [
        ("block", "closed", Verdict.BLOCK),
        ("warn", "closed", Verdict.WARN),
        ("repair", "open", Verdict.REPAIR),
        ("repair", "closed", Verdict.ABSTAIN),
    ],
)
def test_failure_that_was_found_before_the_budget_was_over_stands(
    on_failure: str, on_error: str, verdict: Verdict
) -> None:
    """Unless standing would let out what was not looked at."""
    slow = one("pii", {"classes": ["email"]}, on_failure=on_failure, on_error=on_error)
    text = "ada@engine.org " * 200

    report = check([slow], Output(text), cpu_clock=ticking(0.3))

    (found,) = report.findings
    assert found.verdict is verdict
    assert 0 < len(found.spans) < 200
    assert "e-mail address" in found.why
    assert "processor time" in found.why


class Broken:
    """Parameters of a rule that has a bug."""

    def problems(self, channel: Channel, output: Output, meter: Meter) -> Iterator[Problem]:
        """Find one thing, and fail."""
        yield Problem("thing", 0, 1)
        raise KeyError(channel.text)


@pytest.mark.parametrize("on_failure", [Verdict.WARN, Verdict.BLOCK])
def test_rule_that_fails_does_not_fail_the_call(on_failure: Verdict) -> None:
    """What it found before stands, and its error is told by its name alone."""
    bug = replace(MANY[0], params=Broken(), on_failure=on_failure)

    (found,) = check([bug], Output("secret"), cpu_clock=no_time).findings

    assert (found.verdict, found.why) == (on_failure, "thing; the rule failed: KeyError")


def test_json_too_deep_to_be_read_is_a_finding() -> None:
    """And no RecursionError, whatever the model wrote."""
    rules = [
        one("numbers", {"paths": [{"path": "$.a", "gt": 0}]}, id="n"),
        one("schema", {"schema": {"type": "object"}}, id="s"),
    ]
    deep = "[" * 100_000 + "]" * 100_000

    report = check(rules, Output(deep, is_json=True), cpu_clock=no_time)

    assert {found.verdict for found in report.findings} == {Verdict.BLOCK}


def test_repair_takes_out_what_all_rules_found_at_once() -> None:
    """Overlapping finds are replaced once, in the words of the one that begins first."""
    rules = [
        one("pii", {"classes": ["card"], "replacement": "(card)"}, id="a", on_failure="repair"),
        one(
            "pattern",
            {"pattern": r"1111 [0-9 ]{1,9}x", "expect": "must_not_match", "what": "tail", "replacement": "(tail)"},
            id="b",
            on_failure="repair",
        ),
        one("terms", {"deny": ["yes"]}, id="c", on_failure="repair"),
    ]

    report = check(rules, Output(f"yes: {CARD} x; no"), cpu_clock=no_time)

    assert report.verdict is Verdict.REPAIR
    assert report.repairs == Output("[removed]: (card); no")


def test_repaired_arguments_of_a_tool_are_still_json() -> None:
    """Within a string the words go in as they are; in place of a number, as a string."""
    call = ("pay", '{"note": "card 4111-1111-1111-1111 \\"ok\\"", "card": 4111111111111111, "cents": 5}')
    hush = one("pii", {"classes": ["card"], "replacement": 'a "card"'}, on_failure="repair")

    report = check([hush], Output("Paid.", tool_calls=(("look", "{}"), call)), cpu_clock=no_time)

    assert report.repairs is not None
    assert report.repairs.text == "Paid."
    assert report.repairs.tool_calls[0] == ("look", "{}")
    assert json.loads(report.repairs.tool_calls[1][1]) == {
        "note": 'card a "card" "ok"',
        "card": 'a "card"',
        "cents": 5,
    }
    assert {span.where for span in report.findings[0].spans} == {"tool_calls[1]"}


def test_what_cannot_be_taken_out_of_json_blocks() -> None:
    """A find that begins in one string and ends in the next leaves no JSON without it."""
    across = {"pattern": '"secret": "[a-z]{1,9}', "expect": "must_not_match", "what": "pair"}

    report = check(
        [one("pattern", across, on_failure="repair")],
        Output('{"secret": "word", "a": 1}', is_json=True),
        cpu_clock=no_time,
    )

    assert (report.verdict, report.repairs) == (Verdict.BLOCK, None)
    assert "cannot be taken out" in report.findings[0].why


def test_turn_of_tool_calls_alone_has_no_text_that_could_lack_anything() -> None:
    """It is not asked for citations; but its arguments are looked at."""
    rules = [one("citations", {"form": "numbers", "minimum": 1}, id="c"), one("pii", ALL_PII, id="p")]

    report = check(rules, Output("", tool_calls=(("mail", '{"to": "ada@engine.org"}'),)), cpu_clock=no_time)

    assert {found.rule: found.verdict for found in report.findings} == {"c": Verdict.PASS, "p": Verdict.BLOCK}
    assert check(rules[:1], Output(""), cpu_clock=no_time).verdict is Verdict.BLOCK


@pytest.mark.parametrize(
    ("applies_to", "where"),
    [("text", {"text"}), ("tool_arguments", {"tool_calls[0]"}), ("both", {"text", "tool_calls[0]"})],
)
def test_rule_looks_where_it_applies(applies_to: str, where: set[str]) -> None:
    """At the answer's text, at the arguments of tools, or at both."""
    output = Output("ada@engine.org", tool_calls=(("mail", '{"to": "ada@engine.org"}'),))

    (found,) = check([one("pii", ALL_PII, applies_to=applies_to)], output, cpu_clock=no_time).findings

    assert {span.where for span in found.spans} == where


def test_judges_are_left_to_others() -> None:
    """A rule that a model decides is no finding of this process."""
    read = policy(rule("j", "judge", {"route": "judges"}), rule("p", "pii", ALL_PII))

    assert [found.rule for found in check(read, Output("fine")).findings] == ["p"]


def test_long_lists_of_spans_are_told_shortened_and_kept_whole() -> None:
    """A report stays small whatever the answer was; the repair needs every place."""
    rules: list[Rule] = [one("pii", {"classes": ["email"]}, on_failure="repair")]

    report = check(rules, Output("ada@engine.org " * 300), cpu_clock=no_time)

    told: dict[str, Any] = report.to_json()["findings"][0]
    assert (len(told["spans"]), told["span_count"], len(report.findings[0].spans)) == (20, 300, 300)
    assert report.repairs == Output("[removed] " * 300)
    assert told["why"] == "e-mail address (300 times)"


def test_validators_neither_wait_nor_look_at_a_clock_of_their_own() -> None:
    """Only the two that measure budgets import one, as the default of an argument."""
    for path in sorted((Path(__file__).parents[3] / "dataplane" / "validators").glob("*.py")):
        tree = ast.parse(path.read_text())
        waits = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names} & {
            "asyncio",
            "socket",
            "threading",
            "time",
            "random",
            "os",
        }
        assert waits == []
        assert imported <= ({"time"} if path.name in {"check.py", "window.py"} else set()), path
