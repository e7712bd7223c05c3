"""What a file wants against what there is, and how the difference is carried out: by the console's own operations."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from controlplane.accounts import operations as accounts
from controlplane.accounts.access import access_tenant, require
from controlplane.accounts.models import Operator, Tenant
from controlplane.api.gitops.document import (
    COPY_FIELDS,
    TENANT_FIELDS,
    VERSION_FIELDS,
    Configuration,
    CopyEntry,
    PromptEntry,
)
from controlplane.approvals import access as approvals_access
from controlplane.approvals import operations as approvals
from controlplane.approvals.errors import MalformedPolicy, PolicyMissing
from controlplane.approvals.kinds import check_rules
from controlplane.approvals.models import ApprovalPolicy, ChangeRequest
from controlplane.approvals.policy_kind import propose_policy
from controlplane.audit import operations as audit
from controlplane.corpora.access import policy_access as corpora_access
from controlplane.corpora.policies import corpus_policies
from controlplane.ladder import access as ladder_access
from controlplane.ladder import operations as ladder
from controlplane.ladder.errors import InvalidCopy
from controlplane.ladder.models import Copy, CopyActivation, CopyVersion
from controlplane.ladder.policies import ladder_policies
from controlplane.prompts import operations as prompts
from controlplane.prompts.access import access_prompt
from controlplane.prompts.models import Prompt, PromptVersion, content_digest
from controlplane.rollouts import operations as rollouts
from controlplane.rollouts.models import DEFAULT_STAGES
from controlplane.routing.access import table_access
from controlplane.routing.operations import routing_tables
from controlplane.verdicts.references import suggested_guardrails
from controlplane.versioned.access import VersionAccess
from dataplane.prompts import validate_version
from dataplane.release import canonical, digest_of


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do. `carry_out` returns what came of it in words, such as 'CR-12 is open'."""

    path: str
    what: str
    carry_out: Callable[[Operator, str, datetime], str]


@dataclass(frozen=True, slots=True)
class Plan:
    """`steps` to take, `waiting` for people already, and `problems` that keep the whole file from being imported."""

    steps: tuple[Step, ...]
    waiting: tuple[str, ...]
    problems: tuple[str, ...]


@audit.operation
def carry_out(plan: Plan, *, actor: Operator, reason: str, now: datetime) -> list[str]:
    """Take every step as `actor`, all or none; returns a line for each.

    Raises:
        PermissionDenied, Http404: the actor could not do it at the console either.
        Whatever an operation refuses with; nothing was changed.
    """
    return [f"{step.path}: {step.carry_out(actor, reason, now)}" for step in plan.steps]


# --- what there is ---------------------------------------------------------------------------------------------------
def read_deployment() -> Configuration:
    """The configuration in force; nine queries."""
    table, policy, corpora = routing_tables.active(), ladder_policies.active(), corpus_policies.active()
    try:
        rules: list[Any] | None = list(approvals.active_policy().rules)
    except PolicyMissing:
        rules = None
    return Configuration(
        tenants={
            tenant.slug: {name: getattr(tenant, name) for name in TENANT_FIELDS} for tenant in Tenant.objects.all()
        },
        routing=dict(table.document) if table else None,
        approval_policy=rules,
        prompts={prompt.slug: _entry(prompt) for prompt in Prompt.objects.with_live()},
        copy=_copy_entries(),
        ladder=dict(policy.document) if policy else None,
        corpora=dict(corpora.document) if corpora else None,
    )


def _copy_entries() -> dict[str, CopyEntry]:
    live = {one.version.copy_id: one.version for one in CopyActivation.objects.current()}
    return {
        copy.slug: CopyEntry(
            **{name: getattr(copy, name) for name in COPY_FIELDS},
            live=live[copy.pk].document if copy.pk in live else None,
        )
        for copy in Copy.objects.all()
    }


def _entry(prompt: Prompt) -> PromptEntry:
    version = prompt.live_version
    live = {name: getattr(version, name) for name in VERSION_FIELDS} if version else None
    return PromptEntry(prompt.title, prompt.description, prompt.route, live)


# --- what differs ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class _Waiting:
    line: str


@dataclass(frozen=True, slots=True)
class _Problem:
    line: str


_Finding = Step | _Waiting | _Problem


def compare(wanted: Configuration) -> Plan:
    """Find every difference between the file and the deployment; reads only."""
    found: list[_Finding] = [
        *_compare_tenants(wanted),
        # Before routing, whose fallback stacks name it, as corpora name routes: so people find the requests in the
        # order in which they can apply.
        *_compare_copy(wanted),
        *_compare_routing(wanted),
        *_compare_ladder(wanted),
        *_compare_corpora(wanted),
        *_compare_policy(wanted),
        *_compare_prompts(wanted),
    ]
    return Plan(
        steps=tuple(one for one in found if isinstance(one, Step)),
        waiting=tuple(one.line for one in found if isinstance(one, _Waiting)),
        problems=tuple(one.line for one in found if isinstance(one, _Problem)),
    )


def _compare_tenants(wanted: Configuration) -> Iterator[_Finding]:
    existing = {tenant.slug: tenant for tenant in Tenant.objects.all()}
    for slug, attributes in (wanted.tenants or {}).items():
        path = f"tenants.{slug}"
        tenant = existing.get(slug)
        if tenant is None:
            yield Step(path, "create the tenant", _creates_tenant(slug, dict(attributes)))
            continue
        changed = {name: value for name, value in attributes.items() if getattr(tenant, name) != value}
        if changed:
            words = ", ".join(f"{name} {getattr(tenant, name)!r} to {value!r}" for name, value in changed.items())
            yield Step(path, f"change {words}", _changes_tenant(slug, changed))


def _creates_tenant(slug: str, attributes: dict[str, Any]) -> Callable[[Operator, str, datetime], str]:
    def create(actor: Operator, reason: str, now: datetime) -> str:
        require(actor, "accounts.add_tenant")
        accounts.create_tenant(slug=slug, actor=actor, now=now, **attributes)
        return "created; it can call the gateway once a key is issued"

    return create


def _changes_tenant(slug: str, changed: dict[str, Any]) -> Callable[[Operator, str, datetime], str]:
    def change(actor: Operator, reason: str, now: datetime) -> str:
        accounts.change_tenant(tenant=access_tenant(actor, slug, "change_tenant"), actor=actor, now=now, **changed)
        return "changed"

    return change


def _compare_copy(wanted: Configuration) -> Iterator[_Finding]:
    existing = _copy_entries()
    for slug, entry in (wanted.copy or {}).items():
        path, known = f"copy.{slug}", existing.get(slug)
        if known is None:
            yield Step(path, "create the piece of copy", _creates_copy(slug, entry))
        else:
            for name in COPY_FIELDS:
                if getattr(known, name) != getattr(entry, name):
                    yield _Problem(
                        f"{path}.{name}: {getattr(known, name)!r} here, {getattr(entry, name)!r} in the file; "
                        "it is fixed when a piece is created"
                    )
        live = known.live if known else None
        if entry.live is None:
            if live is not None:
                yield _Problem(f"{path}.live: there are live words here; a piece of copy never stops having some")
            continue
        try:
            digest = ladder.check_document(Copy(slug=slug, kind=entry.kind), entry.live)
        except InvalidCopy as exc:
            yield _Problem(f"{path}.live{str(exc).removeprefix('$')}")
            continue
        if live != entry.live:
            step = Step(f"{path}.live", "submit the words and ask for signatures", _brings_copy(slug, entry, digest))
            yield _unless_settled(f"{path}.live", digest, step)


def _creates_copy(slug: str, entry: CopyEntry) -> Callable[[Operator, str, datetime], str]:
    def create(actor: Operator, reason: str, now: datetime) -> str:
        ladder_access.require_writer(actor)
        attributes = {name: getattr(entry, name) for name in COPY_FIELDS}
        ladder.create_copy(slug=slug, actor=actor, now=now, **attributes)
        return "created"

    return create


def _brings_copy(slug: str, entry: CopyEntry, digest: str) -> Callable[[Operator, str, datetime], str]:
    def bring(actor: Operator, reason: str, now: datetime) -> str:
        copy = ladder_access.access_copy(actor, slug, "write_copy")
        version = CopyVersion.objects.select_related("copy").filter(copy=copy, digest=digest).first()
        if version is None:
            version = ladder.submit_version(copy=copy, document=entry.live, rationale=reason, actor=actor, now=now)
        change = ladder.propose_version(version=version, reason=reason, actor=actor, now=now)
        return f"{version} waits for sign-offs in CR-{change.pk}"

    return bring


def _compare_routing(wanted: Configuration) -> Iterator[_Finding]:
    return _compare_versioned(table_access, wanted.routing)


def _compare_ladder(wanted: Configuration) -> Iterator[_Finding]:
    return _compare_versioned(ladder_access.policy_access, wanted.ladder)


def _compare_corpora(wanted: Configuration) -> Iterator[_Finding]:
    return _compare_versioned(corpora_access, wanted.corpora)


def _compare_versioned(access: VersionAccess[Any, Any], wanted: Mapping[str, Any] | None) -> Iterator[_Finding]:
    if wanted is None:
        return
    versions = access.versions
    document, path = dict(wanted), versions.section
    try:
        digest = versions.check(document)
    except versions.refusals.invalid as exc:
        yield _Problem(f"{path}{str(exc).removeprefix('$')}")
        return
    active = versions.active()
    if active is not None and active.digest == digest:
        return

    def propose(actor: Operator, reason: str, now: datetime) -> str:
        access.require_proposer(actor)
        version = versions.model._default_manager.filter(digest=digest).first()
        if version is None:
            version = versions.submit(document=document, rationale=reason, actor=actor, now=now)
        change = versions.propose(version=version, reason=reason, actor=actor, now=now)
        return f"{version} waits for sign-offs in CR-{change.pk}"

    said = f"submit the {versions.model.noun} and propose to put it in force"
    yield _unless_settled(path, digest, Step(path, said, propose))


def _compare_policy(wanted: Configuration) -> Iterator[_Finding]:
    rules = wanted.approval_policy
    if rules is None:
        return
    digest = digest_of(canonical(rules))
    try:
        if approvals.active_policy().digest == digest:
            return
        check_rules(rules)
    except PolicyMissing:
        yield _Problem("approval_policy: none is in force yet; run manage.py bootstrap_policy first")
        return
    except MalformedPolicy as exc:
        yield _Problem(f"approval_policy: {exc}")
        return
    yield _unless_settled(
        "approval_policy",
        digest,
        Step("approval_policy", "submit the policy and propose to put it in force", _proposes_policy(rules, digest)),
    )


def _proposes_policy(rules: list[Any], digest: str) -> Callable[[Operator, str, datetime], str]:
    def propose(actor: Operator, reason: str, now: datetime) -> str:
        approvals_access.require_proposer(actor)
        policy = ApprovalPolicy.objects.filter(digest=digest).first()
        if policy is None:
            policy = approvals.submit_policy(rules=rules, rationale=reason, actor=actor, now=now)
        change = propose_policy(policy=policy, reason=reason, actor=actor, now=now)
        return f"{policy} waits for sign-offs in CR-{change.pk}"

    return propose


def _compare_prompts(wanted: Configuration) -> Iterator[_Finding]:
    existing = {prompt.slug: prompt for prompt in Prompt.objects.with_live()}
    for slug, entry in (wanted.prompts or {}).items():
        path = f"prompts.{slug}"
        prompt = existing.get(slug)
        if prompt is None:
            yield Step(path, "create the prompt", _creates_prompt(slug, entry))
        else:
            for name in ("title", "description", "route"):
                if getattr(prompt, name) != getattr(entry, name):
                    yield _Problem(
                        f"{path}.{name}: {getattr(prompt, name)!r} here, {getattr(entry, name)!r} in the file; "
                        "it is fixed when a prompt is created"
                    )
        yield from _compare_version(path, slug, entry, prompt)


def _compare_version(path: str, slug: str, entry: PromptEntry, prompt: Prompt | None) -> Iterator[_Finding]:
    live = prompt.live_version if prompt else None
    if entry.live is None:
        if live is not None:
            yield _Problem(f"{path}.live: {live} is live here; a prompt never stops having a live version")
        return
    content = {name: entry.live[name] for name in ("messages", "variables_schema", "parameters")}
    problems = [problem for problem in validate_version(**content) if problem.is_error]
    if problems:
        for problem in problems:
            yield _Problem(f"{path}.live{problem.path.removeprefix('$')}: {problem.message}")
        return
    digest = content_digest(prompt=slug, **content)
    if live is not None and live.digest == digest:
        return
    what = f"submit another version and plan a canary against v{live.number}" if live else "propose the first version"
    yield _unless_settled(f"{path}.live", digest, Step(f"{path}.live", what, _brings_version(slug, entry, digest)))


def _creates_prompt(slug: str, entry: PromptEntry) -> Callable[[Operator, str, datetime], str]:
    def create(actor: Operator, reason: str, now: datetime) -> str:
        require(actor, "prompts.add_prompt")
        prompts.create_prompt(
            slug=slug,
            title=entry.title,
            description=entry.description,
            route=entry.route,
            actor=actor,
            now=now,
        )
        return "created"

    return create


def _brings_version(slug: str, entry: PromptEntry, digest: str) -> Callable[[Operator, str, datetime], str]:
    def bring(actor: Operator, reason: str, now: datetime) -> str:
        prompt = access_prompt(actor, slug, "submit_version")
        version = PromptVersion.objects.select_related("prompt").filter(prompt=prompt, digest=digest).first()
        if version is None:
            version = prompts.submit_version(
                prompt=prompt, **dict(entry.live or {}), rationale=reason, actor=actor, now=now
            )
        if prompt.live_version is None:
            change = prompts.propose_live(version=version, reason=reason, actor=actor, now=now)
            return f"{version} waits for sign-offs in CR-{change.pk}"
        access_prompt(actor, slug, "run_canary")
        canary = rollouts.plan_canary(
            candidate=version,
            unit="user",
            stages=[dict(stage) for stage in DEFAULT_STAGES],
            guardrails=suggested_guardrails(),
            reason=reason,
            actor=actor,
            now=now,
        )
        return f"canary {canary.slug} is planned; CR-{canary.change_id} waits for sign-offs"

    return bring


def _unless_settled(path: str, content: str, step: Step) -> _Finding:
    """The step, unless its content waits for people already or was rejected by them."""
    if approvals.is_rejected(content):
        return _Problem(f"{path}: this content ({content[:8]}) was rejected before and cannot come back")
    change = ChangeRequest.objects.open().filter(content_digest=content).first()
    if change is not None:
        return _Waiting(f"{path}: waits for people in CR-{change.pk}")
    return step
