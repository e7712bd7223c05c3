"""Adds up what rules say of answers: how often, how fast, and where the first of it stands. Pure."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

from dataplane.validators.policy import ValidatorPolicy
from dataplane.validators.values import MAX_SPANS_TOLD, Report, Verdict

MAX_EXAMPLES: Final = 20
# Of one rule, so that one that finds something everywhere leaves the others room.
EXAMPLES_PER_RULE: Final = 5


@dataclass(slots=True)
class Tally:
    """What a policy said of the answers so far."""

    policy: ValidatorPolicy
    tried: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    abstained: int = 0
    micros: list[int] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    _by_rule: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    _micros_by_rule: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, sample: int, report: Report) -> None:
        """Count one answer. `sample` is the name under which its words may be found."""
        self.tried += 1
        self.verdicts[report.verdict] += 1
        self.abstained += any(finding.verdict is Verdict.ABSTAIN for finding in report.findings)
        self.micros.append(sum(finding.micros for finding in report.findings))
        for finding in report.findings:
            counts = self._by_rule[finding.rule]
            counts[finding.verdict.value] += 1
            self._micros_by_rule[finding.rule].append(finding.micros)
            if finding.verdict is Verdict.PASS or counts["examples"] >= EXAMPLES_PER_RULE:
                continue
            if len(self.examples) < MAX_EXAMPLES:
                counts["examples"] += 1
                self.examples.append(
                    {
                        "sample": sample,
                        "rule": finding.rule,
                        "verdict": finding.verdict.value,
                        "why": finding.why,
                        "spans": [span.to_json() for span in finding.spans[:MAX_SPANS_TOLD]],
                        "span_count": len(finding.spans),
                    }
                )

    def rules(self) -> list[dict[str, Any]]:
        """What each rule said, in the policy's order; of a judge nothing, since it is not asked.

        Shape: [{"rule", "version", "layer", "kind", "counts": {verdict: int}, "micros_p50", "micros_p99": int}].
        """
        return [
            {
                "rule": rule.id,
                "version": rule.version,
                "layer": rule.layer.value,
                "kind": rule.kind,
                "counts": {verdict.value: self._by_rule[rule.id][verdict.value] for verdict in Verdict},
                "micros_p50": quantile(self._micros_by_rule[rule.id], 0.5),
                "micros_p99": quantile(self._micros_by_rule[rule.id], 0.99),
            }
            for rule in self.policy.rules
            if not rule.is_judge
        ]


def quantile(values: list[int], share: float) -> int | None:
    """The smallest of the values that at least this share of them does not exceed; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
