"""The template language by itself: what is cut apart comes together again, and nothing else is a placeholder."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.placeholders import join, names_of, split

NAMES = st.sampled_from(["a", "B_2", "0", "eta_minutes"])
# Text between placeholders. An open brace before a placeholder would be read as a part of it.
TEXTS = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="{"))


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("", ("",)),
        ("plain { text } here", ("plain { text } here",)),
        ("{{a}}", ("", "a", "")),
        ("x{{ a }}y{{b_2}}", ("x", "a", "y", "b_2", "")),
        ("{{a}}{{a}}", ("", "a", "", "a", "")),
        ('say {{"{{"}}a}} to {{a}}', ("say {{a}} to ", "a", "")),
        ('{"k": {{v}}}', ('{"k": ', "v", "}")),
    ],
)
def test_template_is_cut_into_text_and_names(text: str, segments: tuple[str, ...]) -> None:
    """Text and names alternate, text first and last; literal braces are text."""
    assert split(text) == segments
    assert names_of(segments) == segments[1::2]


@given(texts=st.lists(TEXTS, min_size=1, max_size=6), names=st.lists(NAMES, min_size=6, max_size=6))
def test_what_is_put_together_is_cut_apart_the_same(texts: list[str], names: list[str]) -> None:
    """Writing segments as a template and splitting it gives them back."""
    template = texts[0] + "".join(f"{{{{{name}}}}}{text}" for name, text in zip(names, texts[1:], strict=False))
    expected = [texts[0]]
    for name, text in zip(names, texts[1:], strict=False):
        expected += [name, text]

    assert split(template) == tuple(expected)


@given(text=st.text() | st.text(alphabet='{}"a '))
def test_any_text_is_split_or_refused_and_a_value_changes_nothing_around_it(text: str) -> None:
    """Only what holds open braces can be refused, and joining puts each value in its place, whatever it looks like."""
    try:
        segments = split(text)
    except ValueError:
        segments = None

    assert segments is not None or "{{" in text
    if segments is not None:
        in_place = ("{{a}}" if index % 2 else segment for index, segment in enumerate(segments))
        assert join(segments, dict.fromkeys(names_of(segments), "{{a}}")) == "".join(in_place)


@pytest.mark.parametrize("text", ["{{", "ab {{ a b }}", "{{a-b}}", "{{a.b}}", "{{é}}", "{{}}", "{{{a}}", "{{a} }"])
def test_open_braces_that_open_nothing_are_refused_with_their_place(text: str) -> None:
    """The message says at which character, and how literal braces are written."""
    with pytest.raises(ValueError, match=rf"at character {text.index('{{')} is no placeholder.*two literal braces"):
        split(text)


@pytest.mark.parametrize(
    ("value", "written"),
    [("a b", "a b"), (3, "3"), (True, "true"), (None, "null"), ({"b": "é", "a": [1, 2]}, '{"a":[1,2],"b":"é"}')],
)
def test_value_is_written_as_it_is_or_as_compact_json(value: Any, written: str) -> None:
    """Keys are sorted, so that equal values read the same."""
    assert join(split("<{{v}}>"), {"v": value, "unused": 1}) == f"<{written}>"


def test_name_without_a_value_is_an_error_of_its_own() -> None:
    """The name is what the error carries."""
    with pytest.raises(KeyError, match="b"):
        join(split("{{a}}{{b}}"), {"a": ""})
