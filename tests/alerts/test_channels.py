"""Making and changing channels."""

import pytest

from controlplane.alerts import operations
from controlplane.alerts.errors import AddressRefused, ChannelDisabled, ChannelExists, InvalidChannel, NoSecret
from controlplane.alerts.models import Channel, ChannelKind
from controlplane.alerts.networks import Reach
from controlplane.audit.models import AuditEvent
from tests.alerts.channels import make_mailboxes, make_webhook, only, outside, work
from tests.factories import NOW, crew

pytestmark = pytest.mark.django_db
URL = "https://127.0.0.1/hooks?token=t0ken"


def test_webhook_is_made_with_a_secret_that_nothing_keeps_open():
    """Neither the row nor the record holds it, nor the address with its token."""
    made = make_webhook(URL)

    row = Channel.objects.get()
    assert made.secret.startswith("whsec_")
    assert made.secret not in row.secret
    assert (row.place, row.created_by, row.wants) == ("127.0.0.1", "admin", "every alert")
    event = AuditEvent.objects.get(action="alert_channel.created")
    assert event.data == {"kind": "webhook", "leads_to": "127.0.0.1", "events": []}


@pytest.mark.parametrize(
    ("fields", "field", "fact"),
    [
        ({"events": ["canary.rolled_bakc"]}, "events", "no alert is of the kind 'canary.rolled_bakc'"),
        ({"addresses": ["a@example.com"]}, "addresses", "a webhook has no mailboxes"),
        ({"url": "nonsense"}, "url", "no usable address"),
        ({"kind": ChannelKind.EMAIL, "addresses": ["a@example.com"]}, "url", "e-mail goes to mailboxes"),
        ({"kind": ChannelKind.EMAIL, "url": ""}, "addresses", "1 to 20 mailboxes, not 0"),
        ({"kind": ChannelKind.EMAIL, "url": "", "addresses": ["nobody"]}, "addresses", "'nobody' is no mailbox"),
        ({"kind": ChannelKind.EMAIL, "url": "", "addresses": ["a@b.example"] * 21}, "addresses", "not 21"),
        (
            {"kind": ChannelKind.EMAIL, "url": "", "addresses": ["a@b.example"], "outside": outside(mails=False)},
            "addresses",
            "EMAIL_URL is not set",
        ),
    ],
)
def test_channel_that_would_tell_nobody_is_refused(fields, field, fact):
    """By field, and nothing is made."""
    with pytest.raises(InvalidChannel, match=fact) as refused:
        make_webhook(**{"url": URL} | fields)

    assert refused.value.field == field
    assert not Channel.objects.exists()


def test_channel_into_ones_own_network_is_refused_when_it_is_saved():
    """Also when an honest one is changed."""
    public = outside("8.8.8.8", reach=Reach.PUBLIC)
    made = make_webhook("https://receiver.example/", outside=public)
    inside = outside("10.0.0.1", reach=Reach.PUBLIC)

    with pytest.raises(AddressRefused):
        make_webhook("https://receiver.example/", slug="other", outside=inside)
    with pytest.raises(AddressRefused):
        operations.change_channel(
            channel=made.channel, url="https://other.example/", actor=crew.admin, now=NOW, outside=inside
        )

    assert Channel.objects.get().url == "https://receiver.example/"


def test_only_what_is_given_changes():
    """And the record has both, without tokens."""
    made = make_webhook(URL, events=["channel.disabled"])

    operations.change_channel(
        channel=made.channel, url="https://127.0.0.2/x?token=new", actor=crew.admin, now=NOW, outside=outside()
    )

    row = Channel.objects.get()
    assert (row.url, row.events) == ("https://127.0.0.2/x?token=new", ["channel.disabled"])
    data = AuditEvent.objects.get(action="alert_channel.changed").data
    assert (data["before"]["leads_to"], data["after"]["leads_to"]) == ("127.0.0.1", "127.0.0.2")
    assert "token" not in str(data)


def test_name_is_taken_once():
    """By whichever kind."""
    make_webhook(URL)

    with pytest.raises(ChannelExists):
        make_mailboxes("a@example.com", slug="pager")


def test_mailboxes_have_no_secret():
    """Nothing is signed for them."""
    channel = make_mailboxes("a@example.com", "b@example.com")

    with pytest.raises(NoSecret):
        operations.rotate_secret(channel=channel, actor=crew.admin, now=NOW)
    assert channel.place == "a@example.com, b@example.com"


def test_disabling_twice_is_disabling_once():
    """The record has one event, and says who did it on the channel."""
    channel = make_webhook(URL).channel

    for _ in range(2):
        operations.set_enabled(channel=channel, enabled=False, actor=crew.admin, now=NOW)

    assert Channel.objects.get().disabled_why == "admin disabled it"
    assert AuditEvent.objects.filter(action="alert_channel.disabled").count() == 1


def test_test_alert_goes_to_one_channel_whatever_it_wants(receiver):
    """And to none that is disabled."""
    tested = make_webhook(receiver.url(), events=["channel.disabled"])
    make_webhook(receiver.url(), slug="other")

    operations.send_test(channel=tested.channel, actor=crew.admin, now=NOW)
    work()

    [message] = receiver.messages
    assert message.is_signed_with(tested.secret)
    assert (only().alert.kind, only().alert.severity, only().state) == ("channel.test", "info", "delivered")
    operations.set_enabled(channel=tested.channel, enabled=False, actor=crew.admin, now=NOW)
    with pytest.raises(ChannelDisabled, match="admin disabled it; enable it first"):
        operations.send_test(channel=tested.channel, actor=crew.admin, now=NOW)
