"""How fast each simulated model answers, as data: time to the first token and between tokens, log-normal and seeded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from random import Random

from dataplane.simulator.conversation import Wire


@dataclass(frozen=True, slots=True)
class LatencyProfile:
    """A model's pace: medians in seconds, and the sigma of the underlying normal; zero medians mean no wait at all."""

    first_token_seconds: float
    first_token_sigma: float
    token_seconds: float
    token_sigma: float

    @property
    def instant(self) -> bool:
        """True when nothing waits, so that the answer can go out in one write."""
        return self.first_token_seconds == 0.0 and self.token_seconds == 0.0


INSTANT = LatencyProfile(0.0, 0.0, 0.0, 0.0)
DEFAULT = LatencyProfile(0.120, 0.25, 0.005, 0.30)

# First match wins; patterns are shell globs over the model or deployment name, or over wire/name.
PROFILES: tuple[tuple[str, LatencyProfile], ...] = (
    ("*-instant", INSTANT),
    ("instant", INSTANT),
    ("benchmark*", INSTANT),
    ("text-embedding-*", LatencyProfile(0.030, 0.20, 0.0, 0.0)),
    ("azure-openai/gpt-4o*", LatencyProfile(0.160, 0.30, 0.006, 0.35)),
    ("gpt-4o-mini*", LatencyProfile(0.080, 0.20, 0.004, 0.25)),
    ("gpt-4o*", LatencyProfile(0.120, 0.25, 0.005, 0.30)),
    ("claude-*haiku*", LatencyProfile(0.090, 0.20, 0.004, 0.25)),
    ("claude-*sonnet*", LatencyProfile(0.150, 0.25, 0.005, 0.30)),
    ("claude-*opus*", LatencyProfile(0.200, 0.30, 0.007, 0.30)),
)

# What the vendor answers in `model` when it was asked for an alias.
SNAPSHOTS: dict[str, str] = {
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4o-mini": "gpt-4o-mini-2024-07-18",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
}

LISTED_MODELS: tuple[str, ...] = (
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-4o-instant",
    "text-embedding-3-small",
    "text-embedding-3-large",
)

# Long answers must stay cheap for the demo: a draw is cut at this many times the median.
_LONGEST_DRAW = 4.0


def profile_for(model: str, *, wire: Wire) -> LatencyProfile:
    """Return the profile of the first pattern that `model`, or `wire/model`, matches; else the gentle default."""
    for pattern, profile in PROFILES:
        if fnmatchcase(f"{wire.value}/{model}" if "/" in pattern else model, pattern):
            return profile
    return DEFAULT


def draw_seconds(median: float, sigma: float, rng: Random) -> float:
    """Return one log-normal wait in seconds, at most four medians; 0 for a zero median."""
    if median == 0.0:
        return 0.0
    return min(rng.lognormvariate(math.log(median), sigma), median * _LONGEST_DRAW)


@dataclass(frozen=True, slots=True)
class Pacing:
    """One answer's drawn waits: seconds before the first byte, then a fresh draw before each content chunk."""

    profile: LatencyProfile
    rng_seed: int

    def first_token_seconds(self) -> float:
        """Return the wait before the first byte, in seconds; the same each time it is asked."""
        return draw_seconds(self.profile.first_token_seconds, self.profile.first_token_sigma, Random(self.rng_seed))  # noqa: S311 - simulated latency, not a secret

    def token_waits(self) -> Iterator[float]:
        """Yield the wait before each next token, in seconds, without end."""
        rng = Random(self.rng_seed + 1)  # noqa: S311 - simulated latency, not a secret
        while True:
            yield draw_seconds(self.profile.token_seconds, self.profile.token_sigma, rng)
