"""The held-out sets and judges that guardrails name as 'slug@version'."""

from collections.abc import Mapping
from typing import Any, Final

from controlplane.evals.errors import InvalidStandard
from controlplane.evals.models import EvalSetVersion, JudgeVersion, Purpose
from controlplane.evals.standards import judge_versions
from controlplane.rollouts.guardrails import RAILS, Guardrails, default_guardrails

# What the judge of a rail scores.
SCORE_OF: Final[Mapping[str, str]] = {"grounding": "grounded", "safety": "safe"}


class UnknownReference(LookupError):
    """Guardrails name a set or a judge that is not there."""

    code = "unknown_reference"


def set_version(name: str) -> EvalSetVersion:
    """The set's version of this name, its set fetched.

    Raises:
        UnknownReference: there is none.
    """
    found = EvalSetVersion.objects.named(name).select_related("set").first()
    if found is None:
        raise UnknownReference(f"there is no set {name!r}")
    return found


def judge_version(name: str) -> JudgeVersion:
    """The judge's version of this name, with its newest calibration.

    Raises:
        UnknownReference: there is none.
    """
    try:
        return judge_versions([name])[name]
    except InvalidStandard as exc:
        raise UnknownReference(f"there is no judge {name!r}") from exc


def what_is_wrong(policy: Guardrails) -> str | None:
    """Why guardrails could not be applied as they are; None: they could. For `rollouts.ask_about_guardrails`."""
    try:
        if policy.held_out is not None and not set_version(policy.held_out).set.is_held_out:
            return f"{policy.held_out!r} is no held-out set, so prompts may have been tuned on it"
        for rail, name in policy.judges.items():
            judge = judge_version(name)
            if judge.judge.score != SCORE_OF[rail]:
                return f"judge {name!r} scores {judge.judge.score!r}, which is not {RAILS[rail].label}"
            if not judge.is_calibrated:
                return f"judge {name!r} is not calibrated: it was not found to agree with people, so it decides nothing"
    except UnknownReference as exc:
        return str(exc)
    return None


def held_out_sets() -> list[str]:
    """Every held-out set's newest version, as 'slug@version'; one query."""
    newest = EvalSetVersion.objects.newest().filter(set__purpose=Purpose.HELD_OUT).order_by("set__slug")
    return [one.pinned for one in newest.select_related("set")]


def judges() -> dict[str, list[str]]:
    """By rail, the calibrated versions of judges that score it, the newest first, as 'slug@version'; two queries."""
    found: dict[str, list[str]] = {rail: [] for rail in SCORE_OF}
    versions = JudgeVersion.objects.with_calibration().filter(judge__score__in=SCORE_OF.values())
    for version in versions.order_by("judge__slug", "-number"):
        if version.is_calibrated:
            rail = next(rail for rail, score in SCORE_OF.items() if score == version.judge.score)
            found[rail].append(version.pinned)
    return found


def suggested_guardrails() -> dict[str, Any]:
    """What a plan starts from: the usual margins, the first held-out set, and the first judge of each rail."""
    sets = held_out_sets()
    first = {rail: names[0] for rail, names in judges().items() if names}
    return default_guardrails(sets[0] if sets else None, first if sets else {})
