"""Live traffic of two matched arms: how much worse the canary is, and how far that may be off. Pure.

Users are sticky, so the requests of one are not independent of each other; users are. Gateways report sums over groups
of users (`dataplane.evidence`), and those vary as users do: a figure of an arm is a ratio of sums over groups, and its
variance is read from how the groups scatter around it (the delta method; Deng, Knoblich and Lu, "Applying the delta
method in metric analytics", KDD 2018). The difference of two such figures, seen again and again while information
grows, moves like a Brownian motion in information time (Jennison and Turnbull, "Group-sequential analysis incorporating
covariate information", JASA 92, 1997), also where users come back: what they have in common stays in the estimate and
in its variance. So the bound for such motions serves, with what few groups do to a variance on top of it.

Everything takes leading dimensions: one canary, or as many as a simulation has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from controlplane.rollouts.guardrails import Rail, Scale
from controlplane.verdicts.sequences import Floats, normal_quantile, student_quantile
from dataplane.evidence import CELL, GROUPS

# Harm beyond the margin, in margins, that one would like to see soonest. Three: what exceeds its margin by one more
# takes a twelfth more information than if this were one, and what exceeds it by nine takes half of it.
EFFECT_IN_MARGINS: Final = 3.0
# With fewer, a variance read from groups is a guess: one unit makes most of the traffic.
LEAST_FREEDOM: Final = 6.0
# No figure is known better than this, in points or parts: where all requests cost the same, groups do not scatter.
_LEAST_ERROR: Final = 1e-4
# Events of each kind added to an arm when its variance is guessed from its rate alone.
_PSEUDO_EVENTS: Final = 1.0
_LN2: Final = math.log(2.0)


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a rail's figure is in a cell: the sum of what is counted, over how many, and what these are called."""

    counted: int
    out_of: int
    noun: str


COLUMNS: Final[Mapping[str, Columns]] = {
    key: Columns(CELL.index(counted), CELL.index(out_of), noun)
    for key, counted, out_of, noun in (
        ("error_rate", "errors", "answerable", "requests"),
        ("cost", "cost_micros", "reached", "requests"),
        ("latency", "log2_ms", "timed", "timed answers"),
        ("schema", "schema_passed", "schema_checked", "answers with a schema"),
        ("grounding", "grounded", "grounding_checked", "answers checked against sources"),
        ("refusals", "refused", "answered", "answers"),
        ("rejects", "blocked", "validated", "validated answers"),
    )
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """The difference of two arms on the scale where it is nearly normal, for one rail; arrays of one shape.

    That scale is the share itself for rails in points, and the natural logarithm of control's and canary's ratio for
    relative ones.

    Attributes:
        harm: Positive: the canary is worse. NaN where an arm has nothing, or costs nothing.
        error: Its standard error.
        freedom: Degrees of freedom that the error was read with.
        canary, control: Figures of the arms: a share, microdollars a request, milliseconds (geometric mean).
        canary_n, control_n: Out of how many.
        canary_groups, control_groups: That have any.
    """

    harm: Floats
    error: Floats
    freedom: Floats
    canary: Floats
    control: Floats
    canary_n: Floats
    control_n: Floats
    canary_groups: Floats
    control_groups: Floats


@dataclass(frozen=True, slots=True)
class _Figure:
    """One arm's: mean, its variance, the degrees of freedom of that, over how many, and of how many groups."""

    mean: Floats
    variance: Floats
    freedom: Floats
    n: Floats
    groups: Floats


def cells_of(groups: Mapping[int, tuple[float, ...]], *, without: Iterable[int] = ()) -> Floats:
    """The sums of an arm as an array of shape (GROUPS, len(CELL)); groups that are left out are empty.

    Raises:
        ValueError: a group is not in [0, GROUPS), or has not as many sums as CELL.
    """
    cells = np.zeros((GROUPS, len(CELL)))
    for group, sums in groups.items():
        if not 0 <= group < GROUPS or len(sums) != len(CELL):
            raise ValueError(f"group {group} with {len(sums)} sums; groups are 0..{GROUPS - 1}, with {len(CELL)} sums")
        cells[group] = sums
    cells[sorted(without)] = 0.0
    return cells


def estimate(rail: Rail, *, canary: Floats, control: Floats) -> Estimate:
    """Compare two arms.

    Args:
        canary, control: Of shape (..., GROUPS, len(CELL)).
    """
    columns = COLUMNS[rail.key]
    ours, theirs = (_figure(arm[..., columns.counted], arm[..., columns.out_of]) for arm in (canary, control))
    shown = ours.mean, theirs.mean
    with np.errstate(divide="ignore", invalid="ignore"):
        if rail.scale is Scale.POINTS:
            harm = (ours.mean - theirs.mean) * (-1.0 if rail.worse == "below" else 1.0)
            mine, other = (np.maximum(arm.variance, _rare(arm)) for arm in (ours, theirs))
        elif rail.key == "latency":
            harm = (ours.mean - theirs.mean) * _LN2
            mine, other = (arm.variance * _LN2**2 for arm in (ours, theirs))
            shown = np.exp2(ours.mean), np.exp2(theirs.mean)
        else:
            harm = np.log(ours.mean / theirs.mean)
            harm = np.where(np.isfinite(harm), harm, np.nan)
            mine, other = (arm.variance / arm.mean**2 for arm in (ours, theirs))
        variance = mine + other
        # Welch and Satterthwaite.
        freedom = variance**2 / (mine**2 / ours.freedom + other**2 / theirs.freedom)
    return Estimate(
        harm=harm,
        error=np.maximum(np.sqrt(variance), _LEAST_ERROR),
        # No scatter at all: nothing was read from it, so nothing says how well.
        freedom=np.where(variance > 0.0, freedom, np.minimum(ours.freedom, theirs.freedom)),
        canary=shown[0],
        control=shown[1],
        canary_n=ours.n,
        control_n=theirs.n,
        canary_groups=ours.groups,
        control_groups=theirs.groups,
    )


def _figure(counted: Floats, out_of: Floats) -> _Figure:
    n = out_of.sum(axis=-1)
    groups = (out_of > 0.0).sum(axis=-1).astype(np.float64)
    squares = out_of * out_of
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = counted.sum(axis=-1) / n
        residuals = counted - mean[..., None] * out_of
        variance = (residuals * residuals).sum(axis=-1) / (n * n) * groups / (groups - 1.0)
        # Of a sum of squares whose terms grow with the square of the group's size (Satterthwaite): a group that makes
        # half of the traffic tells nearly all of the variance, and all by itself.
        effective = squares.sum(axis=-1) ** 2 / (squares * squares).sum(axis=-1)
    return _Figure(mean, variance, effective - 1.0, n, groups)


def _rare(arm: _Figure) -> Floats:
    """The variance of a share as if requests were independent and one more event of each kind had been seen.

    A lower limit: where events are rare, few groups have any and the scatter of those says too little. An arm without a
    single error is not known to have none (Agresti and Caffo, "Simple and effective confidence intervals for
    proportions and differences of proportions", The American Statistician 54, 2000).
    """
    n = arm.n + 2.0 * _PSEUDO_EVENTS
    share = (arm.mean * arm.n + _PSEUDO_EVENTS) / n
    return share * (1.0 - share) / n


def margin_of(rail: Rail, margin: float) -> float:
    """A margin on the scale of `Estimate.harm`."""
    return math.log1p(margin) if rail.scale is Scale.RELATIVE else margin


def in_unit(rail: Rail, harm: Any) -> Floats:
    """A harm of an estimate, or a bound of it, in the rail's own unit: points of a share, or part of control's."""
    if rail.scale is Scale.RELATIVE:
        return np.expm1(np.asarray(harm, dtype=np.float64))
    return np.clip(np.asarray(harm, dtype=np.float64), -1.0, 1.0)


def reach(found: Estimate, *, margin: float, alpha: float) -> Floats:
    """How far the harm may be off to one side, at any look, on the scale of `Estimate.harm`.

    Args:
        margin: On that scale, see `margin_of`.
        alpha: Of this side.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        z = normal_quantile(found.error**-2.0, effect=EFFECT_IN_MARGINS * margin, alpha=alpha)
        return student_quantile(z, np.maximum(found.freedom, LEAST_FREEDOM)) * found.error
