"""Grounding: what is cited exists, and what is said can be found in the sources."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.documents import MalformedRelease
from dataplane.validators.check import check
from dataplane.validators.values import Output, Source
from tests.dataplane.validators.policies import no_time, one

SOURCES = (
    Source("returns-2026", "Items can be returned within 30 days. The fee is 1.234,50 EUR as of 2026-03-03."),
    Source("history", "Ada Lovelace wrote to Charles Babbage on May 5, 1843, from the city of Nottingham."),
)


def objections(
    kind: str, params: dict[str, Any], text: str, *, sources: tuple[Source, ...] = SOURCES, question: str = ""
) -> list[tuple[str, str]]:
    """What a rule objects to, and where; an objection to the whole has no words."""
    output = Output(text, sources=sources, question=question)
    (finding,) = check([one(kind, params)], output, cpu_clock=no_time).findings
    spans = [(span.what, text[span.start : span.end]) for span in finding.spans]
    return spans or ([(finding.why, "")] if finding.why else [])


@pytest.mark.parametrize(
    ("form", "text", "wrong"),
    [
        ("numbers", "Yes [1], no [2], both [1, 2] and [1-2].", []),
        (
            "numbers",
            "No [3], [0], [1,4], [1-3]; [x](y) and ![7](z) and [sic] and [1](http://x).",
            ["[3]", "[0]", "[1,4]", "[1-3]"],
        ),
        ("ids", "Yes [history], see [returns-2026] [returns-2026; history-1].", ["[returns-2026; history-1]"]),
        ("ids", "It was [sic] so, and [see below] too.", []),
    ],
)
def test_citation_of_a_source_that_is_not_there_is_found(form: str, text: str, wrong: list[str]) -> None:
    """Links, images and words in brackets are no citations."""
    params = {"form": form, "minimum": 0}

    assert [words for _, words in objections("citations", params, text)] == wrong


def test_too_few_citations_are_counted() -> None:
    """A pair of brackets is one."""
    params = {"form": "numbers", "minimum": 2}

    assert objections("citations", params, "So it is [1, 2].") == [("1 citations where at least 2 are asked for", "")]
    assert objections("citations", params, "So [1] it is [2].") == []


def test_sentence_with_a_number_has_its_citation() -> None:
    """Before its mark or right behind it."""
    params = {"form": "numbers", "minimum": 0, "each_number": True}
    text = "It takes 30 days [1]. It costs 5 EUR. [2] We have 7 shops.\nNo number here."

    assert objections("citations", params, text) == [("sentence with a number and no citation", " We have 7 shops.")]


@pytest.mark.parametrize(
    ("params", "text", "missing"),
    [
        ({"numbers": 1}, "Within 30 days for 1,234.50 EUR, or 31 days for 1234.5 EUR [1].", ["31"]),
        ({"dates": 1}, "On 3 March 2026 or 03/03/2026, in May 1843, not on 4 March 2026.", ["4 March 2026"]),
        ({"numbers": 1}, "On 3 March 2026.", []),
        (
            {"names": 1},
            "The Countess met ADA Lovelace, Charles Babbage (from Nottingham) and Grace Hopper of New York in Paris.",
            ["The Countess", "Grace Hopper of New York", "Paris"],
        ),
        ({"names": 1}, "Returns are free. Ada Lovelace knew. Our Nottingham office knew.", []),
        ({"names": 0.5}, "We saw Ada Lovelace in Paris.", []),
        ({"numbers": 0.6}, "30 or 31.", ["31"]),
    ],
)
def test_what_no_source_has_is_found(params: dict[str, Any], text: str, missing: list[str]) -> None:
    """Numbers and dates however they are written; all that are missing, once they are too many."""
    found = [words for _, words in objections("support", params | {"question": False}, text)]

    assert found == missing


def test_what_the_caller_said_supports_an_answer_if_the_rule_says_so() -> None:
    """A number of the question may be repeated."""
    text = "Order 4711 arrives soon."

    for with_question, missing in ((True, []), (False, [("number that no source has", "4711")])):
        params = {"numbers": 1, "question": with_question}
        assert objections("support", params, text, question="Where is order 4711?") == missing


def test_sentences_without_common_words_are_found_when_the_answer_drifts() -> None:
    """Runs of words, whatever their case and accents."""
    params = {"ngrams": {"words": 3, "share": 0.5}, "question": False}
    good = "ITEMS can be returned within 30 days."
    drift = "Our teapots are handmade by monks in the mountains of Tibet."

    assert objections("support", params, good) == []
    assert objections("support", params, f"{good} Ok.") == []
    assert objections("support", params, f"{good} {drift}") == [
        ("sentence that the sources do not have 50% of", f" {drift}")
    ]


SENTENCES = st.lists(st.sampled_from("abcd"), min_size=1, max_size=5)


def grams(words: list[str], length: int) -> list[tuple[str, ...]]:
    """The runs of so many words."""
    return list(zip(*(islice(words, place, None) for place in range(length)), strict=False))


@settings(max_examples=300)
@given(
    st.lists(SENTENCES, min_size=1, max_size=4),
    st.lists(st.lists(st.sampled_from("abcd"), max_size=8), max_size=3),
    st.integers(1, 3),
    st.sampled_from([0.2, 0.5, 0.8, 1]),
)
def test_runs_of_words_are_counted_as_if_each_was_looked_up(
    said: list[list[str]], sources: list[list[str]], length: int, share: float
) -> None:
    """Though sentences are looked for as a whole first, and nothing more is once the share is reached."""
    texts = [f"{' '.join(words)}." for words in said]
    known = {gram for words in sources for gram in grams(words, length)}
    hits = [[gram in known for gram in grams(words, length)] for words in said]
    every = [hit for each in hits for hit in each]
    is_short = bool(every) and sum(every) / len(every) < share
    missing = [
        text for text, each in zip(texts, hits, strict=True) if is_short and each and sum(each) / len(each) < share
    ]

    params = {"ngrams": {"words": length, "share": share}, "question": False}
    found = objections(
        "support",
        params,
        " ".join(texts),
        sources=tuple(Source(str(place), " ".join(words)) for place, words in enumerate(sources)),
    )

    assert [words.strip() for _, words in found] == missing


def test_without_sources_nothing_is_supported() -> None:
    """And an answer that says nothing checkable passes."""
    params = {"numbers": 1, "dates": 1, "names": 1, "question": True}

    assert objections("support", params, "It is 5.", sources=()) == [("number that no source has", "5")]
    assert objections("support", params, "It is fine.", sources=()) == []


@pytest.mark.parametrize(
    ("kind", "params", "words"),
    [
        ("support", {"question": True}, "looks at nothing"),
        ("support", {"numbers": 0, "question": True}, "is not above 0"),
        ("support", {"ngrams": {"words": 6, "share": 0.5}, "question": True}, "outside 1..5"),
        ("citations", {"form": "stars", "minimum": 0}, "not one of ids, numbers"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(kind: str, params: dict[str, Any], words: str) -> None:
    """Where the policy is read."""
    with pytest.raises(MalformedRelease, match=words):
        one(kind, params)
