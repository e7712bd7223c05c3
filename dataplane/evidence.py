"""What gateways count of a canary for the decision about it: sums over groups of units, for each arm.

Requests of one sticky unit are not independent of each other, units are; so that whoever decides can tell how much
figures vary from unit to unit without hearing of any single one, units fall by hash into groups, and each group's sums
are reported. Of units themselves no more is told than who saw which version, by a hash and of a sample: from that it
shows whether the arms are of equal size, and who saw both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from math import log2
from typing import Any, Final

from dataplane.aggregation import Result
from dataplane.cohorts import CONTROL_START, Arm, Assignment, CanaryPlan
from dataplane.cohorts import GROUPS as GROUPS
from dataplane.records import record

# What a cell sums up, in the order of its numbers.
CELL: Final = (
    "answerable",  # requests that could have been answered: not the caller's mistakes, nor those they gave up
    "errors",  # of these, as callers saw them; and those that signed copy answered in the place of lanes that could not
    "reached",  # requests that were fit to be served
    "cost_micros",  # what all attempts of these cost, in millionths of a US dollar
    "timed",  # answers that a lane gave whole
    "log2_ms",  # sum of the binary logarithms of how long these took, in milliseconds; the one sum that is no integer
    "schema_checked",
    "schema_passed",
    "answered",  # by a lane, and handed over
    "refused",  # of these
    "validated",  # answers that validators looked at
    "blocked",  # of these
    "grounding_checked",  # answers that rules of the grounding layer looked at
    "grounded",  # of these
)
SHIP_SECONDS: Final = 2.0
# So long requests that a canary has begun may go on after it; what ends later counts no more.
FORGET_SECONDS: Final = 60.0
# Of one canary at one process: units that are told of as they come, and those that saw what they should not.
MAX_SAMPLED: Final = 4_096
MAX_STRAYED: Final = 1_000

CANARY_ARM: Final = Arm.CANARY.value
CONTROL_ARM: Final = Arm.CONTROL.value
# Which version was served, whatever its number.
CANDIDATE: Final = "candidate"
CONTROL: Final = "control"


@record
class Part:
    """The part that a request has in a running canary, since its unit stands in one of the arms.

    Attributes:
        served: CANDIDATE or CONTROL: which of the two versions, whose number is `version`.
        is_compared: What becomes of it counts. False: its caller named the version of the other arm.
        is_told: That the unit was served this version is told, unless it is thinned out. False while the arms are of
            unequal size, when how many there are of each says nothing.
    """

    canary: str
    arm: str
    unit: str
    group: int
    version: int
    served: str
    is_compared: bool
    is_told: bool


def part_of(plan: CanaryPlan, assignment: Assignment, *, pinned: int | None) -> Part | None:
    """Return the part of a request in `plan`; None where it says nothing for or against it.

    Args:
        pinned: The version that the caller named, which is served whatever the arm.
    """
    unit, group, bucket = assignment.unit, assignment.group, assignment.bucket
    if unit is None or group is None or bucket is None:
        return None
    if assignment.arm is Arm.CANARY:
        if bucket >= CONTROL_START:
            return None  # it was control until the canary grew past half: what it does now carries over from that
        arm, own, other = CANARY_ARM, plan.candidate, plan.control
    else:
        arm, own, other = CONTROL_ARM, plan.control, plan.candidate
    if pinned is None:
        served = CANDIDATE if own == plan.candidate else CONTROL
        return Part(plan.slug, arm, unit, group, own, served, True, assignment.weight <= CONTROL_START)
    if pinned != other:
        return None
    return Part(plan.slug, arm, unit, group, other, CANDIDATE if other == plan.candidate else CONTROL, False, True)


class Cell:
    """The sums of one group in one arm."""

    __slots__ = CELL

    answerable: int
    errors: int
    reached: int
    cost_micros: int
    timed: int
    log2_ms: float
    schema_checked: int
    schema_passed: int
    answered: int
    refused: int
    validated: int
    blocked: int
    grounding_checked: int
    grounded: int

    def __init__(self) -> None:
        for name in CELL:
            setattr(self, name, 0)

    def numbers(self) -> list[float]:
        """Its sums in the order of CELL."""
        return [round(self.log2_ms, 3) if name == "log2_ms" else getattr(self, name) for name in CELL]


class _Exposed:
    """Who saw a canary's versions, each unit told once.

    Units are thinned by their hash, which knows nothing of the arm, so that both arms lose alike; those who strayed are
    few, or there is something wrong, and are told of all the same.
    """

    __slots__ = ("_every", "_sampled", "_strayed", "rows")

    def __init__(self) -> None:
        self._every = 1
        self._sampled: set[tuple[str, str]] = set()
        self._strayed: set[tuple[str, str]] = set()
        self.rows: list[dict[str, Any]] = []

    def add(self, part: Part) -> None:
        """Note that the unit of `part` was served its version."""
        seen = (part.unit, part.arm)
        if part.is_compared:
            if seen in self._sampled or not self._is_kept(part.unit):
                return
            self._sampled.add(seen)
            while len(self._sampled) > MAX_SAMPLED:
                self._every *= 2
                self._sampled = {one for one in self._sampled if self._is_kept(one[0])}
        else:
            if seen in self._strayed or len(self._strayed) >= MAX_STRAYED:
                return
            self._strayed.add(seen)
        names = ("canary", "unit", "group", "arm", "version", "served")
        self.rows.append({name: getattr(part, name) for name in names})

    def _is_kept(self, unit: str) -> bool:
        return int(unit, 16) % self._every == 0


class _Tally:
    """All that is counted of one canary; times are seconds of the clock, None: never, or not yet."""

    __slots__ = ("arms", "exposed", "gone_at", "is_changed", "shipped_at")

    def __init__(self) -> None:
        self.arms: dict[str, dict[int, Cell]] = {CANARY_ARM: {}, CONTROL_ARM: {}}
        self.exposed = _Exposed()
        self.is_changed = False
        self.shipped_at: float | None = None
        self.gone_at: float | None = None

    def cell(self, part: Part) -> Cell:
        """The cell of a request's unit, marked as changed."""
        self.is_changed = True
        cells = self.arms[part.arm]
        cell = cells.get(part.group)
        if cell is None:
            cell = cells[part.group] = Cell()
        return cell

    def rows(self, canary: str) -> list[dict[str, Any]]:
        """Shape: see `Evidence.drain`."""
        return [
            {"canary": canary, "arm": arm, "cells": [[group, *cell.numbers()] for group, cell in sorted(cells.items())]}
            for arm, cells in self.arms.items()
            if cells
        ]


class Evidence:
    """What one process counts of all canaries. Belongs to one event loop: nothing here waits, nothing is locked."""

    __slots__ = ("_clock", "_tallies")

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is monotonic seconds."""
        self._clock = clock
        self._tallies: dict[str, _Tally] = {}

    def adopt(self, canaries: Iterable[str]) -> None:
        """Count for these canaries, of the release that is served from now on; others come to their end.

        One that has ended never runs again, so none begins at zero that was told of before.
        """
        now, running = self._clock(), set(canaries)
        for slug in running - self._tallies.keys():
            self._tallies[slug] = _Tally()
        for slug, tally in self._tallies.items():
            if slug not in running and tally.gone_at is None:
                tally.gone_at, tally.shipped_at, tally.is_changed = now, None, True

    def record(
        self,
        part: Part,
        *,
        result: Result,
        cost_micros: int,
        milliseconds: float,
        is_copy: bool,
        refused: bool,
        schema_passed: bool | None,
        blocked: bool | None,
        grounded: bool | None,
    ) -> None:
        """Count one finished request, however many attempts it made.

        Args:
            result: As for `Aggregation.record_request`; a `rejected` one counts nothing and exposes nobody.
            cost_micros: Of all its attempts, in millionths of a US dollar.
            milliseconds: From its start to its end.
            is_copy: Signed copy answered it in the place of a lane that could not.
            schema_passed, blocked, grounded: None where the answer was not looked at for that.
        """
        tally = self._tallies.get(part.canary)
        if tally is None or result == "rejected":
            return
        if part.is_told:
            tally.exposed.add(part)
        if not part.is_compared:
            return
        cell = tally.cell(part)
        cell.reached += 1
        cell.cost_micros += cost_micros
        if result != "cancelled":
            cell.answerable += 1
            if result == "error" or is_copy:
                cell.errors += 1
            elif not blocked:
                cell.answered += 1
                cell.refused += refused
                cell.timed += 1
                # No lane takes less than one, and so no sum is negative.
                cell.log2_ms += log2(max(milliseconds, 1.0))
        if schema_passed is not None:
            cell.schema_checked += 1
            cell.schema_passed += schema_passed
        if blocked is not None:
            cell.validated += 1
            cell.blocked += blocked
        if grounded is not None:
            cell.grounding_checked += 1
            cell.grounded += grounded

    def drain(self, *, is_last: bool = False) -> list[dict[str, Any]]:
        """The cells that are due, as rows that replace all that was told of the same canary and arm before.

        A canary is due when it has changed, every SHIP_SECONDS; with `is_last`, at once. One that is over is told of
        once more, and forgotten FORGET_SECONDS later.

        Shape: [{"canary": str, "arm": "canary" or "control", "cells": [[group, *sums in the order of CELL], …]}];
        groups ascend, and one without requests is left out.
        """
        now = self._clock()
        rows: list[dict[str, Any]] = []
        for slug, tally in list(self._tallies.items()):
            is_over = tally.gone_at is not None and now - tally.gone_at >= FORGET_SECONDS
            waited = tally.shipped_at is None or now - tally.shipped_at >= SHIP_SECONDS
            if tally.is_changed and (waited or is_over or is_last):
                tally.is_changed, tally.shipped_at = False, now
                rows += tally.rows(slug)
            if is_over and not tally.exposed.rows:
                del self._tallies[slug]
        return rows

    def drain_exposures(self) -> list[Mapping[str, Any]]:
        """Who was newly seen with a version, each once for its arm and this version.

        Shape: [{"canary", "unit": 16 hex digits, "group", "arm": "canary" or "control", "version", "served":
        "candidate" or "control"}].
        """
        rows: list[Mapping[str, Any]] = []
        for tally in self._tallies.values():
            if tally.exposed.rows:
                rows += tally.exposed.rows
                tally.exposed.rows = []
        return rows
