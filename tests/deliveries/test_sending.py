"""Answers on their way: real requests to a receiver that is not ours, e-mails as they are, and what becomes of each."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest
from django.core import mail
from django.db import IntegrityError, connection
from django.utils import timezone

from controlplane.alerts.networks import Reach
from controlplane.audit.models import AuditEvent
from controlplane.deadletters import subjects
from controlplane.deadletters.checks import Work
from controlplane.deadletters.handing_in import hand_in
from controlplane.deadletters.models import DeadLetter
from controlplane.deliveries import operations, sending
from controlplane.deliveries.errors import NothingToSend
from controlplane.deliveries.messages import NO_TEXT, UNANSWERED
from controlplane.ledger.deliveries import Delivery
from controlplane.ledger.jobs import Job
from dataplane.jobs import State
from dataplane.stores import jobs_sql
from tests.alerts.channels import work
from tests.alerts.receiver import serve
from tests.deliveries.parcels import ANSWER, GERMAN, completion, only, promise, send
from tests.factories import NOW, crew, make_tenant

pytestmark = pytest.mark.django_db
GUIDE = Path(__file__).parents[2] / "docs" / "alerts.md"


@pytest.fixture
def receiver():
    """Whoever is to have the answer."""
    with serve() as receiver:
        yield receiver


@pytest.fixture
def secret(db):
    """What the tenant's webhooks are signed with."""
    return operations.rotate_secret(tenant=make_tenant(), actor=crew.admin, now=timezone.now())


# --- webhooks --------------------------------------------------------------------------------------------------------
def test_answer_arrives_signed_once_its_job_is_over(receiver, secret):
    """Not before; with the answer as the endpoint gave it, under an id that stays the same."""
    promised = promise(address=receiver.url(), state=State.QUEUED)
    before = send()
    Job.objects.update(state=State.COMPLETED, ended_at=timezone.now(), response=completion(), status=200)

    tried = send()

    [message] = receiver.messages
    assert (before, tried) == (0, 1)
    assert message.is_signed_with(secret)
    assert message.headers["webhook-id"] == f"msg_{promised.pk.hex}"
    assert json.loads(message.body) == {
        "job": promised.job.name,
        "status": "completed",
        "request_id": "req_1",
        "ballast": GERMAN,
        "response": json.loads(completion()),
    }
    row = only()
    assert (row.state, row.attempts, row.last_status, row.next_at) == ("delivered", 1, 204, None)
    assert row.delivered_at is not None


def test_receiver_checks_it_with_the_lines_of_the_guide(receiver, secret):
    """Those that alerts are checked with."""
    promise(address=receiver.url())
    send()
    [message] = receiver.messages
    [code] = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    world: dict[str, object] = {}
    exec(code, world)  # noqa: S102 - ours, from our own documentation

    assert world["verify"](message.body, message.headers, secret) == json.loads(message.body)
    with pytest.raises(ValueError, match="not signed with our secret"):
        world["verify"](message.body + b" ", message.headers, secret)


@pytest.mark.parametrize("state", [State.FAILED, State.EXPIRED])
def test_failure_is_told_as_one(receiver, secret, state):
    """Whoever waits for an answer hears that none comes, in the words of the error."""
    error = {"code": "upstream_unavailable", "message": "the provider is away"}
    promise(address=receiver.url(), state=state, error=error)

    send()

    [message] = receiver.messages
    told = json.loads(message.body)
    assert (told["status"], told["error"]) == (state, error)
    assert "response" not in told


def test_cancelled_job_is_told_to_nobody(receiver, secret):
    """Who cancelled it knows."""
    promise(address=receiver.url(), state=State.CANCELLED)

    assert send() == 0

    assert (only().state, only().next_at, receiver.messages) == ("cancelled", None, [])


def test_receiver_that_is_away_is_asked_again_under_the_same_id(receiver, secret):
    """After a pause, with a signature that is fresh."""
    promise(address=receiver.url())
    receiver.statuses = [503, 429]

    first = send()
    row, at_once = only(), send()
    send(hours=1)
    send(hours=2)

    assert (first, at_once) == (1, 0)
    assert (row.state, row.last_status, row.attempts) == ("waiting", 503, 1)
    assert row.last_problem == "'127.0.0.1' answered 503"
    assert row.next_at > timezone.now()
    assert len({message.headers["webhook-id"] for message in receiver.messages}) == 1
    assert (only().state, only().attempts, only().last_problem) == ("delivered", 3, "")


def test_after_a_day_it_is_given_up_and_can_be_sent_again(receiver, secret):
    """Nobody tries any more, until somebody asks for it; that stands in the record."""
    promised = promise(address=receiver.url())
    receiver.statuses = [500, 500]
    send()
    send(hours=23.999)
    given_up = only()

    nobody = send(hours=48)
    operations.send_again(delivery=given_up, actor=crew.oncall, now=timezone.now())
    again = send()

    assert (given_up.state, given_up.attempts, given_up.next_at) == ("given_up", 2, None)
    assert (nobody, again, only().state) == (0, 1, "delivered")
    assert AuditEvent.objects.filter(action="answer.sent_again", target=f"job:{promised.job.name}").count() == 1


@pytest.mark.parametrize("status", [302, 400, 410])
def test_receiver_that_says_no_is_not_asked_again(receiver, secret, status):
    """Asking again would not help, and redirects are not followed."""
    promise(address=receiver.url())
    receiver.statuses = [status]
    receiver.headers = {"Location": receiver.url()} if status == 302 else {}

    send()

    assert (only().state, only().last_status, len(receiver.messages)) == ("failed", status, 1)
    [letter] = DeadLetter.objects.all()
    assert (letter.kind, letter.name, letter.tenant) == ("webhook", "deliveries.send_again", "acme")
    assert (letter.code, letter.user_hash) == ("receiver_refused", only().job.user_hash)


def test_redriven_letter_has_the_answer_sent_again(receiver, secret):
    """Once, by the work that somebody hands in again; one more failure is one more letter."""
    promised = promise(address=receiver.url())
    receiver.statuses = [400, 404]
    send()
    [letter] = DeadLetter.objects.all()

    for _ in range(2):
        hand_in(letter, Work(body={"job": str(promised.pk)}), edit_digest="", now=timezone.now())
        work()
        send()
        letter = DeadLetter.objects.order_by("-id").first()
        if only().state == "delivered":
            break

    assert (only().state, only().attempts) == ("delivered", 3)
    assert [message.headers["webhook-id"] for message in receiver.messages] == [promised.message_id] * 3
    assert DeadLetter.objects.count() == 2


@pytest.mark.parametrize("address", ["10.0.0.7", "169.254.169.254", "127.0.0.1"])
def test_nothing_is_sent_into_the_network_that_ballast_stands_in(receiver, secret, address):
    """Wherever the name led when the job was handed in."""
    promise(address="https://app.example.com/answers")

    send(addresses=(address,), reach=Reach.PUBLIC)

    assert only().state == "failed"
    assert address in only().last_problem


def test_answer_waits_for_a_secret_to_be_signed_with(receiver):
    """Nothing goes out that its receiver could not tell from anybody else's."""
    tenant = make_tenant()
    promise(address=receiver.url())
    send()
    row = only()

    secret = operations.rotate_secret(tenant=tenant, actor=crew.admin, now=timezone.now())
    send(hours=1)

    assert (row.state, "has no secret to sign with" in row.last_problem) == ("waiting", True)
    [message] = receiver.messages
    assert message.is_signed_with(secret)


def test_both_secrets_sign_for_a_day_after_a_rotation(receiver, secret):
    """Receivers change theirs when they get to it; nobody finds a secret in the database, or in the record."""
    tenant = make_tenant("globex")
    first = operations.rotate_secret(tenant=tenant, actor=crew.admin, now=timezone.now())
    second = operations.rotate_secret(tenant=tenant, actor=crew.admin, now=timezone.now())
    for hours in (1, 30):
        promised = promise(address=receiver.url(), tenant_slug="globex")
        send(hours=hours)
        assert Delivery.objects.get(pk=promised.pk).state == "delivered"

    early, late = receiver.messages
    assert (early.is_signed_with(first), early.is_signed_with(second)) == (True, True)
    assert (late.is_signed_with(first), late.is_signed_with(second)) == (False, True)
    kept = str(list(AuditEvent.objects.values_list("data", flat=True))) + tenant.webhook_secret.secret
    assert first[8:] not in kept
    assert second[8:] not in kept


def test_worker_that_dies_with_an_answer_leaves_it_to_another(receiver, secret):
    """Once its lease is over; what it writes afterwards is not heard."""
    promise(address=receiver.url())
    dead = sending.take(now=timezone.now())
    meanwhile = send(hours=0.01)

    send(hours=1)
    sending._move(dead, sending.Event.MISSED, status=500, problem="too late")

    assert (meanwhile, only().state, only().attempts) == (0, "delivered", 2)


# --- e-mail ----------------------------------------------------------------------------------------------------------
def test_answer_goes_out_in_the_words_that_were_signed(settings):
    """As text and as HTML, in which what a model says is text; with an id by which one that came twice is known."""
    promised = promise("email")

    send()

    [message] = mail.outbox
    assert (message.subject, message.to) == ("Ihre Antwort von Web chat", ["ada@example.com"])
    assert message.body.startswith(f"Hier ist die Antwort.\n\n{ANSWER}\n")
    assert promised.job.name in message.body
    [(html, kind)] = message.alternatives
    assert kind == "text/html"
    assert "Hier ist die Antwort." in html
    assert "&lt;b&gt;30 Tage&lt;/b&gt; &amp; kostenlos." in html
    assert '<html lang="de">' in html
    assert message.extra_headers["Message-ID"].startswith(f"<msg_{promised.pk.hex}@")
    assert message.reply_to == []
    assert only().state == "delivered"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"state": State.FAILED}, UNANSWERED),
        ({"state": State.EXPIRED}, UNANSWERED),
        ({"response": completion(None)}, NO_TEXT),
        ({"response": completion("")}, NO_TEXT),
    ],
)
def test_no_e_mail_announces_an_answer_that_it_does_not_bring(fields, words):
    """It says so in plain words, and never nothing."""
    promise("email", **fields)

    send()

    [message] = mail.outbox
    assert message.body.startswith(words)
    assert "Hier ist die Antwort." not in message.body
    assert "Hier ist die Antwort." not in message.alternatives[0][0]


def test_without_a_mail_server_it_waits_for_one():
    """And says which setting is missing."""
    promise("email")

    send(mails=False)

    assert only().state == "waiting"
    assert only().last_problem.startswith("EMAIL_URL is not set")


# --- what is kept ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", [State.QUEUED, State.COMPLETED])
def test_erasure_of_a_user_takes_the_address_along(secret, state):
    """Nothing is sent after it, and nobody can ask for it."""
    promised = promise("email", state=state)
    make_tenant("other")

    subjects.erase_subject(
        tenant="acme", user_hash=promised.job.user_hash, reason="asked for", actor=crew.admin, now=NOW
    )

    row = only()
    assert (row.address, row.subject, row.text, row.state, row.next_at) == ("", "", "", "cancelled", None)
    assert send() == 0
    assert mail.outbox == []
    with pytest.raises(NothingToSend, match="its words are gone"):
        operations.send_again(delivery=row, actor=crew.oncall, now=timezone.now())


def test_address_is_forgotten_with_the_words_of_its_job():
    """What became of it stays on record."""
    promise("email")
    send()
    Job.objects.update(forgotten_at=None)

    with connection.cursor() as cursor:
        cursor.execute(jobs_sql.FORGET, {"keep_seconds": -3600.0, "limit": 10})

    assert (only().address, only().subject, only().state) == ("", "", "delivered")


def test_what_is_under_way_is_not_sent_beside_itself(secret):
    """Somebody has it, or will."""
    row = promise("email")

    with pytest.raises(NothingToSend, match="it is under way"):
        operations.send_again(delivery=row, actor=crew.oncall, now=timezone.now())


def test_database_refuses_a_state_that_nobody_knows():
    """Whoever writes it."""
    promise("email")

    with pytest.raises(IntegrityError):
        Delivery.objects.update(state="lost", next_at=timezone.now() + timedelta(hours=1))
