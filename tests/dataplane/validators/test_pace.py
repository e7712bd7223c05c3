import pytest

from dataplane.validators.pace import BOUNDS, bound_of, quantile


@pytest.mark.parametrize(
    ("micros", "bound"),
    [(0, 50), (50, 50), (51, 100), (199, 200), (200, 200), (4_999, 5_000), (10**9, BOUNDS[-1])],
)
def test_time_is_counted_under_the_first_bound_that_holds_it(micros, bound):
    """The bound itself belongs to its class, and what is beyond the last is counted with it."""
    assert bound_of(micros) == bound


@pytest.mark.parametrize(
    ("counts", "p99"),
    [({}, None), ({50: 1}, 50), ({50: 99, 200: 1}, 50), ({50: 98, 200: 2}, 200), ({200: 1, 50: 0}, 200)],
)
def test_quantile_is_the_bound_that_so_many_did_not_go_beyond(counts, p99):
    """Of a hundred, the ninety-ninth decides; of none, nobody knows."""
    assert quantile(counts, 0.99) == p99
