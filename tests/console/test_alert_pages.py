"""The pages of alerts over HTTP."""

from __future__ import annotations

import pytest

from controlplane.alerts.models import Channel, Delivery
from tests.alerts.channels import make_mailboxes, make_webhook, raise_one, work
from tests.console.conftest import said, words
from tests.factories import crew
from tests.work.conftest import sql

pytestmark = pytest.mark.django_db
URL = "http://127.0.0.1:9/hooks?token=t0ken"


def test_without_a_channel_the_page_says_what_to_do_first(signed_in):
    """An admin is offered the first step; others are told who does it."""
    admin, auditor = (signed_in(one).get("/access/alerts/") for one in (crew.admin, crew.auditor))

    assert "Add a webhook or mailboxes, then send a test alert" in words(admin)
    assert "An admin adds a webhook or mailboxes here" in words(auditor)
    assert "Nothing happened yet" in words(auditor)


def test_page_shows_channels_with_their_last_delivery_and_alerts_with_all(signed_in):
    """Where each leads, whether it arrived, and not the token in its address."""
    make_webhook(URL)
    make_mailboxes("a@example.com")
    raise_one()
    work()

    page = signed_in(crew.oncall).get("/access/alerts/")

    text = words(page)
    assert "pager Webhook 127.0.0.1 every alert enabled pending" in text
    assert "team E-mail a@example.com every alert enabled delivered" in text
    assert "Canary answers-v2 was rolled back" in text
    assert "canary:answers-v2" in text
    assert "'127.0.0.1' cannot be reached" in text
    assert "t0ken" not in page.content.decode()
    assert "New webhook" not in text


def test_pages_take_as_many_queries_however_much_there_is(signed_in, queries):
    """Of channels, alerts and deliveries."""
    browser = signed_in(crew.admin)

    def count():
        return [queries(lambda url=url: browser.get(url)) for url in ("/access/alerts/", "/access/alerts/pager/")]

    make_webhook(URL)
    raise_one(dedupe="0")
    few = count()
    for number in range(5):
        make_webhook(URL, slug=f"more-{number}")
        raise_one(dedupe=f"more-{number}")

    assert count() == few


def test_webhook_is_added_and_its_secret_shown_once(signed_in):
    """In that answer, which nothing keeps; not on the channel's page."""
    browser = signed_in(crew.admin)

    made = browser.post("/access/new-alert-channel/webhook/", {"slug": "pager", "url": URL, "events": []})

    secret = made.context["secret"]
    assert secret.startswith("whsec_")
    assert secret in made.content.decode()
    assert "no-store" in made["Cache-Control"]
    page = browser.get("/access/alerts/pager/")
    assert page.status_code == 200
    assert secret not in page.content.decode()


def test_mailboxes_are_added_and_the_next_step_is_named(signed_in):
    """There is no secret to show."""
    made = signed_in(crew.admin).post(
        "/access/new-alert-channel/email/",
        {"slug": "team", "addresses": "a@example.com, b@example.com", "events": ["canary.rolled_back"]},
    )

    assert made.url == "/access/alerts/team/"
    assert said(made) == ["Channel team is there; send a test alert to see it arrive"]
    row = Channel.objects.get()
    assert (row.addresses, row.events) == (["a@example.com", "b@example.com"], ["canary.rolled_back"])


@pytest.mark.parametrize(
    ("kind", "fields", "fact"),
    [
        ("webhook", {"url": "http://10.0.0.1/"}, "a private network"),
        ("webhook", {"url": "https://user:word@127.0.0.1/"}, "name or password"),
        ("webhook", {"url": URL, "slug": "taken"}, "exists; choose another name"),
        ("email", {"addresses": "nobody"}, "is no mailbox"),
        ("email", {"addresses": ""}, "name 1 to 20 mailboxes"),
    ],
)
def test_channel_that_is_refused_says_why_beside_its_fields(signed_in, kind, fields, fact):
    """What was typed stays there."""
    make_webhook(URL, slug="taken")

    refused = signed_in(crew.admin).post(f"/access/new-alert-channel/{kind}/", {"slug": "new"} | fields)

    assert refused.status_code == 400
    assert fact in words(refused)
    assert Channel.objects.count() == 1


def test_there_are_no_other_kinds_of_channels(signed_in):
    """Nor pages for them."""
    assert signed_in(crew.admin).get("/access/new-alert-channel/pigeon/").status_code == 404


def test_channel_is_changed_where_only_admins_see_all_of_it(signed_in):
    """Its address stands in their form and nowhere else."""
    make_webhook(URL)

    admin, oncall = (signed_in(one) for one in (crew.admin, crew.oncall))
    assert "t0ken" in admin.get("/access/alerts/pager/").content.decode()
    assert "t0ken" not in oncall.get("/access/alerts/pager/").content.decode()
    changed = admin.post("/access/alerts/pager/", {"url": "http://127.0.0.1:10/", "events": ["channel.disabled"]})

    row = Channel.objects.get()
    assert changed.status_code == 302
    assert (row.url, row.events) == ("http://127.0.0.1:10/", ["channel.disabled"])


def test_secret_is_rotated_on_a_page_that_says_how_long_the_old_one_signs(signed_in):
    """Shown once, too; a channel of mailboxes has none."""
    make_webhook(URL)
    make_mailboxes("a@example.com")
    browser = signed_in(crew.admin)

    page = browser.post("/access/alerts/pager/rotate/")
    refused = browser.post("/access/alerts/team/rotate/")

    assert page.context["secret"].startswith("whsec_")
    assert "The one before it signs too, until" in words(page)
    assert said(refused) == ["channel 'team' is e-mail, which is not signed; there is no secret to rotate"]


def test_channel_is_disabled_and_enabled_by_who_manages_them(signed_in):
    """The page says who did it, and what follows."""
    make_webhook(URL)
    browser = signed_in(crew.admin)

    browser.post("/access/alerts/pager/disable/")
    page = words(browser.get("/access/alerts/pager/"))
    test = browser.post("/access/alerts/pager/test/")
    browser.post("/access/alerts/pager/enable/")

    assert "Nothing is sent to it admin disabled it" in page
    assert (
        said(test)
        == ["Nothing goes to pager any more", "channel 'pager' is disabled: admin disabled it; enable it first"][1:]
    )
    assert Channel.objects.get().enabled


def test_test_alert_is_sent_after_a_confirmation_that_names_its_effect(signed_in):
    """To whom, and that it says it is a test."""
    make_webhook(URL)
    browser = signed_in(crew.admin)

    page = words(browser.get("/access/alerts/pager/"))
    sent = browser.post("/access/alerts/pager/test/")

    assert "Send a test alert to 127.0.0.1" in page
    assert "One alert of the kind channel.test, severity info, that says it is a test." in page
    assert said(sent) == ["A test alert is on its way to 127.0.0.1; look below whether it arrives"]
    assert Delivery.objects.get().alert.kind == "channel.test"
    assert sql("SELECT kind FROM work_task") == [("alerts.deliver",)]
