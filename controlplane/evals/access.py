"""Who may see eval sets and judges, and the words of held-out rows: held on everything, or not at all."""

from typing import Final

from django.db.models import QuerySet

from controlplane.accounts.access import access, may, require
from controlplane.accounts.models import Operator
from controlplane.evals.models import (
    EvalSet,
    EvalSetVersion,
    Judge,
    JudgeVersion,
    JudgeVersionQuerySet,
    LeakFinding,
)
from controlplane.evals.runs import EvalRun

VIEW: Final = "evals.view_evalset"
MANAGE: Final = "evals.manage_evals"


def visible_sets(operator: Operator) -> QuerySet[EvalSet]:
    """Every set.

    Raises:
        PermissionDenied: the operator may not look at them.
    """
    require(operator, VIEW)
    return EvalSet.objects.all()


def access_set(operator: Operator, slug: str, *, to_manage: bool = False) -> EvalSet:
    """A set, without its rows.

    Raises:
        Http404, PermissionDenied: as `accounts.access.access`.
    """
    found = EvalSet.objects.filter(slug=slug).first()
    return access(operator, found, view=VIEW, permission=MANAGE if to_manage else VIEW)


def access_set_version(operator: Operator, slug: str, number: int | None = None) -> EvalSetVersion:
    """A version of a set, the newest unless told, with the set fetched; whether its rows may be read is for
    `may_read_rows` to say.
    """
    versions = EvalSetVersion.objects.filter(set__slug=slug)
    return _access_one(operator, versions if number is None else versions.filter(number=number))


def access_pinned_set(operator: Operator, name: str) -> EvalSetVersion:
    """The version of a set of a name such as golden@2, as `access_set_version`."""
    return _access_one(operator, EvalSetVersion.objects.named(name))


def _access_one(operator: Operator, versions: QuerySet[EvalSetVersion]) -> EvalSetVersion:
    return access(operator, versions.select_related("set").first(), view=VIEW, permission=VIEW)


def may_read_rows(operator: Operator, eval_set: EvalSet) -> bool:
    """Whether the operator may read the rows' words. Of a held-out set that is for those who look after evals: whoever
    writes prompts must not tune them on it, and sees how many rows there are, and their hashes.
    """
    return may(operator, MANAGE if eval_set.is_held_out else VIEW)


def visible_judges(operator: Operator) -> QuerySet[Judge]:
    """Every judge.

    Raises:
        PermissionDenied: the operator may not look at them.
    """
    require(operator, VIEW)
    return Judge.objects.all()


def access_judge(operator: Operator, slug: str, *, to_manage: bool = False) -> Judge:
    """A judge."""
    found = Judge.objects.filter(slug=slug).first()
    return access(operator, found, view=VIEW, permission=MANAGE if to_manage else VIEW)


def visible_judge_versions(operator: Operator, judge: Judge) -> JudgeVersionQuerySet:
    """Its versions, each with its newest calibration."""
    require(operator, VIEW)
    return JudgeVersion.objects.with_calibration().filter(judge=judge)


def access_judge_version(operator: Operator, slug: str, number: int, *, to_manage: bool = False) -> JudgeVersion:
    """A version of a judge, with its newest calibration."""
    found = JudgeVersion.objects.with_calibration().filter(judge__slug=slug, number=number).first()
    return access(operator, found, view=VIEW, permission=MANAGE if to_manage else VIEW)


def visible_leaks(operator: Operator) -> QuerySet[LeakFinding]:
    """Every leak that counts, newest first.

    Raises:
        PermissionDenied: the operator may not look at evals.
    """
    require(operator, VIEW)
    return LeakFinding.objects.that_count().select_related("set_version__set", "prompt_version__prompt")


# --- runs ------------------------------------------------------------------------------------------------------------
def visible_runs(operator: Operator) -> QuerySet[EvalRun]:
    """Every run, newest first, with its set.

    Raises:
        PermissionDenied: the operator may not look at evals.
    """
    require(operator, VIEW)
    return EvalRun.objects.with_set()


def access_run(operator: Operator, pk: int, *, to_cancel: bool = False) -> EvalRun:
    """A run, with its set. Whoever began one may cancel it, whatever else they may."""
    found = EvalRun.objects.with_set().filter(pk=pk).first()
    is_own = found is not None and found.actor == operator.audit_name
    return access(operator, found, view=VIEW, permission=MANAGE if to_cancel and not is_own else VIEW)
