"""Whether a shadow goes on: it is killed when its calls fail or cost too much, and rests when a day's budget is spent.

Each process judges by what it sees itself; what one concludes holds for the fleet, until the policy changes or somebody
lifts it. Pure: `day` is an argument, events are the caller's to make.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Any, Final

from dataplane.records import record
from dataplane.shadow.policy import ShadowPolicy

# What the fleet shares stands under it in Redis.
PREFIX: Final = "ballast:shadow:"


def killed_key(digest: str) -> str:
    """Where the reason stands in Redis for which the policy with this digest was killed. Who deletes it lifts that."""
    return f"{PREFIX}{{{digest}}}:killed"


class State(StrEnum):
    """How a shadow stands."""

    RUNNING = "running"
    PAUSED = "paused"
    KILLED = "killed"


class Cause(StrEnum):
    """Why it moves."""

    FAILURES = "failure_rate"
    COST = "cost_ratio"
    BUDGET = "budget"
    NEW_DAY = "new_day"
    TOLD = "told"
    LIFTED = "lifted"


TRANSITIONS: Final = {
    (State.RUNNING, Cause.FAILURES): State.KILLED,
    (State.RUNNING, Cause.COST): State.KILLED,
    (State.RUNNING, Cause.TOLD): State.KILLED,
    (State.RUNNING, Cause.BUDGET): State.PAUSED,
    # What was under way when the budget was spent comes back.
    (State.PAUSED, Cause.FAILURES): State.KILLED,
    (State.PAUSED, Cause.COST): State.KILLED,
    (State.PAUSED, Cause.TOLD): State.KILLED,
    (State.PAUSED, Cause.NEW_DAY): State.RUNNING,
    (State.KILLED, Cause.LIFTED): State.RUNNING,
}


class IllegalTransition(Exception):
    """A shadow cannot move that way from where it stands."""

    code = "illegal_transition"

    def __init__(self, state: State, cause: Cause) -> None:
        super().__init__(f"a shadow that is {state.value} cannot move for {cause.value!r}")
        self.state = state
        self.cause = cause


@record
class Call:
    """One call of a candidate that has ended; costs in millionths of a US dollar, of the call and of what control's
    answer to the same request cost.
    """

    failed: bool
    cost_micros: int
    control_cost_micros: int


@record
class Move:
    """A step that was taken, and what was measured."""

    before: State
    after: State
    cause: Cause
    measured: dict[str, Any]


class Switch:
    """See the module. One for each policy and process."""

    __slots__ = ("_calls", "_is_told", "_policy", "_spent_on", "cause", "measured", "state")

    def __init__(self, policy: ShadowPolicy) -> None:
        self._policy = policy
        self._calls: deque[Call] = deque(maxlen=int(policy.minimum_calls.value))
        self._spent_on = ""
        # Whether the fleet has been told of it, or has told us: only then does its silence mean that it was lifted.
        self._is_told = False
        self.state = State.RUNNING
        self.cause: Cause | None = None
        self.measured: dict[str, Any] = {}

    @property
    def is_untold(self) -> bool:
        """Whether the fleet is yet to hear that it was killed here."""
        return self.state is State.KILLED and not self._is_told

    @property
    def reason(self) -> str:
        """Why it stands as it does, in a word."""
        return str(self.measured.get("reason", "" if self.cause is None else self.cause.value))

    def record(self, call: Call) -> Move | None:
        """Take in how a call of a candidate ended. Returns what follows, if anything does."""
        if self.state is State.KILLED:
            return None
        self._calls.append(call)
        if len(self._calls) < int(self._policy.minimum_calls.value):
            return None
        failed = sum(one.failed for one in self._calls)
        rate = failed / len(self._calls)
        if rate >= self._policy.failure_rate.value:
            return self._move(Cause.FAILURES, {"failed": failed, "calls": len(self._calls), "rate": rate})
        answered = [one for one in self._calls if not one.failed]
        cost, control = sum(one.cost_micros for one in answered), sum(one.control_cost_micros for one in answered)
        # Answers that cost control nothing are no measure of anything.
        if control and cost / control > self._policy.cost_ratio.value:
            measured = {"cost_micros": cost, "control_cost_micros": control, "answers": len(answered)}
            return self._move(Cause.COST, measured | {"ratio": cost / control})
        return None

    def spend(self, budget: str, *, day: str) -> Move | None:
        """Note that the fleet has spent this budget of the UTC day `day` (YYYY-MM-DD)."""
        if self.state is not State.RUNNING:
            return None
        self._spent_on = day
        return self._move(Cause.BUDGET, {"budget": budget, "day": day})

    def look(self, *, day: str) -> Move | None:
        """Go on if another day has begun than the one whose budget was spent."""
        if self.state is not State.PAUSED or day <= self._spent_on:
            return None
        return self._move(Cause.NEW_DAY, {"day": day})

    def told(self) -> None:
        """Note that the fleet has been told of what was concluded here."""
        self._is_told = True

    def forgotten(self) -> None:
        """Note that the fleet has lost what it was told: that is not the same as being lifted."""
        self._is_told = False

    def hear(self, reason: str | None) -> Move | None:
        """Take in what the fleet says: why the policy is killed, or that it is not."""
        if reason is not None:
            self._is_told = True
            return None if self.state is State.KILLED else self._move(Cause.TOLD, {"reason": reason})
        if self.state is not State.KILLED or not self._is_told:
            return None
        return self._move(Cause.LIFTED, {})

    def _move(self, cause: Cause, measured: dict[str, Any]) -> Move:
        """Take the one legal step. Only this method assigns `state`; an illegal cause raises and changes nothing."""
        before = self.state
        if (before, cause) not in TRANSITIONS:
            raise IllegalTransition(before, cause)
        self.state, self.cause, self.measured = TRANSITIONS[before, cause], cause, measured
        self._is_told = cause is Cause.TOLD
        self._calls.clear()
        return Move(before, self.state, cause, measured)
