"""Redrives are planned and tried dry, with or without an edit, before anything is handed in."""

from __future__ import annotations

import uuid
from datetime import timedelta

import obstore
import pytest

from controlplane.accounts import operations as accounts
from controlplane.audit.models import AuditEvent
from controlplane.deadletters import operations, payloads, redrive, retention
from controlplane.deadletters.errors import BadEdit, BadPlan, NoReason, NothingWouldRun
from controlplane.deadletters.plans import counts_of
from controlplane.deadletters.redrive import Choice, Settings
from controlplane.ledger.idempotency import IdempotencyRecord
from controlplane.ledger.jobs import Job
from dataplane.deadletters import Event
from tests.deadletters.redrives import (
    QUESTION,
    admit,
    fail_job,
    plan_for,
)
from tests.factories import (
    NOW,
    crew,
    make_routing,
    routing_document,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("ground")]
MINUTE = timedelta(minutes=1)


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
