"""Alerts and their channels over the API."""

from __future__ import annotations

import pytest

from controlplane.alerts.models import Channel
from tests.alerts.channels import make_mailboxes, make_webhook, raise_one
from tests.factories import crew

pytestmark = pytest.mark.django_db
URL = "http://127.0.0.1:9/hooks?token=t0ken"


def test_channel_is_added_and_its_secret_given_once(as_operator):
    """A second of the name is refused; nothing shows the secret, or the address's path, again."""
    admin = as_operator(crew.admin)
    body = {"slug": "pager", "kind": "webhook", "url": URL, "events": ["canary.rolled_back"]}

    first, second = admin.post("alert-channels", body), admin.post("alert-channels", body)
    row = admin.get("alert-channels/pager").body

    assert (first.status, first.headers["Cache-Control"]) == (201, "no-store")
    assert first.body["secret"].startswith("whsec_")
    assert (second.status, second.body["error"]["code"]) == (409, "name_taken")
    assert "secret" not in row
    assert (row["leads_to"], row["events"], row["enabled"]) == ("127.0.0.1", ["canary.rolled_back"], True)
    assert "t0ken" not in str(admin.get("alert-channels").body)


def test_what_is_wrong_with_a_channel_is_said_by_field(as_operator):
    """With a code for programs."""
    admin = as_operator(crew.admin)

    private = admin.post("alert-channels", {"slug": "x", "kind": "webhook", "url": "http://10.0.0.1/"})
    unknown = admin.post("alert-channels", {"slug": "x", "kind": "webhook", "url": URL, "events": ["x.y"]})
    misspelt = admin.post("alert-channels", {"slug": "x", "kind": "webhook", "adress": URL})

    assert (private.status, private.body["error"]["code"]) == (400, "address_refused")
    assert list(private.body["error"]["fields"]) == ["url"]
    assert (unknown.status, list(unknown.body["error"]["fields"])) == (400, ["events"])
    assert (misspelt.status, list(misspelt.body["error"]["fields"])) == (400, ["adress"])
    assert not Channel.objects.exists()


def test_channel_is_changed_rotated_disabled_and_enabled(as_operator):
    """Each by whoever manages channels; on-call only looks."""
    make_webhook(URL)
    admin, oncall = as_operator(crew.admin), as_operator(crew.oncall)

    changed = admin.patch("alert-channels/pager", {"events": ["channel.disabled"]})
    rotated = admin.post("alert-channels/pager/rotate-secret")
    disabled = admin.post("alert-channels/pager/disable")
    test = admin.post("alert-channels/pager/test")
    enabled = admin.post("alert-channels/pager/enable")

    assert (changed.status, changed.body["events"]) == (200, ["channel.disabled"])
    assert rotated.body["secret"].startswith("whsec_")
    assert rotated.body["old_secret_until"] is not None
    assert (disabled.body["enabled"], disabled.body["disabled_why"]) == (False, "admin disabled it")
    assert (test.status, test.body["error"]["code"]) == (409, "channel_disabled")
    assert (enabled.body["enabled"], enabled.body["disabled_why"]) == (True, "")
    assert [oncall.get("alert-channels/pager").status, oncall.post("alert-channels/pager/disable").status] == [200, 403]


def test_test_alert_names_its_delivery(as_operator):
    """By the id that the receiver gets."""
    make_webhook(URL)
    admin = as_operator(crew.admin)

    sent = admin.post("alert-channels/pager/test")

    assert (sent.status, sent.body["state"], sent.body["channel"]) == (202, "pending", "pager")
    [alert] = admin.get("alerts?kind=channel.test").body["results"]
    assert [row["message_id"] for row in alert["deliveries"]] == [sent.body["message_id"]]


def test_alerts_come_with_what_became_of_them(as_operator):
    """Newest first, by kind or by what they are about; whoever may not see channels sees none."""
    make_mailboxes("a@example.com")
    raise_one()
    raise_one(dedupe="2", kind="breaker.storm", target="lane:x")
    auditor = as_operator(crew.auditor)

    rows = auditor.get("alerts").body["results"]

    assert [row["kind"] for row in rows] == ["breaker.storm", "canary.rolled_back"]
    assert rows[1]["facts"] == {"rail": "cost", "harm": 14.2}
    assert [row["channel"] for row in rows[1]["deliveries"]] == ["team"]
    assert auditor.get("alerts?target=lane:x").body["count"] == 1
    assert as_operator(crew.owner).get("alerts").status == 403


def test_lists_take_as_many_queries_however_much_there_is(as_operator, queries):
    """Of channels, alerts and deliveries."""
    auditor = as_operator(crew.auditor)
    auditor.get("me")  # notes that the token is in use, once

    def count():
        return [queries(lambda path=path: auditor.get(path)) for path in ("alerts", "alert-channels")]

    make_webhook(URL)
    raise_one()
    few = count()
    for number in range(4):
        make_webhook(URL, slug=f"more-{number}")
        raise_one(dedupe=f"more-{number}")

    assert count() == few
