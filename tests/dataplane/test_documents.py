"""JSON as releases may carry it: what Python reads, less what means two things."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.documents import MalformedRelease, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(value=VALUES, compact=st.booleans(), ascii_only=st.booleans())
def test_any_json_is_read_as_python_reads_it(value: Any, compact: bool, ascii_only: bool) -> None:
    """Whatever the spelling, and integers beyond 64 bits included: same values, same types."""
    text = json.dumps(value, separators=(",", ":") if compact else None, ensure_ascii=ascii_only)

    assert repr(parse_json(text)) == repr(json.loads(text))


@pytest.mark.parametrize("text", ['{"a":1,"a":2}', '{"a":{"b":1,"b":1}}', "[NaN]", "Infinity", "", "{", "[1,]"])
def test_what_is_no_json_or_means_two_things_is_refused(text: str) -> None:
    """A key given twice, NaN and Infinity are refused, compact or not."""
    with pytest.raises(MalformedRelease, match=r"^\$"):
        parse_json(text)
