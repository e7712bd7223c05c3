"""Make eval sets and judges, and give them versions. Everything is recorded, and no row's words are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import Max

from controlplane.accounts.models import Operator, Tenant
from controlplane.audit import operations as audit
from controlplane.evals import leaks
from controlplane.evals.errors import InvalidJudge, InvalidSet, SameJudge
from controlplane.evals.importing import ImportedRow, Readable, digest_of_rows, read_rows
from controlplane.evals.judges.kinds import read_judge
from controlplane.evals.models import EvalRow, EvalSet, EvalSetVersion, Judge, JudgeVersion, Purpose
from controlplane.evals.shingles import ByRun, Match, index, protect
from controlplane.prompts.models import PromptVersion
from dataplane.documents import MalformedRelease, Node
from dataplane.release import canonical, digest_of
from dataplane.routing import CAPABILITIES

MAX_REGIONS: Final = 20
# Of what is looked for in prompts, so that whoever imports waits for seconds and not for minutes.
MAX_RUNS_OF_WORDS: Final = 200_000
_STORED_AT_ONCE: Final = 500


# --- sets ------------------------------------------------------------------------------------------------------------
@audit.operation
def create_set(
    *,
    slug: str,
    name: str,
    purpose: str,
    actor: Operator | str,
    now: datetime,
    capability: str = "chat",
    residency: Sequence[str] = (),
    tenant: str = "",
    description: str = "",
) -> EvalSet:
    """Create a set without rows. One of a tenant's data goes nowhere that the tenant's bytes may not go.

    Raises:
        django.core.exceptions.ValidationError: by field.
        InvalidSet: no such capability or tenant, or a residency that is none or is wider than the tenant's.
    """
    if capability not in CAPABILITIES:
        raise InvalidSet(f"capability: {capability!r} is not one of {', '.join(sorted(CAPABILITIES))}")
    row = EvalSet(
        slug=slug,
        name=name,
        purpose=purpose,
        capability=capability,
        residency=_checked_residency(residency, tenant),
        tenant=tenant,
        description=description,
        created_by=audit.name_of(actor),
        created_at=now,
    )
    row.full_clean()
    row.save()
    data = {"purpose": purpose, "capability": capability, "residency": row.residency, "tenant": tenant}
    audit.record("evals.set_created", actor=actor, target=row, at=now, data=data)
    return row


def _checked_residency(residency: Sequence[str], tenant: str) -> list[str]:
    try:
        regions = Node(list(residency), "residency").texts()
    except MalformedRelease as exc:
        raise InvalidSet(str(exc)) from exc
    if len(regions) > MAX_REGIONS:
        raise InvalidSet(f"residency: {len(regions)} regions, more than {MAX_REGIONS}")
    if not tenant:
        return list(regions)
    found = Tenant.objects.filter(slug=tenant).first()
    if found is None:
        raise InvalidSet(f"tenant: there is none called {tenant!r}")
    pin = list(found.residency)
    if pin and (wider := sorted(set(regions) - set(pin))):
        raise InvalidSet(f"residency: {', '.join(wider)} is outside of where {tenant!r} is pinned: {', '.join(pin)}")
    return list(regions) or pin


def import_rows(
    *, eval_set: EvalSet, rows: bytes | Readable, reason: str, actor: Operator | str, now: datetime
) -> EvalSetVersion:
    """Store JSON lines as the next version of a set; the same rows again give the version that has them.

    All that takes seconds comes before the operation, so that nobody else's has to wait for it: rows are read, prompts
    are looked through for them, and everything is stored, which nobody sees before it is committed. What is left is to
    look through the prompt versions that came meanwhile.

    Raises:
        BadRows: naming every line that is wrong; nothing was stored.
        InvalidSet: no reason was given, or held-out rows have more of their own words than can be looked for.
    """
    if not reason.strip():
        raise InvalidSet("reason: say where the rows come from, or what was changed")
    read = read_rows(rows)
    protected = protect(one.row for one in read) if eval_set.purpose == Purpose.HELD_OUT else []
    if (runs := sum(len(one.shingles) for one in protected)) > MAX_RUNS_OF_WORDS:
        raise InvalidSet(
            f"rows: {runs:,} runs of words would be looked for in prompts, more than {MAX_RUNS_OF_WORDS:,}; split the "
            "set, or give its rows shorter sources"
        )
    by_run = index(protected)
    found, seen = leaks.look_through_prompts(by_run)
    digest = digest_of_rows([one.hash for one in read])
    with transaction.atomic():
        # Imports of one set take turns; nobody else waits for it, or for what is stored under it.
        EvalSet.objects.select_for_update(no_key=True).get(pk=eval_set.pk)
        same = eval_set.versions.filter(digest=digest).first()
        if same is not None:
            return same
        version = EvalSetVersion.objects.create(
            set=eval_set,
            number=(eval_set.versions.aggregate(newest=Max("number"))["newest"] or 0) + 1,
            digest=digest,
            rows_count=len(read),
            author=audit.name_of(actor),
            reason=reason.strip(),
            created_at=now,
        )
        EvalRow.objects.bulk_create(_as_rows(version, read), batch_size=_STORED_AT_ONCE)
        leaks.store(version, protected)
        # Else each row's foreign key is looked up at the commit, when everybody waits.
        connection.check_constraints()
        _publish(version, by_run=by_run, found=found, seen=seen, actor=actor, now=now)
    return version


@audit.operation
def _publish(
    version: EvalSetVersion,
    *,
    by_run: ByRun,
    found: list[tuple[PromptVersion, list[Match]]],
    seen: int,
    actor: Operator | str,
    now: datetime,
) -> None:
    """Record a version that was stored, and where its rows leaked. From here to the commit no prompt version comes, and
    the next one finds what was stored.
    """
    data = {"digest": version.digest, "rows": version.rows_count, "reason": version.reason}
    audit.record("evals.rows_imported", actor=actor, target=version, at=now, data=data)
    late, _ = leaks.look_through_prompts(by_run, after=seen)
    leaks.record(version, [*found, *late], actor=actor, now=now)


def _as_rows(version: EvalSetVersion, read: Iterable[ImportedRow]) -> Iterable[EvalRow]:
    for position, one in enumerate(read):
        yield EvalRow(version=version, position=position, key=one.row.id, row_hash=one.hash, document=one.document)


@dataclass(frozen=True, slots=True)
class RowDifference:
    """What became of the rows from one version to another, by their ids, in the order of the version that has them."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def compare(before: EvalSetVersion, after: EvalSetVersion) -> RowDifference:
    """What differs; two queries, without the rows' words."""
    old, new = (dict(version.rows.values_list("key", "row_hash")) for version in (before, after))
    return RowDifference(
        added=tuple(key for key in new if key not in old),
        removed=tuple(key for key in old if key not in new),
        changed=tuple(key for key in new if key in old and new[key] != old[key]),
    )


# --- judges ----------------------------------------------------------------------------------------------------------
@audit.operation
def create_judge(
    *, slug: str, name: str, score: str, actor: Operator | str, now: datetime, description: str = ""
) -> Judge:
    """Create a judge without a version; it decides nothing yet.

    Raises:
        django.core.exceptions.ValidationError: by field.
    """
    judge = Judge(slug=slug, name=name, score=score, description=description, created_at=now)
    judge.created_by = audit.name_of(actor)
    judge.full_clean()
    try:  # rows are labelled by it, and labels are read as the workers read names
        list(Node({slug: None}, "slug").slugged_entries())
    except MalformedRelease as exc:
        raise ValidationError({"slug": exc.fact}) from exc
    judge.save()
    audit.record("evals.judge_created", actor=actor, target=judge, at=now, data={"score": score})
    return judge


@audit.operation
def submit_judge_version(
    *, judge: Judge, kind: str, params: Any, reason: str, actor: Operator | str, now: datetime
) -> JudgeVersion:
    """Store an immutable version of a judge; it is uncalibrated until it was held against labels.

    Raises:
        InvalidJudge: it could not be asked; names the path.
        SameJudge: a version with these parameters exists.
    """
    if not reason.strip():
        raise InvalidJudge("reason", "say why this version is wanted")
    read_judge(kind, Node(params, "$"))
    try:
        digest = digest_of(canonical({"judge": judge.slug, "kind": kind, "params": params}))
    except ValueError as exc:
        raise InvalidJudge("$", f"cannot be written as canonical JSON: {exc}") from exc
    same = judge.versions.filter(digest=digest).first()
    if same is not None:
        raise SameJudge(f"{same} decides in exactly this way; use it instead of a copy", same.number)
    version = JudgeVersion.objects.create(
        judge=judge,
        number=(judge.versions.aggregate(newest=Max("number"))["newest"] or 0) + 1,
        kind=kind,
        params=params,
        digest=digest,
        author=audit.name_of(actor),
        reason=reason.strip(),
        created_at=now,
    )
    data = {"kind": kind, "digest": digest, "reason": version.reason}
    audit.record("evals.judge_submitted", actor=actor, target=version, at=now, data=data)
    return version
