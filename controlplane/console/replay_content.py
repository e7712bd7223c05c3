"""Replayed pairs as pages show them: what each version scored, and how their answers differ."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from controlplane.console.diffs import Group, diff_rows
from controlplane.rollouts.guardrails import RAILS, Rail, Scale, Stream
from controlplane.rollouts.models import Canary
from controlplane.verdicts.models import ReplayPair
from controlplane.verdicts.paired import in_unit, paired_harm
from controlplane.verdicts.values import compared

_UNITS: Final = {"cost": "µ$", "latency": "ms"}


@dataclass(frozen=True, slots=True)
class Score:
    """One rail of one pair, formatted; `tone` says how the candidate did."""

    label: str
    candidate: str
    control: str
    difference: str
    tone: str


@dataclass(frozen=True, slots=True)
class PairRow:
    """One pair in the table."""

    pair: ReplayPair
    scores: tuple[Score | None, ...]


def replayed_rails(canary: Canary) -> tuple[Rail, ...]:
    """The rails that replays tell of, in the plan's order."""
    policy = canary.judged_by
    return () if policy is None else tuple(rail for rail, stream in policy.judged if stream is Stream.REPLAY)


def pair_row(pair: ReplayPair, rails: tuple[Rail, ...]) -> PairRow:
    """A pair with a score for each rail; None where one side could not be scored."""
    return PairRow(pair, tuple(_score(rail, pair.scores.get(rail.key)) for rail in rails))


def answer_of(side: Mapping[str, Any]) -> str:
    """What a side answered, JSON laid out, or why it did not."""
    if "code" in side:
        return f"{side['code']}: {side['message']}"
    parts = [_laid_out(side["text"])] if side["text"] else []
    parts += [f"{name}({_laid_out(arguments)})" for name, arguments in side["tool_calls"]]
    return "\n".join(parts)


def answers_diff(pair: ReplayPair) -> list[Group]:
    """From control's answer to the candidate's."""
    return diff_rows(answer_of(pair.control), answer_of(pair.candidate))


def _score(rail: Rail, values: Mapping[str, float] | None) -> Score | None:
    if values is None:
        return None
    harm = paired_harm(rail, **values)
    return Score(
        label=rail.label,
        candidate=_figure(rail, values["candidate"]),
        control=_figure(rail, values["control"]),
        difference=_difference(rail, harm, **values) if harm else "same",
        tone="bad" if harm > 0 else "good" if harm < 0 else "off",
    )


def _difference(rail: Rail, harm: float, *, candidate: float, control: float) -> str:
    """How the candidate did beside control, in words; a ratio as it is, though beyond four the verdict counts four."""
    if rail.scale is Scale.RELATIVE and control:
        return compared(rail, candidate / control - 1)
    return compared(rail, in_unit(rail, harm))


def _figure(rail: Rail, value: float) -> str:
    if rail.scale is Scale.RELATIVE:
        return f"{value:,.0f} {_UNITS[rail.key]}"
    return "yes" if value else "no"


def _laid_out(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


def is_rail(canary: Canary, key: str) -> bool:
    """Whether replays tell of this rail of the canary."""
    return key in RAILS and RAILS[key] in replayed_rails(canary)
