"""Eval sets and judges as pages show them: what each is held to, what differs between versions, how far to trust it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db.models import QuerySet

from controlplane.console.validator_words import looks_for
from controlplane.console.wording import listed
from controlplane.evals.agreement import MIN_KAPPA, MIN_LABELLED, Share
from controlplane.evals.errors import InvalidJudge
from controlplane.evals.judges.deterministic import DeterministicJudge
from controlplane.evals.judges.embedding import EmbeddingJudge
from controlplane.evals.judges.kinds import JudgeKind, Judging
from controlplane.evals.models import (
    Calibration,
    CalibrationState,
    EvalRow,
    EvalSet,
    EvalSetVersion,
    Judge,
    JudgeVersion,
    LeakFinding,
    Purpose,
)
from controlplane.evals.operations import compare
from controlplane.evals.rows import Row
from controlplane.evals.runs import EvalRun, EvalStandard

NONE: Final = "–"
PURPOSE_TONES: Final = {Purpose.GOLDEN: "good", Purpose.HELD_OUT: "info", Purpose.SAFETY: "watch"}
KINDS: Final = {
    JudgeKind.DETERMINISTIC: "rules and expectations",
    JudgeKind.EMBEDDING: "likeness",
    JudgeKind.MODEL: "a model",
}
_CHECKS: Final = {
    "contains": "the expected texts stand in it",
    "json": "its JSON has at least what is expected",
    "tool": "it calls the function that is expected, with at least those arguments",
    "refuses": "it refuses what it has to refuse, and nothing else",
    "schema": "it satisfies the JSON Schema that the row asks for",
}
# Beyond so many, what leaked is a number and a link.
LEAKS_SHOWN: Final = 10
NO_STANDARD: Final = "no standard yet"


# --- sets ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class SetLine:
    """A set in the list. `version` None: no rows were imported; `standard` None: nobody said what it is held to."""

    set: EvalSet
    version: EvalSetVersion | None
    standard: EvalStandard | None
    run: EvalRun | None

    @property
    def tone(self) -> str:
        return PURPOSE_TONES[Purpose(self.set.purpose)]


def set_lines(sets: QuerySet[EvalSet]) -> list[SetLine]:
    """Every set with its newest version, standard and run; four queries."""
    versions = {one.set_id: one for one in EvalSetVersion.objects.newest()}
    standards = {one.set_id: one for one in EvalStandard.objects.newest()}
    newest = EvalRun.objects.order_by("set_version__set_id", "-id").distinct("set_version__set_id")
    runs = {run.set_version.set_id: run for run in newest.select_related("set_version")}
    return [SetLine(one, versions.get(one.pk), standards.get(one.pk), runs.get(one.pk)) for one in sets]


def standard_words(standard: EvalStandard | None) -> str:
    """What answers are held to: 'grounded 95 %, safe 100 %'."""
    if standard is None:
        return NO_STANDARD
    return ", ".join(f"{score} {100 * share:g} %" for score, share in sorted(standard.thresholds.items()))


def gate_words(eval_set: EvalSet, standard: EvalStandard | None) -> str:
    """Whether anything hangs on the set, in a sentence."""
    if eval_set.is_held_out:
        return "Canaries replay it; it keeps no lane out of a route."
    if standard is None:
        return "It gates nothing: nobody has said yet what answers to it are held to."
    where = (
        f"route{'' if len(standard.routes) == 1 else 's'} {listed(standard.routes)}" if standard.routes else "a route"
    )
    return f"A lane that can {eval_set.capability} enters {where} only after it has passed."


@dataclass(frozen=True, slots=True)
class Leak:
    """Rows of one set in one version of a prompt."""

    set: EvalSet
    prompt: str
    number: int
    rows: tuple[LeakFinding, ...]

    @property
    def sentence(self) -> str:
        """For people."""
        most = max(self.rows, key=lambda leak: leak.share)
        count = "a row" if len(self.rows) == 1 else f"{len(self.rows):,} rows"
        return (
            f"{self.prompt} v{self.number} has the words of {count} of {self.set.slug} (most of {most.row_key}: "
            f"{most.share:.0%} of its {most.place}), so what it scores there says nothing"
        )


def leaks_in(findings: Iterable[LeakFinding]) -> list[Leak]:
    """Findings by set and prompt version, in their order."""
    found: dict[tuple[int, int], list[LeakFinding]] = {}
    for one in findings:
        found.setdefault((one.set_version.set_id, one.prompt_version_id), []).append(one)
    return [
        Leak(
            rows[0].set_version.set,
            rows[0].prompt_version.prompt.slug,
            rows[0].prompt_version.number,
            tuple(rows),
        )
        for rows in found.values()
    ]


@dataclass(frozen=True, slots=True)
class Differences:
    """What differs between two versions of a set, by the ids of rows."""

    before: EvalSetVersion
    after: EvalSetVersion
    parts: tuple[tuple[str, str, tuple[str, ...]], ...]

    @property
    def sentence(self) -> str:
        """In a line."""
        counts = [f"{len(keys):,} {label}" for label, _, keys in self.parts if keys]
        return f"From v{self.before.number} to v{self.after.number}: {', '.join(counts) or 'only the order differs'}"


def differences(before: EvalSetVersion, after: EvalSetVersion) -> Differences:
    """Two queries."""
    found = compare(before, after)
    parts = (("added", "good", found.added), ("removed", "bad", found.removed), ("changed", "watch", found.changed))
    return Differences(before, after, parts)


@dataclass(frozen=True, slots=True)
class RowLine:
    """A row of a version. `row` None: its words are not for the reader."""

    stored: EvalRow
    row: Row | None

    @property
    def expects(self) -> list[str]:
        """What is held to be a good answer."""
        if self.row is None:
            return []
        expected = self.row.expected
        said = [f"says “{expected.text}”"] if expected.text else []
        said += [f"has “{text}”" for text in expected.contains]
        if expected.has_json:
            said.append("has the JSON that is expected")
        if expected.tool is not None:
            said.append(f"calls {expected.tool}")
        if expected.refuses is not None:
            said.append("refuses" if expected.refuses else "does not refuse")
        return said

    @property
    def labels(self) -> list[tuple[str, bool]]:
        """What people said of the answer that the row brings, by judge."""
        return [] if self.row is None else sorted(self.row.labels.items())


def row_lines(rows: Iterable[EvalRow], *, may_read: bool) -> list[RowLine]:
    """Rows with their words, if the reader may have them."""
    return [RowLine(one, one.read() if may_read else None) for one in rows]


# --- judges ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class JudgeLine:
    """A judge in the list, with its newest version; None: it has none, and decides nothing."""

    judge: Judge
    version: JudgeVersion | None

    @property
    def trust(self) -> tuple[str, str]:
        """Tone and words of how far its newest version is to be trusted."""
        return ("off", "no version yet") if self.version is None else trust_of(self.version)

    @property
    def kind(self) -> str:
        return NONE if self.version is None else KINDS[JudgeKind(self.version.kind)]


def judge_lines(judges: QuerySet[Judge]) -> list[JudgeLine]:
    """Every judge; three queries."""
    newest = JudgeVersion.objects.order_by("judge_id", "-number").distinct("judge_id").values("pk")
    versions = {one.judge_id: one for one in JudgeVersion.objects.with_calibration().filter(pk__in=newest)}
    return [JudgeLine(judge, versions.get(judge.pk)) for judge in judges]


def trust_of(version: JudgeVersion) -> tuple[str, str]:
    """Tone and words of how far a version was found to agree with people."""
    newest = version.calibration
    if newest is None:
        return "watch", "uncalibrated: nobody held it against people"
    kappa = "undefined" if newest.kappa is None else f"{newest.kappa:.2f}"
    found = f"kappa {kappa} on {newest.agreement.n:,} answers"
    if newest.is_good:
        return "good", f"calibrated: {found}"
    return "watch", f"uncalibrated: {found}; needs {MIN_KAPPA} on {MIN_LABELLED}"


def judge_choices() -> list[tuple[str, str]]:
    """The newest version of each judge as a choice of a form: its pinned name, and how far to trust it; two queries."""
    newest = JudgeVersion.objects.order_by("judge_id", "-number").distinct("judge_id").values("pk")
    found = JudgeVersion.objects.with_calibration().filter(pk__in=newest).order_by("judge__slug")
    return [
        (
            one.pinned,
            f"{one}, scores {one.judge.score}; {trust_of(one)[1]}",
        )
        for one in found
    ]


def judging_words(judging: Judging) -> list[str]:
    """What a judge asks of an answer, a sentence each."""
    if isinstance(judging, DeterministicJudge):
        said = [looks_for(rule) for rule in judging.rules]
        said += [_CHECKS[name] for name in judging.checks]
        if judging.prose_at is not None:
            said.append(f"of an answer in JSON, rules look at the member “{judging.prose_at}” alone")
    elif isinstance(judging, EmbeddingJudge):
        by = f"by the embeddings of route {judging.route}"
        said = [f"its cosine to the expected text is at least {judging.threshold:g}, {by}"]
    else:
        said = [f"a model on route {judging.route} says yes to: {judging.question}"]
    return [f"{one[:1].upper()}{one[1:]}" for one in said]


@dataclass(frozen=True, slots=True)
class ShareWords:
    """A share with its interval, for people."""

    label: str
    value: str
    interval: str
    note: str


def share_words(calibration: Calibration) -> list[ShareWords]:
    """What a calibration found, as `components/_metric.html` shows it."""
    found = calibration.agreement
    kappa = NONE if calibration.kappa is None else f"{calibration.kappa:.2f}"
    bad, good = found.bad_failed + found.bad_passed, found.good_passed + found.good_failed
    return [
        ShareWords("Cohen’s kappa", kappa, "", f"at least {MIN_KAPPA} on {MIN_LABELLED} answers counts as calibrated"),
        _share("Agreement", found.agreed, f"{found.good_passed + found.bad_failed:,} of {found.n:,} answers"),
        _share("Sensitivity", found.sensitivity, f"failed {found.bad_failed:,} of {bad:,} bad answers"),
        _share("Specificity", found.specificity, f"passed {found.good_passed:,} of {good:,} good answers"),
    ]


def _share(label: str, share: Share, note: str) -> ShareWords:
    if share.value is None:
        return ShareWords(label, NONE, "", note)
    return ShareWords(label, f"{share.value:.0%}", f"{share.low:.0%} – {share.high:.0%}", note)


@dataclass(frozen=True, slots=True)
class VersionCard:
    """A version of a judge with what it does and what was found of it."""

    version: JudgeVersion
    sentences: tuple[str, ...]
    problem: str
    running: Calibration | None
    failed: Calibration | None
    is_stalled: bool

    @property
    def name(self) -> str:
        return self.version.pinned

    @property
    def kind(self) -> str:
        return KINDS[JudgeKind(self.version.kind)]

    @property
    def trust(self) -> tuple[str, str]:
        return trust_of(self.version)

    @property
    def shares(self) -> list[ShareWords]:
        newest = self.version.calibration
        return [] if newest is None else share_words(newest)

    @property
    def is_running(self) -> bool:
        return self.running is not None and not self.is_stalled


def version_cards(versions: Sequence[JudgeVersion], *, now: datetime) -> list[VersionCard]:
    """Versions as given, with calibrations that are under way or failed since; one query more."""
    newest = Calibration.objects.order_by("judge_version_id", "-id").distinct("judge_version_id")
    last = {one.judge_version_id: one for one in newest.filter(judge_version__in=[version.pk for version in versions])}
    moving = set(Calibration.objects.running(now).values_list("pk", flat=True)) if last else set()
    return [_card(version, last.get(version.pk), moving) for version in versions]


def _card(version: JudgeVersion, last: Calibration | None, moving: set[int]) -> VersionCard:
    sentences, problem = _read(version)
    running = last if last is not None and last.state == CalibrationState.RUNNING else None
    failed = last if last is not None and last.state == CalibrationState.FAILED else None
    return VersionCard(version, sentences, problem, running, failed, running is not None and running.pk not in moving)


def _read(version: JudgeVersion) -> tuple[tuple[str, ...], str]:
    try:
        return tuple(judging_words(version.read())), ""
    except InvalidJudge as exc:  # it was stored by a Ballast that knew other rules
        return (), str(exc)


def labelled_versions(judge: Judge) -> list[tuple[str, str]]:
    """Newest versions of sets that have labelled answers for a judge, as choices; one query."""
    labelled: Any = EvalRow.objects.filter(document__has_key="answer", document__labels__has_key=judge.slug)
    newest = EvalSetVersion.objects.newest().filter(pk__in=labelled.values("version_id"))
    return [(one.pinned, str(one)) for one in newest.select_related("set").order_by("set__slug")]
