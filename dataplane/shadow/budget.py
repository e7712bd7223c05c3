"""What a call may take, reserved before it is made, and what is left of a day. Pure.

`stores/shadow_budget.py` keeps the sums for the fleet. What is reserved is a generous estimate, so that what is settled
is nearly always less; an answer that takes more is settled at what it took, and the day has so much less.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from dataplane.lane_fit import DEFAULT_MAX_TOKENS, asked_output
from dataplane.messages import ChatRequest, Usage
from dataplane.records import record
from dataplane.routing import Lane
from dataplane.shadow.policy import ShadowPolicy

# English has four characters to a token, and most other writing has less than three bytes.
BYTES_PER_TOKEN: Final = 3
BUDGETS: Final = ("calls", "tokens", "cost_micros")


@record
class Amounts:
    """Calls, tokens and millionths of a US dollar, in the order of BUDGETS."""

    calls: int
    tokens: int
    cost_micros: int


def limits_of(policy: ShadowPolicy) -> Amounts:
    """What the fleet may spend on one UTC day."""
    return Amounts(int(policy.calls.value), int(policy.tokens.value), int(policy.cost_micros.value))


def reservation(request: ChatRequest, lane: Lane, *, sent_bytes: int) -> Amounts:
    """What a call of `sent_bytes` may take of a day: all of the answer that is asked for, or that the lane can give."""
    input_tokens = -(-sent_bytes // BYTES_PER_TOKEN)
    output_tokens = asked_output(request, lane) or lane.max_output_tokens or DEFAULT_MAX_TOKENS
    cost_micros = lane.cost_micros(input_tokens=input_tokens, output_tokens=output_tokens)
    return Amounts(1, input_tokens + output_tokens, cost_micros)


def used(billed: Usage, lane: Lane) -> Amounts:
    """What a call took in the end."""
    cost_micros = lane.cost_micros(input_tokens=billed.input_tokens, output_tokens=billed.output_tokens)
    return Amounts(1, billed.input_tokens + billed.output_tokens, cost_micros)


def day_of(wall: float) -> str:
    """The UTC day of a moment in epoch seconds, as YYYY-MM-DD."""
    return datetime.fromtimestamp(wall, UTC).date().isoformat()
