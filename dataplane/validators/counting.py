"""What the validators of a process said of answers, by rule: for its `/metrics`.

As many series as the releases that it served had rules, times what a rule can say. What is told apart by prompt and
cohort travels with the reports instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily

# A rule's id without its version, its layer, and its verdict.
Said: TypeAlias = tuple[str, str, str]


class ValidatorCounts:
    """See the module. Belongs to one event loop."""

    __slots__ = ("_said",)

    def __init__(self) -> None:
        self._said: dict[Said, int] = {}

    def count(self, said: Iterable[Said]) -> None:
        """Count what the rules said of one answer."""
        counts = self._said
        for one in said:
            counts[one] = counts.get(one, 0) + 1

    def families(self) -> Iterator[CounterMetricFamily]:
        """Yield what is shown of them."""
        verdicts = CounterMetricFamily(
            "ballast_validator_verdicts",
            "Answers by validator, its layer and what it said: pass, warn, repair, block, abstain.",
            labels=["validator", "layer", "verdict"],
        )
        for said, number in list(self._said.items()):
            verdicts.add_metric(said, number)
        yield verdicts
