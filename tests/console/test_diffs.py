"""The word-level diff that reviews show."""

from hypothesis import given
from hypothesis import strategies as st

from controlplane.console.diffs import Group, Piece, diff_json, diff_rows, diff_words

LINES = st.lists(st.text(alphabet="ab c{}.", max_size=12), max_size=12).map("\n".join)


def side(groups: list[Group], hidden: str) -> list[str]:
    """The lines of one side, read back from the rows."""
    number = "before" if hidden == "insert" else "after"
    return [
        "".join(piece.text for piece in row.parts if piece.op != hidden)
        for group in groups
        for row in group.rows
        if getattr(row, number) is not None
    ]


def test_equal_texts_have_no_rows():
    """Nothing is shown where nothing differs."""
    assert diff_rows("one\ntwo", "one\ntwo") == []


def test_changed_line_marks_only_the_words_that_changed():
    """A replaced word is struck out and its successor added; the rest of the line stays plain."""
    pieces = diff_words("at most five sentences", "at most three sentences")

    assert pieces == [
        Piece("equal", "at most "),
        Piece("delete", "five"),
        Piece("insert", "three"),
        Piece("equal", " sentences"),
    ]


@given(before=LINES, after=LINES)
def test_rows_hold_both_texts_whole_and_in_order(before: str, after: str):
    """Dropping the insertions gives the old text, dropping the deletions the new one: a reviewer sees every byte."""
    groups = diff_rows(before, after)

    if before != after:
        assert side(groups, "insert") == before.splitlines()
        assert side(groups, "delete") == after.splitlines()


def test_lines_far_from_a_change_are_folded():
    """Three lines of context stay open around a change; longer unchanged runs fold."""
    lines = [f"line {number}" for number in range(20)]

    groups = diff_rows("\n".join(lines), "\n".join([*lines[:-1], "the end"]))

    assert [(group.folded, len(group.rows)) for group in groups] == [(True, 16), (False, 5)]


def test_json_with_other_key_order_is_no_difference():
    """The order of an object's keys means nothing."""
    assert diff_json({"a": 1, "b": [2]}, {"b": [2], "a": 1}) == []
