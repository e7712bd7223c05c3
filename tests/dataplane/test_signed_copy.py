"""Signed copy: what may stand in it, how its questions are compared, and in which language it speaks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.documents import MalformedRelease, Node
from dataplane.signed_copy import (
    FRESHNESS_PLACEHOLDERS,
    KINDS,
    MAX_ANSWERS,
    PLACEHOLDERS,
    CopyBook,
    SignedCopy,
    Words,
    choose_locale,
    normalise,
    parse_copy,
)
from tests.dataplane.conftest import copy_document

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text() | st.sampled_from(["{{", "en"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.sampled_from(["text", "en"]), inner),
    max_leaves=8,
)


def read(document: Any) -> SignedCopy:
    return parse_copy("help", Node(document, "$"), version=3, digest="d" * 64)


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def in_locales(*locales: str) -> SignedCopy:
    return read(
        {
            "kind": "outage",
            "default_locale": locales[0],
            "locales": {locale: {"text": locale, "json": None} for locale in sorted(locales)},
        }
    )


def test_section_gives_each_piece_with_its_version_and_digest() -> None:
    """What a caller is told he was answered with, `slug@version`, can be found again."""
    book = CopyBook.parse(
        {kind: {"version": 3, "digest": "d" * 64, "document": copy_document(kind)} for kind in sorted(KINDS)}
    )

    assert {slug: (piece.kind, piece.reference, piece.digest) for slug, piece in book.items()} == {
        kind: (kind, f"{kind}@3", "d" * 64) for kind in KINDS
    }
    assert all(piece.locales == ("en", "de") for piece in book.values())
    assert book["answers"].words == {}
    assert book["outage"].answers == {}


def test_default_locale_comes_first_whatever_the_order_of_the_document() -> None:
    """It is what everybody reads whose language is missing."""
    assert in_locales("pt-BR", "de", "zh-Hans-CN").locales == ("pt-BR", "de", "zh-Hans-CN")


def test_filled_words_are_plain_text_and_json_all_the_way_down() -> None:
    """Placeholders are replaced in every string of the JSON, nothing else changes, and the signed words stay."""
    words = read(copy_document("template")).words["en"]
    values = {"route": "chat", "eta_minutes": "4", "request_id": "req_{{route}}"}

    filled = words.filled(values)

    assert filled == Words(
        "chat is back in 4 minutes.",
        {"answer": "Back in 4 minutes", "sources": ["req_{{route}}"], "final": False},
    )
    assert words.text == "{{route}} is back in {{eta_minutes}} minutes."
    assert Words("4 minutes", None).filled({}) == Words("4 minutes", None)


@pytest.mark.parametrize(
    "question",
    [
        "How do I reset my password?",
        "  how do i RESET\tmy\n\npassword ?!",
        "How do I reset my password",
        "Ｈow do I reset my password？",
        "¿How do I reset my password…",
        "I forgot my password.",
    ],
)
def test_question_is_known_however_it_is_spaced_and_punctuated(question: str) -> None:
    """The same letters in the same order are the same question; in another language it is not known."""
    copy = read(copy_document("answers"))

    answer = copy.exact_answer(question, locale="en")

    assert answer is not None
    assert answer.words.text == "Choose “Forgot password” on the sign-in page."
    assert copy.exact_answer(question, locale="de") is None


@pytest.mark.parametrize("question", ["", "?", "How do I reset my pass word?", "Hów do I reset my password?"])
def test_other_letters_are_another_question(question: str) -> None:
    """An accent or a space inside a word may be another word."""
    assert read(copy_document("answers")).exact_answer(question, locale="en") is None


@given(question=st.text() | st.text(alphabet=" ?¿…Ϊ\u0301\u0345ßK"))
def test_normal_form_of_a_question_is_its_own_normal_form(question: str) -> None:
    """So comparing normal forms is an equivalence, and spaces and marks around a question are no part of it."""
    once = normalise(question)

    assert normalise(once) == once
    assert normalise(f" {question}\n?") == once


@pytest.mark.parametrize(("capitals", "small"), [("STRASSE", "straße"), ("Ϊ\u0301", "\u0390"), ("K\u0301", "\u1e31")])
def test_question_in_capitals_is_the_same_question(capitals: str, small: str) -> None:
    """Also where a letter has a composed form in one case only."""
    assert normalise(capitals) == normalise(small)


def test_literal_braces_of_an_answer_are_read_once() -> None:
    """An answer about templates is written as templates are, and shown as its reader should see it."""
    document = copy_document("answers")
    document["locales"]["de"] = [
        {"questions": ["Wie?"], "text": 'Mit {{"{{"}}name}}.', "json": {"a": ['{{"{{"}}name}}']}}
    ]

    (answer,) = read(document).answers["de"]

    assert answer.words == Words("Mit {{name}}.", {"a": ["{{name}}"]})


Path = tuple[str | int, ...]
IN_ENGLISH: Path = ("locales", "en")
IN_JSON: Path = ("locales", "de", "json")


def spoiled(kind: str, path: Path, value: Any) -> Any:
    """A document of that kind with `value` at `path`; answers have their JSON one level further down."""
    if kind == "answers" and path == IN_JSON:
        path = ("locales", "de", 0, "json")
    whole = {"document": copy_document(kind)}
    target: Any = whole
    for key in ("document", *path)[:-1]:
        target = target[key]
    target[("document", *path)[-1]] = value
    return whole["document"]


@pytest.mark.parametrize(
    ("kind", "path", "value", "refused_at", "words"),
    [
        (
            "outage",
            ("kind",),
            "apology",
            "$.kind",
            "'apology' is not one of answers, escalation, freshness, outage, rung, template",
        ),
        ("outage", ("default_locale",), "fr", "$.default_locale", "'fr' is not among the locales given"),
        ("outage", ("locales",), {}, "$.default_locale", "'en' is not among"),
        ("outage", ("locales", "EN_us"), {"text": "x", "json": None}, "$.locales.EN_us", "is not a locale such as"),
        ("outage", ("locales", "english"), {"text": "x", "json": None}, "$.locales.english", "is not a locale"),
        ("outage", ("locales", "de-"), {"text": "x", "json": None}, '$.locales["de-"]', "is not a locale"),
        ("outage", (*IN_ENGLISH, "text"), "", "$.locales.en.text", "must not be empty"),
        ("outage", (*IN_ENGLISH, "text"), "x" * 20_001, "$.locales.en.text", "20001 characters; at most 20000"),
        ("outage", (*IN_ENGLISH, "text"), "{{eta}}", "$.locales.en.text", "'eta' does not exist; there are eta_min"),
        ("outage", (*IN_ENGLISH, "text"), "{{eta", "$.locales.en.text", "at character 0 is no placeholder"),
        ("outage", (*IN_ENGLISH, "json"), "x", "$.locales.en.json", "expected an object or null, got a string"),
        ("outage", (*IN_ENGLISH, "json"), {"a": "x" * 20_000}, "$.locales.en.json", "20008 bytes; at most 20000"),
        ("outage", (*IN_ENGLISH, "json"), {"a": 2**64}, "$.locales.en.json", "cannot be written as JSON"),
        ("outage", (*IN_ENGLISH, "json"), nested(900), "$.locales.en.json", "cannot be written as JSON"),
        (
            "outage",
            (*IN_ENGLISH, "json"),
            {"a": [{"b-c": "{{d}}"}]},
            '$.locales.en.json.a[0]["b-c"]',
            "placeholder 'd'",
        ),
        ("outage", (*IN_ENGLISH, "tone"), "calm", "$.locales.en.tone", "unknown key"),
        ("answers", IN_ENGLISH, [], "$.locales.en", "at least 1 element"),
        ("answers", (*IN_ENGLISH, 1, "questions"), [], "$.locales.en[1].questions", "at least 1 element"),
        ("answers", (*IN_ENGLISH, 1, "questions"), ["¿ ?!"], "$.locales.en[1].questions[0]", "nothing is left of it"),
        (
            "answers",
            (*IN_ENGLISH, 1, "questions"),
            ["When?", "i FORGOT my password…"],
            "$.locales.en[1].questions[1]",
            "is the same question as one before it",
        ),
        ("answers", (*IN_ENGLISH, 0, "text"), "{{route}}", "$.locales.en[0].text", "an answer has none"),
        ("answers", (*IN_ENGLISH, 0, "json"), {"a": "{{route}}"}, "$.locales.en[0].json.a", "an answer has none"),
        ("answers", IN_ENGLISH, [None] * (MAX_ANSWERS + 1), "$.locales.en", "1001 answers; at most 1000"),
    ],
)
def test_words_that_could_not_be_shown_are_refused_by_path(
    kind: str, path: Path, value: Any, refused_at: str, words: str
) -> None:
    """Whoever writes them learns it then, not whoever reads them during an outage."""
    with pytest.raises(MalformedRelease, match=words) as refusal:
        read(spoiled(kind, path, value))

    assert refusal.value.path == refused_at


@given(value=JSON, kind=st.sampled_from(sorted(KINDS)), path=st.sampled_from([(), ("locales",), IN_ENGLISH, IN_JSON]))
def test_any_json_is_accepted_or_refused_as_malformed(value: Any, kind: str, path: Path) -> None:
    """Nothing but MalformedRelease is ever raised, and what is accepted can be filled and written."""
    try:
        copy = read(spoiled(kind, path, value))
    except MalformedRelease as refusal:
        copy, refused_at = None, refusal.path
    else:
        refused_at = ""

    assert copy is not None or refused_at.startswith("$")
    if copy is not None:
        values = dict.fromkeys(PLACEHOLDERS | FRESHNESS_PLACEHOLDERS, "1")
        assert all(json.dumps(words.filled(values).json) for words in copy.words.values())


@pytest.mark.parametrize(
    ("accepted", "locale"),
    [
        (None, "en"),
        ("", "en"),
        ("fr", "en"),
        ("de", "de"),
        ("DE", "de"),
        ("de-AT", "de"),
        ("pt", "pt-BR"),
        ("pt-PT", "pt-BR"),
        ("fr, de;q=0.5, pt;q=0.7", "pt-BR"),
        ("pt;q=0.5,de;q=0.5", "pt-BR"),
        ("de;q=0", "en"),
        ("de;q=0, pt", "pt-BR"),
        ("de;q=x, pt;q=0.1", "pt-BR"),
        ("de;q=nan", "en"),
        ("*, de;q=0.1", "de"),
        (", ;q=1, de", "de"),
        (" de ; q=0.9 , en;q=0.8", "de"),
        ("zh-CN", "zh-Hans"),
        ("zh-Hant", "zh-Hant"),
    ],
)
def test_language_is_the_one_that_the_caller_reads_best(accepted: str | None, locale: str) -> None:
    """By weight, then by order; a variant of the language is better than the default, the exact one best."""
    assert choose_locale(accepted, in_locales("en", "de", "pt-BR", "zh-Hans", "zh-Hant")) == locale


@given(accepted=st.text() | st.text(alphabet="de-pt,;q=.019 *\t"))
def test_any_header_chooses_a_locale_of_the_copy(accepted: str) -> None:
    """No caller can ask for a language in a way that costs him the notice."""
    copy = in_locales("en", "de", "pt-BR")

    assert choose_locale(accepted, copy) in copy.locales
