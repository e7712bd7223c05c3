"""Where answers of jobs go, on the pages: how it stands, who may have one sent again, and the secret of a tenant."""

from datetime import timedelta

import pytest
from django.utils import timezone

from controlplane.accounts.roles import Role
from controlplane.audit.models import AuditEvent
from controlplane.deliveries.models import WebhookSecret
from controlplane.ledger.deliveries import Delivery
from tests.console.conftest import words
from tests.deliveries.parcels import only, promise
from tests.factories import crew, make_operator, make_tenant
from tests.job_rows import make_job

LIST = "/usage/jobs/"


@pytest.fixture
def acme(db):
    return make_tenant()


def stands(state, **fields):
    """The one delivery, as it stands after some attempts."""
    row = promise(address="https://app.example.com/answers?token=t0ken")
    Delivery.objects.filter(pk=row.pk).update(state=state, attempts=3, **{"next_at": None} | fields)
    return row


@pytest.mark.parametrize(
    ("state", "fields", "sentence"),
    [
        ("waiting", {"next_at": timezone.now() + timedelta(minutes=5)}, "Waits for its next attempt by a webhook."),
        ("delivering", {"next_at": timezone.now()}, "Is being sent by a webhook."),
        ("delivered", {"delivered_at": timezone.now()}, "Went out by a webhook, and was taken."),
        ("failed", {"last_problem": "'app.example.com' answered 404"}, "Was refused for good"),
        ("given_up", {"last_problem": "it gave no answer"}, "Was given up after a day of attempts"),
        ("cancelled", {"address": ""}, "Goes nowhere: the job was cancelled, or its words are gone."),
    ],
)
def test_page_of_a_job_says_how_sending_its_answer_stands(acme, signed_in, state, fields, sentence):
    """In a sentence, with the last problem; of the address the host, since the rest may hold a token."""
    row = stands(state, **fields)

    page = signed_in(crew.auditor).get(f"{LIST}{row.pk}/")

    assert sentence in words(page)
    assert row.message_id in words(page)
    assert fields.get("last_problem", "none") in words(page)
    assert ("app.example.com" in words(page)) == (state != "cancelled")
    assert "t0ken" not in page.content.decode()
    assert "web-chat-later@1 (de)" in words(page)


def test_job_without_a_place_for_its_answer_says_nothing_of_one(acme, signed_in):
    """Whoever wants it comes for it."""
    page = signed_in(crew.auditor).get(f"{LIST}{make_job().pk}/")

    assert "Where its answer goes" not in words(page)


def test_list_is_narrowed_to_what_was_given_up(acme, signed_in, queries):
    """As many queries for many as for few."""
    given_up, delivered = stands("given_up"), stands("delivered", delivered_at=timezone.now())
    plain = make_job()
    browser = signed_in(crew.auditor)

    found = {
        answer: {job.pk for job, *_ in browser.get(f"{LIST}?answer={answer}").context["lines"]}
        for answer in ("given_up", "delivered", "failed", "")
    }

    assert found == {
        "given_up": {given_up.pk},
        "delivered": {delivered.pk},
        "failed": set(),
        "": {given_up.pk, delivered.pk, plain.pk},
    }
    assert "given up" in words(browser.get(LIST))
    few = queries(lambda: browser.get(LIST))
    for _ in range(5):
        stands("failed")
    assert queries(lambda: browser.get(LIST)) == few


def test_answer_is_sent_again_by_who_may_redrive(acme, signed_in):
    """Twice asked is once sent; who may only look is offered nothing."""
    row = stands("given_up")
    reader, oncall = signed_in(crew.auditor), signed_in(crew.oncall)
    offered = ["Send again" in words(browser.get(f"{LIST}{row.pk}/")) for browser in (reader, oncall)]

    refused = reader.post(f"{LIST}{row.pk}/send-again/")
    first = oncall.post(f"{LIST}{row.pk}/send-again/", follow=True)
    again = oncall.post(f"{LIST}{row.pk}/send-again/", follow=True)

    assert offered == [False, True]
    assert refused.status_code == 403
    assert "is being sent to app.example.com" in first.content.decode()
    assert "cannot be sent again: it is under way" in again.content.decode()
    assert "Had the answer of job" in words(signed_in(crew.auditor).get("/audit/"))
    assert (only().state, AuditEvent.objects.filter(action="answer.sent_again").count()) == ("waiting", 1)
    assert oncall.post(f"{LIST}{make_job().pk}/send-again/").status_code == 404


def test_secret_of_webhooks_is_made_and_rotated_on_the_page_of_the_tenant(acme, signed_in):
    """Shown once, by whoever may hand out its keys; the page says how long the old one signs."""
    admin, url = signed_in(crew.admin), "/access/tenants/acme/"
    before = words(admin.get(url))

    made = admin.post(f"{url}webhook-secret/")
    rotated = admin.post(f"{url}webhook-secret/")

    assert "None yet" in before
    for page in (made, rotated):
        assert page.context["secret"].startswith("whsec_")
        assert "no-store" in page["Cache-Control"]
    assert made.context["secret"] != rotated.context["secret"]
    assert "The one before it signs too, until" in words(rotated)
    page = admin.get(url)
    assert "Rotate the secret" in words(page)
    assert rotated.context["secret"] not in page.content.decode()
    assert WebhookSecret.objects.get().old_secret != ""
    reader = signed_in(make_operator("reader", Role.AUDITOR, on=acme))
    assert reader.post(f"{url}webhook-secret/").status_code == 403
    assert "Webhook secret" not in words(reader.get(url))
