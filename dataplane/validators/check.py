"""Looks at a finished answer with every rule that needs no model, cheapest layer first.

What comes out does not depend on the order of the rules. A rule that has used up its time, or fails, abstains: it never
passes what it has not seen.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from dataplane.validators.gate import Gate
from dataplane.validators.kinds import Meter, OverBudget
from dataplane.validators.policy import Rule, ValidatorPolicy, passing
from dataplane.validators.redaction import Cut, WouldBreakJson, redact
from dataplane.validators.values import TEXT, Channel, Finding, Output, Report, Span, Verdict

MAX_WHY_CHARACTERS = 300
NOBODY: Final[Mapping[str, Finding]] = {}


def check(
    policy: ValidatorPolicy | Iterable[Rule], output: Output, *, cpu_clock: Callable[[], float] = time.thread_time
) -> Report:
    """Say what the rules find, but for those of a judge.

    Args:
        cpu_clock: Seconds of processor time, by which budgets are counted.
    """
    channels = channels_of(output)
    if isinstance(policy, ValidatorPolicy):
        return check_channels(policy.deciding, output, channels, cpu_clock=cpu_clock, gate=policy.gate)
    return check_channels(deciding_of(policy), output, channels, cpu_clock=cpu_clock)


def deciding_of(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Those of the rules that need no model, cheapest layer first."""
    return tuple(sorted((rule for rule in rules if not rule.is_judge), key=lambda rule: rule.sort_key))


def channels_of(output: Output) -> tuple[Channel, ...]:
    """The texts of an answer. One of tool calls alone has no text that could lack anything."""
    calls = tuple(
        Channel(f"tool_calls[{index}]", arguments, is_json=True, tool=name)
        for index, (name, arguments) in enumerate(output.tool_calls)
    )
    if not output.text and calls:
        return calls
    return (Channel(TEXT, output.text, output.is_json), *calls)


def check_channels(
    deciding: Iterable[Rule],
    output: Output,
    channels: tuple[Channel, ...],
    *,
    cpu_clock: Callable[[], float],
    gate: Gate | None = None,
) -> Report:
    """As `check`, for some of the texts of an answer, with rules in the order of `deciding_of`; a `gate` of theirs
    spares most answers most of them, and gives one and the same report where it spares all.
    """
    spared: Mapping[str, Finding] = NOBODY
    if gate is not None and gate.is_quick(channels):
        if gate.spares(channels):
            if gate.report is not None:
                return gate.report
            spared = gate.passed
        gate = None
    findings = []
    # The clock of a thread is a system call, so what ends one rule's time begins the next one's.
    at = cpu_clock()
    if gate is not None and gate.spares(channels):
        began, at = at, cpu_clock()
        spared = gate.findings(micros=round((at - began) * 1e6))
    for rule in deciding:
        known = spared.get(rule.id)
        if known is None:
            finding, at = _find(rule, output, channels, cpu_clock, at)
            findings.append(finding)
        else:
            findings.append(known)
    report = Report(tuple(findings))
    if report.verdict is not Verdict.REPAIR:
        return report
    repairing = {rule.id: rule for rule in deciding if rule.on_failure is Verdict.REPAIR}
    cuts: dict[str, list[Cut]] = {}
    for finding in report.findings:
        if finding.verdict is Verdict.REPAIR:
            for span in finding.spans:
                replacement = repairing[finding.rule].replacement
                cuts.setdefault(span.where, []).append(Cut(span.start, span.end, replacement, finding.sort_key))
    try:
        return replace(report, repairs=_repaired(output, channels, cuts))
    except WouldBreakJson as exc:
        # Which cut it was does not matter: none of them may stay, and without all of them there is no answer.
        return Report(
            tuple(
                replace(finding, verdict=Verdict.BLOCK, why=f"{finding.why}; cannot be taken out: {exc}")
                if finding.verdict is Verdict.REPAIR
                else finding
                for finding in report.findings
            )
        )


def _find(
    rule: Rule, output: Output, channels: tuple[Channel, ...], cpu_clock: Callable[[], float], began: float
) -> tuple[Finding, float]:
    """What one rule says, and when it has said it."""
    seconds = rule.budget_ms.value / 1000
    meter = Meter(cpu_clock, seconds=seconds, began=began)
    whats: list[str] = []
    spans: list[Span] = []
    abstains = ""
    try:
        for place, channel in enumerate(channels):
            if place:
                meter.look()
            if rule.looks_at(channel):
                for problem in rule.params.problems(channel, output, meter):
                    if problem.start is None or problem.end is None:
                        whats.append(problem.what)
                    else:
                        spans.append(Span(problem.start, problem.end, problem.what, channel.where))
    except OverBudget:
        pass  # as below
    except Exception as exc:  # noqa: BLE001 - whatever a rule does, it is the answer's fate that is decided, not the call's
        abstains = f"the rule failed: {type(exc).__name__}"
    ended = cpu_clock()
    if ended - began > seconds and not abstains:
        abstains = f"more than {rule.budget_ms.value:g} ms of processor time"
    return conclude(rule, whats, spans, abstains=abstains, micros=max(0, round((ended - began) * 1e6))), ended


def conclude(rule: Rule, whats: list[str], spans: list[Span], *, abstains: str, micros: int = 0) -> Finding:
    """The finding of a rule that found `whats` wrong with a text as a whole and `spans` in it, and, if `abstains` says
    why, could not look at everything.

    What was found stands, whatever was not seen. Only to take it out would let the rest through, which is for rules
    that let through what they cannot see.
    """
    if not whats and not spans and not abstains:  # as is usual
        return passing(rule, micros=micros)
    if spans:
        # A text after the other, each from its beginning, in whatever order its detectors found it; once, if two did.
        spans = sorted(spans, key=lambda span: (len(span.where), span.where, span.start, span.what, span.end))
        spans = list({(span.where, span.start, span.what): span for span in spans}.values())
    found = [*whats, *(span.what for span in spans)]
    stands = bool(found) and not (abstains and rule.is_closed and rule.on_failure is Verdict.REPAIR)
    verdict = rule.on_failure if stands else Verdict.ABSTAIN if abstains else Verdict.PASS
    why = "; ".join(filter(None, (_told(found), abstains)))
    return Finding(
        rule.id, rule.version, rule.layer, rule.kind, verdict, why, tuple(spans), micros, is_closed=rule.is_closed
    )


def _told(whats: list[str]) -> str:
    """What was found, each kind once with its count."""
    counts = Counter(sorted(whats))
    text = "; ".join(what if count == 1 else f"{what} ({count} times)" for what, count in counts.items())
    return text if len(text) <= MAX_WHY_CHARACTERS else f"{text[: MAX_WHY_CHARACTERS - 1]}…"


def _repaired(output: Output, channels: tuple[Channel, ...], cuts: dict[str, list[Cut]]) -> Output:
    texts = {
        channel.where: redact(channel.text, cuts.get(channel.where, ()), is_json=channel.is_json)
        for channel in channels
    }
    calls = tuple(
        (name, texts.get(f"tool_calls[{index}]", arguments))
        for index, (name, arguments) in enumerate(output.tool_calls)
    )
    return replace(output, text=texts.get(TEXT, output.text), tool_calls=calls)
