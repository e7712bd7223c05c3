"""Expressions and lists of terms: what they catch, and what they leave alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.validators.abuse import DICTIONARIES, abusive_words
from dataplane.validators.check import check
from dataplane.validators.detector import Subject
from dataplane.validators.folding import Fold, fold
from dataplane.validators.values import Output, Verdict
from tests.dataplane.validators.policies import no_time, one


def found(kind: str, params: dict[str, Any], text: str, *, is_json: bool = False) -> list[str]:
    """The parts of a text that a rule objects to."""
    report = check([one(kind, params)], Output(text, is_json=is_json), cpu_clock=no_time)
    return [text[span.start : span.end] for span in report.findings[0].spans]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ACME-17 and ACME-2, not ACME-x", ["ACME-17", "ACME-2"]),
        ("ＡＣＭＥ-１７ A\u200bCME-3", ["ＡＣＭＥ-１７", "A\u200bCME-3"]),
        ("nothing", []),
    ],
)
def test_pattern_that_must_not_match_is_found_at_its_place(text: str, parts: list[str]) -> None:
    """Each match, in the characters of the text as it was written."""
    assert found("pattern", {"pattern": r"ACME-\d{1,4}", "expect": "must_not_match", "what": "id"}, text) == parts


def test_pattern_sees_json_without_its_escapes() -> None:
    """What a reader of the JSON will see is what counts."""
    params = {"pattern": "ACME-17", "expect": "must_not_match", "what": "id"}

    assert found("pattern", params, r'{"a": "\u0041CME\u002d17"}', is_json=True) == [r"\u0041CME\u002d17"]


@pytest.mark.parametrize(("text", "verdict"), [("See our terms.", Verdict.PASS), ("Bye.", Verdict.BLOCK)])
def test_pattern_that_must_match_is_missed(text: str, verdict: Verdict) -> None:
    """There is no place to point at where something is not."""
    must = one("pattern", {"pattern": "(?i)terms", "expect": "must_match", "what": "the terms"})

    report = check([must], Output(text), cpu_clock=no_time)

    assert report.verdict is verdict
    assert report.findings[0].spans == ()
    assert verdict is Verdict.PASS or report.findings[0].why == "the terms is missing"


@pytest.mark.parametrize(
    ("deny", "text", "parts"),
    [
        (["guarantee"], "GUARANTEE, guarantéé! guaranteed, reguarantee, guarantee_x", ["GUARANTEE", "guarantéé"]),
        (["money-back"], "money back, Money - Back, moneyback, money, back", ["money back", "Money - Back"]),
        (["Straße"], "STRASSE straße Strassen", ["STRASSE", "straße"]),
        (["C++", "C"], "C++ and C, c#", ["C++", "C", "c"]),
        (["арт", "арт деко"], "арт декорация, артист, АРТ ДЕКО", ["арт", "АРТ ДЕКО"]),
        (["保证"], "我们保证退款", ["保证"]),
        (["보장"], "보장합니다", ["보장"]),
        (["कर"], "कर और करना", ["कर"]),
        (["a"], "a a-a á", ["a", "a", "a", "á"]),
        ([".NET 9"], "on .NET  9.", [".NET  9"]),
    ],
)
def test_denied_terms_are_whole_words_in_any_case_and_accent(deny: list[str], text: str, parts: list[str]) -> None:
    """In scripts that put no spaces between words, wherever they stand."""
    assert found("terms", {"deny": deny}, text) == parts


def test_denied_term_within_an_allowed_phrase_is_fine() -> None:
    """And is denied everywhere else; a longer denied one is denied within the phrase too."""
    params = {"deny": ["kill", "kill switch operator"], "allow": ["Kill switch", "over kill"]}

    assert found("terms", params, "The kill switch; overkill; over-kill; to kill; kill switch operator") == [
        "kill",
        "kill switch operator",
    ]


def test_terms_that_are_required_are_named_when_they_are_missing() -> None:
    """They are the rule's own words."""
    terms = one("terms", {"require": ["not financial advice", "Acme AG"]})

    (finding,) = check([terms], Output("This is NOT financial-advice."), cpu_clock=no_time).findings

    assert (finding.verdict, finding.why) == (Verdict.BLOCK, "required term 'Acme AG' is missing")


@pytest.mark.parametrize(
    ("language", "text", "parts"),
    [
        ("en", "You ASSHOLE, said the assistant of the class; ａｓｓｈｏｌｅ!", ["ASSHOLE", "ａｓｓｈｏｌｅ"]),
        ("de", "Das ist Scheiße, nicht Beschiss.", ["Scheiße"]),
        ("en", "Scunthorpe is a town; your parcel is on its way.", []),
    ],
)
def test_abusive_words_are_whole_words_of_the_languages_named(language: str, text: str, parts: list[str]) -> None:
    """Found as denied terms are, so that a place name with one inside is none."""
    assert found("toxicity", {"languages": [language]}, text) == parts


def test_abusive_word_within_an_allowed_phrase_is_fine() -> None:
    """What is right for a text is said."""
    assert found("toxicity", {"languages": ["en"], "allow": ["nude mice"]}, "Nude mice, and a nude.") == ["nude"]


@pytest.mark.parametrize("language", DICTIONARIES)
def test_every_dictionary_has_words_that_are_found(language: str) -> None:
    """Each entry by itself, in the very spelling of the dictionary."""
    words, rule = abusive_words(language), one("toxicity", {"languages": [language]})

    missed = [word for word in words if not check([rule], Output(f"x, {word} !"), cpu_clock=no_time).findings[0].spans]

    assert len(words) >= 10
    assert missed == []


def test_many_terms_are_looked_for_in_one_pass() -> None:
    """As many as a list may have; a match among them is looked at once."""
    terms = [f"word{number}" for number in range(3_000)]
    rule = one("terms", {"deny": terms})
    sieve = rule.sieve
    assert sieve is not None
    looks = []

    hits = list(sieve.find("word7 word30000 " * 50 + "word2999", is_json=False, tick=lambda: looks.append(1)))

    assert len(hits) == 51
    assert len(looks) == 52


# Letters of scripts with and without spaces, a mark, a digit, what stands between words, and what does neither.
CHARACTERS = "abé\u0301ก中1 -_$"


@given(st.lists(st.text(CHARACTERS, min_size=1, max_size=4), min_size=1, max_size=4), st.text(CHARACTERS, max_size=14))
def test_term_that_the_end_of_a_text_leaves_open_is_held_from_its_beginning(terms: list[str], text: str) -> None:
    """Whatever goes on behind the text, a finding across its end begins no earlier than what is held."""
    deny = list(dict.fromkeys(term for term in terms if any(map(str.isalnum, term)))) or ["ab c"]
    sieve = one("terms", {"deny": deny}).sieve
    assert sieve is not None
    folded, _ = fold(text, Fold.LETTERS)

    place = sieve.held(Subject(folded), 0)

    for term in deny:
        for cut in range(len(term)):
            for hit in sieve.find(f"{folded}{term[cut:]} ", is_json=False):
                assert hit.end <= len(folded) or hit.start >= place
