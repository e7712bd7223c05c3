"""Fill an empty deployment with the demo, through the same operations that people use at the console."""

import heapq
import re
import time
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import yaml
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from controlplane.accounts import operations as accounts
from controlplane.accounts.models import Operator
from controlplane.accounts.roles import Role
from controlplane.approvals import operations as approvals
from controlplane.approvals.models import ChangeRequest, Decision
from controlplane.archive import operations as archive
from controlplane.console.management.demo_articles import hand_in
from controlplane.console.management.demo_evals import walk_evals
from controlplane.corpora.policies import corpus_policies
from controlplane.ladder import operations as words
from controlplane.ladder.policies import ladder_policies
from controlplane.prompts import operations as prompts
from controlplane.prompts.models import PromptVersion
from controlplane.rollouts import operations as rollouts
from controlplane.rollouts.guardrails import Advance, StageEvidence, Unproven, default_guardrails
from controlplane.rollouts.models import DEFAULT_STAGES
from controlplane.routing.operations import routing_tables
from controlplane.trials.runner import run_trial
from controlplane.verdicts.references import suggested_guardrails
from controlplane.versioned.operations import Versions

PASSWORD = "ballast-demo"  # noqa: S105 - printed in the README; demo mode binds to loopback only
DEMO_FILE = settings.BASE_DIR / "fixtures" / "demo.yaml"
LADDER_FILE = settings.BASE_DIR / "fixtures" / "demo_ladder.yaml"
ENGINE_FILE = settings.BASE_DIR / "fixtures" / "demo_engine.yaml"
ENGINE_ROUTE = "self-hosted"
POLICY_FILE = settings.BASE_DIR / "fixtures" / "approval_policy.yaml"
SETUP = "demo"
# A story that yields the time of its next step before it takes it.
Walk = Iterator[datetime]


class Command(BaseCommand):
    help = (
        "Load the demo: people, tenants, keys, signed copy, routing, prompts, evals, a running canary and a corpus. "
        "The second time only articles are taken in that are newer than what the corpus has."
    )
    requires_system_checks = ()  # those of `migrate` came before, and would load every page's code here

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEMO:
            raise CommandError(
                "BALLAST_DEMO is not set: the demo's passwords are public, so it is never loaded elsewhere"
            )
        now = timezone.now()
        if Operator.objects.filter(username="owner").exists():
            taken = hand_in(now=now)
            self.stdout.write("Demo data is there" + (f"; {taken} newer articles taken in" if taken else ""))
            if settings.DEMO_ENGINE and not _routes_to_engine():
                self.stdout.write(
                    f"It has no route {ENGINE_ROUTE!r}: a demo gets that when it is made; `make clean` first"
                )
            return
        demo = read_demo(
            now.date(),
            simulator=f"http://127.0.0.1:{settings.SIMULATOR_PORT}",
            embedder=f"http://127.0.0.1:{settings.EMBEDDER_PORT}",
            engine=f"http://127.0.0.1:{settings.ENGINE_PORT}" if settings.DEMO_ENGINE else "",
        )
        with (
            transaction.atomic()
        ):  # all of it or nothing: a kill in the middle leaves an empty deployment, not half a demo
            _load(demo, now=now)
            taken = hand_in(now=now)
        # Its events are days old: until beat came round, the first look at the audit record would be at a warning.
        transaction.on_commit(lambda: archive.export_due(now=now))
        self.stdout.write(f"Demo data loaded, with {taken} articles")


def _load(demo: dict[str, Any], *, now: datetime) -> None:
    start = now - timedelta(days=7)
    approvals.bootstrap_policy(rules=yaml.safe_load(POLICY_FILE.read_text()), actor=SETUP, now=start)
    people = _create_people(demo["operators"], now=start)
    _create_tenants(demo["tenants"], now=start)
    stories = [_walk_prompt(slug, entry, people, now) for slug, entry in demo["prompts"].items()]
    ladder = demo["ladder"]
    # Its fallback stack names the copy, so that has to be signed before the table is put in force.
    copy = [_walk_copy(slug, entry, people, start + timedelta(minutes=5)) for slug, entry in demo["copy"].items()]
    copy += [_walk_copy(slug, entry, people, start + timedelta(hours=2)) for slug, entry in ladder["copy"].items()]
    # After the first prompt, by which lanes are asked, and before any canary: these name a set and judges.
    asked = walk_evals(
        demo["evals"],
        people,
        now - timedelta(days=6, hours=5, minutes=30),
        now - timedelta(days=1, hours=4, minutes=50),
    )
    routed = _walk_routing(demo["routing"], people, start + timedelta(hours=1))
    laddered = _walk_policy(
        ladder_policies,
        ladder["ladder"],
        people,
        start + timedelta(hours=3),
        rationale="Ladder of the demo",
        reason="First ladder, after INC-226",
    )
    promised = _walk_policy(
        corpus_policies,
        demo["corpora"],
        people,
        start + timedelta(hours=4),
        rationale="Corpus of the demo",
        reason="Answers from the help centre's own articles, and a promise of how old they may be",
    )
    _play([*copy, routed, laddered, promised, asked, *stories])


def _routes_to_engine() -> bool:
    """Whether the routing in force has the route to a model server of the demo's own."""
    active = routing_tables.active()
    return active is not None and ENGINE_ROUTE in active.document["routes"]


def read_demo(today: date, *, simulator: str, embedder: str, engine: str = "") -> dict[str, Any]:
    """The demo's file, its days counted from `today`, its provider accounts at the address `simulator`, and the model
    that embeds its corpus at `embedder`; what is said of its ladder in a file of its own is the member `ladder`. With a
    model server of its own at `engine`, what that adds to the routing is in it.
    """

    def read(path: Path) -> dict[str, Any]:
        text = path.read_text().replace("{simulator}", simulator).replace("{embedder}", embedder)
        text = text.replace("{engine}", engine)
        text = re.sub(r"\{day([+-]\d+)\}", lambda found: str(today + timedelta(days=int(found[1]))), text)
        return cast(dict[str, Any], yaml.safe_load(text))

    demo = {**read(DEMO_FILE), "ladder": read(LADDER_FILE)}
    if engine:
        for name, entries in read(ENGINE_FILE)["routing"].items():
            demo["routing"][name] |= entries
    return demo


def _create_people(entries: dict[str, Any], *, now: datetime) -> dict[str, Operator]:
    password = make_password(PASSWORD)  # once: it is in the README, and to hash it is made to take long
    for username, entry in entries.items():
        operator = accounts.create_operator(
            username=username, password=None, email=f"{username}@ballast.example", actor=SETUP, now=now
        )
        operator.password = password
        operator.first_name, _, operator.last_name = entry["name"].partition(" ")
        operator.save(update_fields=["password", "first_name", "last_name"])
        for role in entry["roles"]:
            accounts.grant_role(operator=operator, role=Role(role), target=None, actor=SETUP, now=now)
        accounts.issue_token(operator=operator, name="demo", actor=SETUP, now=now, secret=f"op-demo-{username}")
    return {operator.username: operator for operator in Operator.objects.filter(username__in=entries)}


def _create_tenants(entries: dict[str, Any], *, now: datetime) -> None:
    for slug, entry in entries.items():
        tenant = accounts.create_tenant(slug=slug, actor=SETUP, now=now, **entry)
        accounts.issue_key(tenant=tenant, name="demo", actor=SETUP, now=now, secret=f"bk-demo-{slug}")


def _walk_routing(document: dict[str, Any], people: dict[str, Operator], at: datetime) -> Walk:
    yield at
    table = routing_tables.submit(document=document, rationale="Routes of the demo", actor=people["oncall"], now=at)
    change = routing_tables.propose(version=table, reason="First routing table", actor=people["oncall"], now=at)
    # Here and now, since workers see nothing of it before all of the demo is there.
    for trial in change.trials.all():
        run_trial(trial.pk, now=lambda: at, clock=time.monotonic)
    yield from _sign(change, people, at + timedelta(minutes=20))
    yield at + timedelta(minutes=40)
    approvals.apply_change(change=change, actor=people["oncall"], now=at + timedelta(minutes=40))


def _walk_policy(
    policies: Versions[Any, Any],
    document: dict[str, Any],
    people: dict[str, Operator],
    at: datetime,
    *,
    rationale: str,
    reason: str,
) -> Walk:
    """The first version of a document that on-call proposes and two approvers sign."""
    yield at
    oncall = people["oncall"]
    policy = policies.submit(document=document, rationale=rationale, actor=oncall, now=at)
    change = policies.propose(version=policy, reason=reason, actor=oncall, now=at)
    yield from _sign(change, people, at + timedelta(minutes=20))
    yield at + timedelta(minutes=40)
    approvals.apply_change(change=change, actor=oncall, now=at + timedelta(minutes=40))


def _walk_copy(slug: str, entry: dict[str, Any], people: dict[str, Operator], at: datetime) -> Walk:
    """One piece of copy: written by its owner, signed by exec, and by legal where it is regulated."""
    owner = people["owner"]
    yield at
    copy = words.create_copy(
        slug=slug,
        kind=entry["kind"],
        title=entry["title"],
        description=entry["description"],
        regulated=entry["regulated"],
        actor=owner,
        now=at,
    )
    for version_entry in entry["versions"]:
        at += timedelta(minutes=5)
        yield at
        document = {"kind": copy.kind, **{key: version_entry[key] for key in ("default_locale", "locales")}}
        rationale = version_entry["rationale"]
        version = words.submit_version(copy=copy, document=document, rationale=rationale, actor=owner, now=at)
        change = words.propose_version(version=version, reason=rationale, actor=owner, now=at)
        yield from _sign(change, people, at + timedelta(minutes=10))
        at += timedelta(minutes=25)
        yield at
        approvals.apply_change(change=change, actor=owner, now=at)


def _play(walks: Iterable[Walk]) -> None:
    """Interleave the prompts' stories by time, so that the audit record and the releases read as one history."""
    ahead = [(next(walk), index, walk) for index, walk in enumerate(walks)]
    heapq.heapify(ahead)
    while ahead:
        _, index, walk = heapq.heappop(ahead)
        moment = next(walk, None)
        if moment is not None:
            heapq.heappush(ahead, (moment, index, walk))


def _walk_prompt(slug: str, entry: dict[str, Any], people: dict[str, Operator], now: datetime) -> Walk:
    """One prompt's story. Each step announces its time first, and is taken when its turn has come."""
    begin = now - timedelta(days=6, hours=6)
    yield begin
    prompt = prompts.create_prompt(
        slug=slug,
        title=entry["title"],
        description=entry["description"],
        route=entry["route"],
        actor=people["owner"],
        now=begin,
    )
    for version_entry in entry["versions"]:
        at = now - timedelta(days=version_entry["days_ago"], hours=5)
        yield at
        version = prompts.submit_version(
            prompt=prompt,
            messages=version_entry["messages"],
            variables_schema=entry["variables_schema"],
            parameters=entry["parameters"],
            sample_variables=entry["sample_variables"],
            change_class=version_entry["change_class"],
            rationale=version_entry["rationale"],
            actor=people["owner"],
            now=at,
        )
        if version_entry["path"] == "live":
            yield from _walk_live(version, people, at)
        else:
            yield from _walk_canary(version, version_entry, people, at)


def _walk_live(version: PromptVersion, people: dict[str, Operator], at: datetime) -> Walk:
    yield at
    change = prompts.propose_live(version=version, reason=version.rationale, actor=people["owner"], now=at)
    yield from _sign(change, people, at + timedelta(hours=1))
    yield at + timedelta(hours=2)
    approvals.apply_change(change=change, actor=people["owner"], now=at + timedelta(hours=2))


def _walk_canary(version: PromptVersion, entry: dict[str, Any], people: dict[str, Operator], at: datetime) -> Walk:
    owner = people["owner"]
    yield at
    canary = rollouts.plan_canary(
        candidate=version,
        unit="user",
        stages=_stages(entry),
        guardrails=_guardrails(version),
        reason=version.rationale,
        actor=owner,
        now=at,
    )
    if entry["path"] == "planned":
        return
    yield from _sign(canary.change, people, at + timedelta(minutes=40))
    at += timedelta(hours=1)
    yield at
    canary = rollouts.start_canary(canary=canary, actor=owner, now=at)
    last = [stage["name"] for stage in canary.stages].index(entry["last_stage"])
    for position in range(1, last + 1):
        at += timedelta(minutes=30)
        yield at
        canary = rollouts.turn_knob(canary=canary, position=position, actor=owner, now=at)
    at += timedelta(hours=12)
    if entry["path"] == "promoted":
        yield at
        rollouts.promote_canary(canary=canary, actor=owner, now=at)
    elif entry["path"] == "rolled-back":
        yield at
        rollouts.roll_back_canary(canary=canary, reason=entry["end_reason"], actor=people["oncall"], now=at)


def _guardrails(version: PromptVersion) -> dict[str, Any]:
    """The usual ones, with the replay of held-out questions where the version takes a question."""
    return suggested_guardrails() if "question" in version.variables_schema["properties"] else default_guardrails()


def _stages(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The usual stages. What has begun was taken further by people alone, as no traffic of it was there to judge; the
    one that runs goes on like that, so that whoever looks around may turn its knob.
    """
    if entry["path"] == "planned":
        return [dict(stage) for stage in DEFAULT_STAGES]
    by_people = StageEvidence(Unproven.ALLOW, 0, Advance.BY_HAND).to_json()
    return [{**stage, "evidence": by_people} for stage in DEFAULT_STAGES]


def _sign(change: ChangeRequest, people: dict[str, Operator], at: datetime) -> Walk:
    """Everybody whom the policy may ask signs, five minutes apart."""
    if change.kind == words.KIND_NAME:
        signers = {"exec": Role.EXEC}
        needs_legal = change.content["regulated"]
    else:
        signers = {"approver-one": Role.APPROVER, "approver-two": Role.APPROVER}
        needs_legal = change.content.get("change_class") == "legal"
    if needs_legal:
        signers["legal"] = Role.LEGAL
    for username, role in signers.items():
        yield at
        approvals.sign_off(
            change=change,
            operator=people[username],
            role=role,
            decision=Decision.APPROVE,
            digest=change.digest,
            has_seen=True,  # that no answer is stored yet, on which a rule could have been tried
            now=at,
        )
        at += timedelta(minutes=5)
