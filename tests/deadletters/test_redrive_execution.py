"""Redrives hand in once, at their pace, stop when it goes wrong, and report."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta

import pgtrigger
import pytest
from django.db import IntegrityError, transaction
from django.db.utils import InternalError, ProgrammingError

from controlplane.audit.models import AuditEvent
from controlplane.deadletters import execution, handing_in, operations, payloads, redrive
from controlplane.deadletters.errors import NoReason, PlanMoved
from controlplane.deadletters.models import DeadLetter
from controlplane.deadletters.plans import ENDED, PLAN_TRANSITIONS, PlanEvent, PlanState, RedrivePlan
from controlplane.ledger.jobs import Job
from controlplane.work import handlers
from controlplane.work.deaths import Death
from controlplane.work.models import Task
from dataplane.deadletters import Category, Failure
from dataplane.stores.payloads import PayloadUnavailable
from tests.deadletters.letters import sql
from tests.deadletters.redrives import (
    CHAT,
    QUESTION,
    TASK,
    end_job,
    fail_job,
    fail_task,
    know_task,
    plan_for,
)
from tests.factories import (
    NOW,
    crew,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ground")]
MINUTE = timedelta(minutes=1)


def decide(plan, act, reason="because"):
    act(plan=plan, actor=crew.oncall, reason=reason, now=NOW)


# --- handing in ------------------------------------------------------------------------------------------------------
def test_job_is_handed_in_as_it_was(key, store):
    """Same tenant, user, key and body; the letter names the new job, and the new job the letter."""
    letter = fail_job(key)
    made = plan_for([letter], store)
    made.start()

    made.step()

    [job] = made.jobs()
    assert (job.tenant, job.key_id, job.user_hash, job.endpoint) == ("acme", str(key.pk), letter.user_hash, CHAT)
    assert json.loads(bytes(job.request)) == QUESTION
    assert (job.state, job.redriven_from, job.key) == ("queued", letter.pk, "")
    letter.refresh_from_db()
    assert (letter.state, letter.redriven_as) == ("redriven", job.pk)
    made.end_jobs()
    plan = made.step(5)
    letter.refresh_from_db()
    assert (letter.state, plan.state, plan.ended_by) == ("resolved", "done", "ballast")
    assert plan.next_at is None or made.step().next_at is None


def test_edited_job_is_handed_in_edited_and_the_edit_is_not_kept_longer(key, store):
    letter = fail_job(key)
    made = plan_for([letter], store, edit={"body": QUESTION | {"temperature": 0}})
    made.start(crew.approver_one)

    made.step()

    assert json.loads(bytes(made.jobs()[0].request)) == QUESTION | {"temperature": 0}
    made.end_jobs()
    plan = made.step(5)
    assert (plan.edit, bool(plan.edit_digest), bool(plan.items.get().diff)) == (None, True, True)


def test_work_of_two_plans_is_done_once(key, store):
    """Whoever comes second finds that it was handed in."""
    letters = [fail_job(key) for _ in range(2)]
    first, second = plan_for(letters, store), plan_for(letters, store)
    first.start()
    second.start()

    for _ in range(8):
        first.step(5)
        second.step(5)
        first.end_jobs()
        second.end_jobs()

    assert sorted(first.states() + second.states()) == ["done", "done", "skipped", "skipped"]
    assert Job.objects.filter(redriven_from__in=[letter.pk for letter in letters]).count() == 2
    skipped = [*first.plan.items.filter(state="skipped"), *second.plan.items.filter(state="skipped")]
    assert {item.why for item in skipped} <= {"its work was handed in again", "somebody resolved it"}


def test_step_that_dies_anywhere_hands_nothing_in_twice(key, store, monkeypatch):
    """Killed after any of its writes, and taken again: each letter has one job, and each job its letter."""
    letters = [fail_job(key) for _ in range(3)]
    made = plan_for(letters, store, canary_letters=1)
    made.start()

    class Killed(BaseException):
        pass

    places = ("hand_in", "_move_item", "_settle_letter", "_go_on", "_judge")
    for turn in range(24):
        target = places[turn % len(places)]
        owner = handing_in if target == "hand_in" else execution
        real = getattr(owner, target)

        def dying(*arguments, real=real, **named):
            real(*arguments, **named)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(owner, target, dying)
            made.clock.advance(5)
            with suppress(Killed):
                execution.take_step(made.plan.pk, made.fresh().step, store=store, now=made.clock)
        if turn % 3 == 2:
            made.step(5)
            made.end_jobs()

    jobs = Job.objects.filter(redriven_from__in=[letter.pk for letter in letters])
    assert sorted(job.redriven_from for job in jobs) == sorted(letter.pk for letter in letters)
    assert (made.states(), made.fresh().state) == (["done"] * 3, "done")


def test_tasks_of_ours_are_handed_in_again(key, store):
    """With their arguments, under a key of the letter's; unknown kinds are refused beforehand."""
    know_task()
    known, unknown = fail_task(1), fail_task(2, kind="tests.nobody")
    made = plan_for([known, unknown], store)

    made.start()
    made.step()

    handlers._handlers.pop(TASK)
    assert made.plan.items.get(letter=unknown).why == "nobody here does work of kind 'tests.nobody'"
    task = Task.objects.get(redriven_from=known.pk)
    assert (task.kind, bytes(task.arguments), task.tenant) == (TASK, b'{"number":1}', "acme")
    sql("UPDATE work_task SET state = 'done', ended_at = now() WHERE id = %s", task.pk)
    assert made.step(5).state == "done"
    known.refresh_from_db()
    assert known.state == "resolved"


def test_ramp_waits_for_room_in_the_tenants_queue(key, store, settings):
    """It says for whom; when there is room it goes on."""
    settings.JOB_LIMIT = 1
    made = plan_for([fail_job(key) for _ in range(2)], store, canary_letters=1)
    made.start()
    made.step()
    made.end_jobs()
    made.step(5)
    made.step(5)

    assert "acme has as many jobs in the queue as it may" in made.fresh().note or made.states() == ["done", "handed_in"]
    made.end_jobs()
    made.step(5)
    made.end_jobs()
    assert made.step(5).state == "done"


# --- canary, ramp, stop ----------------------------------------------------------------------------------------------
def test_canary_goes_one_at_a_time_and_the_ramp_by_its_pace(key, store):
    """Three, each after the one before is done; then so many a minute, and twice as many a minute later."""
    made = plan_for([fail_job(key) for _ in range(30)], store, per_minute=6, most_per_minute=12)
    made.start(crew.approver_one)
    for number in range(1, 4):
        made.step(5)
        made.step(5)
        assert made.states().count("handed_in") == 1
        made.end_jobs()
        assert len(made.jobs()) == number

    assert made.step(5).state == "ramp"
    counts = []
    for _ in range(12):
        made.step(10)
        made.end_jobs()
        counts.append(len(made.jobs()))

    in_first_minute, in_second = counts[5] - 3, counts[11] - counts[5]
    assert 6 <= in_first_minute <= 8
    assert 11 <= in_second <= 13
    assert made.fresh().rate == 12


def test_failure_in_the_canary_stops_the_plan(key, store):
    """The letter of the failure takes the place of the one that was redriven: one piece of work, one open letter."""
    letters = [fail_job(key) for _ in range(5)]
    made = plan_for(letters, store)
    made.start()
    made.step()
    made.end_jobs(is_done=False)

    plan = made.step(5)

    assert plan.state == "stopped"
    assert plan.note == "letter 1 of the canary failed again (dependency); all of it must succeed"
    assert made.states() == ["failed", *["planned"] * 4]
    first = plan.items.get(position=1)
    again = DeadLetter.objects.get(pk=first.next_letter)
    assert (again.redriven_from, again.work_id, again.state) == (letters[0].pk, first.work_id, "open")
    assert DeadLetter.objects.get(pk=letters[0].pk).state == "redriven"
    assert DeadLetter.objects.open().count() == 5
    assert AuditEvent.objects.first().action == "redrive.stopped"


def test_letter_that_failed_again_can_be_redriven_and_settles_all_it_came_from(key, store):
    """With an execution of its own, since the one before is over."""
    letter = fail_job(key)
    made = plan_for([letter], store)
    made.start()
    made.step()
    made.end_jobs(is_done=False)
    made.step(5)
    again = DeadLetter.objects.get(redriven_from=letter.pk)
    other = plan_for([again], store)
    other.start()
    other.step()
    other.end_jobs()
    other.step(5)

    assert {one.state for one in DeadLetter.objects.all()} == {"resolved"}
    assert Job.objects.filter(redriven_from__in=[letter.pk, again.pk]).count() == 2


def test_job_that_the_tenant_cancelled_leaves_its_letter_open(key, store):
    letter = fail_job(key)
    made = plan_for([letter], store)
    made.start()
    made.step()
    sql("UPDATE ledger_job SET state = 'cancelled', ended_at = now() WHERE id = %s", made.jobs()[0].pk)

    made.step(5)

    letter.refresh_from_db()
    assert (letter.state, made.states()) == ("open", ["failed"])
    assert made.fresh().state == "stopped"


def test_ramp_stops_itself_by_the_share_of_failures(key, store):
    """Of the last that ended; what is under way goes on, and is settled."""
    made = plan_for([fail_job(key) for _ in range(14)], store, per_minute=60, canary_letters=1)
    made.start()
    made.step()
    made.end_jobs()
    made.step(5)
    made.step(9)
    under_way = [job for job in made.jobs() if job.state == "queued"]
    assert len(under_way) == 10
    for job in under_way[:4]:
        end_job(job, is_done=False, at=made.clock())

    plan = made.step(1)

    assert plan.state == "stopped"
    assert plan.note == "4 of the last 5 failed again, over 20 %"
    assert made.end_jobs() == 6
    made.step(5)
    assert (made.states().count("done"), made.states().count("failed")) == (7, 4)
    assert made.states().count("planned") == 3
    assert made.step(5).next_at is None


def test_poison_stops_it_at_once(key, store):
    """One is enough: the next would kill its runners too."""
    made = plan_for([fail_job(key) for _ in range(30)], store, per_minute=600, most_per_minute=600, canary_letters=1)
    made.start(crew.approver_one)
    made.step()
    made.end_jobs()
    made.step(5)
    made.step(1)
    end_job(made.jobs()[3], is_done=False, category=Category.POISON, at=made.clock())

    assert "failed again with poison" in made.step(1).note


def test_people_pause_resume_and_stop(key, store):
    """Each says why; what they decide counts from the next letter on."""
    made = plan_for([fail_job(key) for _ in range(4)], store, canary_letters=1)
    made.start()
    made.step()
    decide(made.fresh(), redrive.pause_plan)
    made.end_jobs()
    made.step(5)
    assert made.states() == ["done", *["planned"] * 3]
    decide(made.fresh(), redrive.resume_plan)
    assert made.step(5).state == "ramp"
    assert len(made.jobs()) == 2
    with pytest.raises(NoReason):
        decide(made.fresh(), redrive.stop_plan, reason=" ")
    decide(made.fresh(), redrive.stop_plan, reason="enough")
    made.end_jobs()
    made.step(60)
    assert (made.fresh().state, made.plan.note, made.plan.ended_by) == ("stopped", "enough", "oncall")
    assert made.states() == ["done", "done", "planned", "planned"]


def test_every_move_that_the_table_lacks_is_refused(key, store):
    """By the operation and by the database, whoever writes."""
    plan = plan_for([fail_job(key)], store).plan
    for state in PlanState:
        for event in PlanEvent:
            if (state, event) in PLAN_TRANSITIONS:
                continue
            _force(plan, state)
            with pytest.raises(PlanMoved):
                redrive.move(plan, event, now=NOW)
    _force(plan, PlanState.PLANNED)
    with pytest.raises((InternalError, ProgrammingError), match="Cannot update"), transaction.atomic():
        sql("UPDATE deadletters_redriveplan SET state = 'ramp' WHERE id = %s", plan.pk)
    for change in ("size = 9", "tenants = '[]'", "letters_digest = 'x'", "has_tools = true", "author = 'x'"):
        with pytest.raises((InternalError, ProgrammingError), match="Cannot update"), transaction.atomic():
            sql(f"UPDATE deadletters_redriveplan SET {change} WHERE id = %s", plan.pk)  # noqa: S608 - ours
    with pytest.raises((InternalError, ProgrammingError, IntegrityError)), transaction.atomic():
        sql("UPDATE deadletters_redriveitem SET state = 'done'")


def _force(plan, state):
    ended = NOW if state in ENDED else None
    with pgtrigger.ignore("deadletters.RedrivePlan:plan_is_fixed"):
        RedrivePlan.objects.filter(pk=plan.pk).update(state=state, ended_at=ended)


def test_plan_that_has_lost_its_step_is_woken(key, store):
    """A broker or a worker has eaten it: the beat sees that, and void steps do nothing."""
    made = plan_for([fail_job(key)], store)
    made.start()
    lost = made.fresh().step
    assert execution.wake_late(now=NOW) == 0

    made.clock.advance(120)
    assert execution.wake_late(now=made.clock()) == 1
    assert execution.wake_late(now=made.clock()) == 0

    execution.take_step(made.plan.pk, lost, store=store, now=made.clock)
    assert made.states() == ["planned"]
    made.step()
    assert made.states() == ["handed_in"]


def test_letter_of_a_step_that_was_replaced_is_nobodys_to_decide(key, store):
    """A step that three processes died of is held for poison; once the plan goes on with another, it is resolved."""
    made = plan_for([fail_job(key)], store)
    made.start()
    step = Task.objects.get(key=f"{made.plan.pk}:{made.fresh().step}")
    death = Death(
        kind="redrive",
        name=step.kind,
        work_id=step.pk,
        failure=Failure(Category.POISON, "poison", "its runner died 3 times in a row"),
        payload=bytes(step.arguments),
        attempts=3,
        causes=(),
        key=step.key,
    )
    letter = operations.bury(death, NOW)
    made.clock.advance(120)

    assert execution.wake_late(now=made.clock()) == 1

    assert DeadLetter.objects.get(pk=letter).state == "resolved"
    event = AuditEvent.objects.filter(action="dead_letters.resolved").first()
    assert event.actor == made.plan.audit_name
    assert event.data["reason"] == "another step of its plan has taken its place"


def test_payloads_that_cannot_be_read_now_are_waited_for(key, store):
    """Of a plan that is under way; the dry run says so of each."""
    letter = fail_job(key)
    payloads.store_pending(store)
    made = plan_for([letter], store)
    made.start()

    class Away:
        def get(self, name, wrapped):
            raise PayloadUnavailable("the store is away")

    made.store = Away()
    assert made.step().note == "waits: the store is away"
    made.store = store
    made.step(5)
    assert made.states() == ["handed_in"]
    assert made.fresh().note == ""
