"""Lanes that on-call holds open or closed: until when, why and by whom, or it is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from dataplane.documents import MalformedRelease
from dataplane.overrides import LaneOverride, parse_overrides

HELD = {"mode": "open", "until": "2026-03-04T05:06:07+01:00", "reason": "vendor said so", "by": "oncall"}
LANE = "openai/eu-west/main/gpt-4o"


def test_each_lane_is_held_as_was_decided() -> None:
    """Times come in UTC, and a lane that no table has any more is no mistake."""
    overrides = parse_overrides({LANE: HELD, "gone": HELD | {"mode": "closed"}})

    until = datetime(2026, 3, 4, 4, 6, 7, tzinfo=UTC)
    assert overrides == {
        LANE: LaneOverride(LANE, "open", until, "vendor said so", "oncall"),
        "gone": LaneOverride("gone", "closed", until, "vendor said so", "oncall"),
    }
    assert parse_overrides({}) == {}


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("mode", "half_open", "'half_open' is not one of closed, open"),
        ("until", "2026-03-04T05:06:07", "has no offset"),
        ("until", None, "expected a string, got null"),
        ("until", "for now", "is not an ISO-8601 time"),
        ("until", "0001-01-01T00:00:00+01:00", "is outside the years 1..9999"),
        ("reason", "", "must not be empty"),
        ("by", "", "must not be empty"),
        ("incident", "I-1", "unknown key"),
    ],
)
def test_hold_that_nobody_answers_for_or_that_never_ends_is_refused(member: str, value: Any, words: str) -> None:
    """Every hold has a reason, a name and an end."""
    with pytest.raises(MalformedRelease, match=words) as refusal:
        parse_overrides({LANE: HELD | {member: value}})

    assert refusal.value.path == f'$.sections.lane_overrides["{LANE}"].{member}'


def test_section_that_is_no_object_is_refused() -> None:
    """As is one whose hold lacks a part."""
    with pytest.raises(MalformedRelease, match=r"^\$\.o: expected an object, got an array"):
        parse_overrides([], path="$.o")
    with pytest.raises(MalformedRelease, match=r"^\$\.o\.a: missing key 'by'"):
        parse_overrides({"a": {name: value for name, value in HELD.items() if name != "by"}}, path="$.o")
