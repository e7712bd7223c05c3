"""How the places that a tier is promised are shared out among workers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.ladder.reserve import allowance

DEMANDS = st.dictionaries(st.sampled_from("abcdefghij"), st.integers(0, 500), min_size=1)


@given(st.integers(0, 1000), DEMANDS)
def test_workers_that_know_the_same_share_out_exactly_what_is_promised(reserved: int, demands: dict[str, int]) -> None:
    """None is lost, none is given twice."""
    assert sum(allowance(reserved, demands, worker=name) for name in demands) == reserved


@given(st.integers(0, 1000), DEMANDS)
def test_whoever_has_more_under_way_gets_no_less(reserved: int, demands: dict[str, int]) -> None:
    """Places go to where the tier's callers are."""
    shares = {name: allowance(reserved, demands, worker=name) for name in demands}

    assert all(shares[one] >= shares[other] for one in demands for other in demands if demands[one] > demands[other])


@pytest.mark.parametrize(
    ("reserved", "demands", "shares"),
    [
        (40, {"a": 0}, {"a": 40}),
        (40, {"a": 0, "b": 0}, {"a": 20, "b": 20}),
        (40, {"a": 99, "b": 0}, {"a": 40, "b": 0}),
        (3, {"a": 0, "b": 0, "c": 0, "d": 0}, {"a": 1, "b": 1, "c": 1, "d": 0}),
        (0, {"a": 5, "b": 0}, {"a": 0, "b": 0}),
    ],
)
def test_places_follow_demand(reserved: int, demands: dict[str, int], shares: dict[str, int]) -> None:
    """Of equal remainders, the first by name gets what is left, so that all agree who it is."""
    assert {name: allowance(reserved, demands, worker=name) for name in demands} == shares
