"""Windows on streams: what leaves is what a check of the whole lets out, and leaves as soon as it may."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.validators.check import check
from dataplane.validators.policy import ValidatorPolicy
from dataplane.validators.values import Output, Source, Verdict
from dataplane.validators.window import Blocked, Passed, StreamWindow
from tests.dataplane.validators.policies import (
    ALL_CHECKSUMS,
    ALL_PII,
    ALL_SECRETS,
    cut,
    no_time,
    policy,
    rule,
    stream,
)

CARD = "4111 1111 1111 1111"
TERMS = {"deny": ["money back", "guarantee", "c++", "保证", "арт деко"], "allow": ["no guarantee"]}
ID = {"pattern": r"(?i)\bACME-\d{1,4}\b|xx[a-c]{1,5}y", "expect": "must_not_match", "what": "id", "replacement": "#"}
RULES = [
    rule("words", "terms", TERMS),
    rule("ids", "pattern", ID),
    rule("people", "pii", ALL_PII),
    rule("keys", "secrets", ALL_SECRETS),
    rule("checks", "checksums", ALL_CHECKSUMS, on_failure="warn"),
]
FRAGMENTS = [
    "no guarantee",
    "Guarantee",
    "money - back",
    "c++",
    "我们保证",
    "арт декор",
    "АРТ ДЕКО",
    "acme-12",
    "xxabcy",
    "xxab",
    "ada@engine.org",
    "ada@",
    CARD,
    "4111 1111 1111 1112",
    "+49 30 1234567",
    "ghp_aB3dE6fG9hJ2kL5mN8pQ1rS4tU7vW0xY3zA6",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx",
    "password: hunter22a",
    "-----BEGIN PRIVATE KEY-----",
    "-----END PRIVATE KEY-----",
    "\u200b",
    "ﬁ",
    "é",
    "\\u0041",
    "\\",
    "-",
    ".",
    "\n",
    " ",
    " ",
    " and ",
    "\ud83d\ude00",
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=9).map("".join)


def reading(*on_failure: str) -> ValidatorPolicy:
    """The rules, each with what follows from its finds."""
    return policy(*(written | {"on_failure": what} for written, what in zip(RULES, on_failure, strict=True)))


REPAIRING = reading("repair", "repair", "repair", "repair", "warn")
BLOCKING = reading("block", "warn", "block", "block", "warn")


@settings(max_examples=150)
@given(TEXTS, st.lists(st.integers(1, 200), max_size=6))
def test_stream_is_repaired_as_the_whole_is_whatever_the_cuts(text: str, cuts: list[int]) -> None:
    """Byte for byte, with the same findings at the same places."""
    whole = check(REPAIRING, Output(text), cpu_clock=no_time)

    streamed = stream(REPAIRING, cut(text, *sorted({place for place in cuts if place < len(text)})))

    assert streamed.text == (text if whole.repairs is None else whole.repairs.text)
    # Of a whole text that has nothing to find in it, the time of one look is parted among the rules.
    assert streamed.window.report.findings == tuple(replace(one, micros=0) for one in whole.findings)


@settings(max_examples=80)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join), st.lists(st.integers(1, 200), max_size=6))
def test_stream_of_json_is_repaired_as_the_whole_is(text: str, cuts: list[int]) -> None:
    """And what leaves is JSON."""
    written = json.dumps({"a": text, "b": [text, 4111111111111111]}, ensure_ascii=len(text) % 2 == 0)
    whole = check(REPAIRING, Output(written, is_json=True), cpu_clock=no_time)

    streamed = stream(REPAIRING, cut(written, *sorted({p for p in cuts if p < len(written)})), is_json=True)

    assert streamed.is_blocked == (whole.verdict is Verdict.BLOCK)
    if whole.repairs is not None:
        assert streamed.text == whole.repairs.text
        json.loads(streamed.text)


@settings(max_examples=80)
@given(TEXTS, st.lists(st.integers(1, 200), max_size=6))
def test_stream_is_blocked_if_the_whole_is_and_nothing_after_it_leaves(text: str, cuts: list[int]) -> None:
    """What left before is the beginning of the text, up to the find at most."""
    whole = check(BLOCKING, Output(text), cpu_clock=no_time)
    first = min(
        (span.start for found in whole.findings if found.verdict is Verdict.BLOCK for span in found.spans),
        default=len(text),
    )

    streamed = stream(BLOCKING, cut(text, *sorted({place for place in cuts if place < len(text)})))

    assert streamed.is_blocked == (whole.verdict is Verdict.BLOCK)
    assert text[:first].startswith(streamed.text)
    assert streamed.is_blocked or streamed.text == text


def test_nothing_is_held_longer_than_a_match_can_be() -> None:
    """However the text goes on: the window keeps to what its policy declares."""
    rng = Random(7)
    text = "".join(rng.choice(FRAGMENTS[:19]) for _ in range(300))
    window = StreamWindow(REPAIRING)
    longest = max(watch.sieve.longest or 0 for watch in REPAIRING.watches(is_tool=False))

    most = 0
    for character in text:
        window.feed(character)
        most = max(most, window.held)

    assert most <= longest <= REPAIRING.window_characters.value


def test_text_that_begins_nothing_leaves_at_once() -> None:
    """Up to the word that is being written."""
    window = StreamWindow(policy(rule("words", "terms", TERMS)))

    assert window.feed("All is well. We gua") == Passed("All is well. We ")
    assert window.feed("rd it") == Passed("guard it")
    assert window.feed(" with no gu") == Passed(" with ")
    assert window.feed("arantee at all") == Passed("no guarantee at all")
    assert window.finish() == Passed("")


def test_blocked_window_stays_blocked() -> None:
    """And gives the finding, not the words."""
    window = StreamWindow(policy(rule("people", "pii", ALL_PII)))

    assert window.feed(f"Your card {CARD[:10]}") == Passed("Your card ")
    blocked = window.feed(f"{CARD[10:]} is fine.")

    assert isinstance(blocked, Blocked)
    assert (blocked.finding.rule, blocked.finding.spans[0].start, blocked.finding.spans[0].end) == ("people", 10, 29)
    assert window.feed("more") == blocked
    assert window.finish() == blocked
    assert window.report.verdict is Verdict.BLOCK
    assert window.held == 0


def test_window_without_rules_for_streams_lets_everything_out_at_once() -> None:
    """And its other rules see the whole text at the end."""
    read = policy(rule("cited", "citations", {"form": "numbers", "minimum": 1}))
    window = StreamWindow(read, sources=(Source("a", "x"),))

    assert [window.feed(piece) for piece in ("Yes", " [", "1]")] == [Passed("Yes"), Passed(" ["), Passed("1]")]
    assert window.finish() == Passed("")
    assert stream(read, ["No."]).is_blocked


def test_rules_of_the_whole_text_have_the_last_word() -> None:
    """A number that no source has blocks what is left, and the report has both kinds of rules."""
    read = policy(
        rule("grounded", "support", {"numbers": 1, "question": True}),
        rule("words", "terms", TERMS, on_failure="repair"),
    )

    streamed = stream(read, ["A guaran", "tee of 12", " EUR, 7"], sources=(Source("a", "12 EUR"),), question="?")

    assert streamed.text == "A [removed] of 12 EUR, 7"
    assert isinstance(streamed.end, Blocked)
    assert streamed.end.finding.rule == "grounded"
    assert {found.rule: found.verdict for found in streamed.window.report.findings} == {
        "grounded": Verdict.BLOCK,
        "words": Verdict.REPAIR,
    }


@pytest.mark.parametrize(("text", "out"), [("fine", "fine"), ("a guarantee", "a [removed]"), (f"a {CARD}", "")])
def test_stream_that_is_held_leaves_when_all_of_it_is_checked(text: str, out: str) -> None:
    """Unchanged, repaired, or not at all."""
    read = policy(
        rule("words", "terms", TERMS, on_failure="repair"), rule("people", "pii", ALL_PII), streams="hold", window=1
    )
    window = StreamWindow(read)

    assert [window.feed(character) for character in text] == [Passed("")] * len(text)
    end = window.finish()

    assert (end.text if isinstance(end, Passed) else "") == out
    assert isinstance(end, Blocked) == (CARD in text)


def test_arguments_of_a_tool_have_a_window_of_their_own() -> None:
    """With the rules for arguments, as JSON, at places of that call."""
    read = policy(
        rule("people", "pii", ALL_PII, on_failure="repair", applies_to="tool_arguments"),
        rule("words", "terms", TERMS, applies_to="text"),
        rule("shape", "schema", {"tool": "mail", "schema": {"required": ["to"]}}),
    )
    arguments = '{"to": "ada\\u0040engine.org", "card": 4111111111111111, "text": "guarantee"}'

    streamed = stream(read, list(arguments), where="tool_calls[1]", tool="mail")

    assert json.loads(streamed.text) == {"to": "[removed]", "card": "[removed]", "text": "guarantee"}
    assert {span.where for found in streamed.window.report.findings for span in found.spans} == {"tool_calls[1]"}
    assert stream(read, ["{}"], where="tool_calls[0]", tool="mail").is_blocked
    assert not stream(read, ["{}"], where="tool_calls[0]", tool="other").is_blocked
    assert stream(read, ["a guarantee"]).is_blocked


@pytest.mark.parametrize("size", [1, 5, 100])
def test_find_that_reaches_over_a_string_of_json_blocks(size: int) -> None:
    """To take it out would leave no JSON."""
    across = {"pattern": '"secret": "[a-z]{1,9}', "expect": "must_not_match", "what": "pair"}
    text = '{"a": 1, "secret": "word", "b": 2}'

    streamed = stream(
        policy(rule("p", "pattern", across, on_failure="repair")),
        [text[at : at + size] for at in range(0, len(text), size)],
        is_json=True,
    )

    assert streamed.is_blocked
    assert text.startswith(streamed.text)
    assert "word" not in streamed.text
    assert streamed.window.report.verdict is Verdict.BLOCK


def failing(text: str, start: int, end: int) -> tuple[int, int] | int:
    """A check that takes capital letters for what is meant, and has a bug with small ones."""
    if text[start].islower():
        raise ZeroDivisionError
    return start, end


def with_a_bug(*rules: dict[str, Any]) -> ValidatorPolicy:
    """The rules, the first of which is checked by `failing`."""
    read = policy(*rules)
    (watch,) = read.watches(is_tool=False)
    broken = replace(watch.sieve.detectors[0], check=failing)
    sieve = replace(watch.sieve, detectors=(broken, *watch.sieve.detectors[1:]))
    return replace(read, _watches={False: (replace(watch, sieve=sieve),), True: ()})


def forbidding(name: str, expression: str, **changes: Any) -> dict[str, Any]:
    return rule(name, "pattern", {"pattern": expression, "expect": "must_not_match", "what": "x"}, **changes)


@pytest.mark.parametrize(("on_error", "is_blocked"), [("closed", True), ("open", False)])
def test_rule_that_fails_on_a_stream_abstains(on_error: str, is_blocked: bool) -> None:
    """It ends the stream if it fails closed; else the stream goes on, with the other rules."""
    read = with_a_bug(forbidding("a", "(?i)word", on_error=on_error), forbidding("b", "other"))

    streamed = stream(read, ["a word ", "and more ", "words"])

    assert streamed.is_blocked is is_blocked
    assert {found.rule: found.verdict for found in streamed.window.report.findings} == {
        "a": Verdict.ABSTAIN,
        "b": Verdict.PASS,
    }
    assert "ZeroDivisionError" in streamed.window.report.findings[0].why
    assert stream(read, ["some other thing"]).is_blocked


def test_warning_that_was_found_before_a_rule_failed_stands() -> None:
    """The rule would not have blocked whatever it had found, so its failure does not either."""
    read = with_a_bug(forbidding("a", "(?i)word", on_failure="warn"), forbidding("b", "other"))

    streamed = stream(read, ["a WORD ", "a word ", "end"])

    assert streamed.text == "a WORD a word end"
    assert [found.verdict for found in streamed.window.report.findings] == [Verdict.WARN, Verdict.PASS]


def test_work_on_a_stream_does_not_grow_with_what_has_left() -> None:
    """Of a stream ten times as long, every piece costs as many looks at as many characters."""
    read: Any = policy(rule("people", "pii", ALL_PII), rule("ids", "pattern", ID))
    text = "Your order 48213 shipped on 3 March; it costs $1,234.50, see https://x.example/a?b=c. "

    kept = []
    for repeats in (10, 100):
        window = StreamWindow(read)
        for piece in cut(text * repeats, *range(4, len(text) * repeats, 4)):
            window.feed(piece)
        kept.append(max(len(track._text) for track in window._tracks))

    assert kept[0] == kept[1] < 60
