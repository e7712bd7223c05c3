"""What the evidence of a checklist is held to: numbers that are frozen with it, and that its signers sign for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from controlplane.shadows.errors import InvalidThresholds


@dataclass(frozen=True, slots=True)
class Bound:
    """One number: what it is called, in which unit people type it, and what it may be."""

    label: str
    unit: str
    help: str
    default: float
    least: float
    most: float
    is_whole: bool = False


BOUNDS: Final[Mapping[str, Bound]] = {
    "comparisons": Bound(
        "Comparisons", "answers", "So many answers of the candidate were compared, at least", 1000, 50, 10**7, True
    ),
    "days": Bound("Days", "days", "On so many UTC days, at least", 3, 1, 30, True),
    "schema_margin": Bound(
        "Schema", "points", "How much more often than control itself it may miss the schema", 1.0, 0.0, 20.0
    ),
    "validators_margin": Bound(
        "Validators", "points", "How much more often than control itself it may be judged otherwise", 2.0, 0.0, 20.0
    ),
    "tools_margin": Bound(
        "Tools", "points", "How much more often than control itself it may call tools otherwise", 2.0, 0.0, 20.0
    ),
    "cost_ratio": Bound("Cost", "times control's", "What an answer may cost", 1.2, 0.01, 1000.0),
    "latency_ratio": Bound("Latency", "times control's", "How long an answer may take", 1.25, 0.01, 1000.0),
    "residency_requests": Bound(
        "Residency", "requests", "So many were asked of the lane, none against a pin", 300, 1, 10**7, True
    ),
}


def defaults() -> dict[str, float]:
    """What a checklist is held to unless somebody says otherwise."""
    return {name: bound.default for name, bound in BOUNDS.items()}


def read_thresholds(given: Mapping[str, Any]) -> dict[str, float]:
    """Every threshold, with those that are given in the place of the defaults.

    Raises:
        InvalidThresholds: there is none of that name, or it is out of range.
    """
    found = defaults()
    for name, value in given.items():
        bound = BOUNDS.get(name)
        if bound is None:
            raise InvalidThresholds(name, f"no such threshold; there are {', '.join(BOUNDS)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not bound.least <= value <= bound.most:
            raise InvalidThresholds(name, f"{value!r} is no number from {bound.least:g} to {bound.most:g}")
        if bound.is_whole and value != int(value):
            raise InvalidThresholds(name, f"{value!r} is no whole number")
        found[name] = int(value) if bound.is_whole else float(value)
    return found
