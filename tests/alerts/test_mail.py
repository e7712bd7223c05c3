"""Alerts by e-mail."""

import smtplib

import pytest
from django.core import mail
from django.core.mail.backends.locmem import EmailBackend

from controlplane.alerts import delivery
from controlplane.alerts.errors import DeliveryFailed
from controlplane.deadletters.models import DeadLetter
from controlplane.work.errors import GiveUp
from tests.alerts.channels import make_mailboxes, only, outside, raise_one, work
from tests.factories import NOW

pytestmark = pytest.mark.django_db


class RefusingBackend(EmailBackend):
    """A mail server that says no, or nothing."""

    error: BaseException = OSError("connection refused")

    def send_messages(self, messages):
        raise self.error


@pytest.fixture
def refusing(settings):
    """`refusing(error)`: from now on the mail server answers so."""

    def refuse(error):
        RefusingBackend.error = error
        settings.EMAIL_BACKEND = f"{__name__}.{RefusingBackend.__name__}"

    return refuse


def deliver():
    delivery.deliver(only().pk, outside=outside(), now=lambda: NOW)


def test_alert_is_one_message_to_all_mailboxes():
    """In words and as simple HTML, with the link and the figures."""
    make_mailboxes("a@example.com", "b@example.com")
    raise_one(sentence="Cost is <b> & more", facts={"rail": "cost", "counts": [1, 2]})

    work()

    [message] = mail.outbox
    assert message.subject == "[Ballast page] Canary answers-v2 was rolled back"
    assert message.to == ["a@example.com", "b@example.com"]
    assert message.from_email == "Ballast <ballast@localhost>"
    for words in ("Cost is <b> & more", "counts: [1, 2]", "http://127.0.0.1:8000/canaries/answers-v2/"):
        assert words in message.body
    [html] = [part.content for part in message.alternatives]
    assert "Cost is &lt;b&gt; &amp; more" in html
    assert 'href="http://127.0.0.1:8000/canaries/answers-v2/"' in html
    assert (only().state, only().attempts, only().last_status) == ("delivered", 1, 0)


def test_message_that_is_sent_twice_can_be_told():
    """Its Message-ID follows from the delivery; another alert has another."""
    make_mailboxes("a@example.com")
    raise_one()

    first, again = (delivery.mail.compose(only()).message()["Message-ID"] for _ in range(2))

    assert first == again == f"<{only().message_id}@127.0.0.1>"


def test_title_cannot_add_headers():
    """It is one line, whatever it was."""
    make_mailboxes("a@example.com")
    raise_one(title="Rolled back\nBcc: everybody@example.com")

    work()

    assert mail.outbox[0].subject == "[Ballast page] Rolled back Bcc: everybody@example.com"
    assert mail.outbox[0].message()["Bcc"] is None


@pytest.mark.parametrize(
    "error",
    [
        OSError("connection refused"),
        smtplib.SMTPServerDisconnected("gone"),
        smtplib.SMTPAuthenticationError(535, b"no"),
        smtplib.SMTPRecipientsRefused({"a@example.com": (550, b"no"), "b@example.com": (451, b"later")}),
    ],
    ids=lambda error: type(error).__name__,
)
def test_server_that_is_away_is_asked_again(refusing, error):
    """Or that may know the mailbox later."""
    make_mailboxes("a@example.com", "b@example.com")
    raise_one()
    refusing(error)

    with pytest.raises(DeliveryFailed, match="the mail server"):
        deliver()

    assert (only().state, only().attempts) == ("pending", 1)


def test_mailboxes_that_do_not_exist_are_given_up(refusing):
    """All of them, for good: nobody is there to be told."""
    make_mailboxes("a@example.com")
    raise_one()
    refusing(smtplib.SMTPRecipientsRefused({"a@example.com": (550, b"no such user")}))

    work()

    assert only().state == "failed"
    assert DeadLetter.objects.get().code == "mailboxes_refused"


def test_without_a_mail_server_nothing_is_said_to_be_delivered():
    """It was taken away after the channel was added."""
    make_mailboxes("a@example.com")
    raise_one()

    with pytest.raises(GiveUp, match="EMAIL_URL is not set"):
        delivery.deliver(only().pk, outside=outside(mails=False), now=lambda: NOW)
