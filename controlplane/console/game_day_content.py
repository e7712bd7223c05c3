"""What the pages show of game days: what one would do, how far one is, and what it took against what is promised."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from controlplane.console.corpus_words import took_words
from controlplane.corpora.drill_reports import ReportRefused, read_report
from controlplane.corpora.drills import report_file
from controlplane.corpora.dump_checks import trusted_keys
from controlplane.corpora.errors import VaultUnavailable
from controlplane.corpora.models import RecoveryDrill
from controlplane.corpora.records import DrillState
from controlplane.corpora.recovering import Plan
from controlplane.corpora.scenarios import Scenario
from controlplane.durations import span
from dataplane.retrieval.policy import REBUILD, REPLICATE, RESTORE, Recovery

Tone = Literal["good", "watch", "bad", "off", "info"]
# In their order, by what people call them.
STEPS: Final[Mapping[str, str]] = {
    "prepare": "Copy and lose",
    "detect": "See it",
    "decide": "Decide",
    "restore": "Come back",
    "verify": "Verify",
    "switch": "Switch",
}
_CHECKS: Final[Mapping[str, str]] = {
    "counts": "Counts",
    "digests": "Digests of all documents",
    "samples": "Checksums of a sample",
    "recall": "Recall against exact search",
    "documents": "Documents of the dump",
}
_PILLS: Final[Mapping[str, tuple[Tone, str]]] = {
    DrillState.WAITING: ("watch", "waits for a second person"),
    DrillState.QUEUED: ("info", "queued"),
    DrillState.RUNNING: ("info", "running"),
    DrillState.PASSED: ("good", "passed"),
    DrillState.FAILED: ("bad", "failed"),
    DrillState.CANCELLED: ("off", "called off"),
}


# --- before -----------------------------------------------------------------------------------------------------------
def plan_sentences(scenario: Scenario, plan: Plan, recovery: Recovery) -> list[str]:
    """What a drill would do now, step by step."""
    ways = {
        RESTORE: f"{plan.dump.name if plan.dump else 'A dump'} is restored, and what changed since is indexed",
        REBUILD: f"Every document is embedded again: {plan.tokens:,} tokens, ${plan.cost_micros / 1e6:,.2f}",
        REPLICATE: "A second copy, as fresh as the first, is verified and switched to",
    }
    came = ways[plan.way]
    if scenario.is_source_lost:
        name = plan.dump.name if plan.dump else "A dump"
        came = f"{name} is restored, its documents too, into tables of the drill's own"
    if len(plan.dumps) > 1:
        came = f"{plan.dumps[0].name} has to be refused; {came}"
    return [
        "Everything that can be found is copied into a sandbox, from which nobody is served. Then, there:",
        scenario.loss,
        f"How it is seen: {scenario.detection}",
        f"How it comes back: {came}. {plan.why}.",
        "Counts, digests, checksums of 299 chunks and recall@10 of 50 questions against exact search are verified; "
        "then the sandbox's alias is switched, and all of it dropped.",
        predicted_words(plan.predicted_seconds, recovery),
    ]


def predicted_words(seconds: float | None, recovery: Recovery) -> str:
    """How long it should take from the loss to verified, beside what is promised."""
    within = span(recovery.rto_seconds.value)
    if seconds is None:
        return f"How long that takes nobody measured yet; {within} is promised."
    return f"From the loss to verified, {took_words(seconds)} is predicted; {within} is promised."


# --- while it runs, and after -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of a drill, ready to show. `share`: of what is promised for all, in percent."""

    name: str
    state: Literal["past", "now", "next", "skipped"]
    words: str
    took: str
    share: float


def step_rows(drill: RecoveryDrill, recovery: Recovery) -> list[StepRow]:
    """Every step, also those that nobody began."""
    known = {step["name"]: step for step in drill.steps}
    within = recovery.rto_seconds.value
    rows = []
    for name, title in STEPS.items():
        step = known.get(name)
        seconds = drill.seconds.get(name)
        ended = step is not None and step["ended_at"] is not None
        state: Literal["past", "now", "next", "skipped"] = "past" if ended else "now" if step else "next"
        if drill.is_over and not ended:
            state = "skipped"
        took = took_words(seconds if seconds is not None or step is None else step["seconds"]) if step else ""
        share = min(100.0, 100 * seconds / within) if seconds else 0.0
        rows.append(StepRow(title, state, step["words"] if step else "", took, share))
    return rows


@dataclass(frozen=True, slots=True)
class Figures:
    """What was promised, predicted and measured, for reading; None: there is none yet."""

    back: str
    age: str
    predicted: str | None
    took: str | None
    aged: str | None


def figures(drill: RecoveryDrill, recovery: Recovery) -> Figures:
    """How soon and how old it has to come back, and how it did."""
    return Figures(
        back=span(recovery.rto_seconds.value),
        age=span(recovery.rpo_seconds.value),
        predicted=None if drill.predicted_seconds is None else took_words(drill.predicted_seconds),
        took=None if drill.rto_seconds is None else took_words(drill.rto_seconds),
        aged=None if drill.rpo_seconds is None else span(drill.rpo_seconds),
    )


@dataclass(frozen=True, slots=True)
class UnderWay:
    """How far a drill is. `value` of `most`; None while nobody knows."""

    label: str
    value: int | None
    most: int | None
    note: str


def under_way(drill: RecoveryDrill, *, now: datetime) -> UnderWay | None:
    """The step that a running drill is at; None: it does not run."""
    if drill.state not in (DrillState.QUEUED, DrillState.RUNNING):
        return None
    open_steps = [step for step in drill.steps if step["ended_at"] is None]
    if not open_steps:
        return UnderWay(
            "Waits for a worker" if drill.state == DrillState.QUEUED else "Between two steps", None, None, ""
        )
    step = open_steps[-1]
    done, of = step["done"], step["of"]
    if not of:
        return UnderWay(STEPS[step["name"]], None, None, _eta(drill))
    return UnderWay(STEPS[step["name"]], done, of, f"{done:,} of {of:,}{_left(step, now=now)}")


def _left(step: Mapping[str, Any], *, now: datetime) -> str:
    """How long the step still takes at its pace so far."""
    done, of = step["done"], step["of"]
    if not done:
        return ""
    since = (now - datetime.fromisoformat(step["began_at"])).total_seconds()
    return f" · about {span(max(1.0, since / done * (of - done)))} left" if done < of else ""


def _eta(drill: RecoveryDrill) -> str:
    if drill.predicted_seconds is None:
        return "nobody measured yet how long it takes"
    left = drill.predicted_seconds - sum(drill.seconds.values())
    return f"about {span(max(1.0, left))} left"


def check_rows(drill: RecoveryDrill) -> list[dict[str, Any]]:
    """What the acceptance looked at, and found."""
    return [
        {"name": _CHECKS.get(one["name"], one["name"]), "passed": one["passed"], "words": one["words"]}
        for one in drill.acceptance.get("checks", [])
    ]


def pill_of(drill: RecoveryDrill) -> dict[str, str]:
    """Its state, as `components/_pill.html` takes it."""
    tone, text = _PILLS[drill.state]
    return {"tone": tone, "text": text}


def signature_verdict(drill: RecoveryDrill) -> tuple[Tone, str]:
    """Whether its report is still what was signed."""
    data = report_file(drill)
    if not data:
        return "off", "There is no signed report" if drill.is_over else "The report is signed when it is over"
    try:
        report, digest = read_report(data, trusted=trusted_keys())
    except (ReportRefused, VaultUnavailable) as exc:
        return "bad", str(exc)
    if report != drill.report:
        return "bad", "The report that is kept is not the one that was signed"
    return "good", f"Signature holds: {digest[:8]}"


def verdict_sentence(drill: RecoveryDrill, recovery: Recovery) -> tuple[Tone, str]:
    """The outcome in one line, and its tone."""
    within, rto = recovery.rto_seconds.value, drill.rto_seconds
    if drill.state == DrillState.PASSED and rto is not None:
        kept = rto <= within
        predicted = "" if drill.predicted_seconds is None else f", predicted {took_words(drill.predicted_seconds)}"
        said = f"It came back, verified, in {took_words(rto)}{predicted}; {span(within)} is promised"
        aged = f" What came back was {span(drill.rpo_seconds)} old." if drill.rpo_seconds else ""
        return ("good" if kept else "bad"), f"{said}.{aged}"
    if drill.state == DrillState.FAILED:
        return "bad", f"It did not come back as asked: {drill.error}."
    if drill.state == DrillState.CANCELLED:
        return "off", f"{drill.error}."
    if drill.state == DrillState.WAITING:
        return "watch", f"{drill.actor} asked for it; nothing happens until somebody else confirms it."
    return "watch", "It runs in a sandbox; what serves is not touched." if not drill.targets_live else (
        "It runs; what comes back serves for a moment, and then what served before."
    )
