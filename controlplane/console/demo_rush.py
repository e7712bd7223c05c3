"""Black Friday at the press of a button, in the demo alone: many callers, and models that are slow under them.

The made-up traffic looks here once a second; nothing else does.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.core.cache import cache

KEY: Final = "demo:rush"
RUSH_SECONDS: Final = 150


@dataclass(frozen=True, slots=True)
class Phase:
    """One part of the rush, from `after_seconds` on.

    Attributes:
        rate: How many times the usual number of requests come in.
        slow: What is added to the time to the first token at models whose name matches a glob, in milliseconds.
    """

    after_seconds: int
    rate: float
    slow: dict[str, int]


# The large models are full first; the small one, which the third rung goes to, a little later.
PHASES: Final = (
    Phase(0, 6.0, {"gpt-4o": 1500, "claude-*": 1500}),
    Phase(60, 8.0, {"gpt-4o": 2000, "claude-*": 2000, "gpt-4o-mini": 1500}),
)


@dataclass(frozen=True, slots=True)
class Rush:
    """A rush that somebody began."""

    began_at: datetime
    until: datetime

    def phase(self, now: datetime) -> Phase:
        """The part that it is in."""
        passed = (now - self.began_at).total_seconds()
        return next(one for one in reversed(PHASES) if passed >= one.after_seconds or one is PHASES[0])


def begin(now: datetime) -> Rush:
    """Begin a rush; one that is under way begins anew."""
    rush = Rush(now, now + timedelta(seconds=RUSH_SECONDS))
    cache.set(KEY, {"began_at": now.isoformat(), "until": rush.until.isoformat()}, timeout=RUSH_SECONDS)
    return rush


def end() -> None:
    """Let everybody go home."""
    cache.delete(KEY)


def current(now: datetime) -> Rush | None:
    """The rush that is under way."""
    kept: dict[str, Any] | None = cache.get(KEY)
    if kept is None:
        return None
    rush = Rush(datetime.fromisoformat(kept["began_at"]), datetime.fromisoformat(kept["until"]))
    return rush if now < rush.until else None
