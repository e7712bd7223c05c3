"""The shadow pages' content: how each shadow stands, what it costs, how its candidate differs, in words and figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from controlplane.console.charts import Series, line_chart, with_gaps
from controlplane.console.policy_words import listed
from controlplane.console.templatetags.ballast import NO_VALUE, micros, milliseconds
from controlplane.shadows.figures import Figure, Ratios, figures_of
from controlplane.shadows.items import percent, points
from controlplane.shadows.overview import ShadowOverview, window
from controlplane.shadows.standing import ShadowStanding
from controlplane.telemetry.shadow_sums import ShadowTally, shadow_timeline
from dataplane.shadow.counting import CANDIDATE, NOISE
from dataplane.shadow.switch import State

CHART_STEP: Final = timedelta(minutes=15)
# The least that a page draws conclusions from.
MIN_ANSWERS: Final = 30
PILLS: Final[Mapping[State, tuple[str, str]]] = {
    State.RUNNING: ("good", "running"),
    State.PAUSED: ("watch", "paused until 0:00 UTC"),
    State.KILLED: ("bad", "killed"),
}
REASONS: Final = {
    "queue_full": "a gateway's queue was full",
    "process_away": "no shadow process was there",
    "process_slow": "the shadow process was slow to take it",
    "too_long": "longer than 1 MiB",
    "not_handed_over": "the gateway ended first",
    "worker_queue_full": "the shadow process had no room",
    "other_policy": "the policy was another by then",
    "killed": "the shadow was killed",
    "paused": "the shadow rested",
    "budget_spent": "the day's budget was used up",
    "budget_held": "others had reserved the rest of the budget",
    "budget_unknown": "nobody could say what is left of the budget",
    "residency": "no candidate is within the tenant's pin",
    "no_lane_can": "no candidate can carry it",
    "hosted_tools": "the provider would have searched",
    "unknown_tenant": "its tenant is unknown by now",
    "breaker_open": "the candidate's breaker was open",
    "quota": "the shadow's own quota was used up",
    "not_sent": "it could not be written for the candidate",
    "stopped": "the shadow process stopped",
    "broken": "a fault of ours",
}
RESIDENCY: Final = "residency"


@dataclass(frozen=True, slots=True)
class Budget:
    """One budget of a policy's day, as far as it was reported used."""

    label: str
    used: str
    limit: str
    share: int  # in percent, at most 100
    tone: str


@dataclass(frozen=True, slots=True)
class Line:
    """A measure as the table of figures shows it."""

    label: str
    candidate: str
    noise: str
    difference: str
    n: int
    noise_n: int
    tone: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Reason:
    """Why so many were not asked, or failed."""

    words: str
    count: int
    is_residency: bool = False


@dataclass(frozen=True, slots=True)
class ShadowView:
    """One policy as pages show it: over the last 24 h, and what was used of today."""

    found: ShadowOverview

    @property
    def standing(self) -> ShadowStanding:
        return self.found.standing

    @property
    def candidate(self) -> ShadowTally:
        return self.found.candidate

    @property
    def noise(self) -> ShadowTally:
        return self.found.noise

    @property
    def slug(self) -> str:
        return self.standing.policy.slug

    @property
    def pill(self) -> dict[str, str]:
        """As `components/_pill.html` takes it."""
        tone, text = PILLS[self.standing.state]
        return {"tone": tone, "text": text}

    @property
    def is_killed(self) -> bool:
        return self.standing.state is State.KILLED

    @property
    def share(self) -> str:
        """Of its routes' traffic."""
        return f"{self.standing.policy.percent.value:g} %"

    @property
    def routes(self) -> str:
        return listed(self.standing.routes) if self.standing.routes else "no route"

    @property
    def asked(self) -> int:
        return self.candidate.counts["asked"]

    @property
    def answered(self) -> int:
        return self.candidate.counts["answered"]

    @property
    def offered(self) -> int:
        return self.candidate.counts["offered"]

    @property
    def skipped(self) -> int:
        """Because no candidate is within the tenant's pin."""
        return self.candidate.discarded[RESIDENCY]

    @property
    def discarded(self) -> int:
        """For every other reason."""
        return self.candidate.discarded.total() - self.skipped

    @property
    def reasons(self) -> list[Reason]:
        """Why requests were not asked, most first."""
        found = self.candidate.discarded.most_common()
        return [Reason(REASONS.get(name, name.replace("_", " ")), count, name == RESIDENCY) for name, count in found]

    @property
    def failures(self) -> list[Reason]:
        """What calls failed with, most first."""
        return [Reason(code, count) for code, count in self.candidate.failed.most_common()]

    @property
    def budgets(self) -> list[Budget]:
        policy, counts = self.standing.policy, self.found.spent.counts
        tokens = counts["input_tokens"] + counts["output_tokens"]
        return [
            _budget("Calls", counts["asked"], policy.calls.value, lambda value: f"{value:,.0f}"),
            _budget("Tokens", tokens, policy.tokens.value, lambda value: f"{value:,.0f}"),
            _budget("Money", counts["cost_micros"], policy.cost_micros.value, micros),
        ]

    @property
    def figures(self) -> list[Line]:
        """Every measure of which there is something to say."""
        found = figures_of(self.candidate, self.noise).values()
        return [_line(figure) for figure in found if figure.candidate.n]

    @property
    def ratios(self) -> list[dict[str, str]]:
        """Cost, latency and length beside control, as `components/_metric.html` takes them."""
        ratios = Ratios.of(self.candidate)
        itself = Ratios.of(self.noise)
        return [
            _tile("Cost of an answer", ratios.cost, itself.cost),
            _tile("Latency of an answer", ratios.latency, itself.latency),
            _tile("Words of an answer", ratios.length, itself.length),
        ]

    @property
    def latencies(self) -> list[dict[str, str]]:
        """How long answers took, by quantile: the candidate's, and control's to the same requests."""
        return [
            {
                "label": name,
                "candidate": milliseconds(self.candidate.latency_ms.quantile(q)),
                "control": milliseconds(self.candidate.control_latency_ms.quantile(q)),
            }
            for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        ]

    @property
    def money(self) -> str:
        """What the candidate cost, beside what control's answers to the same requests did."""
        cost, control = (self.candidate.counts[name] for name in ("cost_micros", "control_cost_micros"))
        return f"{micros(cost)}, where control's answers to the same cost {micros(control)}"

    @property
    def rules(self) -> list[dict[str, Any]]:
        """What single rules say otherwise of the candidate than of control, most first."""
        found = []
        for key, count in self.candidate.rules.most_common(12):
            rule, control, shadow = key.rsplit(":", 2)
            found.append(
                {"rule": rule, "control": control, "shadow": shadow, "count": count, "noise": self.noise.rules[key]}
            )
        return found

    @property
    def headline(self) -> str:
        """One measure in a sentence: the first that is beyond the noise floor, or else that tells of any difference."""
        if self.answered < MIN_ANSWERS:
            return f"{self.answered:,} of {MIN_ANSWERS} answers compared so far; fewer say nothing"
        told = [one for one in figures_of(self.candidate, self.noise).values() if one.candidate.n]
        beyond = [one for one in told if (one.difference.low or 0) > 0]
        differing = [one for one in told if one.candidate.value]
        return sentence_of((beyond or differing or told)[0]) if told else ""


def sentence_of(figure: Figure) -> str:
    """'differs on 7.1 % of answers; control differs from itself on 5.9 %', with intervals."""
    noise = percent(figure.noise) if figure.noise.n else "nobody knows how many"
    return figure.sentence.format(candidate=percent(figure.candidate), noise=noise)


def _line(figure: Figure) -> Line:
    difference = figure.difference
    if difference.low is None or difference.high is None:
        tone, verdict = "off", "no noise floor yet"
    elif difference.low > 0:
        tone, verdict = "watch", "more than noise"
    elif difference.high < 0:
        tone, verdict = "good", "less than noise"
    else:
        tone, verdict = "off", "within noise"
    return Line(
        figure.label,
        percent(figure.candidate),
        percent(figure.noise),
        points(difference),
        figure.candidate.n,
        figure.noise.n,
        tone,
        verdict,
    )


def _tile(label: str, ratio: Any, itself: Any) -> dict[str, str]:
    interval = "" if ratio.low is None else f"95 % [{ratio.low:.2f} … {ratio.high:.2f}]"
    noise = "" if itself.value is None else f", control itself {itself.value:.2f} ×"
    return {
        "label": label,
        "value": NO_VALUE if ratio.value is None else f"{ratio.value:.2f}",
        "unit": "× control's",
        "note": f"{interval}{noise}" or "too few answers to say",
    }


def _budget(label: str, used: float, limit: float, said: Any) -> Budget:
    share = min(round(100 * used / limit), 100)
    return Budget(label, said(used), said(limit), share, "bad" if share >= 100 else "watch" if share >= 80 else "good")


# --- in one sentence -------------------------------------------------------------------------------------------------
def sentence(views: Sequence[ShadowView]) -> dict[str, str]:
    """The state of all shadows in a line, as `components/_status_sentence.html` takes it."""
    killed = [one.slug for one in views if one.is_killed]
    paused = [one.slug for one in views if one.standing.state is State.PAUSED]
    running = [one for one in views if one.standing.state is State.RUNNING]
    said = []
    if killed:
        said.append(
            f"{_named(killed)} {'is' if len(killed) == 1 else 'are'} killed; nothing is asked of the candidates"
        )
    if paused:
        rest = "rests" if len(paused) == 1 else "rest"
        said.append(f"{_named(paused)} {rest} until 0:00 UTC, because a budget of today is used up")
    if running:
        asked = sum(one.asked for one in running)
        said.append(
            f"{_named([one.slug for one in running])} asked {asked:,} request{'' if asked == 1 else 's'} again in 24 h"
        )
    tone = "bad" if killed else "watch" if paused else "good"
    return {"tone": tone, "text": ". ".join(said) + "."}


def _named(slugs: Sequence[str]) -> str:
    return f"Shadow{'' if len(slugs) == 1 else 's'} {listed(slugs)}"


# --- charts ----------------------------------------------------------------------------------------------------------
def charts(policy: str, *, now: datetime) -> list[dict[str, Any]]:
    """How far answers are apart, what they cost and took beside control's, and how many were asked; one query."""
    since, until = window(now)
    found = shadow_timeline(since=since, until=until, step=CHART_STEP, policy=policy)
    words = [
        _series("Candidate", "canary", found[CANDIDATE], _apart),
        _series("Control itself", "control", found[NOISE], _apart),
    ]
    beside = [
        _series("Cost", "canary", found[CANDIDATE], lambda tally: _times_control(tally, "log2_cost")),
        _series("Latency", "other", found[CANDIDATE], lambda tally: _times_control(tally, "log2_latency")),
    ]
    calls = [
        _series("Asked", "canary", found[CANDIDATE], lambda tally: tally.counts["asked"] / _MINUTES),
        _series("Failed", "other", found[CANDIDATE], lambda tally: _failed(tally) / _MINUTES),
    ]
    span = (since, until)
    return [
        {"id": name, "title": title, "unit": unit, "figure": line_chart(title, unit, series, span=span)}
        for name, title, unit, series in (
            ("chart-words", "Words that differ", "%", words),
            ("chart-beside", "Beside control", "times", beside),
            ("chart-calls", "Calls of candidates", "calls/min", calls),
        )
    ]


_MINUTES: Final = CHART_STEP / timedelta(minutes=1)


def _series(name: str, role: Any, steps: Iterable[tuple[datetime, ShadowTally]], of: Any) -> Series:
    known = [(at, of(tally)) for at, tally in steps]
    xs, ys = with_gaps([at for at, _ in known], [value for _, value in known], step=CHART_STEP)
    return Series(name, role, xs, ys)


def _apart(tally: ShadowTally) -> float | None:
    moments = tally.moments["overlap"]
    return round(100 * (1 - moments.total / moments.n), 2) if moments.n else None


def _times_control(tally: ShadowTally, name: str) -> float | None:
    moments = tally.moments[name]
    return round(2 ** (moments.total / moments.n), 3) if moments.n else None


def _failed(tally: ShadowTally) -> int:
    return tally.counts["asked"] - tally.counts["answered"]


# --- samples ---------------------------------------------------------------------------------------------------------
def diff_words(diff: Mapping[str, Any]) -> list[str]:
    """A compact diff as short phrases; what is alike is left out."""
    said = []
    if diff["overlap"] is not None:
        said.append(f"{100 * (1 - diff['overlap']):.0f} % of words differ")
    if diff["citations"] is not None and diff["citations"] < 1:
        said.append(f"{100 * (1 - diff['citations']):.0f} % of sources differ")
    if diff["schema"] in ("control", "shadow", "neither"):
        said.append(
            {"control": "misses the schema", "shadow": "alone meets the schema"}.get(
                diff["schema"], "neither meets the schema"
            )
        )
    tools = diff["tools"]
    if tools is not None and (tools["names"] < 1 or tools["arguments"] not in (None, 1)):
        said.append("calls other tools" if tools["names"] < 1 else "calls tools with other arguments")
    if diff["refused"][0] != diff["refused"][1]:
        said.append("refuses" if diff["refused"][1] else "control refuses")
    said += [f"{rule}: {control} → {shadow}" for rule, control, shadow in diff["rules"] if control != shadow]
    if diff["finish_reasons"][0] != diff["finish_reasons"][1]:
        said.append(f"ends with {diff['finish_reasons'][1]}, control with {diff['finish_reasons'][0]}")
    return said or ["alike in everything"]
