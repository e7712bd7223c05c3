"""The sections of a release, and what is held against one before it is cut.

Each app hands in the compiler of its own section, and its checks, at start-up; this app knows none of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from dataplane.release import Release


class Restore(Protocol):
    """Bring an app's state back to what an older release carried of it, through the app's own operations."""

    def __call__(self, section: Any, *, actor: Any, reason: str, now: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Section:
    """One top-level entry of a release's `sections`.

    Attributes:
        compile: Reads the database as the transaction sees it and returns JSON; a constant number of queries.
        restore: None where going back would be wrong (a revoked API key stays revoked).
    """

    name: str
    compile: Callable[[], Any]
    restore: Restore | None = None


# Mistakes in a release that workers would serve all the same, one line each, the same line for the same mistake.
Check = Callable[[Release], list[str]]

_sections: dict[str, Section] = {}
_checks: list[Check] = []


def register(section: Section) -> None:
    """Make a section part of every release cut from now on."""
    _sections[section.name] = section


def register_check(check: Check) -> None:
    """Have no release cut from now on that brings a mistake which `check` finds, and which the one before had not."""
    if check not in _checks:
        _checks.append(check)


def mistakes_in(release: Release) -> list[str]:
    """What every check has against a release."""
    return [line for check in _checks for line in check(release)]


def all_sections() -> tuple[Section, ...]:
    """Every section, by name, so that the same state always gives the same document."""
    return tuple(_sections[name] for name in sorted(_sections))
