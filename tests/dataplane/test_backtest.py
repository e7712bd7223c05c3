"""The back-test: what a policy would have done to minutes that really were, by the real decider."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import pytest

from dataplane.backtest import backtest as run
from dataplane.backtest import counts_of
from dataplane.policies import BREAKER_THRESHOLDS, BreakerPolicy
from dataplane.sketches import Sketch
from dataplane.thresholds import Provenance, Threshold

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
GUESSED = Provenance("guess", "a test wants it", "", "test", date(2026, 3, 1), date(2026, 6, 1))
NUMBERS = {
    "window_seconds": 60,
    "minimum_attempts": 10,
    "failure_rate": 0.5,
    "timeout_rate": 0.3,
    "latency_p95_ms": 1000,
    "ttft_p95_ms": 500,
    "drain_tokens_per_second": 5,
    "dragging_rate": 0.5,
    "open_seconds": 60,
    "flap_factor": 2,
    "max_open_seconds": 240,
    "calm_seconds": 120,
    "probes": 1,
    "healthy_probes": 3,
}


@dataclass(frozen=True)
class Minute:
    at: datetime
    attempts: int = 40
    failures: int = 0
    timeouts: int = 0
    throttled: int = 0
    latency_ms: Sketch = field(default_factory=Sketch)
    ttft_ms: Sketch = field(default_factory=Sketch)
    drain_tps: Sketch = field(default_factory=Sketch)


def policy(**numbers):
    assert set(NUMBERS) == set(BREAKER_THRESHOLDS)
    return BreakerPolicy("test", **{name: Threshold(value, GUESSED) for name, value in (NUMBERS | numbers).items()})


def backtest(policies, minutes):
    """As they come, with each minute's counts under each policy."""
    return run(policies, ((minute.at, [counts_of(one, minute) for one in policies]) for minute in minutes))


def sketch(*values):
    made = Sketch()
    for value in values:
        made.add(value)
    return made


def hour(bad=(), *, length=60, **of_bad):
    """An hour of good minutes, those numbered in `bad` with what is given."""
    return [Minute(NOON + timedelta(minutes=at), **(of_bad if at in bad else {})) for at in range(length)]


def test_outage_is_one_opening_that_lasts_until_probes_go_well():
    """It opens at the end of the first bad minute; while probes fail it opens again, each time for longer."""
    (found,) = backtest([policy()], hour(range(10, 16), failures=30))

    (opening,) = found.openings
    assert (opening.at, opening.threshold, opening.value, opening.limit) == (
        NOON + timedelta(minutes=11),
        "failure_rate",
        0.75,
        0.5,
    )
    assert opening.seconds == 60 + 120 + 240  # until 12:12, 12:14 and 12:18; by then the lane is well
    assert (found.seconds_open, found.longest) == (420, opening)
    assert (found.attempts, found.diverted) == (60 * 40, 7 * 40)
    assert found.diverted_share == pytest.approx(7 / 60)


def test_policies_are_compared_over_minutes_that_are_read_once():
    """The minutes may be a generator; what trips one policy need not trip the other."""
    minutes = (minute for minute in hour({10, 40}, failures=22))

    strict, lenient = backtest([policy(open_seconds=20), policy(failure_rate=0.6)], minutes)

    assert [opening.at.minute for opening in strict.openings] == [11, 41]
    assert strict.diverted == pytest.approx(2 * 40 / 3)
    assert (lenient.openings, lenient.diverted_share, lenient.minutes) == ((), 0.0, 60)


@pytest.mark.parametrize(
    ("threshold", "minute"),
    [
        ("timeout_rate", {"failures": 14, "timeouts": 14}),
        ("latency_p95_ms", {"latency_ms": sketch(*[200.0] * 36, *[2000.0] * 4)}),
        ("ttft_p95_ms", {"ttft_ms": sketch(*[100.0] * 36, *[900.0] * 4)}),
        ("dragging_rate", {"drain_tps": sketch(*[2.0] * 10, *[50.0] * 10)}),
    ],
)
def test_each_threshold_trips_by_what_was_stored(threshold, minute):
    """Counts as counts, and the tails of the sketches as shares."""
    (found,) = backtest([policy()], hour({5}, **minute))

    assert [opening.threshold for opening in found.openings] == [threshold]


def test_too_little_traffic_is_not_judged_and_says_so():
    """No opening means nothing there; minutes without attempts are no evidence at all."""
    (quiet,) = backtest([policy()], hour(range(60), attempts=5, failures=5))
    (silent,) = backtest([policy()], hour(range(60), attempts=0))

    assert (quiet.openings, quiet.minutes, quiet.judged) == ((), 60, 0)
    assert (silent.minutes, silent.diverted_share, silent.longest) == (0, 0.0, None)


def test_throttled_attempts_are_a_matter_of_quotas():
    """They are neither attempts nor failures here, as for the breaker itself."""
    (found,) = backtest([policy()], hour({5}, attempts=40, failures=12, throttled=20))

    assert [(opening.threshold, opening.value) for opening in found.openings] == [("failure_rate", 0.6)]


def test_window_shorter_or_longer_than_a_minute_counts_its_share():
    """Half a minute holds half of the attempts of a minute; ninety seconds those of two, by three quarters."""
    sparse = hour(range(60), attempts=14, failures=10)
    (short,) = backtest([policy(window_seconds=30)], sparse)
    (long,) = backtest([policy(window_seconds=90, open_seconds=3600, max_open_seconds=3600)], hour({5}, failures=40))

    assert (short.openings, short.judged) == ((), 0)
    # One minute of failures is half of what two minutes hold: at the limit, so it opens.
    assert [(opening.at.minute, opening.value) for opening in long.openings] == [(6, 0.5)]


def test_lane_without_traffic_while_open_is_not_counted_as_open_for_longer():
    """Nobody was turned away at night; the next attempt is the probe."""
    before, after = hour({10}, length=11, failures=40), [Minute(NOON + timedelta(hours=9))]

    (found,) = backtest([policy()], [*before, *after])

    assert (found.seconds_open, found.diverted) == (60, 0)
