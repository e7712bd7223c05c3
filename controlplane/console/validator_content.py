"""The validators page's content: what rules did to answers, over time and per prompt version and lane, in words."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from django.urls import reverse

from controlplane.console.charts import MAX_SERIES, Figure, Series, line_chart
from controlplane.console.repair_content import MIN_ANSWERS, OTHER, Sentence, Sort, percent
from controlplane.console.templatetags.ballast import NO_VALUE
from controlplane.console.threshold_content import routes_naming
from controlplane.console.trial_content import milliseconds
from controlplane.console.validator_words import (
    layer_words,
    rule_sentence,
    validator_warnings,
    whole_sentences,
)
from controlplane.console.wording import listed
from controlplane.routing.thresholds import BUDGET, VALIDATOR
from controlplane.telemetry.outputs import Counts, Key, Outputs, Place, Standing
from controlplane.trials.models import ValidatorTrial
from dataplane.routing import RoutingTable
from dataplane.validators.pace import quantile
from dataplane.validators.policy import Rule, ValidatorPolicy
from dataplane.validators.values import ABSTAINED, ANSWER, Verdict

# By "rule@version", and then by the bound of a class: see `rule_times`.
RuleTimes = Mapping[str, Mapping[int, int]]
# From this share of withheld answers on, somebody has to look, once there were enough for it to mean something.
WITHHELD_SHARE: Final = 0.01
SORTS: Final = {
    "rate": Sort("Rate", "bad_share"),
    "checked": Sort("Looked at", "counted"),
    "rejected": Sort("Withheld", "bad"),
    "abstained": Sort("Cannot say", "unsure"),
}
_TILES: Final = {
    "withheld": ("Withheld", "were not handed over"),
    "repaired": ("Something taken out", "went out without it"),
    "warned": ("Warned", "went out, and a header says so"),
    "abstained": ("Not looked at whole", "a rule could not say"),
}


# --- answers ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Answers:
    """What came of answers in all, each counted once however many rules looked at it.

    `abstained`: those at which a rule could not say, whatever came of them.
    """

    checked: int
    withheld: int
    repaired: int
    warned: int
    abstained: int

    @classmethod
    def of(cls, counts: Counts) -> "Answers":
        verdicts: Counter[str] = Counter()
        abstained = 0
        for key, number in counts.items():
            if key.name == ANSWER:
                verdicts[key.outcome] += number
                abstained += number if key.label == ABSTAINED else 0
        return cls(
            checked=verdicts.total(),
            withheld=verdicts[Verdict.BLOCK],
            repaired=verdicts[Verdict.REPAIR],
            warned=verdicts[Verdict.WARN],
            abstained=abstained,
        )

    def sentence(self, period: str) -> Sentence:
        """What an operator has to know of a period, such as 'in the last hour'."""
        if not self.checked:
            return Sentence("off", f"No answer was looked at {period}.")
        answers = f"{self.checked:,} answer{'' if self.checked == 1 else 's'}"
        said = [f"{self.withheld or 'None'} of {answers} {period} {_were(self.withheld)} withheld"]
        if self.repaired:
            said.append(f"{self.repaired:,} had something taken out")
        if self.warned:
            said.append(f"{self.warned:,} went out with a warning")
        whole = f"at {self.abstained:,} a rule could not say" if self.abstained else "every rule answered in time"
        tone = "watch" if self.withheld or self.abstained else "good"
        if self.withheld / self.checked >= WITHHELD_SHARE and self.checked >= MIN_ANSWERS:
            tone = "bad"
        return Sentence(tone, f"{listed(said)}; {whole}.")

    def tiles(self, period: str) -> list[dict[str, str]]:
        """How many, and what became of them, as `components/_metric.html` takes them."""
        tiles = [
            {"label": "Looked at", "value": f"{self.checked:,}", "unit": "", "note": f"answers {period}"},
        ]
        for name, (label, words) in _TILES.items():
            number = getattr(self, name)
            value = percent(number, self.checked).removesuffix(" %") if self.checked else NO_VALUE
            note = f"{number:,} of {self.checked:,} {period}: {words}"
            tiles.append({"label": label, "value": value, "unit": "%", "note": note})
        return tiles


def _were(number: int) -> str:
    return "was" if number <= 1 else "were"


# --- over time -------------------------------------------------------------------------------------------------------
def reject_chart(found: Outputs, *, rule: str = "") -> Figure:
    """The share of what each rule looked at that it withheld, or withheld because it could not say; the worst by
    themselves, and the rest as one. A line for all rules together where none withheld anything.

    Args:
        rule: Only this one, whatever its version; "": all.
    """
    rejected: Counter[str] = Counter()
    for key, number in found.total.items():
        if _is_of(key, rule):
            rejected[key.name] += number if is_rejected(key) else 0
    ranked = [name for name, _ in sorted(rejected.items(), key=lambda item: (-item[1], item[0]))]
    telling = [name for name in ranked if rejected[name]]
    shown = telling if len(telling) <= MAX_SERIES else telling[: MAX_SERIES - 1]
    lines = {name.replace("@", " v"): frozenset({name}) for name in shown}
    if len(telling) > len(shown):
        lines[OTHER] = frozenset(telling[len(shown) :])
    if not lines and ranked:
        lines = {"every rule": frozenset(ranked)}
    series = [
        Series(name, "other", found.times, [_share(counts, names) for counts in found.points])
        for name, names in lines.items()
    ]
    return line_chart("Withheld, by rule", "% of what it looked at", series, span=(found.since, found.until))


def is_rejected(key: Key) -> bool:
    """Whether a rule withheld the answer: it blocks, or could not say and blocks then."""
    return key.outcome == Verdict.BLOCK or (key.outcome == Verdict.ABSTAIN and key.label == Verdict.BLOCK)


def _is_of(key: Key, rule: str) -> bool:
    return key.name != ANSWER and (not rule or key.name.partition("@")[0] == rule)


def _share(counts: Counts, names: frozenset[str]) -> float | None:
    total = sum(number for key, number in counts.items() if key.name in names)
    rejected = sum(number for key, number in counts.items() if key.name in names and is_rejected(key))
    return round(100 * rejected / total, 4) if total else None


# --- per rule, prompt version and lane -------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class RuleRow:
    """What one version of a rule said of answers to one version of a prompt, of one lane.

    `rejected` are those that it blocked, and those that it withheld because it could not say.
    """

    place: Place
    rule: str
    version: str
    checked: int
    blocked: int
    repaired: int
    warned: int
    abstained: int
    rejected: int

    @property
    def prompt(self) -> str:
        return f"{self.place.prompt} v{self.place.version}" if self.place.prompt else "no managed prompt"

    @property
    def rate(self) -> float:
        return self.rejected / self.checked

    @property
    def rate_words(self) -> str:
        return percent(self.rejected, self.checked)


def rule_rows(standings: Iterable[Standing]) -> list[RuleRow]:
    """What every rule said per version and lane, in the order of its standings."""
    return [_rule_row(one) for one in standings]


def _rule_row(one: Standing) -> RuleRow:
    verdicts: Counter[str] = Counter()
    for (verdict, _), number in one.outcomes.items():
        verdicts[verdict] += number
    rule, _, version = one.name.partition("@")
    return RuleRow(
        place=one.place,
        rule=rule,
        version=version,
        checked=one.counted,
        blocked=verdicts[Verdict.BLOCK],
        repaired=verdicts[Verdict.REPAIR],
        warned=verdicts[Verdict.WARN],
        abstained=one.unsure,
        rejected=one.bad,
    )


# --- what the policies say -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class RuleWords:
    """One rule: what it does, how long this version of it took, and where its numbers are.

    `p99`: what 99 % of answers did not go beyond; of the last trial where the rule looked at no answer in the period
    that is asked for, and "–" where there was none of those either.
    """

    rule: Rule
    layer: str
    sentence: str
    p99: str
    url: str


@dataclass(frozen=True, slots=True)
class PolicyWords:
    """One validator policy: which routes it is for, what it decides, its rules, and the trial of exactly this."""

    policy: ValidatorPolicy
    routes: tuple[str, ...]
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]
    rules: tuple[RuleWords, ...]
    trial: ValidatorTrial | None


def policies_in_words(
    table: RoutingTable,
    trials: Mapping[str, ValidatorTrial],
    times: RuleTimes,
    measured: Mapping[str, ValidatorTrial],
) -> list[PolicyWords]:
    """Every validator policy of the table, by name.

    Args:
        trials: Of each exactly as it is, by the policy's name.
        times: See `rule_times`.
        measured: As `trials`, of each as somebody wanted it: how long a rule took of this version is known from there.
    """
    return [
        PolicyWords(
            policy,
            tuple(route.slug for route in routes_naming(table, VALIDATOR, slug)),
            tuple(whole_sentences(policy)),
            tuple(validator_warnings(policy)),
            tuple(_rules_in_words(policy, times, measured.get(slug))),
            trials.get(slug),
        )
        for slug, policy in sorted(table.validators.items())
    ]


def rule_times(counts: Counts) -> RuleTimes:
    """How long rules took, by rule and version: how many answers, by the bound of the class in microseconds."""
    times: dict[str, dict[int, int]] = {}
    for key, number in counts.items():
        if key.outcome.isdecimal():
            times.setdefault(key.name, {})[int(key.outcome)] = number
    return times


def _rules_in_words(policy: ValidatorPolicy, times: RuleTimes, trial: ValidatorTrial | None) -> Iterator[RuleWords]:
    tried = {} if trial is None else {(one["rule"], one["version"]): one for one in trial.rules}
    page = reverse("routing-policy", args=["validators", policy.slug])
    for rule in policy.rules:
        bound = quantile(times.get(f"{rule.id}@{rule.version}", {}), 0.99)
        p99 = milliseconds(tried.get((rule.id, rule.version), {}).get("micros_p99"))
        if bound is not None:
            p99 = f"≤ {milliseconds(bound)}"
        sentence = rule_sentence(rule).removeprefix(f"{rule.id}: ")
        yield RuleWords(
            rule, layer_words(rule.layer), f"{sentence[:1].upper()}{sentence[1:]}", p99, f"{page}#{rule.id}.{BUDGET}"
        )


def unvalidated_routes(table: RoutingTable) -> Sequence[str]:
    """The routes that chat and whose answers nothing looks at."""
    return [
        route.slug
        for route in table.routes.values()
        if route.validators is None and any("chat" in lane.capabilities for lane in route.lanes)
    ]


def rules_known(table: RoutingTable) -> list[str]:
    """The names of all rules in force."""
    return sorted({rule.id for policy in table.validators.values() for rule in policy.rules})
