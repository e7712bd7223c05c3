"""What the items of a checklist come to: figures against thresholds, each with three ways to end, or with none to ask.

Pure: whoever asks hands over what was measured, see `evidence`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from controlplane.shadows.figures import SCHEMA, TOOLS, VERDICTS, Figure, Ratios
from controlplane.shadows.models import Item
from controlplane.shadows.statistics import Interval
from dataplane.release import canonical, digest_of


class Standing(StrEnum):
    """What evidence comes to."""

    MET = "met"
    NOT_MET = "not_met"
    UNPROVEN = "unproven"  # not enough was measured to say
    MOOT = "moot"  # there is nothing to measure: no schema, no tools


SIGNABLE: Final = (Standing.MET, Standing.MOOT)


@dataclass(frozen=True, slots=True)
class RunFound:
    """One eval run that counts for the lane: of which set, and what came of it; `passed` None: it is not done."""

    name: str
    run: int | None
    passed: bool | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Measured:
    """All that is known of a candidate on a route, at one moment.

    Attributes:
        answered: Comparisons of the candidate; on `days` UTC days.
        evals: By purpose, the runs that the lane needs; none: no set covers it.
        asked: Requests that were asked of the lane; `outside` of these by tenants whose pin forbids it, `pinned` by
            tenants that have one.
    """

    answered: int
    days: int
    figures: Mapping[str, Figure]
    ratios: Ratios
    cost_micros: int
    control_cost_micros: int
    evals: Mapping[str, tuple[RunFound, ...]]
    asked: int
    pinned: int
    outside: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one item comes to. `figures` is what a signature freezes."""

    item: Item
    standing: Standing
    sentence: str
    figures: Mapping[str, Any]
    link: str = ""

    @property
    def may_be_signed(self) -> bool:
        return self.standing in SIGNABLE

    def digest(self, subject: str) -> str:
        """Of what is signed: this evidence, of this subject."""
        said = {"subject": subject, "item": self.item.value, "standing": self.standing.value, "figures": self.figures}
        return digest_of(canonical(said))


def judge(measured: Measured, thresholds: Mapping[str, float]) -> dict[Item, Evidence]:
    """Every item, in the order of `Item`."""
    return {item: _JUDGES[item](measured, thresholds) for item in Item}


def _comparisons(measured: Measured, thresholds: Mapping[str, float]) -> Evidence:
    needed, days = int(thresholds["comparisons"]), int(thresholds["days"])
    is_met = measured.answered >= needed and measured.days >= days
    return Evidence(
        Item.COMPARISONS,
        Standing.MET if is_met else Standing.UNPROVEN,
        f"{measured.answered:,} of {needed:,} comparisons on {measured.days} of {days} days",
        {"answered": measured.answered, "days": measured.days},
    )


def _beyond_noise(item: Item, key: str, name: str, nothing: str) -> Callable[[Measured, Mapping[str, float]], Evidence]:
    """An item that holds a share against the noise floor and a margin in points."""

    def look(measured: Measured, thresholds: Mapping[str, float]) -> Evidence:
        figure, margin = measured.figures[key], thresholds[name] / 100
        difference = figure.difference
        found = {
            "candidate": figure.candidate.to_json(),
            "noise": figure.noise.to_json(),
            "difference": difference.to_json(),
        }
        if not figure.candidate.n:
            is_known = measured.answered >= thresholds["comparisons"]
            said = f"{nothing} in {measured.answered:,} comparisons"
            return Evidence(item, Standing.MOOT if is_known else Standing.UNPROVEN, said, found)
        if not figure.noise.n:
            said = "control was never asked once more, so nobody knows how far it is from itself"
            return Evidence(item, Standing.UNPROVEN, said, found)
        said = (
            f"{points(difference)} beyond the noise floor, {100 * margin:g} points allowed: "
            f"{percent(figure.candidate)} of {figure.candidate.n:,}, control itself {percent(figure.noise)} "
            f"of {figure.noise.n:,}"
        )
        return Evidence(item, _held(difference, margin), said, found)

    return look


def _cost(measured: Measured, thresholds: Mapping[str, float]) -> Evidence:
    ratio, limit = measured.ratios.cost, thresholds["cost_ratio"]
    found = {
        "ratio": ratio.to_json(),
        "cost_micros": measured.cost_micros,
        "control_cost_micros": measured.control_cost_micros,
    }
    if not ratio.n and measured.answered and not measured.cost_micros and measured.control_cost_micros:
        return Evidence(Item.COST, Standing.MET, "its answers cost nothing, control's do", found)
    return Evidence(Item.COST, _held(ratio, limit), _times(ratio, limit, "costs"), found)


def _latency(measured: Measured, thresholds: Mapping[str, float]) -> Evidence:
    ratio, limit = measured.ratios.latency, thresholds["latency_ratio"]
    return Evidence(Item.LATENCY, _held(ratio, limit), _times(ratio, limit, "takes"), {"ratio": ratio.to_json()})


def _held(found: Interval, limit: float) -> Standing:
    """Whether the whole interval is within the limit, or beyond it."""
    if found.high is None or found.low is None:
        return Standing.UNPROVEN
    if found.high <= limit:
        return Standing.MET
    return Standing.NOT_MET if found.low > limit else Standing.UNPROVEN


def _eval(item: Item, purpose: str) -> Callable[[Measured, Mapping[str, float]], Evidence]:
    def look(measured: Measured, thresholds: Mapping[str, float]) -> Evidence:
        runs = measured.evals.get(purpose, ())
        found = {
            "runs": [{"set": one.name, "run": one.run, "passed": one.passed, "sentence": one.sentence} for one in runs]
        }
        if not runs:
            return Evidence(item, Standing.UNPROVEN, f"no {purpose} set covers the lane, so nobody asked it", found)
        said = "; ".join(f"{one.name}: {one.sentence}" for one in runs)
        if all(one.passed for one in runs):
            return Evidence(item, Standing.MET, said, found)
        failed = any(one.passed is False for one in runs)
        return Evidence(item, Standing.NOT_MET if failed else Standing.UNPROVEN, said, found)

    return look


def _residency(measured: Measured, thresholds: Mapping[str, float]) -> Evidence:
    needed = int(thresholds["residency_requests"])
    found = {"asked": measured.asked, "pinned": measured.pinned, "outside": measured.outside}
    if measured.outside:
        said = f"{measured.outside:,} of {measured.asked:,} requests were asked against their tenant's pin"
        return Evidence(Item.RESIDENCY, Standing.NOT_MET, said, found)
    bound = f", so at most {300 / measured.asked:.2g} % with 95 % confidence" if measured.asked else ""
    said = (
        f"0 of {measured.asked:,} requests were asked against a pin{bound}; {measured.pinned:,} of them had one; "
        f"{needed:,} are needed"
    )
    return Evidence(Item.RESIDENCY, Standing.MET if measured.asked >= needed else Standing.UNPROVEN, said, found)


_JUDGES: Final[Mapping[Item, Callable[[Measured, Mapping[str, float]], Evidence]]] = {
    Item.COMPARISONS: _comparisons,
    Item.SCHEMA: _beyond_noise(Item.SCHEMA, SCHEMA, "schema_margin", "no answer had a schema to meet"),
    Item.VALIDATORS: _beyond_noise(Item.VALIDATORS, VERDICTS, "validators_margin", "no validator looked at an answer"),
    Item.TOOLS: _beyond_noise(Item.TOOLS, TOOLS, "tools_margin", "no tool was called"),
    Item.COST: _cost,
    Item.LATENCY: _latency,
    Item.SAFETY: _eval(Item.SAFETY, "safety"),
    Item.GOLDEN: _eval(Item.GOLDEN, "golden"),
    Item.RESIDENCY: _residency,
}


# --- in words --------------------------------------------------------------------------------------------------------
def percent(share: Interval) -> str:
    """'7.1 %', with its interval: '7.1 % [6.0 … 8.3]'."""
    if share.value is None or share.low is None or share.high is None:
        return "–"
    return f"{100 * share.value:.1f} % [{100 * share.low:.1f} … {100 * share.high:.1f}]"


def points(difference: Interval) -> str:
    """'+1.2 points [−0.3 … +2.7]'."""
    if difference.value is None or difference.low is None or difference.high is None:
        return "–"
    low, high = (f"{100 * one:+.1f}".replace("-", "−") for one in (difference.low, difference.high))
    return f"{100 * difference.value:+.1f}".replace("-", "−") + f" points [{low} … {high}]"


def times(ratio: Interval) -> str:
    """'1.21 × [1.18 … 1.24]'."""
    if ratio.value is None or ratio.low is None or ratio.high is None:
        return "–"
    return f"{ratio.value:.2f} × [{ratio.low:.2f} … {ratio.high:.2f}]"


def _times(ratio: Interval, limit: float, verb: str) -> str:
    if ratio.value is None:
        return f"too few answers to say what it {verb} beside control; {limit:g} × is allowed"
    return f"an answer {verb} {times(ratio)} what control's does, {limit:g} × is allowed, over {ratio.n:,} answers"
