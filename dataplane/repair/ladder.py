"""Which rung comes next for what could not be read: the rungs that ask a model, within what may be spent.

Pure. The rungs below (R0 to R3) are one reading of the text, `reader.py`; whoever climbs reads what a model answers in
the same way, and comes back here with what is still wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dataplane.repair.labels import Label, Mode, Rung
from dataplane.repair.policy import RepairPolicy


@dataclass(frozen=True, slots=True)
class Means:
    """What there is to repair one part of an answer with, beside what its policy allows.

    Attributes:
        can_continue: It is text that may be written on; half a tool call may not.
        has_surgeon: The surgeon's route has a lane that the tenant's bytes may reach.
        may_ask_again: Asking the same once more has no effect of its own.
    """

    can_continue: bool
    has_surgeon: bool
    may_ask_again: bool


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is wrong with a text: its mode, the reason in words, and whether its length limit cut it off."""

    mode: Mode
    why: str
    is_cut: bool


class Budget:
    """What the repair of one answer may cost, and has cost: the parts of an answer share it."""

    __slots__ = ("_policy", "calls", "cost_micros", "output_tokens")

    def __init__(self, policy: RepairPolicy) -> None:
        self._policy = policy
        self.calls = 0
        self.output_tokens = 0
        self.cost_micros = 0

    def spend(self, *, output_tokens: int, cost_micros: int) -> None:
        """Note what one call took."""
        self.calls += 1
        self.output_tokens += output_tokens
        self.cost_micros += cost_micros

    @property
    def tokens_left(self) -> int:
        """How many tokens the next call may generate."""
        return max(0, int(self._policy.max_output_tokens.value) - self.output_tokens)

    @property
    def spent_by(self) -> str:
        """Which limit is reached, in words; empty while there is something left for another call."""
        policy = self._policy
        if self.calls >= policy.max_calls.value:
            return f"{self.calls} of {policy.max_calls.value:g} calls were made"
        if not self.tokens_left:
            return f"{self.output_tokens} of {policy.max_output_tokens.value:g} tokens were generated"
        if self.cost_micros >= policy.max_cost_micros.value:
            return f"{self.cost_micros} of {policy.max_cost_micros.value:g} micro-units were spent"
        return ""


class Climb:
    """One part of an answer on its way up. `stopped_by` says in words why there is no other rung, once that is so."""

    __slots__ = ("_budget", "_means", "_policy", "_seen", "rungs", "stopped_by")

    def __init__(self, policy: RepairPolicy, means: Means, budget: Budget) -> None:
        self._policy = policy
        self._means = means
        self._budget = budget
        self._seen: set[Flaw] = set()
        self.rungs: list[Rung] = []
        self.stopped_by = ""

    def next(self, flaw: Flaw, *, is_new: bool = True) -> Rung:
        """Return the rung that is tried next: CONTINUE, SURGEON, ASK_AGAIN, or FAILED where there is none.

        Args:
            is_new: The flaw is that of another text than before; False when the rung before gave no text.
        """
        rung = next(self._left(flaw), None)
        if rung is None:
            self.stopped_by = "the route's policy has no other rung for it"
        elif is_new and flaw in self._seen:
            self.stopped_by = "the same error came twice"
        else:
            self.stopped_by = self._budget.spent_by
        self._seen.add(flaw)
        if rung is None or self.stopped_by:
            return Rung.FAILED
        self.rungs.append(rung)
        return rung

    def _left(self, flaw: Flaw) -> Iterator[Rung]:
        """The rungs that can be tried. What is written on may be cut off again, and is written on once more."""
        policy, means, tried = self._policy, self._means, self.rungs
        if flaw.is_cut and policy.continue_cut and means.can_continue and tried.count(Rung.CONTINUE) == len(tried):
            yield Rung.CONTINUE
        # What a surgeon makes of somebody else's words is a guess, however good.
        if means.has_surgeon and Label.INVENTED in policy.labels and Rung.SURGEON not in tried:
            yield Rung.SURGEON
        if policy.ask_again and means.may_ask_again and Rung.ASK_AGAIN not in tried:
            yield Rung.ASK_AGAIN
