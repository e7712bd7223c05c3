"""What of a stream's cost is given back. Pure: a rule sees one bill and says how much of it.

A stream policy names its rule. A company with an agreement of its own gives a name another rule where its app starts:
`refunds.register("undelivered", rule)`. What was credited before stays as it was; the ledger is never edited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from controlplane.ledger.figures import Figures
from dataplane.frames import Ending
from dataplane.policies import NOTHING, UNACKNOWLEDGED, UNDELIVERED


@dataclass(frozen=True, slots=True)
class Bill:
    """One stream that has ended, as a rule may look at it; `figures` are those known now.

    `cost_micros`: all that it cost, in millionths of a US dollar; `code`: the error that ended it, or empty.
    """

    stream_id: str
    tenant: str
    tier: str
    route: str
    policy: str
    outcome: str
    code: str
    cost_micros: int
    figures: Figures


# Millionths of a US dollar to give back; what is below 0 or above the cost is cut to that.
Rule = Callable[[Bill], int]


class UnknownRefund(LookupError):
    """A stream names a rule that nobody registered here."""

    code = "unknown_refund"

    def __init__(self, rule: str) -> None:
        super().__init__(f"no refund rule {rule!r} is registered, only {', '.join(sorted(_rules))}")
        self.rule = rule


def register(name: str, rule: Rule) -> None:
    """Have `rule` decide for the policies that name it so, from now on."""
    _rules[name] = rule


def credit_of(bill: Bill, *, rule: str) -> int:
    """How much of the bill is given back by the rule of that name, in millionths of a US dollar.

    Nothing of an answer that was completed, whoever read it: it is there to be read.

    Raises:
        UnknownRefund: there is no such rule.
        Exception: whatever a company's own rule raises.
    """
    if rule not in _rules:
        raise UnknownRefund(rule)
    if bill.outcome == Ending.COMPLETED:
        return 0
    return min(max(int(_rules[rule](bill)), 0), bill.cost_micros)


def share_of(bill: Bill, tokens: int) -> int:
    """What so many of the billed tokens cost, all tokens at one price, rounded down; 0 where none was billed."""
    billed = bill.figures.billed
    return bill.cost_micros * min(max(tokens, 0), billed) // billed if billed else 0


def _undelivered(bill: Bill) -> int:
    return share_of(bill, bill.figures.billed - bill.figures.delivered)


def _unacknowledged(bill: Bill) -> int:
    return share_of(bill, bill.figures.billed - bill.figures.acked)


_rules: dict[str, Rule] = {
    NOTHING: lambda bill: 0,
    UNDELIVERED: _undelivered,
    UNACKNOWLEDGED: _unacknowledged,
}
