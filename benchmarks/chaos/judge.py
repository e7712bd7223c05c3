"""From what was seen to what it amounts to: figures, and where a promise was broken. No clock, nothing is asked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.chaos.asking import Kind
from benchmarks.chaos.log import Attempts, Call, Ending, Evidence
from benchmarks.chaos.rows import WITHHELD, Promise, Row

# A process that is killed has taken what was sent up to that moment, by our clock and its.
EDGE_SECONDS = 0.5
MANY_BREACHES = 8


@dataclass(slots=True)
class Figures:
    """One line of the table.

    `sent`, `told`, `broken`: by kind; `broken` is what the row allows to have no answer, `lost` what it does not.
    `again`: executed again, as the row allows. `hidden`: attempts without a usage row. `recovered_seconds`: from the
    end of the fault until everything succeeded and all was as before; None: it did not.
    """

    sent: Counter[Kind] = field(default_factory=Counter)
    right: int = 0
    told: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    again: int = 0
    duplicated: int = 0
    wrong: int = 0
    hidden: int = 0
    recovered_seconds: float | None = None
    breaches: list[str] = field(default_factory=list)

    @property
    def bound_percent(self) -> float:
        """Up to which share of requests may be lost although so many were not: 95 % bound, in percent."""
        return bound_percent(self.sent.total())


def bound_percent(sent: int) -> float:
    """The same for any number of requests."""
    return 300 / sent if sent else math.inf


def judge(row: Row, evidence: Evidence) -> Figures:
    """What one row amounts to."""
    promise, figures = row.promise, Figures(sent=Counter(call.kind for call in evidence.calls))
    for call in evidence.calls:
        _judge_call(call, promise, evidence, figures)
    _judge_executions(promise, evidence, figures)
    figures.breaches += _breaches_of_the_record(evidence)
    figures.recovered_seconds = _recovered(evidence)
    if figures.recovered_seconds is None:
        figures.breaches.append("it was not as before when the row was given up")
    elif figures.recovered_seconds > promise.within_seconds:
        figures.breaches.append(
            f"it took {figures.recovered_seconds:.0f} s to be as before, not {promise.within_seconds:.0f} s"
        )
    return figures


def _judge_call(call: Call, promise: Promise, evidence: Evidence, figures: Figures) -> None:
    match call.ending:
        case Ending.RIGHT:
            figures.right += 1
        case Ending.WRONG:
            figures.wrong += 1
            figures.breaches.append(f"{_name(call, evidence)} was answered wrongly: {call.why}")
        case Ending.TOLD:
            figures.told[f"{call.kind} {call.code}"] += 1
            is_promised = call.code in promise.told.get(call.kind, ()) and _is_during(call, promise, evidence)
            if not is_promised and call.code != WITHHELD:
                figures.breaches.append(f"{_name(call, evidence)} was told {call.code!r}: {call.why}")
        case Ending.BROKEN:
            if _may_break(call, promise, evidence):
                figures.broken[call.kind] += 1
            else:
                figures.lost += 1
                figures.breaches.append(f"{_name(call, evidence)} was lost: {call.why}")


def _is_during(call: Call, promise: Promise, evidence: Evidence) -> bool:
    """Whether a request met the fault, or what it left."""
    times = evidence.times
    return call.ended_at >= times.struck_at and call.sent_at <= times.healed_at + promise.within_seconds


def _may_break(call: Call, promise: Promise, evidence: Evidence) -> bool:
    if call.kind in promise.unanswered and _is_during(call, promise, evidence):
        return True
    struck_at = evidence.times.struck_at
    is_under_way = call.sent_at <= struck_at + EDGE_SECONDS and call.ended_at >= struck_at
    return call.kind in promise.in_flight and is_under_way


def _judge_executions(promise: Promise, evidence: Evidence, figures: Figures) -> None:
    """Nothing is done twice, and nothing that a provider bills is hidden."""
    struck_at = evidence.times.struck_at
    for call in evidence.calls:
        attempts = evidence.attempts.get(call.number, Attempts())
        is_under_way = call.sent_at <= struck_at + EDGE_SECONDS and call.ended_at >= struck_at
        if max(attempts.done, attempts.requests) > 1:
            if promise.again and is_under_way and call.number in evidence.taken_over:
                figures.again += 1
            else:
                figures.duplicated += 1
                figures.breaches.append(f"{_name(call, evidence)} was executed twice: {attempts}")
        if attempts.begun > attempts.rows:
            figures.hidden += attempts.begun - attempts.rows
            figures.breaches.append(f"{_name(call, evidence)} has attempts without a usage row: {attempts}")
        elif attempts.rows - attempts.unreached > attempts.begun:
            figures.breaches.append(f"{_name(call, evidence)} has usage rows of attempts that nobody saw: {attempts}")


def _breaches_of_the_record(evidence: Evidence) -> Iterator[str]:
    acts = [call for call in evidence.calls if call.kind is Kind.ACT]
    accepted = sum(call.ending is Ending.RIGHT for call in acts)
    if not accepted <= evidence.releases <= len(acts):
        yield f"{accepted} of {len(acts)} acts were accepted, and made {evidence.releases} releases"
    if evidence.backwards:
        yield f"{evidence.backwards} times a process acknowledged a release older than one it had acknowledged"
    if evidence.audit:
        yield f"the audit chain: {evidence.audit}"


def _recovered(evidence: Evidence) -> float | None:
    """Seconds from the end of the fault until the last request that did not succeed was over, and all was as before."""
    times = evidence.times
    if times.well_at is None:
        return None
    failed = [call.sent_at for call in evidence.calls if call.ending is not Ending.RIGHT]
    return max(0.0, times.well_at - times.healed_at, *(sent - times.healed_at for sent in failed))


def _name(call: Call, evidence: Evidence) -> str:
    since = call.sent_at - evidence.times.struck_at
    return f"{call.kind} {call.number} (sent {since:+.1f} s after, took {call.ended_at - call.sent_at:.1f} s)"
