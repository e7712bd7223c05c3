"""One look for many rules: it spares nobody who would have found anything."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.validators.check import channels_of, check
from dataplane.validators.policy import ValidatorPolicy
from dataplane.validators.values import Output, Report, Verdict
from tests.dataplane.validators.policies import ALL_PII, ALL_SECRETS, no_time, policy, rule

CAREFUL = policy(
    rule("keys", "secrets", ALL_SECRETS),
    rule("people", "pii", ALL_PII, on_failure="repair"),
    rule("words", "terms", {"deny": ["guarantee", "risk free"]}, on_failure="warn"),
    rule("contact", "terms", {"require": ["contact form"]}, on_failure="warn"),
    rule("names", "pattern", {"pattern": r"(?i)\bACME-\d{3}\b", "expect": "must_not_match", "what": "name"}),
    rule("greeting", "pattern", {"pattern": "fine", "expect": "must_match", "what": "greeting"}, on_failure="warn"),
    rule("abuse", "toxicity", {"languages": ["en", "de"]}),
    rule("amounts", "numbers", {"money": {"le": 100}, "percent": {"le": 100}}, on_failure="warn"),
    rule("cited", "citations", {"form": "numbers", "minimum": 0}, on_failure="warn"),
    rule("accounts", "checksums", {"kinds": ["iban"]}),
    streams="hold",
)
# Words of answers, and what rules look for, whole and in halves, in odd writings too.
PARTS = (
    *(
        "You get it back. ",
        "fine",
        " ",
        "\n",
        "14 days",
        "[1]",
        "[2]",
        "[",
        "]",
        "see the contact form",
        "ｆｉｎｅ",
        "é",
    ),
    *("$250", "250 EUR", "€ 99", "120 %", "120 percent", "٣٠٠ $", "300", "$", "%"),
    *(
        "ada@engine.org",
        "ada",
        "@engine.org",
        "4111 1111 1111 1111",
        "4111",
        "DE89 3704 0044 0532 0130 00",
        "＠engine.org",
    ),
    *("AKIAIOSFODNN7EXAMPLE", "ghp_", "sk-", "-----BEGIN PRIVATE KEY-----", "eyJhbGciOiJIUzI1NiJ9."),
    *(
        "guarantee",
        "GUARANTEE",
        "guar\u00adantee",
        "risk  free",
        "ACME-123",
        "acme-12",
        "shit",
        "Scheiße",
        "\\u0040",
        "\\n",
    ),
)


def untimed(report: Report) -> Report:
    """The same, whatever time it took."""
    return replace(report, findings=tuple(replace(finding, micros=0) for finding in report.findings))


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PARTS), max_size=8).map("".join), st.booleans(), st.booleans())
def test_answers_are_judged_as_if_every_rule_had_looked(text: str, is_json: bool, is_call: bool) -> None:
    """Whatever stands in them, however it is written, in prose, in JSON and in the arguments of tools."""
    output = Output("" if is_call else text, is_json=is_json, tool_calls=(("mail", text),) if is_call else ())

    judged = check(CAREFUL, output, cpu_clock=no_time)

    assert untimed(judged) == untimed(check(CAREFUL.rules, output, cpu_clock=no_time))


def never_asked(careful: ValidatorPolicy) -> ValidatorPolicy:
    """The same gate before rules that fail when they look."""
    deciding = tuple(replace(rule, params=None) for rule in careful.deciding)
    return replace(careful, rules=deciding, deciding=deciding)


def test_rules_that_could_find_nothing_are_not_asked() -> None:
    """Of an ordinary answer only those are that something must stand in."""
    report = check(never_asked(CAREFUL), Output("You get it back within fourteen days."), cpu_clock=no_time)

    assert {one.rule for one in report.findings if one.verdict is not Verdict.PASS} == {"contact", "greeting"}


def test_rules_are_asked_where_one_of_them_could_find_something() -> None:
    """All of them: which it is, each knows by itself."""
    report = check(never_asked(CAREFUL), Output("It costs $5."), cpu_clock=no_time)

    assert {one.verdict for one in report.findings} == {Verdict.ABSTAIN}


def test_time_of_the_look_is_parted_among_the_rules_that_it_spares() -> None:
    """Unless it took more than one of them has: then each looks by itself, and answers for its own time."""
    gate = CAREFUL.gate
    assert gate is not None
    rules = len(gate.passed)

    assert {one.micros for one in gate.findings(micros=10).values()} == {1}
    assert {one.micros for one in gate.findings(micros=1000 * rules).values()} == {1000}
    assert gate.findings(micros=round(gate.budget_micros) * rules) == {}


def test_one_look_for_one_rule_would_spare_nothing() -> None:
    """So there is no gate."""
    assert policy(rule("keys", "secrets", ALL_SECRETS)).gate is None
    assert CAREFUL.gate is not None
    assert CAREFUL.gate.spares(channels_of(Output("Fine.")))


SPARED = policy(
    rule("abuse", "toxicity", {"languages": ["en"]}),
    rule("cited", "citations", {"form": "numbers", "minimum": 0}),
    rule("keys", "secrets", ALL_SECRETS),
    rule("people", "pii", ALL_PII),
)


def test_policy_whose_rules_are_all_spared_gives_one_report_again_and_again() -> None:
    """So whoever counts what rules said reads it once."""
    first = check(SPARED, Output("You get it back within fourteen days."))
    second = check(SPARED, Output("On the second of May."))

    assert first is second
    assert (first.verdict, [one.rule for one in first.findings]) == (Verdict.PASS, ["abuse", "keys", "people", "cited"])
    assert check(SPARED, Output("Write to ada@engine.org.")).verdict is Verdict.BLOCK


def test_short_text_is_looked_at_without_a_clock() -> None:
    """Reading that costs more than the look; of a long text each rule has its part of the time."""

    def clock() -> float:
        asked.append(1)
        return 0.001 * len(asked)

    asked: list[int] = []

    check(SPARED, Output("Fine. " * 100), cpu_clock=clock)

    assert asked == []
    assert {one.micros for one in check(SPARED, Output("Fine. " * 1000), cpu_clock=clock).findings} == {250}
