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


class Count:
    """How many answers a validator said one thing of."""

    __slots__ = ("answers",)

    def __init__(self) -> None:
        self.answers = 0


class ValidatorCounts:
    """See the module. Belongs to one event loop."""

    __slots__ = ("_by_said",)

    def __init__(self) -> None:
        self._by_said: dict[Said, Count] = {}

    def of(self, said: Iterable[Said]) -> list[Count]:
        """What is to be counted up for an answer of which this is said; it is kept where the same is said of many."""
        return [self._by_said.setdefault(one, Count()) for one in said]

    def families(self) -> Iterator[CounterMetricFamily]:
        """Yield what is shown of them."""
        verdicts = CounterMetricFamily(
            "ballast_validator_verdicts",
            "Answers by validator, its layer and what it said: pass, warn, repair, block, abstain.",
            labels=["validator", "layer", "verdict"],
        )
        for said, count in list(self._by_said.items()):
            verdicts.add_metric(said, count.answers)
        yield verdicts
