"""What tests of the control plane stand on, made through the same operations that people use."""

import json
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import yaml
from django.conf import settings

from controlplane.accounts import operations as accounts
from controlplane.accounts.models import Operator, Tenant
from controlplane.accounts.roles import Role
from controlplane.approvals import operations as approvals
from controlplane.approvals.models import ApprovalPolicy, ChangeRequest, Decision, SignOff
from controlplane.audit import operations as audit
from controlplane.console.management.commands.seed_demo import read_demo
from controlplane.ladder import operations as ladder
from controlplane.ladder.models import Copy, CopyVersion
from controlplane.prompts import operations as prompts
from controlplane.prompts.models import Prompt, PromptVersion
from controlplane.rollouts import operations as rollouts
from controlplane.rollouts.models import DEFAULT_STAGES, Canary
from controlplane.routing.models import RoutingTable
from controlplane.routing.operations import routing_tables

NOW = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)
SETUP = "setup"
# Of a stage at which people go on when they see fit, whatever statistics have to say.
BY_PEOPLE: Any = {"evidence": {"unproven": "allow", "after_minutes": 0, "advance": "by_hand"}}
INTERNAL, ONE_PERCENT, FIVE_PERCENT, QUARTER, HALF, EVERYBODY = range(len(DEFAULT_STAGES))
VARIABLES = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def make_operator(name: str, *roles: Role | str, on: Any = None, now: datetime = NOW) -> Operator:
    """An operator with these roles, on `on` or on everything; without a password, so that no time goes into hashing."""
    operator = accounts.create_operator(
        username=name, password=None, email=f"{name}@ballast.example", actor=SETUP, now=now
    )
    for role in roles:
        accounts.grant_role(operator=operator, role=Role(role), target=on, actor=SETUP, now=now)
    return Operator.objects.get(pk=operator.pk)


class Crew:
    """The operators of the demo by name, each made when first asked for: `crew.owner`, `crew.approver_one`."""

    ROLES = {
        "owner": Role.PROMPT_OWNER,
        "approver_one": Role.APPROVER,
        "approver_two": Role.APPROVER,
        "approver_three": Role.APPROVER,
        "oncall": Role.ON_CALL,
        "exec": Role.EXEC,
        "legal": Role.LEGAL,
        "auditor": Role.AUDITOR,
        "admin": Role.ADMIN,
    }

    def __getattr__(self, name: str) -> Operator:
        if name not in self.ROLES:
            raise AttributeError(name)
        username = name.replace("_", "-")
        found = Operator.objects.filter(username=username).first()
        return found or make_operator(username, self.ROLES[name])


crew = Crew()


def make_tenant(slug: str = "acme", **attributes: Any) -> Tenant:
    """A tenant without keys."""
    return accounts.create_tenant(slug=slug, name=slug.capitalize(), actor=SETUP, now=NOW, **attributes)


@cache
def _read(name: str) -> Any:
    return yaml.safe_load((settings.BASE_DIR / "fixtures" / name).read_text())


def built_in_rules() -> list[dict[str, Any]]:
    """The rules that a fresh deployment starts with."""
    return [dict(rule) for rule in _read("approval_policy.yaml")]


def make_policy(rules: Any = None) -> ApprovalPolicy:
    """Put the first policy in force; the built-in one unless told otherwise."""
    return approvals.bootstrap_policy(rules=rules or built_in_rules(), actor=SETUP, now=NOW)


def change_policy(rules: Any, *, now: datetime = NOW) -> ApprovalPolicy:
    """Put other rules in force the short way, which no face offers."""

    @audit.operation
    def activate() -> ApprovalPolicy:
        policy = approvals.submit_policy(rules=rules, rationale="test", actor=SETUP, now=now)
        approvals.activate_policy(policy, actor=SETUP, reason="test", now=now)
        return policy

    return activate()


@cache
def _demo() -> str:
    # As JSON text: each reader gets objects of its own, and what the file shares by aliases is written out.
    return json.dumps(read_demo(NOW.date(), simulator="http://127.0.0.1:8090", embedder="http://127.0.0.1:8070"))


def routing_document(*, fallbacks: bool = False, **changes: Any) -> dict[str, Any]:
    """The routing table of the demo, without the lanes that only its ladder and its corpus ask. `deadline_ms` makes it
    another document.

    Without `fallbacks` no route has a stack below its lanes, and no validator policy words for what it withholds, since
    a release with either needs its copy signed.
    """
    document: dict[str, Any] = json.loads(_demo())["routing"]
    for route in ("chat-smaller", "embed-local"):
        for lane in document["routes"].pop(route)["lanes"]:
            del document["lanes"][lane]
    for kind, name in (("accounts", "local-main"), ("providers", "local"), ("breakers", "own-embeddings")):
        del document[kind][name]
    if not fallbacks:
        del document["fallbacks"]
        for route in document["routes"].values():
            route.pop("fallback", None)
        for policy in document.get("validators", {}).values():
            policy["escalation"] = None
    if "deadline_ms" in changes:
        document["routes"]["chat"]["deadline_ms"] = changes["deadline_ms"]
    return document


def make_routing(document: Any = None, *, author: Operator | str = SETUP, now: datetime = NOW) -> RoutingTable:
    """A table in force, as a deployment is set up: without sign-offs."""

    @audit.operation
    def put_in_force() -> RoutingTable:
        table = routing_tables.submit(document=document or routing_document(), rationale="r", actor=author, now=now)
        routing_tables.activate(table, actor=SETUP, reason="set up", now=now)
        return table

    return put_in_force()


def copy_document(kind: str = "outage", text: str = "Nobody can answer now") -> dict[str, Any]:
    """A document of that kind, in English and in German, that says `text`."""

    def said() -> Any:
        if kind == "rung":
            return {"banner": text, "detail": text, "html": f"<p>{text}</p>", "mail": None}
        words = {"text": text, "json": None}
        return [{"questions": ["Where is my parcel?"], **words}] if kind == "answers" else words

    return {"kind": kind, "default_locale": "en", "locales": {"en": said(), "de": said()}}


def make_copy(slug: str = "help-centre-outage", *, kind: str = "outage", regulated: bool = False) -> Copy:
    """A piece of copy without words."""
    return ladder.create_copy(slug=slug, kind=kind, title=slug, regulated=regulated, actor=crew.owner, now=NOW)


def make_copy_version(copy: Copy, text: str = "Nobody can answer now", *, now: datetime = NOW) -> CopyVersion:
    """A version that says `text`, submitted."""
    document = copy_document(copy.kind, text)
    return ladder.submit_version(copy=copy, document=document, rationale="r", actor=crew.owner, now=now)


def sign_copy(change: ChangeRequest, *, now: datetime = NOW) -> ChangeRequest:
    """The change with the words of exec, and of legal where that is asked, carried out."""
    sign(change, crew.exec, role=Role.EXEC, now=now)
    if change.content["regulated"]:
        sign(change, crew.legal, role=Role.LEGAL, now=now)
    return approvals.apply_change(change=change, actor=crew.owner, now=now)


def make_live_copy(
    copy: Copy | None = None, text: str = "Nobody can answer now", *, now: datetime = NOW, **attributes: Any
) -> CopyVersion:
    """A version that was signed and that is live; of a new piece with these attributes unless told of which."""
    version = make_copy_version(copy or make_copy(**attributes), text, now=now)
    sign_copy(ladder.propose_version(version=version, reason="r", actor=crew.owner, now=now), now=now)
    return version


@audit.operation
def make_demo_copy() -> None:
    """What the demo's fallback stack and validator policy name, signed and live, with one release for all of it."""
    for kind in ("answers", "template", "outage"):
        make_live_copy(slug=f"help-centre-{kind}", kind=kind)
    make_live_copy(slug="withheld", kind="escalation")


def make_prompt(slug: str = "support-answer", *, now: datetime = NOW) -> Prompt:
    """A prompt without versions on the route `chat`."""
    return prompts.create_prompt(slug=slug, title=slug, route="chat", actor=crew.owner, now=now)


def make_version(
    prompt: Prompt, text: str = "Hello", *, change_class: str = "tone", actor: Any = None, now: datetime = NOW
) -> PromptVersion:
    """A version that says `text` to {{name}}."""
    return prompts.submit_version(
        prompt=prompt,
        messages=[{"role": "system", "content": f"{text} {{{{name}}}}"}],
        variables_schema=VARIABLES,
        parameters={"temperature": 0.2},
        change_class=change_class,
        rationale="a test wants it",
        actor=actor or crew.owner,
        now=now,
    )


def make_live_version(prompt: Prompt, text: str = "Hi", *, now: datetime = NOW) -> PromptVersion:
    """A version that two approvers signed and that is live."""
    version = make_version(prompt, text, now=now)
    change = prompts.propose_live(version=version, reason="first", actor=crew.owner, now=now)
    sign(change, crew.approver_one, crew.approver_two, now=now)
    approvals.apply_change(change=change, actor=crew.owner, now=now)
    return version


def make_deployment() -> Prompt:
    """Policy, routing, and one prompt with a live version: the ground that a canary stands on.

    Where a module has laid it for all its tests (the fixture `deployment`), that one.
    """
    standing = Prompt.objects.with_live().filter(slug="support-answer", live_version__isnull=False).first()
    if standing is not None:
        return standing
    make_policy()
    make_routing()
    prompt = make_prompt()
    make_live_version(prompt)
    return Prompt.objects.with_live().get(pk=prompt.pk)


def by_people(stages: Any) -> list[dict[str, Any]]:
    """The stages, where nothing is said about evidence with none asked for."""
    return [BY_PEOPLE | stage for stage in stages]


def make_canary(
    prompt: Prompt | None = None,
    *,
    text: str = "Good day",
    change_class: str = "tone",
    stages: Any = None,
    now: datetime = NOW,
) -> Canary:
    """A planned canary of a fresh version against what is live."""
    prompt = prompt or make_deployment()
    return rollouts.plan_canary(
        candidate=make_version(prompt, text, change_class=change_class, now=now),
        unit="user",
        stages=[{**stage, **BY_PEOPLE} for stage in DEFAULT_STAGES] if stages is None else by_people(stages),
        reason="a test wants it",
        actor=crew.owner,
        now=now,
    )


def run_canary(position: int = INTERNAL, *, now: datetime = NOW, **plan: Any) -> Canary:
    """A running canary, turned up to `position` with the sign-offs of two approvers."""
    canary = make_canary(now=now, **plan)
    if position > INTERNAL:
        sign(canary.change, crew.approver_one, crew.approver_two, now=now)
    canary = rollouts.start_canary(canary=canary, actor=crew.owner, now=now)
    return rollouts.turn_knob(canary=canary, position=position, actor=crew.owner, now=now)


def sign(
    change: ChangeRequest,
    *operators: Operator,
    role: Role = Role.APPROVER,
    decision: Decision = Decision.APPROVE,
    now: datetime = NOW,
) -> list[SignOff]:
    """Each operator's word on the change as it stands in the database."""
    change.refresh_from_db()
    return [
        approvals.sign_off(
            change=change, operator=operator, role=role, decision=decision, digest=change.digest, now=now
        )
        for operator in operators
    ]


def break_glass(change: ChangeRequest, *, lasts: timedelta = timedelta(minutes=30), now: datetime = NOW) -> Any:
    """The on-call's bypass of the change."""
    return approvals.break_glass(
        change=change, actor=crew.oncall, reason="customers see an error", incident="INC-7", lasts=lasts, now=now
    )


def rules_of_built_in(*, tone_valid_hours: int = 168) -> list[dict[str, Any]]:
    """The built-in rules, the one on tone with another validity."""
    return [
        {**rule, "valid_hours": tone_valid_hours} if rule.get("when") == {"change_class": ["tone"]} else rule
        for rule in built_in_rules()
    ]
