"""JSON that comes in pieces: what is handed over at once, what is held, and what is not taken back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.repair.labels import Label, Mode, Rung
from dataplane.repair.reader import JsonReader, Repaired, Unrepaired
from dataplane.repair.stream import JsonStream
from dataplane.repair.values import MAX_CHARACTERS
from dataplane.schema_check import SchemaChecker

from .test_transducer import CUTS, DOCUMENTS, NEARLY, cut

ALL = frozenset(Label)
CERTAIN = frozenset({Label.LOSSLESS})
SCHEMAS = SchemaChecker()


def stream(schema=None, *, labels=CERTAIN, wants="object", coercions=(), incremental=True):
    """A stream that hands over what is certain, unless told otherwise."""
    reader = JsonReader(schema, coercions=frozenset(coercions), labels=labels, wants=wants, schemas=SCHEMAS)
    return JsonStream(reader, incremental=incremental)


@settings(max_examples=60)
@given(DOCUMENTS, CUTS)
def test_json_goes_out_as_it_comes(text, sizes):
    """Byte for byte however it is cut, and never further behind than the token that has not ended."""
    pieces, channel, come = cut(text, sizes), stream(wants="value"), ""

    for piece in pieces:
        come += piece
        channel.feed(piece)
        held = come[len(channel.sent) :]
        assert come.startswith(channel.sent)
        assert len(held.strip().strip(",").split()) <= 1
    result = channel.finish(is_cut=False)

    assert channel.sent == channel.text == text
    assert isinstance(result, Repaired)
    assert (result.text, result.rung) == (text, Rung.STRICT)


@given(NEARLY, CUTS, st.sampled_from([CERTAIN, ALL]))
def test_what_was_handed_over_is_never_taken_back(text, sizes, labels):
    """Whatever comes: what is repaired begins with it, and is what the same text in one piece may be read as."""
    text = text if text.startswith(("{", "[")) else "Well: " + text
    channel = stream(labels=labels, wants="value")

    given_pieces = [channel.feed(piece) for piece in cut(text, sizes)]
    result = channel.finish(is_cut=False)

    assert channel.sent == "".join(given_pieces)
    if isinstance(result, Repaired):
        assert result.text.startswith(channel.sent)
        assert channel.accepts(result.text)
        json.loads(result.text)


@pytest.mark.parametrize(
    ("pieces", "handed_over"),
    [
        (["\ufeff", '{"a"', ": 1}"], ["", '{"a"', ": 1}"]),
        (["``", "`js", 'on\n{"a"', ": 1", "}\n```"], ["", "", '{"a"', ": ", "1}"]),
        (["Sure:\n", "```\n", "{", '"a": 1}', "\n```\nDone"], ["", "", "{", '"a": 1}', ""]),
        (['Use {x}: {"a"', ': "b', 'c"}'], ["", '{"a": "b', 'c"}']),
        (["\n ", '{"a', '":1}', "\n"], ["", '\n {"a', '":1}', ""]),
        (['{"a": 12', "3", ", ", '"b": tr', "ue}"], ['{"a": ', "", "123", ', "b": ', "true}"]),
        (["{'a': 'x", "y'}"], ['{"a": "x', 'y"}']),
        (['{"a": "\\u00', 'e9"}'], ['{"a": "', '\\u00e9"}']),
        (['{"a": NaN', ', "b": 1}'], ['{"a": ', ""]),
        (['{"a" 1', "}"], ['{"a" ', ""]),
        (["[1] is ", '{"a": 1}'], ["", ""]),
    ],
)
def test_piece_by_piece(pieces, handed_over):
    """Fence, prose and byte order mark go; the value comes as far as it is certain; what is not allowed is held."""
    channel = stream()

    assert [channel.feed(piece) for piece in pieces] == handed_over


def test_bracket_in_prose_is_no_value():
    """Where an object is wanted, a list is prose; and in prose, a value is one with its first key and colon."""
    channel = stream()
    text = 'As [1] and {name} say, it is no {"empty"} but this is {"a": {"b": 1}, "c": 2}'

    for char in text:
        channel.feed(char)
    assert channel.sent == '{"a": {"b": 1}, "c": 2}'


def test_value_that_cannot_be_read_on_leaves_the_beginning_of_some_json():
    """What was handed over stands, and what would go on otherwise is refused in words."""
    channel = stream(labels=ALL)

    channel.feed('{"a": "he said "hi" to me"}')
    result = channel.finish(is_cut=False)

    assert channel.sent == '{"a": "he said "'
    assert isinstance(result, Unrepaired)
    assert "16 characters that were handed over, which cannot be taken back" in result.why
    assert result.best is not None
    assert json.loads(result.best.text) == {"a": 'he said "hi" to me'}


def test_later_reading_has_to_go_on_from_there():
    """Of what a model says when it is asked again, only what begins so is accepted."""
    channel = stream()

    channel.feed('{"a": "x')
    assert isinstance(channel.finish(is_cut=True), Unrepaired)

    assert channel.accepts('{"a": "xyz", "b": 2}')
    assert not channel.accepts('{"a":"xyz"}')


def test_rest_of_a_missing_mark_follows():
    """The mark is put in where handing over stopped, so the caller gets the rest at the end."""
    channel = stream()

    channel.feed('{"a": 1 "b": 2}')
    result = channel.finish(is_cut=False)

    assert isinstance(result, Repaired)
    assert channel.sent == '{"a": 1 '
    assert result.text == '{"a": 1 ,"b": 2}'


def test_escapes_that_are_sure_in_the_end_follow():
    """One illegal escape is a guess and held; with a second one both are certain, and are handed over."""
    channel = stream()

    assert channel.feed('{"path": "C:\\Users') == '{"path": "C:'
    assert channel.feed('\\Ada"}') == ""
    result = channel.finish(is_cut=False)

    assert isinstance(result, Repaired)
    assert json.loads(result.text) == {"path": "C:\\Users\\Ada"}


@pytest.mark.parametrize("declared", [(), ("string_to_number",)])
def test_nothing_is_certain_before_its_end_where_it_may_be_coerced(declared):
    """With coercions for a schema, all comes at the end; without, at once."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    channel = stream(schema, coercions=declared)

    given_now = channel.feed('{"a": "1"}')
    result = channel.finish(is_cut=False)

    assert given_now == ("" if declared else '{"a": "1"}')
    assert isinstance(result, Repaired) is bool(declared)


def test_whole_is_handed_over_at_the_end():
    """A stream that is not incremental gives nothing before."""
    channel = stream(incremental=False)

    assert channel.feed('{"a": 1}') == ""
    assert channel.finish(is_cut=False).text == '{"a": 1}'


def test_text_that_is_too_long_is_kept_no_further():
    """From there on nothing is handed over or kept, and the end says so."""
    channel = stream()

    channel.feed('{"a": "')
    for _ in range(3):
        channel.feed("x" * (MAX_CHARACTERS // 2))
    result = channel.finish(is_cut=False)

    assert len(channel.text) <= MAX_CHARACTERS + MAX_CHARACTERS // 2
    assert len(channel.sent) <= MAX_CHARACTERS
    assert channel.feed("more") == ""
    assert isinstance(result, Unrepaired)
    assert result.mode is Mode.TOO_LARGE
