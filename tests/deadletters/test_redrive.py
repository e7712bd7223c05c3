"""Redrive: planned, tried dry, signed, handed in once, paced, stopped when it goes wrong, and reported."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from datetime import timedelta

import obstore
import pgtrigger
import pytest
from django.db import IntegrityError, transaction
from django.db.utils import InternalError, ProgrammingError

from controlplane.accounts import operations as accounts
from controlplane.accounts.models import ApiKey
from controlplane.approvals import operations as approvals
from controlplane.approvals.errors import DigestRejected, NotApproved
from controlplane.approvals.policy import match, parse_rules
from controlplane.audit.models import AuditEvent
from controlplane.deadletters import execution, handing_in, operations, payloads, redrive, retention
from controlplane.deadletters.errors import BadEdit, BadPlan, NeedsSignOff, NoReason, NothingWouldRun, PlanMoved
from controlplane.deadletters.models import DeadLetter
from controlplane.deadletters.plans import ENDED, PLAN_TRANSITIONS, PlanEvent, PlanState, RedrivePlan, counts_of
from controlplane.deadletters.redrive import Choice, Settings
from controlplane.ledger.idempotency import IdempotencyRecord
from controlplane.ledger.jobs import Job
from controlplane.work import handlers
from controlplane.work.models import Task
from dataplane.deadletters import Category, Event
from dataplane.stores.payloads import PayloadUnavailable
from tests.deadletters.conftest import sql
from tests.deadletters.redrives import (
    CHAT,
    QUESTION,
    TASK,
    admit,
    end_job,
    fail_job,
    fail_task,
    know_task,
    make_ground,
    plan_for,
)
from tests.factories import (
    NOW,
    built_in_rules,
    change_policy,
    crew,
    make_routing,
    routing_document,
    rules_of_built_in,
    sign,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ground")]
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def ground(lasting):
    """A release that admits acme, for all tests here."""
    with lasting():
        make_ground()


@pytest.fixture
def key():
    return ApiKey.objects.get(tenant__slug="acme")


def decide(plan, act, reason="because"):
    act(plan=plan, actor=crew.oncall, reason=reason, now=NOW)


# --- planning --------------------------------------------------------------------------------------------------------
def test_plan_fixes_its_letters_and_says_what_they_are(key, store):
    """Of a group, the oldest first, within what the author may act on; later ones are not in it."""
    letters = [fail_job(key, at=NOW + MINUTE * number) for number in range(4)]
    other = admit("globex")
    fail_job(other)

    plan = redrive.plan_redrive(
        choice=Choice(fingerprint=letters[0].fingerprint, tenants=["acme"], since=NOW + MINUTE, most=2),
        reason="they are back",
        actor=crew.oncall,
        now=NOW,
    )
    fail_job(key)

    assert [item.letter_id for item in plan.items.all()] == [letters[1].pk, letters[2].pk]
    assert (plan.size, plan.tenants, plan.kinds, plan.categories) == (2, ["acme"], ["job"], ["dependency"])
    assert (plan.state, plan.has_tools, plan.is_edited, plan.size_class) == ("planned", False, False, "small")
    assert AuditEvent.objects.first().action == "redrive.planned"


@pytest.mark.parametrize(
    ("choice", "more", "error", "words"),
    [
        (Choice(), {}, BadPlan, "name a group"),
        (Choice(fingerprint="none"), {}, BadPlan, "no open letter"),
        (Choice(letters=[uuid.uuid4()]), {}, BadPlan, "1 of 1 letters are not open"),
        (Choice(fingerprint="x", most=0), {}, BadPlan, "1 to 10000"),
        (Choice(fingerprint="x"), {"reason": " "}, NoReason, "no reason"),
        (Choice(fingerprint="x"), {"settings": Settings(per_minute=9, most_per_minute=8)}, BadPlan, "ramp"),
        (Choice(fingerprint="x"), {"settings": Settings(canary_letters=0)}, BadPlan, "canary"),
        (Choice(fingerprint="x"), {"settings": Settings(failure_percent=101)}, BadPlan, "0 to 100"),
        (Choice(fingerprint="x"), {"edit": {"merge": {}}}, BadEdit, "something in it"),
        (Choice(fingerprint="x"), {"edit": {"merge": {"a": 1}, "body": {}}}, BadEdit, "one member"),
        (Choice(fingerprint="x"), {"edit": {"merge": {"a": 2**60}}}, BadEdit, "no JSON"),
    ],
)
def test_what_is_no_plan_is_refused(choice, more, error, words):
    with pytest.raises(error, match=words):
        redrive.plan_redrive(**{"choice": choice, "reason": "r", "actor": crew.oncall, "now": NOW} | more)


def test_whole_body_is_for_one_letter(key):
    """What changes, as a merge patch, may be for many."""
    letters = [fail_job(key).pk, fail_job(key).pk]
    asked = {"choice": Choice(letters=letters), "reason": "r", "actor": crew.oncall, "now": NOW}

    with pytest.raises(BadEdit, match="for one letter"):
        redrive.plan_redrive(**asked, edit={"body": QUESTION})
    assert redrive.plan_redrive(**asked, edit={"merge": {"temperature": 0}}).is_edited


# --- the dry run -----------------------------------------------------------------------------------------------------
def test_dry_run_says_of_each_letter_whether_it_would_run_and_why_not(key, store):
    """Against the release in force, by the gateway's own code; nothing is handed in."""
    held, discarded, purged, done = (fail_job(key) for _ in range(4))
    known = {
        "good": fail_job(key),
        "no request": fail_job(key, body={"model": "chat"}),
        "no route": fail_job(key, body=QUESTION | {"model": "gone"}),
        "no prompt": fail_job(key, body={"prompt": {"id": "gone"}}),
        "no version": fail_job(key, body={"prompt": {"id": "support-answer", "version": 9}}),
        "no variable": fail_job(key, body={"prompt": {"id": "support-answer"}}),
        "with its prompt": fail_job(key, body={"prompt": {"id": "support-answer", "variables": {"name": "Ada"}}}),
        "no key": fail_job(key, envelope={"key_id": "0"}),
        "no address": fail_job(key, envelope={"endpoint": "/v1/models"}),
        "no payload": fail_job(key, payload=b"{"),
        "message": fail_job(key, kind="message"),
        "held": held,
        "discarded": discarded,
        "purged": purged,
        "done": done,
    }
    retention.hold(letter=held, actor=crew.legal, reason="case 7", now=NOW)
    made = plan_for(list(known.values()), store)
    operations.decide(letters=[discarded.pk], event=Event.DISCARDED, actor=crew.oncall, reason="r", now=NOW)
    operations.decide(letters=[done.pk], event=Event.RESOLVED, actor=crew.oncall, reason="r", now=NOW)
    retention._purge([purged.pk], now=NOW)

    plan = made.dry_run()

    found = {item.letter_id: (item.verdict, item.why) for item in plan.items.all()}
    said = {name: found[letter.pk] for name, letter in known.items()}
    assert {name for name, (verdict, _) in said.items() if verdict == "would_run"} == {"good", "with its prompt"}
    assert said["no request"] == ("refused", "invalid_request at messages: missing required parameter *")
    assert said["no route"][1].startswith("model_not_found: route 'gone' does not exist")
    assert said["no prompt"][1].startswith("prompt_not_found at prompt.id")
    assert said["no version"][1].startswith("prompt_version_not_found: prompt 'support-answer' has no version 9")
    assert said["no variable"][1].startswith("invalid_variables at prompt.variables")
    assert said["no key"][1] == "the API key that it was handed in with is revoked"
    assert said["no address"][1] == "it was handed in for an address that takes no jobs"
    assert said["no payload"][1] == "its payload cannot be read"
    assert said["message"][1].startswith("nobody could read the message")
    assert said["held"][1].startswith("it is on legal hold")
    assert said["discarded"] == ("refused", "somebody discarded it")
    assert said["purged"] == ("payload_gone", "its payload's time is over")
    assert said["done"] == ("already_done", "somebody resolved it")
    assert (plan.state, plan.checked_release is not None, len(plan.checked_digest)) == ("checked", True, 64)
    assert counts_of(plan)["verdicts"] == {"would_run": 2, "refused": 11, "already_done": 1, "payload_gone": 1}
    assert Job.objects.filter(redriven_from__isnull=False).count() == 0


def test_letter_of_a_pinned_tenant_never_reaches_a_lane_outside(key, store):
    """The route summaries has lanes in the US alone: refused to acme, which is pinned, and not to globex."""
    us_only = {**QUESTION, "model": "us-only"}
    document = redrive_routing_with_us_only()
    make_routing(document)
    ours, theirs = fail_job(key, body=us_only), fail_job(admit("globex"), body=us_only)
    made = plan_for([ours, theirs], store)

    made.start()
    for _ in range(6):
        made.step(10)
        made.end_jobs()

    assert made.states() == ["skipped", "done"]
    assert {job.tenant for job in made.jobs()} == {"globex"}
    assert "is outside the pin eu" in made.plan.items.get(letter=ours).why


def redrive_routing_with_us_only():
    """The demo's table with one route more, of which no lane is in the EU."""
    document = routing_document()
    outside = [name for name, lane in document["lanes"].items() if lane["residency"] != "eu"]
    chat = document["routes"]["chat"]
    kept = [one for one in chat["lanes"] if one in outside]
    assert kept
    document["routes"]["us-only"] = {**chat, "lanes": kept}
    return document


def test_letter_is_checked_again_when_its_turn_comes(key, store):
    """The release may have moved since the dry run: a pin that came meanwhile is kept."""
    make_routing(redrive_routing_with_us_only())
    other = admit("globex")
    letter = fail_job(other, body={**QUESTION, "model": "us-only"})
    made = plan_for([letter], store)
    made.start()
    accounts.change_tenant(tenant=other.tenant, residency=["eu"], actor=crew.admin, now=NOW)

    made.step()

    assert made.states() == ["skipped"]
    letter.refresh_from_db()
    assert letter.state == "open"


def test_dry_run_reads_where_an_answer_is_known_already(key, store):
    """The runner died after the gateway had answered: its idempotency record has the answer; nobody pays twice."""
    letter, running = fail_job(key), fail_job(key)
    for one, state, status in ((letter, "done", 200), (running, "running", 0)):
        IdempotencyRecord.objects.create(
            id=uuid.uuid4(),
            tenant="acme",
            user_hash=one.user_hash,
            key=str(one.work_id),
            fingerprint="f" * 64,
            fields={},
            is_repeatable=True,
            state=state,
            owner="o",
            epoch=1,
            request_id="r",
            lease_until=NOW,
            created_at=NOW,
            expires_at=NOW + timedelta(days=1),
            status=status,
            evidence_seq=1,
            evidence_hash="e" * 64,
        )

    plan = plan_for([letter, running], store).dry_run()

    assert [(item.verdict, item.why) for item in plan.items.all()] == [
        ("already_done", "a gateway has an answer to it, under its idempotency key"),
        ("refused", "an attempt at it still runs at a gateway"),
    ]


def test_tampered_payload_is_not_handed_in(key, store, objects):
    """What lies in the store must be what was put there, and what failed."""
    letter = fail_job(key)
    payloads.store_pending(store)
    letter.refresh_from_db()
    obstore.put(objects, letter.payload_name, b"\x01" + b"x" * 60)
    gone = fail_job(key)
    payloads.store_pending(store)
    gone.refresh_from_db()
    store.delete(gone.payload_name)

    plan = plan_for([letter, gone], store).dry_run()

    assert [(item.verdict, item.why) for item in plan.items.all()] == [
        ("refused", "its payload is not what was stored"),
        ("payload_gone", "its payload is gone from the store"),
    ]
    with pytest.raises(NothingWouldRun):
        redrive.propose_plan(plan=plan, actor=crew.oncall, now=NOW)
    plan.refresh_from_db()
    assert plan.state == "checked"


def test_edit_is_tried_and_shown_without_what_must_not_be_seen(key, store):
    """The diff is redacted, the digests are of the whole; the payload itself is not changed."""
    body = QUESTION | {"model": "gone", "messages": [{"role": "user", "content": "I am ada@example.org, 3 parcels"}]}
    letter = fail_job(key, body=body)
    merge = {"model": "chat", "messages": [{"role": "user", "content": "Ask bob@example.org"}]}

    made = plan_for([letter], store, edit={"merge": merge})
    [item] = made.dry_run().items.all()

    assert item.verdict == "would_run"
    assert '-  "model": "gone"' in item.diff
    assert '+  "model": "chat"' in item.diff
    assert "example.org" not in item.diff
    assert "Ask [" in item.diff
    assert item.old_digest != item.new_digest
    letter.refresh_from_db()
    assert b"ada@example.org" in bytes(letter.payload_body)
    bad = plan_for([letter], store, edit={"merge": {"messages": "none"}}).dry_run()
    assert bad.items.get().why.startswith("invalid_request at messages")
    stolen = plan_for([letter], store, edit={"merge": {"user": "bob"}}).dry_run()
    assert stolen.items.get().why == "the edit changes whose request it is"


def test_what_is_purged_leaves_no_words_in_plans(key, store):
    """Neither the diff, nor digests of what was said, nor an edit that was for that letter alone."""
    letter, other = fail_job(key), fail_job(key)
    whole = plan_for([letter], store, edit={"body": QUESTION | {"user": None, "temperature": 0}})
    several = plan_for([letter, other], store, edit={"merge": {"temperature": 0}})
    for made in (whole, several):
        made.dry_run()

    retention._purge([letter.pk], now=NOW)

    mine = [made.plan.items.get(letter=letter) for made in (whole, several)]
    assert {(item.diff, item.old_digest, item.new_digest) for item in mine} == {("", "", "")}
    assert several.plan.items.get(letter=other).diff
    assert (whole.fresh().edit, several.fresh().edit) == (None, {"merge": {"temperature": 0}})


# --- approval --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("number", "more", "edit", "asked"),
    [
        (2, {}, None, {}),
        (21, {}, None, {"approver": 1}),
        (1, {"has_tools": True}, None, {"approver": 1}),
        (1, {}, {"merge": {"temperature": 0}}, {"approver": 1}),
    ],
)
def test_policy_asks_by_size_tools_and_edit(key, store, number, more, edit, asked):
    """Nobody for a small plan; one approver for more, for tools, for an edit."""
    made = plan_for([fail_job(key, **more) for _ in range(number)], store, edit=edit)
    made.dry_run()

    change = redrive.propose_plan(plan=made.fresh(), actor=crew.oncall, now=NOW)

    assert change.rule["gates"]["apply"] == asked
    if asked:
        with pytest.raises(NotApproved):
            approvals.apply_change(change=change, actor=crew.oncall, now=NOW)
        sign(change, crew.approver_one)
    approvals.apply_change(change=change, actor=crew.oncall, now=NOW)
    assert made.fresh().state == "canary"


def test_policy_asks_two_people_above_five_hundred():
    """By the size class, which the content that is signed holds."""
    facts = {"has_tools": False, "is_edited": False, "size": RedrivePlan(size=501).size_class}
    rule = match(parse_rules(built_in_rules()), kind=redrive.KIND_NAME, facts=facts)

    assert [(one.role, one.count) for one in rule.gate("apply").requirements] == [("approver", 2)]
    assert RedrivePlan(size=500).size_class == "medium"


def test_no_policy_lets_tools_or_an_edit_through_on_one_persons_word(key, store):
    """Whatever the rules in force ask for."""
    lenient = {"name": "All", "kind": redrive.KIND_NAME, "gates": {"apply": {}}}
    change_policy([lenient, *rules_of_built_in()])
    made = plan_for([fail_job(key, has_tools=True)], store)
    made.dry_run()
    change = redrive.propose_plan(plan=made.fresh(), actor=crew.oncall, now=NOW)

    with pytest.raises(NeedsSignOff, match="brings tools"):
        approvals.apply_change(change=change, actor=crew.oncall, now=NOW)
    assert made.fresh().state == "proposed"
    sign(change, crew.approver_one)
    approvals.apply_change(change=change, actor=crew.oncall, now=NOW)
    assert made.fresh().state == "canary"


def test_withdrawn_plan_can_be_tried_again_and_a_rejected_one_never(key, store):
    """The rejection is of these letters with this edit, in whatever plan."""
    letters = [fail_job(key, has_tools=True)]
    made = plan_for(letters, store)
    made.dry_run()
    change = redrive.propose_plan(plan=made.fresh(), actor=crew.oncall, now=NOW)
    with pytest.raises(PlanMoved, match="CR-"):
        redrive.withdraw_plan(plan=made.plan, actor=crew.oncall, reason="r", now=NOW)
    approvals.withdraw_change(change=change, actor=crew.oncall, reason="not yet", now=NOW)
    assert made.fresh().state == "checked"
    made.dry_run()
    again = redrive.propose_plan(plan=made.fresh(), actor=crew.oncall, now=NOW)

    approvals.reject_change(change=again, actor=crew.approver_one, reason="twice is too often", now=NOW)

    assert (made.fresh().state, made.plan.note) == ("withdrawn", "twice is too often")
    other = plan_for(letters, store)
    other.dry_run()
    with pytest.raises(DigestRejected):
        redrive.propose_plan(plan=other.fresh(), actor=crew.oncall, now=NOW)


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
