"""Write copy, and move which version is live: through sign-offs forward, by one click back."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import DataError
from django.db.models import Max

from controlplane.accounts.models import Operator
from controlplane.approvals import operations as approvals
from controlplane.approvals.kinds import Kind, Surveyed
from controlplane.approvals.models import ChangeRequest
from controlplane.approvals.policy import Validity
from controlplane.audit import operations as audit
from controlplane.ladder.errors import AlteredCopy, InvalidCopy, LiveAlready, NeverSigned, SameCopy
from controlplane.ladder.models import Copy, CopyActivation, CopyKind, CopyVersion
from controlplane.prompts.operations import slug_problem
from controlplane.releases import operations as releases
from dataplane.documents import MalformedRelease, Node
from dataplane.release import canonical, digest_of
from dataplane.signed_copy import parse_copy

KIND_NAME = "copy.version"


def live_activation(copy: Copy) -> CopyActivation | None:
    """What made the live version live; None before the first."""
    return CopyActivation.objects.current().filter(version__copy=copy).first()


@audit.operation
def create_copy(
    *,
    slug: str,
    kind: str,
    title: str,
    regulated: bool,
    actor: Operator | str,
    now: datetime,
    description: str = "",
) -> Copy:
    """Create a piece of copy without words; nothing can show it yet.

    Args:
        regulated: Whether legal signs too. Like the kind it is fixed: who signs must not change under what was signed.
    Raises:
        django.core.exceptions.ValidationError: by field.
    """
    copy = Copy(slug=slug, kind=kind, title=title, regulated=regulated, description=description, created_at=now)
    copy.created_by = audit.name_of(actor)
    copy.full_clean()
    if (problem := slug_problem(slug)) is not None:
        raise ValidationError({"slug": problem})
    copy.save()
    data = {"title": title, "kind": kind, "regulated": regulated}
    audit.record("copy.created", actor=actor, target=copy, at=now, data=data)
    return copy


def check_document(copy: Copy, document: Any) -> str:
    """Return the digest of words that could be shown as `copy`.

    Raises:
        InvalidCopy: naming the JSON path.
    """
    try:
        # Before the parser, which takes JSON for granted: a form's YAML may hold dates and keys that are numbers.
        digest = digest_of(canonical(document))
        parsed = parse_copy(copy.slug, Node(document, "$"), version=1, digest=digest)
    except MalformedRelease as exc:
        raise InvalidCopy(str(exc)) from exc
    except ValueError as exc:
        raise InvalidCopy(f"$: cannot be written as canonical JSON: {exc}") from exc
    except RecursionError as exc:
        raise InvalidCopy("$: nested too deep") from exc
    if parsed.kind != copy.kind:
        raise InvalidCopy(f"$.kind: {parsed.kind!r}, but {copy.slug!r} is copy of the kind {copy.kind!r}")
    return digest


@audit.operation
def submit_version(*, copy: Copy, document: Any, rationale: str, actor: Operator | str, now: datetime) -> CopyVersion:
    """Store an immutable version; nobody reads it until its change request is applied.

    Raises:
        InvalidCopy: naming the JSON path.
        SameCopy: a version with these words exists.
        DigestRejected: these words were rejected before, here or under another slug.
    """
    digest = check_document(copy, document)
    if not rationale.strip():
        raise InvalidCopy("rationale: say why these words are wanted")
    approvals.refuse_rejected(digest)
    same = copy.versions.filter(digest=digest).first()
    if same is not None:
        raise SameCopy(f"{same} has exactly these words; use it instead of a copy", same.number)
    newest = copy.versions.aggregate(newest=Max("number"))["newest"] or 0
    try:
        version = CopyVersion.objects.create(
            copy=copy,
            number=newest + 1,
            document=document,
            digest=digest,
            author=audit.name_of(actor),
            rationale=rationale.strip(),
            created_at=now,
        )
        version.refresh_from_db()
    except (DataError, ValueError) as exc:  # a NUL character, which PostgreSQL cannot keep
        raise InvalidCopy(f"$: cannot be stored: {exc}") from exc
    if not version.is_intact():  # a number such as 1e22 comes back from the database as another
        raise InvalidCopy("$: holds a number that cannot be kept exactly; write it as text or within 2^53")
    audit.record(
        "copy.version_submitted",
        actor=actor,
        target=version,
        at=now,
        data={"digest": digest, "rationale": version.rationale},
    )
    return version


@audit.operation
def propose_version(*, version: CopyVersion, reason: str, actor: Operator | str, now: datetime) -> ChangeRequest:
    """Open the change request that would make `version` the words that users read.

    Raises:
        LiveAlready: it is.
        DigestRejected, AlreadyOpen, PolicyMissing: from the approvals.
    """
    live = live_activation(version.copy)
    if live is not None and live.version_id == version.pk:
        raise LiveAlready(f"{version} is live already")
    return approvals.open_change(
        kind=KIND_NAME,
        target=version.copy.audit_name,
        title=f"Let users read {version}",
        content={
            "copy": version.copy.slug,
            "version": version.reference,
            "copy_kind": version.copy.kind,
            "regulated": version.copy.regulated,
        },
        content_digest=version.digest,
        reason=reason,
        actor=actor,
        contributors=[version.author],
        now=now,
    )


def activate(
    version: CopyVersion,
    *,
    actor: Operator | str,
    reason: str,
    now: datetime,
    change: ChangeRequest | None = None,
) -> None:
    """Write the log entry that makes `version` live, and cut the release.

    Only for operations that have just passed a gate, or that return to words that had.

    Raises:
        AlteredCopy: its words are not what was signed under its digest.
    """
    audit.require_operation()
    version.refresh_from_db()
    if not version.is_intact():
        raise AlteredCopy(f"the words of {version} do not give its digest {version.digest[:8]}; look at the log")
    before = live_activation(version.copy)
    CopyActivation.objects.create(version=version, change=change, actor=audit.name_of(actor), reason=reason, at=now)
    data = {"before": before.version.reference if before else None, "after": version.reference, "reason": reason}
    audit.record("copy.activated", actor=actor, target=version, at=now, data=data)
    releases.publish_on_commit(reason=f"{version} live: {reason}", actor=actor, now=now)


@audit.operation
def return_to(*, version: CopyVersion, actor: Operator | str, reason: str, now: datetime) -> None:
    """Make a version live again that was live before: one click, no sign-off, since its words were signed then.

    Nothing happens when it is live.

    Raises:
        NeverSigned: it never was.
        DigestRejected: it was rejected since.
    """
    live = live_activation(version.copy)
    if live is not None and live.version_id == version.pk:
        return
    if not version.activations.exists():
        raise NeverSigned(f"{version} was never live, so nobody signed it; open a change request for it instead")
    approvals.refuse_rejected(version.digest)
    activate(version, actor=actor, reason=reason, now=now)


# --- what the release carries ----------------------------------------------------------------------------------------
def compile_copy() -> dict[str, Any]:
    """The section 'copy': the live version of each piece and nothing else, so that a worker has no other words to
    show; one query.
    """
    return {
        live.version.copy.slug: {
            "version": live.version.number,
            "digest": live.version.digest,
            "document": live.version.document,
        }
        for live in CopyActivation.objects.current()
    }


def restore_copy(section: Mapping[str, Any], *, actor: Operator | str, reason: str, now: datetime) -> None:
    """Return each piece that an older release carried to the words it had then; later pieces keep theirs."""
    for slug, entry in section.items():
        version = (
            CopyVersion.objects.select_related("copy")
            .filter(copy__slug=slug, number=entry["version"], digest=entry["digest"])
            .first()
        )
        if version is None:
            raise NeverSigned(f"the release carries words of {slug!r} that this control plane does not know")
        return_to(version=version, actor=actor, reason=reason, now=now)


# --- the kind of change ----------------------------------------------------------------------------------------------
def _survey(targets: Iterable[str]) -> dict[str, Surveyed]:
    """The base of a change to a piece is what is live now; None before its first version. Two queries."""
    slugs = {target: target.removeprefix("copy:") for target in targets}
    pieces = {copy.slug: copy for copy in Copy.objects.filter(slug__in=slugs.values())}
    live = {
        activation.version.copy.slug: activation.version.reference
        for activation in CopyActivation.objects.current()
        .filter(version__copy__in=pieces.values())
        .defer("version__document")
    }
    return {target: Surveyed(live.get(slug), pieces[slug]) for target, slug in slugs.items()}


def _apply(change: ChangeRequest, *, authorisation: approvals.Authorisation, actor: Any, now: datetime) -> None:
    reference = change.content["version"]
    version = CopyVersion.objects.select_related("copy").get(
        copy__slug=change.content["copy"], number=reference["number"], digest=reference["digest"]
    )
    approvals.refuse_rejected(version.digest)
    # Whatever let it through, an old policy that asks nobody or a bypass put into the table by hand: words need a
    # signature.
    signed = any(validity is Validity.COUNTS for _, validity in authorisation.standing.signatures)
    if authorisation.lapses_at is not None or not signed:
        raise NeverSigned(
            f"sign-offs of {version} are missing, and users never read unsigned words; have CR-{change.pk} signed"
        )
    activate(version, actor=actor, reason=f"CR-{change.pk}", change=change, now=now)


# Without a way to lapse and the permissions to bypass: no incident is a reason to show words that nobody signed.
KIND = Kind(
    name=KIND_NAME,
    label="Signed copy",
    survey=_survey,
    facts=lambda content: {"regulated": content["regulated"], "copy_kind": content["copy_kind"]},
    view_permission="ladder.view_copy",
    sign_off_permission="ladder.sign_off_copy",
    break_glass_permission="",
    review_permission="",
    apply=_apply,
    conditions={"regulated": frozenset({True, False}), "copy_kind": frozenset(CopyKind.values)},
    is_always_signed=True,
)
