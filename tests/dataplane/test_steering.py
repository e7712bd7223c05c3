"""The order in which a route's lanes are tried."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from dataplane.documents import MalformedRelease, Node
from dataplane.policies import Steering
from dataplane.routing import RoutingTable
from dataplane.steering import Speeds, by_speed, order_lanes

from .conftest import LANE, ROUTING

A, B, C = "lane/a", "lane/b", "lane/c"
PRICES = {A: 3_000_000, B: 1_000_000, C: 2_000_000}


def lanes():
    document = ROUTING | {
        "lanes": {
            name: LANE | {"model": name, "input_micros_per_million_tokens": price} for name, price in PRICES.items()
        },
        "routes": {"chat": {"lanes": [A, B, C], "deadline_ms": 1000}},
    }
    return RoutingTable.parse(document).routes["chat"].lanes


def ordered(steering, *, speeds=None, now=0.0, seed=1):
    chosen = order_lanes(lanes(), steering, speeds=speeds or Speeds(), now=now, rng=Random(seed))
    return [lane.id for lane in chosen]


def speeds_of(**waits):
    speeds = Speeds()
    for name, wait in waits.items():
        for _ in range(5):
            speeds.add(f"lane/{name}", wait, now=0.0)
    return speeds


def test_preference_is_the_order_as_written():
    """Nothing that is measured changes it."""
    assert ordered(Steering(), speeds=speeds_of(a=900, b=10)) == [A, B, C]


def test_cheapest_comes_first():
    """By the sum of both prices, input and output."""
    assert ordered(Steering("cost")) == [B, C, A]


def test_weights_are_shares_of_first_places_and_zero_is_an_alternate():
    """Of 2,000 requests three quarters go to the lane of weight 3; the one of weight 0 is always last."""
    steering = Steering("weight", {A: 3, B: 1, C: 0})

    orders = [ordered(steering, seed=seed) for seed in range(2000)]

    first = Counter(order[0] for order in orders)
    assert 0.72 < first[A] / 2000 < 0.78
    assert {order[2] for order in orders} == {C}


def test_clearly_faster_lane_comes_first_and_a_little_faster_one_does_not():
    """A fifth is the least that moves a lane, so that the order does not flicker between equals."""
    assert ordered(Steering("speed"), speeds=speeds_of(a=500, b=450, c=100)) == [C, A, B]


def test_lane_of_unknown_speed_keeps_its_place():
    """Nothing is known of the second; the third may pass it only if it passes what stands before it."""
    assert ordered(Steering("speed"), speeds=speeds_of(a=500, c=100)) == [A, B, C]


def test_speed_of_long_ago_says_nothing():
    """After minutes without a sample, the order is as written again."""
    speeds = speeds_of(a=500, b=100, c=500)

    assert ordered(Steering("speed"), speeds=speeds)[0] == B
    assert ordered(Steering("speed"), speeds=speeds, now=120.0) == [A, B, C]


def test_speed_follows_what_changed():
    """A lane that was fast and is slow now loses its place within a memory's time."""
    speeds = speeds_of(a=300, b=100)
    for second in range(1, 121):
        speeds.add(A, 300, now=float(second))
        speeds.add(B, 2000, now=float(second))

    assert speeds.wait_ms(B, now=120.0) > 1500
    assert ordered(Steering("speed"), speeds=speeds, now=120.0)[0] == A


@pytest.mark.parametrize(
    ("value", "fact"),
    [
        ({"by": "mood", "weights": None}, "'mood' is not one of cost, preference, speed, weight"),
        ({"by": "speed", "weights": {A: 1}}, "lanes are ordered by speed; set it to null"),
        ({"by": "weight", "weights": {A: 1, B: 1}}, "'lane/c' has no weight"),
        ({"by": "weight", "weights": {A: 1, B: 1, "x": 1}}, "'x' is not a lane of this route"),
        ({"by": "weight", "weights": {A: 0, B: 0, C: 0}}, "every weight is 0"),
        ({"by": "weight", "weights": {A: 1.5, B: 1, C: 1}}, "expected a whole number"),
    ],
)
def test_steering_that_cannot_be_meant_is_refused(value, fact):
    """With the JSON path of what is wrong."""
    with pytest.raises(MalformedRelease, match=fact):
        Steering.parse(Node(value, "$.steering"), [A, B, C])


def test_order_by_speed_takes_waits_from_anywhere():
    """The console orders by the mean of the workers with the workers' own rule."""
    ordered_lanes = by_speed(lanes(), {A: 500.0, C: 100.0, B: 450.0})

    assert [lane.id for lane in ordered_lanes] == [C, A, B]
