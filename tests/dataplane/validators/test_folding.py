"""Folding: what is the same to a rule, and the way back to the text as it was."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.validators.folding import Fold, Folder, fold, words


@pytest.mark.parametrize(
    ("text", "how", "folded"),
    [
        ("Ｇｈｐ＿１", Fold.SHAPES, "Ghp_1"),
        ("a\u200bb\u00adc\ufe0f\u2060d\U000e0101", Fold.SHAPES, "abcd"),
        ("Café ﬁn", Fold.SHAPES, "Café fin"),
        ("Café e\u0301 １٢३ – “x”", Fold.BARE, 'Cafe e 123 - "x"'),
        ("STRASSE Straße ÉTÉ İ", Fold.LETTERS, "strasse strasse ete i"),
        ("हिन्दी", Fold.LETTERS, "हिन्दी"),
        ("\ud800x 日本 ж", Fold.BARE, "\x7fx \x7f\x7f \x7f"),
        ("\ud800x", Fold.SHAPES, "\ufffdx"),
    ],
)
def test_text_is_folded_to_what_it_looks_like(text: str, how: Fold, folded: str) -> None:
    """Forms, accents, case and digits as the fold has it; what is invisible is gone; vowels that are marks stay."""
    assert fold(text, how)[0] == folded


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        (r"\u0041\u004b", "AK"),
        (r"a\/b\"c\_d", 'a/b"c_d'),
        (r"x\n\ty", "x\n\ty"),
        (r"\ud835\udc00B", "AB"),
        (r"\\u0041", "A"),
        (r"\ud835x", "\x7fx"),
        (r"\user", "user"),
        ("\\" * 20 + "u0041", "\\" * 12 + "A"),
        ("end\\", "end\\"),
    ],
)
def test_escapes_stand_for_what_they_escape(text: str, folded: str) -> None:
    """At any depth to which JSON is written into JSON; a backslash that escapes nothing is one."""
    assert fold(text, Fold.BARE, escapes=True)[0] == folded


PIECES = st.sampled_from(
    [
        "a",
        "B7",
        "ß",
        "é",
        "e\u0301",
        "\u200b",
        "ﬁ",
        "日本",
        "\\",
        "\\u0041",
        "\\ud835\\udc00",
        "u00",
        '"',
        "\\/",
        "\ud800",
        "٣",
    ]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


@settings(max_examples=200)
@given(TEXTS, st.lists(st.integers(0, 40), max_size=5), st.sampled_from(Fold), st.booleans())
def test_text_in_pieces_folds_as_the_whole_does(text: str, cuts: list[int], how: Fold, escapes: bool) -> None:
    """And each character leads back to the same place."""
    whole, offsets = fold(text, how, escapes=escapes)
    folder = Folder(how, escapes=escapes)
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]

    pieces = [folder.feed(text[start:end]) for start, end in pairwise(edges)]
    folded = "".join(pieces) + folder.finish()

    assert folded == whole
    places = [(offsets.start(index), offsets.end(index + 1)) for index in range(len(whole))]
    assert [(folder.offsets.start(index), folder.offsets.end(index + 1)) for index in range(len(folded))] == places
    assert all(start < end for start, end in places)
    assert all(before[1] <= after[0] or before == after for before, after in pairwise(places))
    assert folder.offsets.original == offsets.original == len(text)


@settings(max_examples=100)
@given(TEXTS, st.sampled_from(Fold))
def test_each_folded_character_leads_to_what_it_was(text: str, how: Fold) -> None:
    """The characters of the text that one stands for fold to a text that has it in it."""
    folded, offsets = fold(text, how)

    for index, character in enumerate(folded):
        before = text[offsets.start(index) : offsets.end(index + 1)]
        assert character in fold(before, how)[0]


@settings(max_examples=200)
@given(st.lists(PIECES | st.characters(), max_size=12).map("".join))
def test_words_are_the_letters_digits_and_marks_of_each_character_folded(text: str) -> None:
    """In runs or one by one, with what is not ASCII anywhere among them."""
    folded = "".join(fold(character, Fold.LETTERS)[0] for character in text)
    kept = "".join(part if unicodedata.category(part)[0] in "LNM" or part == "\x01" else " " for part in folded)

    assert words(text) == kept.encode().split()
