"""Lengths of time in words."""

import pytest

from controlplane.durations import duration, span


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (44.6, "45 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (630, "10 min 30 s"),
        (3_600, "1 h"),
        (3_659, "1 h"),
        (12_000, "3 h 20 min"),
        (200_000, "55 h 33 min"),
    ],
)
def test_duration_is_said_in_its_two_largest_units(seconds, words):
    """Hours are the largest; seconds beside hours are left out."""
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0 s"),
        (0.8, "0.8 s"),
        (5, "5 s"),
        (9.96, "10 s"),
        (10.4, "10 s"),
        (150, "2 min 30 s"),
        (172_799, "47 h 59 min"),
        (172_800, "2 d"),
        (187_200, "2 d 4 h"),
    ],
)
def test_span_is_said_from_moments_to_days(seconds, words):
    """What took less than ten seconds with tenths, and from two days on in days."""
    assert span(seconds) == words
