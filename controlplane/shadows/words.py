"""What killed or paused a shadow, in words. Pure."""

from collections.abc import Mapping
from typing import Any, Final

_BUDGETS: Final = {"calls": "calls", "tokens": "tokens", "cost_micros": "money"}


def measured_words(cause: str, measured: Mapping[str, Any]) -> str:
    """What a switch measured when it moved; shapes: see `dataplane.shadow.switch`."""
    if cause == "failure_rate":
        return f"{measured['failed']:,} of the last {measured['calls']:,} calls failed"
    if cause == "cost_ratio":
        return f"{measured['answers']:,} answers cost {measured['ratio']:.2f} times what control's did"
    if cause == "budget":
        return f"the day's budget of {_BUDGETS.get(measured['budget'], measured['budget'])} is used up"
    return cause.replace("_", " ")
