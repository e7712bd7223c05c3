"""Expressions: what RE2 takes, how long a match can be, and where one may have begun."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.validators.detector import NEVER, Detector, Reader, Sieve, Subject
from dataplane.validators.folding import Fold
from dataplane.validators.patterns import beginnings, pattern, span, spans


@pytest.mark.parametrize(
    ("text", "shortest", "longest"),
    [
        ("abc", 3, 3),
        ("a|bcd|", 0, 3),
        ("(?i)ab?c*", 1, None),
        (r"\bAKIA[A-Z2-7]{16}\b", 20, 20),
        (r"(?:ab|c){2,4}", 2, 8),
        (r"(?P<year>\d{4})-(\d\d)", 7, 7),
        (r"\Qa.b\E{2}", 4, 4),
        (r"[]a-c[:digit:]\]]{3}x?", 3, 4),
        (r"^\x{10FFFF}\p{Greek}\pN\101.$", 5, 5),
        (r"a{,3}", 5, 5),
        (r"(?s:a.{2,3}?)\z", 3, 4),
        (r"(?:){5}a", 1, 1),
        (r"x{0}y", 1, 1),
        (r"\\\n\.", 3, 3),
    ],
)
def test_bounds_of_a_match_are_read_from_the_expression(text: str, shortest: int, longest: int | None) -> None:
    """Whatever the syntax, as RE2 reads it."""
    read = pattern(text)

    assert (read.shortest, read.longest) == (shortest, longest)


@pytest.mark.parametrize("text", ["(?=a)b", "(?<!a)b", r"(a)\1", "a{1001}", "(a{100}){100}", "(", "[a", "a**", "*"])
def test_what_re2_does_not_take_is_refused_with_its_words(text: str) -> None:
    """Look-around, back-references and huge repetitions are no expressions here."""
    with pytest.raises(ValueError, match=r"\w"):
        pattern(text)


ATOMS = st.sampled_from(["a", "b", "[ab]", "[^a]", ".", r"\w", r"\b", "(?i:B)", "c", r"\.", "^", "$"])
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
        st.tuples(inner, st.sampled_from(["?", "{2}", "{1,3}", "{0,2}?", "{2,9}"])).map(lambda p: f"(?:{p[0]}){p[1]}"),
    ),
    max_leaves=6,
)
TEXTS = st.text(alphabet="abcB. \n", max_size=14)


@settings(max_examples=150)
@given(EXPRESSIONS, TEXTS)
def test_whatever_begins_a_match_is_seen_as_its_beginning(expression: str, text: str) -> None:
    """Cut a text within a match, or at its end, and the match's own beginning is in what is held back."""
    read = pattern(expression)
    for found in read.regex.finditer(text.encode()):
        for end in range(found.start() + 1, found.end() + 1):
            held = beginnings((read,)).search(text[:end].encode())
            assert held.start() <= found.start()
        assert read.shortest <= found.end() - found.start()
        assert read.longest is not None
        assert found.end() - found.start() <= read.longest


@settings(max_examples=150)
@given(EXPRESSIONS, st.text(alphabet="abcB. \né日\ud800", max_size=14))
def test_places_of_matches_are_those_of_the_public_interface(expression: str, text: str) -> None:
    """RE2 is asked below it, in bytes; the characters of a text lead to the same."""
    regex = pattern(expression).regex
    data = text.encode(errors="replace")
    public = [found.span() for found in regex.finditer(data)]

    assert span(regex, data) == (public[0] if public else None)
    if all(start < end for start, end in public):
        places = [(len(data[:start].decode()), len(data[:end].decode())) for start, end in public]
        assert list(spans(regex, text)) == places


@settings(max_examples=150)
@given(EXPRESSIONS, TEXTS, st.lists(st.integers(0, 14), max_size=4))
def test_reader_finds_in_pieces_what_it_finds_in_the_whole(expression: str, text: str, cuts: list[int]) -> None:
    """The same matches, each once, and none before it is certain."""
    read = pattern(expression)
    if not read.shortest:
        return
    sieve = Sieve.of(Fold.SHAPES, (Detector("x", read),))
    whole = [(hit.start, hit.end) for hit in sieve.find(text, is_json=False)]

    reader = Reader(sieve.detectors[0])
    found = []
    scanned = 0
    for end in [*sorted(cut for cut in cuts if cut < len(text)), len(text)]:
        subject = Subject(text[:end])
        until = sieve.held(subject, scanned)
        reader.at = max(reader.at, scanned)
        found += [(hit.start, hit.end) for hit in reader.read(subject, until, is_whole=False)]
        scanned = until
        assert all(end < len(text[: subject.end]) or end < until for _, end in found[-1:])
    reader.at = max(reader.at, scanned)
    found += [(hit.start, hit.end) for hit in reader.read(Subject(text), NEVER, is_whole=True)]

    assert found == whole


EVIL = [
    (r"(a+)+$", "a" * 100_000 + "!"),
    (r"(a|aa)+$", "a" * 100_000 + "!"),
    (r"(a|a?)+$", "a" * 100_000 + "!"),
    (r"(.*a){12}$", "a" * 100_000 + "!"),
    (r"^(([a-z])+.)+[A-Z]([a-z])+$", "a" * 100_000),
    (
        r"([a-zA-Z0-9])(([\-.]|[_]+)?([a-zA-Z0-9]+))*(@){1}[a-z0-9]+[.]{1}(([a-z]{2,3})|([a-z]{2,3}[.]{1}[a-z]{2,3}))$",
        "a" * 100_000 + "!",
    ),
    (r"\s+$", " " * 100_000 + "x"),
    (r"<!--(.|\s)*?-->", "<!--" + "- " * 50_000),
    (r"(?:\d+,?)+;", "1," * 50_000),
]


@pytest.mark.parametrize(("expression", "text"), EVIL)
def test_evil_expression_reads_an_evil_text_once(expression: str, text: str) -> None:
    """RE2 answers at once where a backtracking engine would take longer than the universe has; nothing is looked at
    more often than there are characters.
    """
    sieve = Sieve.of(Fold.SHAPES, (Detector("x", pattern(expression)),))
    looks = 0

    def count() -> None:
        nonlocal looks
        looks += 1

    hits = list(sieve.find(text, is_json=False, tick=count))

    assert looks <= len(text)
    assert all(re.match(".", text[hit.start : hit.end], re.DOTALL) for hit in hits)
