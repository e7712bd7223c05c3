"""What answers to a set are held to: which judges, which shares, on which routes. Pinned, recorded, never edited."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from django.db.models import Q

from controlplane.accounts.models import Operator
from controlplane.audit import operations as audit
from controlplane.evals.errors import InvalidStandard
from controlplane.evals.models import EvalSet, JudgeVersion
from controlplane.evals.names import read_pinned
from controlplane.evals.runs import EvalStandard
from controlplane.prompts.models import Prompt

MAX_JUDGES: Final = 20
# What one run may cost unless somebody says otherwise: 10 of whatever prices are given in.
DEFAULT_COST_MICROS: Final = 10_000_000
MAX_COST_MICROS: Final = 10**12


@audit.operation
def set_standard(
    *,
    eval_set: EvalSet,
    judges: Sequence[str],
    thresholds: Mapping[str, float],
    reason: str,
    actor: Operator | str,
    now: datetime,
    routes: Sequence[str] = (),
    prompt: str = "",
    max_cost_micros: int = DEFAULT_COST_MICROS,
) -> EvalStandard:
    """Say what answers to a set are held to from now on. Runs that were made under another standard stay what they are,
    and open no gate any more.

    Raises:
        InvalidStandard: naming the place.
    """
    if not reason.strip():
        raise InvalidStandard("reason", "say why answers are held to this")
    found = judge_versions(judges)
    checked = _checked_thresholds(thresholds, found.values())
    if prompt and not Prompt.objects.filter(slug=prompt).exists():
        raise InvalidStandard("prompt", f"there is none called {prompt!r}")
    if not 0 < max_cost_micros <= MAX_COST_MICROS:
        raise InvalidStandard("max_cost_micros", f"{max_cost_micros} is not from 1 to {MAX_COST_MICROS}")
    standard = EvalStandard.objects.create(
        set=eval_set,
        judges=sorted(found),
        thresholds=checked,
        routes=sorted(set(routes)),
        prompt=prompt,
        max_cost_micros=max_cost_micros,
        author=audit.name_of(actor),
        reason=reason.strip(),
        created_at=now,
    )
    data: dict[str, Any] = {**standard.facts(), "reason": standard.reason}
    audit.record("evals.standard_set", actor=actor, target=eval_set, at=now, data=data)
    return standard


def judge_versions(names: Iterable[str], *, most: int | None = MAX_JUDGES) -> dict[str, JudgeVersion]:
    """Versions of judges by names such as grounded@2, each with its newest calibration; two queries.

    Args:
        most: How many may be named; None: any number, for those of several standards.
    Raises:
        InvalidStandard: one is no such name, or there is no such version; or there are none.
    """
    asked: dict[tuple[str, int], str] = {}
    for name in names:
        pin = read_pinned(name)
        if pin is None:
            raise InvalidStandard("judges", f"{name[:80]!r} names no version of a judge, such as grounded@2")
        asked[pin] = name
    if not asked or (most is not None and len(asked) > most):
        raise InvalidStandard("judges", f"{len(asked)} of them; name from 1 to {most or MAX_JUDGES}")
    wanted = Q()
    for slug, number in asked:
        wanted |= Q(judge__slug=slug, number=number)
    found = {
        asked[version.judge.slug, version.number]: version
        for version in JudgeVersion.objects.with_calibration().filter(wanted)
    }
    if missing := sorted(set(asked.values()) - found.keys()):
        raise InvalidStandard("judges", f"there is no version {', '.join(missing)}")
    return found


def _checked_thresholds(thresholds: Mapping[str, float], judges: Iterable[JudgeVersion]) -> dict[str, float]:
    scored = {version.judge.score for version in judges}
    if not thresholds:
        raise InvalidStandard("thresholds", "nothing hangs on any score; give at least one, such as grounded: 0.95")
    for score, share in thresholds.items():
        if score not in scored:
            raise InvalidStandard(f"thresholds.{score}", f"none of the judges scores it; they score {sorted(scored)}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise InvalidStandard(f"thresholds.{score}", f"{share!r} is no share above 0 and up to 1")
    return {score: float(share) for score, share in thresholds.items()}
