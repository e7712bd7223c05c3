"""Decides about a canary from what was seen of it: regressed, clear, or not enough evidence yet. Pure.

May be asked at every report and for as long as the canary runs: the bounds hold at all looks together, so the budget
for false rollbacks is that of the canary's whole life. It is split over everything that can roll back, one share for
each rail and stream (union bound). The budget for false clears is split over the streams of each rail alone: a canary
is clear only if every rail is, so to be called clear wrongly it has to pass wrongly on a rail that did regress, and
that one's share is all that there is to err with (intersection-union test; Berger, "Multiparameter hypothesis testing
and acceptance sampling", Technometrics 24, 1982).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from controlplane.rollouts.guardrails import RAILS, Guardrails, Rail, Stream
from controlplane.verdicts import live as live_bounds
from controlplane.verdicts import paired, ratio
from controlplane.verdicts.sequences import Floats
from controlplane.verdicts.values import (
    Alarm,
    AlarmKind,
    Exposure,
    LiveEvidence,
    Reading,
    ReplayEvidence,
    Ruling,
    Verdict,
    amount,
    compared,
)
from dataplane.evidence import CELL, GROUPS

# Of guardrails that a sentence lists one by one.
MOST_NAMES: Final = 3


def decide(
    policy: Guardrails, *, live: LiveEvidence | None, replay: ReplayEvidence | None, exposure: Exposure
) -> Verdict:
    """Say what can be said now.

    REGRESSED if any reading is; CLEAR if none is and every rail that applies is clear on at least one stream; else
    UNPROVEN. A rail does not apply where both arms have answered enough and no stream has counted anything of it: no
    schema is asked for, no validator looks. While an alarm rings, live readings conclude nothing; replays still do.

    Args:
        live: None: no arm has been counted.
        replay: None: nothing has been replayed.
    """
    alarms = alarms_of(exposure)
    arms = _arms(live, exposure)
    readings = []
    for rail, stream in policy.judged:
        roll_back, clear = levels_of(policy, rail)
        if stream is Stream.LIVE:
            readings.append(_live(policy, rail, arms, alarms, roll_back=roll_back, clear=clear))
        else:
            pairs = (replay.pairs if replay else {}).get(rail.key, paired.Pairs())
            readings.append(_replay(policy, rail, pairs, roll_back=roll_back, clear=clear))
    asked = _that_apply(policy, arms, readings)
    ruling = _overall(asked, readings)
    return Verdict(ruling, tuple(readings), alarms, _sentence(asked, ruling, readings, alarms))


def levels_of(policy: Guardrails, rail: Rail) -> tuple[float, float]:
    """The levels at which a reading of `rail` may be wrong: in calling it regressed, and in calling it clear."""
    judged = policy.judged
    streams = sum(each is rail for each, _ in judged)
    return policy.rollback_budget / len(judged), policy.clear_budget / streams


def alarms_of(exposure: Exposure) -> tuple[Alarm, ...]:
    """What makes the arms incomparable."""
    alarms = []
    split = ratio.split_of(exposure.canary_units, exposure.control_units)
    if exposure.matched and split.rings:
        sentence = (
            f"{split.canary:,} units on canary against {split.control:,} on control; a fair split looks like that"
            f" less than once in {1 / ratio.ALARM_LEVEL:,.0f} canaries, so something loses units of one side"
        )
        facts = {"canary": split.canary, "control": split.control, "p_value": split.p_value}
        alarms.append(Alarm(AlarmKind.SAMPLE_RATIO, sentence, facts))
    seen = exposure.canary_units + exposure.control_units
    if ratio.is_exposed(exposure.both, seen):
        sentence = (
            f"{exposure.both:,} of {seen:,} units saw both versions;"
            f" at most {ratio.EXPOSED_SHARE:.0%} may, so the arms are mixed"
        )
        alarms.append(Alarm(AlarmKind.EXPOSURE, sentence, {"both": exposure.both, "seen": seen}))
    if exposure.turned_back:
        sentence = "the knob was beyond half and came back, so that control has units that were in the canary"
        alarms.append(Alarm(AlarmKind.TURNED_BACK, sentence, {}))
    return tuple(alarms)


def _arms(live: LiveEvidence | None, exposure: Exposure) -> tuple[Floats, Floats]:
    """The cells of both arms, without the groups of units that saw both versions.

    Where that would leave out more than half of the groups, they stay in: by then so few units in each of them are
    mixed that all together are under the share at which the alarm rings, and can hide no more than that.
    """
    sides = (live.canary, live.control) if live else ({}, {})
    groups = exposure.contaminated_groups
    without = groups if 2 * len(groups) <= GROUPS else frozenset()
    canary, control = (live_bounds.cells_of(side, without=without) for side in sides)
    return canary, control


def _that_apply(policy: Guardrails, arms: tuple[Floats, Floats], readings: Sequence[Reading]) -> tuple[Rail, ...]:
    """The rails that the verdict asks about, see `decide`."""
    rails = tuple(RAILS[key] for key in RAILS if key in policy.margins)
    column = CELL.index("answered")
    if min(float(arm[:, column].sum()) for arm in arms) < policy.requests:
        return rails
    counted = {reading.rail for reading in readings if reading.canary_n or reading.control_n}
    return tuple(rail for rail in rails if rail.key in counted) or rails


def _live(
    policy: Guardrails,
    rail: Rail,
    arms: tuple[Floats, Floats],
    alarms: Sequence[Alarm],
    *,
    roll_back: float,
    clear: float,
) -> Reading:
    found = live_bounds.estimate(rail, canary=arms[0], control=arms[1])
    margin = live_bounds.margin_of(rail, policy.margins[rail.key])
    harm, error = float(found.harm), float(found.error)
    down = float(live_bounds.reach(found, margin=margin, alpha=roll_back))
    up = float(live_bounds.reach(found, margin=margin, alpha=clear))
    sizes = int(found.canary_n), int(found.control_n)
    why = _live_gap(policy, rail, found, alarms)
    bounds = None
    if not why:
        bounds = float(live_bounds.in_unit(rail, harm - down)), float(live_bounds.in_unit(rail, harm + up))
    return _reading(
        policy,
        rail,
        Stream.LIVE,
        harm=None if math.isnan(harm) else float(live_bounds.in_unit(rail, harm)),
        bounds=bounds,
        figures=(_known(float(found.canary)), _known(float(found.control))),
        sizes=sizes,
        needed=policy.requests,
        enough=None if math.isnan(error) else min(sizes) * (up / margin) ** 2,
        noun=live_bounds.COLUMNS[rail.key].noun,
        why=why,
    )


def _live_gap(policy: Guardrails, rail: Rail, found: live_bounds.Estimate, alarms: Sequence[Alarm]) -> str:
    """Why nothing may be concluded from live traffic however wide the interval is; empty if something may."""
    noun = live_bounds.COLUMNS[rail.key].noun
    if alarms:
        return alarms[0].sentence
    sides = (
        ("canary", int(found.canary_n), int(found.canary_groups)),
        ("control", int(found.control_n), int(found.control_groups)),
    )
    arm, n, _ = min(sides, key=lambda side: side[1])
    if n == 0:
        return f"no {noun} on {arm} yet"
    if n < policy.requests:
        return f"{n:,} of {policy.requests:,} {noun} on {arm}"
    arm, _, groups = min(sides, key=lambda side: side[2])
    if groups < policy.groups:
        return f"{groups} of {policy.groups} groups of units on {arm}: too few units to tell how much they differ"
    if math.isnan(float(found.harm)):
        return "one side costs nothing, so there is no relative difference"
    if float(found.freedom) < live_bounds.LEAST_FREEDOM:
        return "a few units make most of the traffic, so how much units differ cannot be told"
    return ""


def _replay(policy: Guardrails, rail: Rail, pairs: paired.Pairs, *, roll_back: float, clear: float) -> Reading:
    bound = pairs.bound
    upper = bound.upper(clear)
    margin = paired.margin_of(rail, policy.margins[rail.key])
    why = ""
    if not pairs.n:
        why = "no pair has been replayed yet"
    elif pairs.n < policy.pairs:
        why = f"{pairs.n:,} of {policy.pairs:,} pairs"
    return _reading(
        policy,
        rail,
        Stream.REPLAY,
        harm=paired.in_unit(rail, bound.mean) if pairs.n else None,
        bounds=None if why else (paired.in_unit(rail, bound.lower(roll_back)), paired.in_unit(rail, upper)),
        figures=(pairs.candidate, pairs.control),
        sizes=(pairs.n, pairs.n),
        needed=policy.pairs,
        enough=pairs.n * ((upper - bound.mean) / margin) ** 2 if pairs.n else None,
        noun="pairs",
        why=why,
    )


def _reading(
    policy: Guardrails,
    rail: Rail,
    stream: Stream,
    *,
    harm: float | None,
    bounds: tuple[float, float] | None,
    figures: tuple[float | None, float | None],
    sizes: tuple[int, int],
    needed: int,
    enough: float | None,
    noun: str,
    why: str,
) -> Reading:
    margin = policy.margins[rail.key]
    ruling = Ruling.UNPROVEN
    # A spread that was read from less than is needed to conclude anything is no base for a forecast either.
    about = None if enough is None or min(sizes) < needed else max(needed, _rounded_up(enough))
    if bounds is not None:
        if bounds[0] > margin:
            ruling = Ruling.REGRESSED
        elif bounds[1] < margin:
            ruling = Ruling.CLEAR
        else:
            why = f"between {compared(rail, bounds[0])} and {compared(rail, bounds[1])}; margin {amount(rail, margin)}"
            if about is not None and about > min(sizes):
                each = noun if stream is Stream.REPLAY else f"{noun} a side"
                why += f"; about {about:,} {each} would tell, if it is no worse"
    return Reading(
        rail=rail.key,
        stream=stream,
        harm=harm,
        lower=bounds[0] if bounds else None,
        upper=bounds[1] if bounds else None,
        canary=figures[0],
        control=figures[1],
        canary_n=sizes[0],
        control_n=sizes[1],
        needed_n=needed,
        enough_n=about,
        margin=margin,
        ruling=ruling,
        why=why,
    )


def _rounded_up(number: float) -> int:
    """To two digits: more would be a promise."""
    if number < 1:
        return 1
    step = 10.0 ** max(0, math.floor(math.log10(number)) - 1)
    return int(math.ceil(number / step) * step)


def _known(figure: float) -> float | None:
    return None if math.isnan(figure) else figure


def _overall(asked: Sequence[Rail], readings: Sequence[Reading]) -> Ruling:
    if any(reading.ruling is Ruling.REGRESSED for reading in readings):
        return Ruling.REGRESSED
    clear = {reading.rail for reading in readings if reading.ruling is Ruling.CLEAR}
    return Ruling.CLEAR if clear >= {rail.key for rail in asked} else Ruling.UNPROVEN


def _sentence(asked: Sequence[Rail], ruling: Ruling, readings: Sequence[Reading], alarms: Sequence[Alarm]) -> str:
    if ruling is Ruling.REGRESSED:
        worst = max((each for each in readings if each.ruling is Ruling.REGRESSED), key=lambda each: each.excess)
        others = len({each.rail for each in readings if each.ruling is Ruling.REGRESSED} - {worst.rail})
        more = f"; {others} other guardrail{'' if others == 1 else 's'} regressed too" if others else ""
        return f"Regressed: {worst.sentence}{more}."
    count = len(asked)
    if ruling is Ruling.CLEAR:
        subject = "the one guardrail is" if count == 1 else f"all {count} guardrails are"
        return f"Not regressed: {subject} within the margin, with all looks counted."
    clear = {reading.rail for reading in readings if reading.ruling is Ruling.CLEAR}
    waiting = [rail for rail in asked if rail.key not in clear]
    names = _listed([rail.label for rail in waiting]) if len(waiting) <= MOST_NAMES else str(len(waiting))
    why = alarms[0].sentence if alarms else _first_gap(waiting[0], readings)
    return (
        f"Not enough evidence: {len(clear)} of {count} guardrails {'is' if len(clear) == 1 else 'are'} clear;"
        f" {names} {'is' if len(waiting) == 1 else 'are'} open ({why})."
    )


def _first_gap(rail: Rail, readings: Sequence[Reading]) -> str:
    for reading in readings:
        if reading.rail == rail.key:
            return f"{rail.label}: {reading.why}"
    return f"{rail.label}: only replays tell of it, and no held-out set is named"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
