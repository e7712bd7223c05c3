"""What people engage for now: for whom, until when, and what stands beside what triggers engaged."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.documents import MalformedRelease
from dataplane.ladder.activations import NOTHING, Activation, Engaged, engaged_for, parse_activations
from dataplane.ladder.policy import Ladder
from tests.ladders import activation, surface

NOW = datetime(2026, 3, 4, 5, 30, tzinfo=UTC)
SIGNED = {*(f"rung-{number}" for number in range(1, 7)), "help-answers"}
LADDER = Ladder.parse({"web-chat": surface()}).with_words(SIGNED)


def read(**changes: Any) -> Activation:
    return parse_activations({"a": activation(**changes)}, LADDER)["web-chat"][0]


def stands(
    *ones: Activation, level: int = 0, region: str = "eu-west", tier: str = "free", now: datetime = NOW
) -> Engaged:
    return engaged_for(ones, level=level, region=region, tier=tier, now=now)


def test_rung_stands_for_those_whom_it_is_for_until_its_time_is_over() -> None:
    """Empty lists mean everybody; the moment of the end is after it."""
    everybody = read()
    some = read(regions=["eu-west"], tiers=["free", "standard"])

    assert stands(everybody).rung == 3
    assert stands(some).rung == 3
    assert stands(some, region="us-east") == NOTHING
    assert stands(some, tier="vip") == NOTHING
    assert stands(everybody, now=everybody.until - timedelta(microseconds=1)).rung == 3
    assert stands(everybody, now=everybody.until) == NOTHING


def test_highest_of_what_people_and_triggers_engaged_stands() -> None:
    """And says which of them it was, and until when."""
    three, five = read(), read(rung=5, until="2026-03-04T05:45:00Z")

    assert stands(three, five) == Engaged(5, five.until, five)
    assert stands(three, level=4) == Engaged(4)
    assert stands(three, level=3) == Engaged(3, three.until, three)
    assert stands(level=2) == Engaged(2)


def test_of_two_that_say_the_same_the_longer_one_stands() -> None:
    """Users are told when it really ends."""
    short, long = read(until="2026-03-04T05:45:00Z"), read()

    assert stands(short, long).until == long.until
    assert stands(long, short).until == long.until


def test_triggers_are_held_down_and_people_are_not() -> None:
    """Standing down is about what engaged itself; whatever somebody engages after that, stands."""
    hold = read(mode="hold", rung=1)

    assert stands(hold, level=4) == Engaged(1)
    assert stands(hold, level=0) == NOTHING
    assert stands(hold, read(rung=2), level=4).rung == 2
    assert hold.holds_all(NOW)
    assert not hold.holds_all(hold.until)
    assert not read(mode="hold", rung=1, tiers=["vip"]).holds_all(NOW)
    assert not read().holds_all(NOW)


@given(
    st.lists(
        st.builds(
            read,
            rung=st.integers(1, 6),
            mode=st.sampled_from(["engage", "hold"]),
            tiers=st.sampled_from([[], ["vip"], ["free"]]),
            regions=st.sampled_from([[], ["eu-west"], ["us-east"]]),
        ),
        max_size=6,
    ),
    st.integers(0, 6),
    st.randoms(),
)
def test_what_stands_does_not_depend_on_the_order_in_which_people_came(
    ones: list[Activation], level: int, order: Any
) -> None:
    """And is what the rule says: by hand, or what triggers may."""
    shuffled = list(ones)
    order.shuffle(shuffled)
    mine = [one for one in ones if one.is_for(region="eu-west", tier="free")]
    by_hand = max((one.rung for one in mine if one.mode == "engage"), default=0)
    allowed = min((one.rung for one in mine if one.mode == "hold"), default=6)

    assert stands(*shuffled, level=level).rung == stands(*ones, level=level).rung == max(by_hand, min(level, allowed))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "maybe"}, "'maybe' is not one of engage, hold"),
        ({"rung": 7}, "7 is outside 0..6"),
        ({"rung": 0}, "rung 0 of surface 'web-chat' has no signed words"),
        ({"tiers": ["gold"]}, "'gold' is no tier; there are free, standard, vip"),
        ({"regions": ["eu", "eu"]}, "'eu' is given twice"),
        ({"until": "soon"}, "is not an ISO-8601 time"),
        ({"reason": ""}, "must not be empty"),
        ({"by": ""}, "must not be empty"),
        ({"incident": "I-1"}, "unknown key"),
    ],
)
def test_activation_that_nobody_answers_for_is_refused(changes: dict[str, Any], words: str) -> None:
    """Each has a rung, an end, a reason and a name."""
    with pytest.raises(MalformedRelease, match=words):
        read(**changes)


def test_rung_whose_words_nobody_signed_cannot_be_engaged() -> None:
    """Not even by a release that says so; to hold triggers down no words are needed."""
    unsigned = Ladder.parse({"web-chat": surface()}).with_words(SIGNED - {"rung-3"})

    with pytest.raises(MalformedRelease, match="rung 3 of surface 'web-chat' has no signed words"):
        parse_activations({"a": activation()}, unsigned)
    assert parse_activations({"a": activation(mode="hold")}, unsigned)["web-chat"][0].rung == 3


def test_surface_that_is_gone_is_no_mistake() -> None:
    """The policy may have changed since somebody engaged a rung of it."""
    assert parse_activations({"a": activation(surface="old-app")}, LADDER) == {}
