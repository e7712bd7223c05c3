"""Sends one alert by e-mail: plain text and simple HTML, one message for all mailboxes of a channel."""

import json
import smtplib
import time
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string

from controlplane.alerts.errors import DeliveryFailed
from controlplane.alerts.models import Delivery


class MailboxesRefused(Exception):
    """The mail server will never take a message for any of the mailboxes."""


def compose(delivery: Delivery) -> EmailMultiAlternatives:
    """The message of a delivery. Its Message-ID follows from the delivery, so that one sent twice can be told."""
    alert = delivery.alert
    context = {
        "alert": alert,
        "facts": [(name, _plain(value)) for name, value in alert.facts.items()],
        "url": f"{settings.CONSOLE_URL}{alert.link}" if alert.link else "",
    }
    message = EmailMultiAlternatives(
        subject=f"[Ballast {alert.severity}] {alert.title}",
        body=render_to_string("alerts/mail.txt", context),
        from_email=settings.ALERT_FROM,
        to=delivery.channel.addresses,
        headers={
            "Message-ID": f"<{delivery.message_id}@{urlsplit(settings.CONSOLE_URL).hostname}>",
            # No out-of-office answers, please.
            "Auto-Submitted": "auto-generated",
        },
    )
    message.attach_alternative(render_to_string("alerts/mail.html", context), "text/html")
    return message


def send(delivery: Delivery) -> int:
    """Hand the message of a delivery to the mail server. Returns the milliseconds that it took; raises as that does."""
    return hand_over(compose(delivery))


def hand_over(message: EmailMultiAlternatives) -> int:
    """Hand a message to the mail server. Returns the milliseconds that it took.

    Raises:
        DeliveryFailed: the server is away, or says so of itself.
        MailboxesRefused: it takes nothing for any of the mailboxes, for good.
    """
    begun = time.monotonic()
    try:
        message.send()
    except smtplib.SMTPRecipientsRefused as exc:
        codes = [code for code, _ in exc.recipients.values()]
        said = f"the mail server refuses every mailbox ({', '.join(map(str, sorted(set(codes))))})"
        if all(code >= 500 for code in codes):
            raise MailboxesRefused(said) from exc
        raise DeliveryFailed(said) from exc
    except OSError as exc:  # smtplib's own errors are such, too
        raise DeliveryFailed(f"the mail server does not take it: {exc or type(exc).__name__}") from exc
    return round((time.monotonic() - begun) * 1000)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
