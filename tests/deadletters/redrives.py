"""Letters of jobs of a deployment's tenants, plans for them, and a clock that moves by hand."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from django.db import connection

from controlplane.accounts import operations as accounts
from controlplane.accounts.models import ApiKey, Operator
from controlplane.approvals import operations as approvals
from controlplane.deadletters import execution, operations, redrive
from controlplane.deadletters.models import DeadLetter
from controlplane.deadletters.payloads import ConfiguredStore
from controlplane.deadletters.plans import RedrivePlan
from controlplane.deadletters.redrive import Choice, Settings
from controlplane.ledger.jobs import Job
from controlplane.work import handlers
from controlplane.work.deaths import Death
from dataplane.deadletters import Category, Failure
from dataplane.stores.payloads import PayloadStore
from tests.deadletters.letters import ADA
from tests.factories import NOW, SETUP, crew, make_deployment, make_tenant, sign
from tests.job_rows import make_job

CHAT = "/v1/chat/completions"
QUESTION = {"model": "chat", "messages": [{"role": "user", "content": "Where is my parcel?"}]}
TASK = "tests.redriven"
_MOMENTS = count()


@dataclass
class Clock:
    """The time, which moves when it is told to."""

    at: datetime = NOW

    def __call__(self) -> datetime:
        return self.at

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


def make_ground(**attributes: Any) -> ApiKey:
    """A deployment whose release admits the tenant acme, pinned to the EU; returns its key."""
    make_deployment()
    return admit("acme", residency=["eu"], **attributes)


def admit(slug: str, **attributes: Any) -> ApiKey:
    """A tenant whose key the release in force admits."""
    return accounts.issue_key(tenant=make_tenant(slug, **attributes), name="k", actor=SETUP, now=NOW).row


def fail_job(
    key: ApiKey,
    *,
    body: Any = None,
    category: Category = Category.DEPENDENCY,
    code: str = "upstream_unavailable",
    at: datetime | None = None,
    envelope: Any = None,
    **fields: Any,
) -> DeadLetter:
    """The letter of a job of the key's tenant that failed at `at`; unless told, each a moment after the last."""
    at = at or NOW + timedelta(milliseconds=next(_MOMENTS))
    failed = make_job(tenant=key.tenant.slug, state="failed", at=at, key_id=str(key.pk), user_hash=ADA)
    told = {"endpoint": CHAT, "key_id": str(key.pk), "user": "", "body": body or QUESTION} | (envelope or {})
    values: dict[str, Any] = {
        "kind": "job",
        "name": CHAT,
        "work_id": failed.pk,
        "failure": Failure(category, code, "the provider is away"),
        "payload": json.dumps(told).encode(),
        "attempts": 3,
        "causes": [],
        "tenant": key.tenant.slug,
        "user_hash": ADA,
    }
    letter = operations.bury(Death(**values | fields), at)
    return DeadLetter.objects.get(pk=letter)


def fail_task(number: int, *, kind: str = TASK, tenant: str = "acme", work: str = "webhook") -> DeadLetter:
    """The letter of a task of ours."""
    failure = Failure(Category.DEPENDENCY, "away", "their server is away")
    arguments = json.dumps({"number": number}, separators=(",", ":")).encode()
    death = Death(work, kind, uuid.uuid4(), failure, arguments, attempts=8, causes=[], tenant=tenant, user_hash=ADA)
    return DeadLetter.objects.get(pk=operations.bury(death, NOW))


def know_task(run: Any = lambda arguments, attempt: None) -> None:
    """Have a handler for tasks of that kind."""
    handlers.register(handlers.Handler(TASK, run, work="webhook", max_attempts=1))


@dataclass
class Redrive:
    """One plan and the hands that work on it."""

    plan: RedrivePlan
    store: PayloadStore
    clock: Clock = field(default_factory=Clock)

    def fresh(self) -> RedrivePlan:
        self.plan.refresh_from_db()
        return self.plan

    def step(self, seconds: float = 0.0) -> RedrivePlan:
        """Take the step that is due, so many seconds later."""
        self.clock.advance(seconds)
        execution.take_step(self.plan.pk, self.fresh().step, store=self.store, now=self.clock)
        return self.fresh()

    def dry_run(self) -> RedrivePlan:
        """From the beginning of the dry run to its end."""
        redrive.begin_dry_run(plan=self.fresh(), actor=crew.oncall, now=self.clock())
        while self.step().state == "checking":
            pass
        return self.plan

    def start(self, *signers: Operator) -> RedrivePlan:
        """Dry-run it, have it signed by these, and start it."""
        self.dry_run()
        change = redrive.propose_plan(plan=self.fresh(), actor=crew.oncall, now=self.clock())
        sign(change, *signers, now=self.clock())
        approvals.apply_change(change=change, actor=crew.oncall, now=self.clock())
        return self.fresh()

    def states(self) -> list[str]:
        """Of its letters, in order."""
        return list(self.plan.items.order_by("position").values_list("state", flat=True))

    def jobs(self) -> list[Job]:
        """What was handed in, in order."""
        found = Job.objects.in_bulk([item.work_id for item in self.plan.items.exclude(work_id=None)])
        return [found[item.work_id] for item in self.plan.items.exclude(work_id=None).order_by("position")]

    def end_jobs(self, *, is_done: bool = True, category: Category = Category.DEPENDENCY) -> int:
        """Let all that is under way end, as runners would; returns how many."""
        open_jobs = [job for job in self.jobs() if job.state == "queued"]
        for job in open_jobs:
            end_job(job, is_done=is_done, category=category, at=self.clock())
        return len(open_jobs)


def end_job(job: Job, *, is_done: bool, at: datetime, category: Category = Category.DEPENDENCY) -> None:
    """Write the end of a job as a runner does; of one that has failed again, its letter too."""
    end = "state = 'completed', status = 200" if is_done else "state = 'failed', status = 503"
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE ledger_job SET epoch = epoch + 1, ended_at = %s, {end} WHERE id = %s",  # noqa: S608 - ours
            [at, job.pk],
        )
    if not is_done:
        failure = Failure(category, "upstream_unavailable", "the provider is away")
        death = Death(
            "job",
            CHAT,
            job.pk,
            failure,
            payload=json.dumps(
                {"endpoint": CHAT, "key_id": job.key_id, "user": "", "body": json.loads(bytes(job.request or b"{}"))}
            ).encode(),
            attempts=1,
            causes=[],
            tenant=job.tenant,
            user_hash=job.user_hash,
            redriven_from=job.redriven_from,
        )
        operations.bury(death, at)


def plan_for(
    letters: list[DeadLetter],
    store: PayloadStore,
    *,
    edit: Any = None,
    by_group: bool = False,
    clock: Clock | None = None,
    **settings: Any,
) -> Redrive:
    """A plan of on-call's for these letters, or for the group that they are of."""
    choice = (
        Choice(fingerprint=letters[0].fingerprint) if by_group else Choice(letters=[letter.pk for letter in letters])
    )
    clock = clock or Clock()
    plan = redrive.plan_redrive(
        choice=choice,
        reason="the provider is back",
        actor=crew.oncall,
        now=clock(),
        edit=edit,
        settings=Settings(**settings) if settings else None,
    )
    return Redrive(plan, store, clock)


def furnish(now: datetime) -> None:
    """Letters of the demo's tenants of the last day, in three groups; a redrive that people are asked about, and one
    that was only planned.
    """
    acme, globex = (ApiKey.objects.get(tenant__slug=slug) for slug in ("acme", "globex"))
    causes = [
        {
            "at": now.isoformat(),
            "owner": "stack/jobs/7",
            "code": "upstream_unavailable",
            "message": "503",
            "status": 503,
        }
    ]
    body = {"model": "chat", "messages": [{"role": "user", "content": "I am ada@example.org, where is my parcel?"}]}
    away = [
        fail_job(key, at=now - timedelta(minutes=30 * number), body=body, causes=causes)
        for number, key in enumerate((acme, globex, globex, acme, globex), 1)
    ]
    fail_job(globex, at=now - timedelta(minutes=50), category=Category.POISON, code="poison", has_tools=True)
    operations.bury(
        Death(
            "purge",
            "deadletters.delete_objects",
            uuid.uuid4(),
            Failure(Category.DEPENDENCY, "payload_unavailable", "the bucket does not answer"),
            b'{"names":["dead-letters/2026/01/01/1"]}',
            attempts=20,
            causes=causes,
        ),
        now - timedelta(hours=3),
    )
    clock = Clock(now)
    asked = plan_for(away[1:], ConfiguredStore(), edit={"merge": {"temperature": 0}}, clock=clock)
    asked.dry_run()
    redrive.propose_plan(plan=asked.fresh(), actor=crew.oncall, now=now)
    plan_for(away[:2], ConfiguredStore(), clock=clock)
