"""What somebody supplies is put where it belongs, and everything else keeps its text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.repair.supplied import SuppliedRefused, supplied

TEXT = '{"total": 1.10,\n  "lines": [{"sku": "a/b"}], "to": {}}'


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"/to/name": "Ada"}, '{"total": 1.10,\n  "lines": [{"sku": "a/b"}], "to": {"name": "Ada"}}'),
        ({"/lines/0/sku": "c"}, '{"total": 1.10,\n  "lines": [{"sku": "c"}], "to": {}}'),
        ({"/lines/1": 2}, '{"total": 1.10,\n  "lines": [{"sku": "a/b"}, 2], "to": {}}'),
        ({"/a~1b~0c": None}, '{"total": 1.10,\n  "lines": [{"sku": "a/b"}], "to": {}, "a/b~c": null}'),
        (
            {"/by/whom/name": "Bo"},
            '{"total": 1.10,\n  "lines": [{"sku": "a/b"}], "to": {}, "by": {"whom": {"name": "Bo"}}}',
        ),
    ],
)
def test_value_is_put_at_its_pointer(fields, expected):
    """In the place of what was there, or as a new member; objects on the way are made."""
    assert supplied(TEXT, fields) == expected


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"total": 1}, "no JSON pointer"),
        ({"": 1}, "no JSON pointer"),
        ({"/total/net": 1}, "neither an object nor a list"),
        ({"/lines/5": 1}, "past the end of a list of 1"),
        ({"/lines/last": 1}, "which has only numbers"),
        ({f"/f{number}": 1 for number in range(201)}, "too many at once"),
    ],
)
def test_pointer_that_leads_nowhere_is_refused_in_words(fields, said):
    """Nothing is guessed about where a value may have been meant to go."""
    with pytest.raises(SuppliedRefused, match=said):
        supplied(TEXT, fields)


_names = st.text(min_size=1, max_size=5)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5), lambda v: st.lists(v, max_size=3)
)


@given(st.dictionaries(_names, _values, max_size=5), st.dictionaries(_names, _values, min_size=1, max_size=3))
def test_supplied_fields_are_there_and_no_other_changes(before, fields):
    """As a dictionary would have it, whatever the names."""
    pointers = {"/" + name.replace("~", "~0").replace("/", "~1"): value for name, value in fields.items()}

    after = json.loads(supplied(json.dumps(before, ensure_ascii=False), pointers))

    assert after == before | fields
