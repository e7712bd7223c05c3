"""What a restored index has to show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.retrieval.acceptance import (
    SAMPLES,
    Check,
    check_counts,
    check_digests,
    check_recall,
    check_samples,
    rate_ruled_out,
    recall,
    samples_for,
)


def test_299_clean_samples_rule_out_one_percent() -> None:
    """298 do not; the bound is the exact one, not the rule of three."""
    assert samples_for(0.01) == SAMPLES == 299
    assert rate_ruled_out(299) < 0.01 < rate_ruled_out(298)
    assert rate_ruled_out(0) == 1


@given(st.floats(0.0005, 0.5), st.floats(0.5, 0.999))
def test_samples_asked_for_rule_out_their_rate(rate: float, confidence: float) -> None:
    """And one fewer do not."""
    samples = samples_for(rate, confidence=confidence)

    assert rate_ruled_out(samples, confidence=confidence) <= rate + 1e-12
    if samples > 1:
        assert rate_ruled_out(samples - 1, confidence=confidence) >= rate - 1e-12


def test_recall_is_the_mean_share_of_what_is_nearest() -> None:
    """What was found beside it counts for nothing, and a question that nothing is near says nothing."""
    assert recall([{1, 2, 9}, {4}, {7}], [{1, 2}, {4, 5}, set()]) == pytest.approx(0.75)
    assert recall([], []) == 1


@pytest.mark.parametrize(
    ("check", "passed", "words"),
    [
        (check_counts(expected=10, found=9), False, "9 of 10 chunks"),
        (check_digests(compared=10, differing=0), True, "0 of 10 documents differ"),
        (check_samples(drawn=299, bad=0, population=5000), True, "less than 1.00% of 5000"),
        (check_samples(drawn=40, bad=0, population=40), True, "all 40 chunks are what their checksums say"),
        (check_samples(drawn=299, bad=1, population=5000), False, "1 of 299 sampled chunks"),
        (check_recall(measured=0.949, questions=20), False, "recall@10 0.949 over 20 questions"),
    ],
)
def test_check_says_what_it_found(check: Check, passed: bool, words: str) -> None:
    """In one line, with its figures, whether it passed or not."""
    assert check.passed is passed
    assert words in check.words
