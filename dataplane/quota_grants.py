"""Who asks for a part of a quota, how much that is thought to be, and the leave that comes of it."""

from __future__ import annotations

from typing import Final, Protocol

from dataplane.messages import Usage
from dataplane.quota import INTERACTIVE, Amounts, Workload
from dataplane.records import record

# What answers are thought to be long, until vendors have said; where a caller names no most.
TYPICAL_OUTPUT: Final = 256.0
MOST_OFF: Final = 10.0
MEMORY: Final = 0.05


@record
class Asking:
    """Who asks, and for how much as far as anybody knows beforehand: an estimate of the tokens that are sent, and how
    many may be generated; None: nobody said.
    """

    tenant: str
    tier: str
    workload: Workload
    input_tokens: int
    output_tokens: int | None

    @property
    def is_vip(self) -> bool:
        """True for whom places are reserved."""
        return self.tier == "vip" and self.workload == INTERACTIVE


class Estimates:
    """What requests of one account take, learned from what the vendor counted for those before."""

    __slots__ = ("_off", "_output")

    def __init__(self) -> None:
        self._off = 1.0  # by so much it counts more tokens of what is sent than we do
        self._output = TYPICAL_OUTPUT

    def amounts(self, asking: Asking) -> Amounts:
        """What is reserved for a request before it is sent."""
        input_tokens = asking.input_tokens * self._off
        named = asking.output_tokens
        output_tokens = self._output if named is None else named
        return 1.0, input_tokens + output_tokens, input_tokens, output_tokens

    def learn(self, asking: Asking, used: Usage) -> None:
        """Take in what a request really took."""
        if used.input_tokens > 0 and asking.input_tokens > 0:
            self._off += MEMORY * (min(MOST_OFF, used.input_tokens / asking.input_tokens) - self._off)
        self._output += MEMORY * (used.output_tokens - self._output)


class Giver(Protocol):
    """Where grants come from and go back to, such as `QuotaShare`."""

    def settle(self, grant: Grant, used: Usage, *, is_complete: bool) -> None:
        """See `Grant.settle`."""

    def refund(self, grant: Grant) -> None:
        """See `Grant.give_back`."""


class Grant:
    """Leave to make one attempt. It comes back exactly once, used or not; the first way it comes back counts.

    `amounts` are reserved for it; `since` is when it was given, in the giver's milliseconds, after a wait of
    `waited_ms` that began at place `position` (0: there was no queue).
    """

    __slots__ = ("_giver", "_is_back", "amounts", "asking", "position", "since", "waited_ms")

    def __init__(self, giver: Giver, amounts: Amounts, asking: Asking, since: float, waited_ms: float) -> None:
        self._giver = giver
        self._is_back = False
        self.amounts = amounts
        self.asking = asking
        self.since = since
        self.waited_ms = waited_ms
        self.position = 0

    def settle(self, used: Usage, *, is_complete: bool) -> None:
        """The attempt was made, and the provider counts what it `used`. `is_complete`: those figures are its own."""
        if not self._is_back:
            self._is_back = True
            self._giver.settle(self, used, is_complete=is_complete)

    def give_back(self) -> None:
        """Nothing was sent."""
        if not self._is_back:
            self._is_back = True
            self._giver.refund(self)
