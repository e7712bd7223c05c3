"""Taking out of a text what must not leave: what stands in its place, where cuts overlap, and what is left of JSON."""

from __future__ import annotations

import json

import pytest

from dataplane.validators.redaction import Cut, WouldBreakJson, redact


def test_cuts_that_overlap_are_one_replaced_as_the_first_of_them_says() -> None:
    """In whatever order they come; of two that begin together, the one whose order is first."""
    cuts = [Cut(5, 9, "[y]"), Cut(4, 7, "[second]", (1, "b")), Cut(4, 6, "[first]", (1, "a")), Cut(0, 1, "[z]")]

    assert redact("one two three", cuts) == "[z]ne [first]hree"
    assert redact("one two three", []) == "one two three"


def test_json_stays_json() -> None:
    """Within a string the words stand as they are, quoted where they have to be; any other value becomes a string."""
    text = '{"to": "ada@engine.org today", "card": 4111}'
    mail, card = text.index("ada"), text.index("4111")

    left = redact(text, [Cut(mail, mail + 14, 'the "owner"'), Cut(card, card + 4, "[card]")], is_json=True)

    assert json.loads(left) == {"to": 'the "owner" today', "card": "[card]"}


@pytest.mark.parametrize(("start", "end"), [(1, 4), (2, 5), (2, 9)])
def test_cut_over_the_edge_of_a_string_is_refused(start: int, end: int) -> None:
    """Nothing that could stand in its place would leave JSON; in plain text there is no such edge."""
    text = '["ab", "cd"]'

    with pytest.raises(WouldBreakJson, match=f"characters {start} to {end}"):
        redact(text, [Cut(start, end, "x")], is_json=True)
    assert redact(text, [Cut(start, end, "x")]) == f"{text[:start]}x{text[end:]}"
