"""Create prompts, submit versions, and move what is live; each by the one path that the approvals guard."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import DataError
from django.db.models import Max

from controlplane.accounts.models import Operator
from controlplane.approvals import operations as approvals
from controlplane.approvals.kinds import Kind, Surveyed
from controlplane.approvals.models import ChangeRequest
from controlplane.audit import operations as audit
from controlplane.prompts.errors import AlteredVersion, InvalidVersion, LiveAlready, NeverApproved, SameAsBefore
from controlplane.prompts.models import ChangeClass, LiveChange, Prompt, PromptVersion, content_digest
from controlplane.releases import operations as releases
from dataplane.documents import MalformedRelease, Node
from dataplane.prompts import validate_version

GO_LIVE = "prompt.live"
# Applications may pin a version; it stays served until this many others have been live after it.
PINNABLE_VERSIONS = 10
# Versions that serve without being live, such as a canary's candidate; the apps above hand in who they are.
_also_served: list[Callable[[], Iterable[PromptVersion]]] = []
# What the apps above must do, in the same transaction, when another version goes live.
_live_watchers: list[Callable[..., object]] = []
# What they must do when a version is submitted, such as looking for what must not stand in it.
_submission_watchers: list[Callable[..., object]] = []


def also_serve(versions: Callable[[], Iterable[PromptVersion]]) -> None:
    """Register a source of versions that every release must carry beside the live ones."""
    if versions not in _also_served:
        _also_served.append(versions)


def on_live_change(watcher: Callable[..., object]) -> None:
    """Register `watcher(version, actor=, reason=, now=)`, called inside the operation that makes `version` live."""
    if watcher not in _live_watchers:
        _live_watchers.append(watcher)


def on_submission(watcher: Callable[..., object]) -> None:
    """Register `watcher(version, actor=, now=)`, called at the end of the operation that stores `version`."""
    if watcher not in _submission_watchers:
        _submission_watchers.append(watcher)


@audit.operation
def create_prompt(
    *, slug: str, title: str, route: str, actor: Operator | str, now: datetime, description: str = ""
) -> Prompt:
    """Create a prompt without versions; it serves nothing yet.

    Raises:
        django.core.exceptions.ValidationError: by field.
    """
    prompt = Prompt(slug=slug, title=title, route=route, description=description, created_at=now)
    prompt.created_by = audit.name_of(actor)
    prompt.full_clean()
    if (problem := slug_problem(slug)) is not None:
        raise ValidationError({"slug": problem})
    prompt.save()
    audit.record("prompt.created", actor=actor, target=prompt, at=now, data={"title": title, "route": route})
    return prompt


@audit.operation
def submit_version(
    *,
    prompt: Prompt,
    messages: Any,
    variables_schema: Any,
    parameters: Any,
    change_class: str,
    rationale: str,
    actor: Operator | str,
    now: datetime,
    sample_variables: Any = None,
) -> PromptVersion:
    """Store an immutable version. It serves nobody until a canary or a go-live carries it.

    Raises:
        InvalidVersion: it could not be served; lists every problem with its path.
        SameAsBefore: a version with this content exists.
        DigestRejected: this content was rejected before.
    """
    problems = [(p.path, p.message) for p in validate_version(messages, variables_schema, parameters) if p.is_error]
    if change_class not in ChangeClass.values:
        problems.append(("change_class", f"{change_class!r} is not one of {', '.join(ChangeClass.values)}"))
    if not rationale.strip():
        problems.append(("rationale", "say why this version is wanted"))
    if problems:
        raise InvalidVersion(problems)
    try:
        digest = content_digest(
            prompt=prompt.slug, messages=messages, variables_schema=variables_schema, parameters=parameters
        )
    except ValueError as exc:
        raise InvalidVersion([("$", f"cannot be written as canonical JSON: {exc}")]) from exc
    approvals.refuse_rejected(digest)
    same = prompt.versions.filter(digest=digest).first()
    if same is not None:
        raise SameAsBefore(f"{same} has exactly this content; use it instead of a copy", same.number)
    newest = prompt.versions.aggregate(newest=Max("number"))["newest"] or 0
    try:
        version = PromptVersion.objects.create(
            prompt=prompt,
            number=newest + 1,
            messages=messages,
            variables_schema=variables_schema,
            parameters=parameters,
            sample_variables=sample_variables or {},
            change_class=change_class,
            rationale=rationale.strip(),
            digest=digest,
            author=audit.name_of(actor),
            created_at=now,
        )
        version.refresh_from_db()
    except (DataError, ValueError) as exc:  # a NUL character, which PostgreSQL cannot keep
        raise InvalidVersion([("$", f"cannot be stored: {exc}")]) from exc
    if not version.is_intact():  # a number such as 1e22 comes back from the database as another
        raise InvalidVersion([("$", "holds a number that cannot be kept exactly; write it as text or within 2^53")])
    audit.record(
        "prompt.version_submitted",
        actor=actor,
        target=version,
        at=now,
        data={"digest": digest, "change_class": change_class, "rationale": version.rationale},
    )
    for watcher in _submission_watchers:
        watcher(version, actor=actor, now=now)
    return version


@audit.operation
def propose_live(*, version: PromptVersion, reason: str, actor: Operator | str, now: datetime) -> ChangeRequest:
    """Ask for a version to go live at once, without a canary: the way of a prompt's first version.

    Raises:
        LiveAlready: it is.
        DigestRejected, PolicyMissing: from the approvals.
    """
    if Prompt.objects.get(pk=version.prompt_id).live_version_id == version.pk:
        raise LiveAlready(f"{version} is live already")
    return approvals.open_change(
        kind=GO_LIVE,
        target=version.prompt.audit_name,
        title=f"Serve {version} to everybody",
        content={"prompt": version.prompt.slug, "candidate": version.reference, "change_class": version.change_class},
        content_digest=version.digest,
        reason=reason,
        actor=actor,
        contributors=[version.author],
        now=now,
    )


def go_live(version: PromptVersion, *, actor: Operator | str, reason: str, now: datetime) -> None:
    """Write the log entry that makes `version` live, and cut the release.

    Only for operations that have just passed a gate, or that return to what was live before.

    Raises:
        AlteredVersion: its content is not what was approved under its digest.
    """
    audit.require_operation()
    require_intact(version)
    prompt = Prompt.objects.select_for_update().get(pk=version.prompt_id)
    before = prompt.live_version
    LiveChange.objects.create(prompt=prompt, version=version, actor=audit.name_of(actor), reason=reason, at=now)
    prompt.live_version = version
    prompt.save(update_fields=["live_version"])
    audit.record(
        "prompt.live",
        actor=actor,
        target=version,
        at=now,
        data={"before": before.reference if before else None, "after": version.reference, "reason": reason},
    )
    for watcher in _live_watchers:
        watcher(version, actor=actor, reason=reason, now=now)
    releases.publish_on_commit(reason=f"{version} live: {reason}", actor=actor, now=now)


def require_intact(version: PromptVersion) -> None:
    """Return if the version's content is what its digest says.

    Raises:
        AlteredVersion: it is not; whoever approved the digest did not approve this.
    """
    if not version.is_intact():
        raise AlteredVersion(f"the content of {version} does not give its digest {version.digest[:8]}; look at the log")


@audit.operation
def return_to(*, version: PromptVersion, actor: Operator | str, reason: str, now: datetime) -> PromptVersion:
    """Make a version live again that was live before: one click, no sign-off, since its digest was approved.

    Nothing happens when it is live, not even if its content was rejected meanwhile: nobody is newly shown it, and a
    release roll-back must not fail on a prompt that it does not move.

    Raises:
        NeverApproved: it never was live.
        DigestRejected: it was rejected since.
    """
    if Prompt.objects.get(pk=version.prompt_id).live_version_id == version.pk:
        return version
    if not version.live_changes.exists():
        raise NeverApproved(f"{version} was never live; start a canary of it instead")
    approvals.refuse_rejected(version.digest)
    go_live(version, actor=actor, reason=reason, now=now)
    return version


# --- what the release carries ----------------------------------------------------------------------------------------
def compile_prompts() -> dict[str, Any]:
    """The section 'prompts': per prompt what is live, with every version an application may pin; three queries."""
    section: dict[str, Any] = {}
    served: dict[int, dict[int, PromptVersion]] = {}
    for version in PromptVersion.objects.select_related("prompt").filter(pk__in=_pinnable_versions()):
        served.setdefault(version.prompt_id, {})[version.number] = version
    # What was live was signed for everybody, so callers may name it; a candidate is only ever served by its cohort.
    pinnable = {prompt_id: set(versions) for prompt_id, versions in served.items()}
    for source in _also_served:
        for version in source():
            served.setdefault(version.prompt_id, {})[version.number] = version
    for prompt in Prompt.objects.with_live():
        if prompt.live_version is not None:
            section[prompt.slug] = {
                "live": prompt.live_version.number,
                "route": prompt.route,
                "pinnable": sorted(pinnable[prompt.pk]),
                "versions": {str(number): version.served() for number, version in served[prompt.pk].items()},
            }
    return section


def _pinnable_versions() -> list[int]:
    """The versions of each prompt that were live last, newest first; their texts are read for these alone."""
    rows = LiveChange.objects.values_list("prompt_id", "version_id").annotate(last=Max("pk")).order_by("-last")
    chosen: dict[int, list[int]] = {}
    for prompt_id, version_id, _ in rows:
        versions = chosen.setdefault(prompt_id, [])
        if len(versions) < PINNABLE_VERSIONS:
            versions.append(version_id)
    return [version_id for versions in chosen.values() for version_id in versions]


def restore_prompts(section: Mapping[str, Any], *, actor: Operator | str, reason: str, now: datetime) -> None:
    """Return every prompt of an older release to what was live then."""
    for slug, entry in section.items():
        version = PromptVersion.objects.select_related("prompt").get(prompt__slug=slug, number=entry["live"])
        return_to(version=version, actor=actor, reason=reason, now=now)


# --- the kind of change ----------------------------------------------------------------------------------------------
def survey_prompts(targets: Iterable[str]) -> dict[str, Surveyed]:
    """The base of every change to a prompt is what is live now; None before the first version. One query."""
    slugs = {target: target.removeprefix("prompt:") for target in targets}
    prompts = {prompt.slug: prompt for prompt in Prompt.objects.with_live().filter(slug__in=slugs.values())}
    surveyed = {}
    for target, slug in slugs.items():
        live = prompts[slug].live_version
        surveyed[target] = Surveyed(live.reference if live else None, prompts[slug])
    return surveyed


def _apply(change: ChangeRequest, *, authorisation: approvals.Authorisation, actor: Any, now: datetime) -> None:
    reference = change.content["candidate"]
    version = PromptVersion.objects.select_related("prompt").get(
        prompt__slug=change.content["prompt"], number=reference["number"], digest=reference["digest"]
    )
    approvals.refuse_rejected(version.digest)
    go_live(version, actor=actor, reason=f"CR-{change.pk}", now=now)


def slug_problem(slug: str) -> str | None:
    """What the workers' parser has against `slug` as the name of a thing in a release; None when nothing."""
    try:
        list(Node({slug: None}, "slug").slugged_entries())
    except MalformedRelease as exc:
        return exc.fact
    return None


# What the policy may look at of a change to a prompt.
CONDITIONS = {"change_class": frozenset(ChangeClass.values)}
KIND = Kind(
    name=GO_LIVE,
    label="Prompt to everybody",
    survey=survey_prompts,
    facts=lambda content: {"change_class": content["change_class"]},
    view_permission="prompts.view_prompt",
    sign_off_permission="prompts.sign_off",
    break_glass_permission="prompts.break_glass",
    review_permission="prompts.review_break_glass",
    apply=_apply,
    conditions=CONDITIONS,
)
