"""Tells at one look that none of many rules could find anything in a text, which is how most answers are. Pure.

Each rule that looks for something says what stands wherever it could find it. One expression of all of these, for each
way of reading a text, is asked before any rule is; where it matches anywhere, the rules are asked as ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from dataplane.validators.folding import Fold, fold, has_escapes
from dataplane.validators.pace import BOUNDS
from dataplane.validators.patterns import Pattern, span, union
from dataplane.validators.values import Channel, Finding, Report

# An expression of more than this is slower than the rules by themselves, and may have no room.
MAX_OPENINGS: Final = 2_000
# So much text takes the look 30 us at most, which pace.BOUNDS does not tell apart from less, nor has any rule so little
# time; while its clock, that of a thread, is a system call.
QUICK_CHARACTERS: Final = 4_000


@dataclass(frozen=True, slots=True)
class Openings:
    """What stands wherever a rule could find anything, in a text that is read by `fold`; None: as it is."""

    fold: Fold | None
    patterns: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Gate:
    """All openings of some rules. `passed` has their findings where there is nothing to find, by their names,
    `report` these as a whole, if no other rule is asked, and `budget_micros` the least time that one of them has.
    """

    passed: Mapping[str, Finding]
    report: Report | None
    budget_micros: float
    _looks: tuple[tuple[Fold | None, Any], ...]

    @classmethod
    def of(
        cls,
        openings: Mapping[str, Openings],
        passed: Mapping[str, Finding],
        *,
        report: Report | None,
        budget_micros: float,
    ) -> Gate | None:
        """Put the openings of rules into one; None where that cannot be done, or spares nothing."""
        together: dict[Fold | None, dict[Pattern, None]] = {}
        for one in openings.values():
            together.setdefault(one.fold, {}).update(dict.fromkeys(one.patterns))
        if len(openings) <= len(together) or sum(map(len, together.values())) > MAX_OPENINGS:
            return None
        try:
            looks = tuple((how, union(tuple(patterns))) for how, patterns in together.items())
        except ValueError:  # RE2 does not take all of them together
            return None
        return cls(passed, report, budget_micros, looks)

    def spares(self, channels: Iterable[Channel]) -> bool:
        """Whether none of the rules could find anything in any of the texts."""
        for channel in channels:
            for how, regex in self._looks:
                text = channel.text
                if how is not None:
                    text = fold(text, how, escapes=has_escapes(how, is_json=channel.is_json))[0]
                if span(regex, text.encode(errors="replace")) is not None:
                    return False
        return True

    @staticmethod
    def is_quick(channels: Iterable[Channel]) -> bool:
        """Whether the look takes so little that nobody need know how much."""
        return sum(len(channel.text) for channel in channels) <= QUICK_CHARACTERS

    def findings(self, *, micros: int) -> Mapping[str, Finding]:
        """What rules that were spared say, when the look took so long; each has its part of that. Nothing of any, if
        that is more than one of them has: they look by themselves then, and answer for their own time.
        """
        part = micros // len(self.passed)
        if part <= BOUNDS[0]:  # which is not told apart from less
            return self.passed
        if micros > self.budget_micros:
            return {}
        return {name: replace(finding, micros=part) for name, finding in self.passed.items()}
