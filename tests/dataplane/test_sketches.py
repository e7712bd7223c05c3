"""Sketches: within 1 % of the truth, and merging is the same as having counted together."""

from __future__ import annotations

import json
import math

import pytest
from ddsketch import DDSketch
from hypothesis import given
from hypothesis import strategies as st

from dataplane.sketches import MAX_VALUE, Sketch

latencies = st.one_of(st.just(0.0), st.floats(0.001, 1e7))
quantiles = st.floats(0, 1)


def sketch_of(values):
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    return sketch


@given(left=st.lists(latencies), right=st.lists(latencies))
def test_merge_equals_the_sketch_of_the_union(left, right):
    """A fleet's sketch does not depend on which worker counted what."""
    merged = sketch_of(left)
    merged.merge(sketch_of(right))

    assert merged == sketch_of(left + right)


@given(values=st.lists(latencies, min_size=1), q=quantiles)
def test_quantile_is_within_one_percent_of_the_true_one(values, q):
    """The true quantile is the value at rank floor(q * (n - 1)), the lower one where two could claim it."""
    true = sorted(values)[math.floor(q * (len(values) - 1))]

    assert sketch_of(values).quantile(q) == pytest.approx(true, rel=0.01 + 1e-9)


@given(values=st.lists(st.floats(0.001, 1e7), min_size=1), q=quantiles)
def test_quantile_agrees_with_the_library(values, q):
    """Anyone may read our bins with the library: same mapping, same answer up to the edge of a bin."""
    library = DDSketch(0.01)
    for value in values:
        library.add(value)

    assert sketch_of(values).quantile(q) == pytest.approx(library.get_quantile_value(q), rel=0.021)


@given(values=st.lists(latencies, min_size=1), bound=latencies)
def test_share_above_a_bound_is_off_by_no_more_than_what_lies_at_the_bound(values, bound):
    """Only values within 1 % of the bound may be counted on its other side."""

    def share(condition):
        return sum(map(condition, values)) / len(values)

    surely = share(lambda value: value * 0.99 > bound * (1 + 1e-9))
    possibly = share(lambda value: value * 1.01 > bound * (1 - 1e-9) and value > 0)

    assert surely <= sketch_of(values).share_above(bound) <= possibly


@given(values=st.lists(latencies, min_size=1))
def test_share_above_is_exact_at_the_ends(values):
    """Nothing is above the greatest value, all of it above anything smaller than the least."""
    sketch = sketch_of(values)

    assert sketch.share_above(max(values)) == 0
    assert sketch.share_above(math.nextafter(min(values), -math.inf)) == 1
    assert Sketch().share_above(1.0) == 0
    with pytest.raises(ValueError, match="NaN"):
        sketch.share_above(math.nan)


@given(values=st.lists(latencies))
def test_sketch_survives_json(values):
    """What travels in a rollup is the whole sketch."""
    sketch = sketch_of(values)

    assert Sketch.from_json(json.loads(json.dumps(sketch.to_json()))) == sketch


def test_empty_sketch_has_no_quantile():
    """No traffic is not a latency of zero."""
    assert Sketch().quantile(0.5) is None
    assert Sketch().to_json()["min"] is None


def test_clock_that_jumped_cannot_break_a_sketch():
    """Negative and absurd values are kept at the ends, and none can grow the bins without bound."""
    sketch = sketch_of([-5.0, math.inf, 1e300])

    assert (sketch.zero, sketch.min, sketch.max, len(sketch.bins)) == (1, 0.0, MAX_VALUE, 1)
    with pytest.raises(ValueError, match="NaN"):
        sketch.add(math.nan)
    assert sketch.count == 3


@pytest.mark.parametrize("q", [-0.1, 1.1])
def test_quantile_outside_zero_and_one_is_an_error(q):
    """Percent given for a fraction must not pass."""
    with pytest.raises(ValueError, match="outside"):
        Sketch().quantile(q)


@pytest.mark.parametrize(
    "change", [{"count": 3}, {"bins": {"x": 1}}, {"bins": {"1": -2}, "count": -2}, {"bins": None}, {"sum": "a"}]
)
def test_sketch_that_does_not_add_up_is_refused(change):
    """A rollup that was damaged on its way must not enter the record."""
    with pytest.raises(ValueError):  # noqa: PT011  # two messages, one type
        Sketch.from_json(sketch_of([1.0, 2.0]).to_json() | change)
