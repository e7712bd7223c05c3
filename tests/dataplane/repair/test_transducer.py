"""The reader of text that is nearly JSON: what it copies, what it edits, and what it refuses."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.repair.labels import Label, Mode
from dataplane.repair.transducer import Transducer, Unreadable
from dataplane.repair.values import MAX_DEPTH

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
DOCUMENTS = st.builds(
    json.dumps,
    st.lists(VALUES, max_size=4) | st.dictionaries(TEXTS, VALUES, max_size=4),
    indent=st.sampled_from([None, 2]),
    ensure_ascii=st.booleans(),
)
# What the grammar is made of, so that much of it is nearly JSON.
NEARLY = st.lists(
    st.sampled_from(
        [
            *(
                "{",
                "}",
                "[",
                "]",
                ":",
                ",",
                '"',
                "'",
                "“",
                "”",
                "\\",
                "/",
                "*",
                "#",
                "\n",
                " ",
                "\u00a0",
                "a",
                "1",
                "-",
            ),
            *("true", "None", "NaN", '"a":', "'b',", "\\u12", "// c\n", "/* d */", "\ud83d", "[1,", '{"a":'),
        ]
    ),
    max_size=25,
).map("".join)
CUTS = st.lists(st.integers(1, 6), min_size=1, max_size=40)


def outcome(pieces: list[str]) -> tuple[str, list[tuple[str, int]], str, str]:
    """What was written, the edits, what stayed unread, and what could not be read."""
    reader, written = Transducer(), ""
    try:
        for piece in pieces:
            written += reader.feed(piece)
        written += reader.finish()
    except Unreadable as problem:
        return written + reader.take(), [(edit.kind, edit.at) for edit in reader.edits], "", str(problem)
    return written, [(edit.kind, edit.at) for edit in reader.edits], reader.rest, ""


def cut(text: str, sizes: list[int]) -> list[str]:
    """The text in pieces of those sizes, again and again."""
    pieces, at, turn = [], 0, 0
    while at < len(text):
        pieces.append(text[at : at + sizes[turn % len(sizes)]])
        at, turn = at + sizes[turn % len(sizes)], turn + 1
    return pieces


@settings(max_examples=60)
@given(DOCUMENTS, CUTS)
def test_json_comes_out_as_it_went_in(text, sizes):
    """Character by character, however it is cut, and without an edit."""
    assert outcome(cut(text, sizes)) == (text, [], "", "")


@given(NEARLY, CUTS)
def test_cuts_change_nothing(text, sizes):
    """What is nearly JSON gives the same in pieces as in one, the same edits and the same refusal."""
    start = text.find("{")
    text = text[start:] if start >= 0 else "[" + text

    assert outcome(cut(text, sizes)) == outcome([text])


@given(NEARLY)
def test_what_is_written_is_the_beginning_of_json(text):
    """Whatever comes, what is written up to the last whole value, and the closing brackets, is JSON."""
    reader, written = Transducer(), ""
    try:
        written = reader.feed("[" + text)
        written += reader.finish()
    except Unreadable:
        written += reader.take()

    json.loads(written[: reader.safe] + ("" if reader.is_done else reader.closers))


@settings(max_examples=60)
@given(DOCUMENTS, st.data())
def test_second_reader_goes_on_alone(text, data):
    """A fork reads the rest as the first one does, and neither knows of the other."""
    place = data.draw(st.integers(0, len(text)))
    reader = Transducer()
    begun = reader.feed(text[:place])
    fork = reader.fork()

    assert begun + fork.feed(text[place:]) + fork.finish() == text
    assert begun + reader.feed(text[place:]) + reader.finish() == text


@pytest.mark.parametrize(
    ("text", "written", "kinds"),
    [
        ("{'a': 'it\\'s'}", '{"a": "it\'s"}', ["quotes", "quotes", "illegal_escape"]),
        ("{a: 1}", '{"a": 1}', ["bare_key"]),
        ('["x\ny"]', '["x\\ny"]', ["control_character"]),
        ('["\\d"]', '["\\\\d"]', ["illegal_escape"]),
        ("[1, 2 , ]", "[1, 2  ]", ["trailing_comma"]),
        ("[1 /* b */, 2]", "[1 , 2]", ["comment"]),
        ("[True, None]", "[true, null]", ["literal", "literal"]),
        ("[NaN]", "[null]", ["not_a_number"]),
        ("[+1, .5]", "[1, 0.5]", ["number_form", "number_form"]),
        ("[\u00a0\u00a01]", "[  1]", ["white_space"]),
        ('["\ud83d\ude00"]'.encode("utf-16", "surrogatepass").decode("utf-16"), '["😀"]', []),
        ('["\ud83d"]', '["\\ud83d"]', ["surrogate"]),
    ],
)
def test_what_has_one_meaning_is_written_as_json(text, written, kinds):
    """Each departure from JSON is one edit, and everything else stays as it is."""
    reader = Transducer()

    assert reader.feed(text) + reader.finish() == written
    assert [edit.kind for edit in reader.edits] == kinds


@pytest.mark.parametrize(
    ("text", "at", "mode"),
    [
        ('{"a" 1}', 5, Mode.SYNTAX),
        ("[1 2]", 3, Mode.SYNTAX),
        ("[1,,2]", 3, Mode.SYNTAX),
        ("{,}", 1, Mode.SYNTAX),
        ('["\\u12zz"]', 2, Mode.ILLEGAL_ESCAPE),
        ("[1", 2, Mode.TRUNCATED),
        ("[tru", 4, Mode.TRUNCATED),
        ("[1e", 3, Mode.TRUNCATED),
        ("[trux]", 1, Mode.SYNTAX),
        ('["a', 3, Mode.TRUNCATED),
        ("[" * (MAX_DEPTH + 1), MAX_DEPTH, Mode.TOO_DEEP),
        ("[" + "1" * 1001 + "]", 1, Mode.SYNTAX),
        ("[" + "+1," * 1001 + "1]", 3001, Mode.SYNTAX),
    ],
)
def test_what_would_be_a_guess_is_refused(text, at, mode):
    """With the place, and what is wrong there."""
    reader = Transducer()

    with pytest.raises(Unreadable) as refused:
        reader.feed(text) + reader.finish()

    assert (refused.value.at, refused.value.mode) == (at, mode)


def test_edit_that_is_not_allowed_ends_reading_before_it():
    """What was written before stays true, and is given."""
    reader = Transducer(labels=frozenset({Label.LOSSLESS}))

    with pytest.raises(Unreadable, match="lossy"):
        reader.feed('{"a": True, "b": NaN}')

    assert reader.take() == '{"a": true, "b": '


def test_comment_with_a_quote_is_a_guess():
    """A string that begins like a comment looks so where the quote before it is missing."""
    reader = Transducer()

    reader.feed('["x,\n"#"\n]')

    assert [edit.label for edit in reader.edits if edit.kind == "comment"] == [Label.LOSSLESS, Label.INVENTED]


def test_apostrophe_in_a_comment_is_no_quote():
    """Only the quotes of JSON, and those that take their place, make one doubtful."""
    reader = Transducer()

    reader.feed("[1 // don't\n]")

    assert [edit.label for edit in reader.edits] == [Label.LOSSLESS]
