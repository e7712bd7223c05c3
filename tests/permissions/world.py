"""Two of everything that permissions are asked on: a side of one's own, and somebody else's."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from controlplane.accounts import operations as accounts
from controlplane.accounts.models import ApiKey, Operator, OperatorToken, RoleGrant, Tenant
from controlplane.accounts.roles import Role
from controlplane.accounts.roles import permissions_on as given_on
from controlplane.alerts import operations as alerts
from controlplane.alerts.models import ChannelKind
from controlplane.approvals import operations as approvals
from controlplane.approvals.models import BreakGlass, ChangeRequest
from controlplane.approvals.policy_kind import propose_policy
from controlplane.corpora.models import Corpus, Dump, RecoveryDrill
from controlplane.corpora.namespaces import switch
from controlplane.corpora.policies import corpus_policies
from controlplane.corpora.records import DrillState
from controlplane.deadletters import redrive, retention
from controlplane.deadletters.models import DeadLetter, RedrivePlan
from controlplane.deadletters.payloads import ConfiguredStore
from controlplane.evals.running import begin_run
from controlplane.evals.runs import EvalRun
from controlplane.evals.subjects import PromptSubject
from controlplane.ladder import operations as ladder
from controlplane.ladder.models import RungActivation
from controlplane.ladder.policies import ladder_policies
from controlplane.ledger.jobs import Job
from controlplane.ledger.operations import record_usage
from controlplane.ledger.repairs import Repair
from controlplane.ledger.streams import record_streams
from controlplane.prompts.models import Prompt
from controlplane.releases.models import Release
from controlplane.rollouts.models import Canary
from controlplane.routing import drills
from controlplane.routing.models import Drill
from controlplane.routing.operations import routing_tables
from controlplane.shadows.checklists import open_checklist
from controlplane.shadows.models import PromotionChecklist
from controlplane.shadows.operations import policy_in_force
from controlplane.telemetry.shadows import ShadowSample, record_shadows
from controlplane.trials.models import ValidatorTrial
from controlplane.verdicts.models import ReplayPair
from tests.corpora.changes import accept, upsert
from tests.corpora.kept_corpora import make_corpus, make_namespace, policy_document
from tests.deadletters.letters import make_letter
from tests.deadletters.redrives import fail_task, know_task, plan_for
from tests.deliveries.parcels import promise
from tests.eval_sets import make_judge_version, make_set_version
from tests.factories import (
    NOW,
    SETUP,
    built_in_rules,
    crew,
    make_canary,
    make_copy,
    make_copy_version,
    make_live_version,
    make_operator,
    make_policy,
    make_prompt,
    make_routing,
    make_tenant,
    routing_document,
)
from tests.keyed_requests import claim
from tests.ladder.ladder_policies import engage, ladder_document, make_ladder, make_words
from tests.ladders import rungs
from tests.permissions.table import WHO
from tests.repair_rows import make_repair
from tests.shadow_rows import CANDIDATE_LANE, POLICY, shadow_document, shadow_row, shadow_sample
from tests.worker_reports import FRAMES, report, stream_row, usage_row


@dataclass(frozen=True, slots=True)
class Side:
    """One prompt and one tenant with all that hangs on them, and what the deployment has only once."""

    prompt: Prompt
    canary: Canary
    change: ChangeRequest
    debt: BreakGlass
    tenant: Tenant
    key: ApiKey
    record: UUID
    job: Job
    repair: Repair
    letter: DeadLetter
    plan: RedrivePlan
    routing_change: ChangeRequest
    trial: ValidatorTrial
    eval_run: EvalRun
    checklist: PromotionChecklist
    sample: ShadowSample
    policy_change: ChangeRequest
    copy_change: ChangeRequest
    ladder_change: ChangeRequest
    corpora_change: ChangeRequest
    activation: RungActivation
    redrive_change: ChangeRequest
    release: Release
    drill: Drill
    dump: Dump
    recovery_drill: RecoveryDrill
    grant: RoleGrant
    token: OperatorToken


@dataclass(frozen=True, slots=True)
class World:
    """`operators`: by role (None: no role) and 'everywhere' or 'own'; those of 'own' hold their role on `mine`."""

    mine: Side
    theirs: Side
    operators: dict[tuple[Role | None, str], Operator]


def make_world() -> World:
    """Build it through the operations; the same whatever ran before."""
    make_policy()
    table = make_routing(shadow_document())
    document = routing_document(deadline_ms=9000)
    document["validators"]["careful-answers"]["rules"][0]["version"] = 2  # so that it is tried
    other = routing_tables.submit(document=document, rationale="r", actor=SETUP, now=NOW)
    routing_change = routing_tables.propose(version=other, reason="r", actor=SETUP, now=NOW)
    policy = approvals.submit_policy(
        rules=[*built_in_rules(), built_in_rules()[-1]], rationale="r", actor=SETUP, now=NOW
    )
    policy_change = propose_policy(policy=policy, reason="r", actor=crew.admin, now=NOW)
    version = make_copy_version(make_copy("fallback"))
    copy_change = ladder.propose_version(version=version, reason="r", actor=SETUP, now=NOW)
    make_words(1)
    make_ladder(ladder_document(rungs={"1": rungs()["1"]}, triggers={}))
    other_ladder = ladder_policies.submit(document=ladder_document(), rationale="r", actor=SETUP, now=NOW)
    ladder_change = ladder_policies.propose(version=other_ladder, reason="r", actor=SETUP, now=NOW)
    corpora_change, dump = _make_corpora()
    token = accounts.issue_token(operator=crew.admin, name="t", actor=crew.admin, now=NOW).row
    grant = accounts.grant_role(
        operator=make_operator("grantee"), role=Role.APPROVER, target=None, actor=SETUP, now=NOW
    )
    assert table.number == 1
    policy_digest = policy_in_force(POLICY).digest
    record_shadows([report(shadow=(shadow_row(asked=1, digest=policy_digest),))], now=NOW)
    checklist = open_checklist(route="chat", lane=CANDIDATE_LANE, reason="r", actor=SETUP, now=NOW)
    alerts.create_channel(slug="pager", kind=ChannelKind.WEBHOOK, url="http://127.0.0.1:9/", actor=SETUP, now=NOW)
    retention.set_retention(days=9, actor=SETUP, reason="r", now=NOW)
    held_out = make_set_version("held-out", purpose="held_out")
    make_judge_version("grounded")
    asked = PromptSubject("mine", 1, "0" * 64)
    eval_run = begin_run(subject=asked, set_version=held_out, judges=["grounded@1"], actor=SETUP, now=NOW)
    # Two years ago, so that it holds nothing: what is asked of it now is only whether one may.
    drill = drills.start_drill(provider="openai", minutes=5, reason="r", actor=SETUP, now=NOW - timedelta(days=700))
    shared = {
        "drill": drill,
        "dump": dump,
        "recovery_drill": _make_recovery_drill(dump.corpus),
        "routing_change": routing_change,
        "trial": ValidatorTrial.objects.get(),
        "eval_run": eval_run,
        "checklist": checklist,
        "policy_change": policy_change,
        "copy_change": copy_change,
        "ladder_change": ladder_change,
        "corpora_change": corpora_change,
        "activation": engage(1),
        "token": token,
        "grant": grant,
    }
    prompts = {slug: make_prompt(slug) for slug in ("mine", "theirs")}
    for prompt in prompts.values():
        make_live_version(prompt)
    sides = {slug: _make_side(prompt, shared) for slug, prompt in prompts.items()}
    return World(sides["mine"], sides["theirs"], _make_operators(sides["mine"]))


def _make_corpora() -> tuple[ChangeRequest, Dump]:
    """A corpus of one document with two namespaces, the first of which serves; a change of its policy that waits, and
    a dump that is being written.
    """
    corpus = make_corpus()
    accept(corpus, upsert("faq/refunds", 1))
    for _ in range(2):
        namespace = make_namespace(corpus)
        if namespace.number == 1:
            switch(corpus=corpus, namespace=namespace, reason="r", actor=SETUP, now=NOW)
    other = corpus_policies.submit(document=policy_document(title="Another"), rationale="r", actor=SETUP, now=NOW)
    change = corpus_policies.propose(version=other, reason="r", actor=SETUP, now=NOW)
    dump = Dump.objects.create(
        corpus=corpus, namespace=namespace, name="help-centre-half-written", actor=SETUP, began_at=NOW
    )
    return change, dump


def _make_recovery_drill(corpus: Corpus) -> RecoveryDrill:
    """One that has ended, with a report that somebody signed."""
    return RecoveryDrill.objects.create(
        corpus=corpus,
        scenario="index_dropped",
        state=DrillState.PASSED,
        reason="r",
        actor=SETUP,
        asked_at=NOW,
        report={"way": "restore"},
        report_signature={"document": "{}", "digest": "", "key_id": "", "signature": ""},
    )


# What is kept of a version that could not be asked.
UNASKED = {"code": "circuit_open", "message": "open", "cost_micros": 0, "latency_ms": 0.0, "request_id": ""}


def _make_side(prompt: Prompt, shared: dict[str, Any]) -> Side:
    canary = make_canary(Prompt.objects.get(pk=prompt.pk))
    ReplayPair.objects.create(canary=canary, number=1, row_id="r1", at=NOW, candidate=UNASKED, control=UNASKED)
    debt = BreakGlass.objects.create(
        change=canary.change,
        actor=SETUP,
        reason="r",
        incident="INC-1",
        digest=canary.change.digest,
        used_at=NOW,
        lapses_at=NOW + timedelta(minutes=5),
        review_due_at=NOW + timedelta(hours=24),
    )
    tenant = make_tenant(prompt.slug, log_content=True)
    record_shadows([report(shadow_samples=(shadow_sample(f"req-{tenant.slug}", tenant=tenant.slug),))], now=NOW)
    record_usage([usage_row(f"a-{tenant.slug}", request_id=f"req-{tenant.slug}", tenant=tenant.slug)])
    kept = stream_row(f"{tenant.slug:x<32}", tenant=tenant.slug, transcript=FRAMES)
    record_streams(streams=[kept], deliveries=[])
    key = accounts.issue_key(tenant=tenant, name="k", actor=SETUP, now=NOW).row
    know_task()
    redriven = plan_for([fail_task(1, tenant=tenant.slug)], ConfiguredStore())
    plan = redriven.dry_run()
    return Side(
        prompt=prompt,
        canary=canary,
        change=canary.change,
        debt=debt,
        tenant=tenant,
        key=key,
        record=claim(tenant=tenant.slug),
        job=promise(tenant_slug=tenant.slug).job,
        repair=make_repair(tenant=tenant.slug),
        letter=make_letter(tenant=tenant.slug, name=f"tests.{tenant.slug}"),
        plan=plan,
        redrive_change=redrive.propose_plan(plan=plan, actor=crew.oncall, now=NOW),
        sample=ShadowSample.objects.get(tenant=tenant.slug),
        release=Release.objects.latest("revision"),
        **shared,
    )


def _make_operators(mine: Side) -> dict[tuple[Role | None, str], Operator]:
    operators: dict[tuple[Role | None, str], Operator] = {}
    for role in WHO:
        if role is None:
            operators[None, "everywhere"] = operators[None, "own"] = make_operator("nobody")
            continue
        operators[role, "everywhere"] = make_operator(f"{role}-everywhere", role)
        operators[role, "own"] = make_operator(f"{role}-own", role, on=mine.prompt)
        if given_on(role, "accounts.tenant"):
            accounts.grant_role(operator=operators[role, "own"], role=role, target=mine.tenant, actor=SETUP, now=NOW)
    return operators
