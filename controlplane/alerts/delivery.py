"""Telling one channel of one alert: durable work of the kind `alerts.deliver`.

It may happen twice (a worker can die between the receiver's answer and our note of it), always under one id, by which
the receiver knows it again.
"""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.db.models import F
from django.utils import timezone

from controlplane.alerts import mail, networks, operations, sealing, signatures, webhooks
from controlplane.alerts.errors import DeliveryFailed, InvalidChannel, SecretUnreadable
from controlplane.alerts.mail import MailboxesRefused
from controlplane.alerts.models import TRANSITIONS, Alert, Channel, Delivery, DeliveryEvent, DeliveryState
from controlplane.alerts.outside import Outside, configured
from controlplane.work import arguments as wire
from controlplane.work.deaths import Death
from controlplane.work.errors import GiveUp
from controlplane.work.handlers import Attempt
from dataplane.deadletters import Category, category_of, shortened

DELIVER: Final = operations.DELIVER
_GONE: Final = 410
_TOO_MANY: Final = 429


def run(arguments: dict[str, Any], attempt: Attempt) -> None:
    """The handler."""
    delivery = _named(arguments)
    if delivery is None:
        raise GiveUp("this names no delivery", code="invalid_request", category=Category.VALIDATION)
    deliver(delivery.pk, outside=configured(), now=timezone.now)


def deliver(delivery_id: UUID, *, outside: Outside, now: Callable[[], datetime]) -> None:
    """Try once; one that is delivered already is left so.

    Raises:
        DeliveryFailed: try again later.
        GiveUp: that would not help.
    """
    delivery = Delivery.objects.select_related("alert", "channel").get(pk=delivery_id)
    if delivery.state == DeliveryState.DELIVERED:
        return
    channel = delivery.channel
    try:
        if not channel.enabled:
            why = f"channel {channel.slug!r} is disabled: {channel.disabled_why}"
            raise GiveUp(why, code="channel_disabled", category=Category.POLICY)
        status, ms = _send(delivery, outside=outside, now=now())
    except (DeliveryFailed, GiveUp) as exc:
        _move(delivery, DeliveryEvent.MISSED, status=getattr(exc, "status", 0), problem=str(exc))
        raise
    if not channel.is_webhook or 200 <= status < 300:
        _move(delivery, DeliveryEvent.TAKEN, status=status, ms=ms, delivered_at=now())
        return
    refused = f"{channel.place!r} answered {status}"
    _move(delivery, DeliveryEvent.MISSED, status=status, ms=ms, problem=refused)
    if status == _TOO_MANY or status >= 500:
        raise DeliveryFailed(refused, status=status)
    if status == _GONE:
        operations.disable_gone(channel=channel, now=now())
        raise GiveUp(f"{refused}: it is gone", code="receiver_gone", category=Category.POLICY)
    if status < 400:
        raise GiveUp(f"{refused}: redirects are not followed", code="receiver_moved", category=Category.VALIDATION)
    raise GiveUp(refused, code="receiver_refused", category=category_of("receiver_refused", status=status))


def _send(delivery: Delivery, *, outside: Outside, now: datetime) -> tuple[int, int]:
    """Send it, and return the status of the answer (0: there is none, and it was taken) and milliseconds."""
    channel = delivery.channel
    try:
        if not channel.is_webhook:
            if not outside.mails:
                raise GiveUp("EMAIL_URL is not set", code="email_not_configured", category=Category.DEPENDENCY)
            return 0, mail.send(delivery)
        # Looked up again: where the name led when the channel was saved says nothing about today.
        place = networks.look_up(channel.url, reach=outside.reach, resolve=outside.resolve)
        body = body_of(delivery.alert)
        answer = webhooks.post(
            place, body, _headers(delivery, channel, body, now), tls=outside.tls, seconds=outside.seconds
        )
        return answer.status, answer.ms
    except (InvalidChannel, SecretUnreadable) as exc:
        raise GiveUp(str(exc), code=exc.code, category=Category.POLICY) from exc
    except MailboxesRefused as exc:
        raise GiveUp(str(exc), code="mailboxes_refused", category=Category.VALIDATION) from exc


def _headers(delivery: Delivery, channel: Channel, body: bytes, now: datetime) -> Mapping[str, str]:
    secrets = [sealing.unseal(sealed) for sealed in channel.sealed_secrets(now)]
    signed = signatures.headers_of(body, message_id=delivery.message_id, secrets=secrets, at=now)
    return {**signed, "User-Agent": "Ballast-Alerts/1"}


def body_of(alert: Alert) -> bytes:
    """What a webhook says, to every channel and in every attempt the same.

    Shape: {"type": kind, "timestamp": ISO 8601 in UTC, "data": {"id": int, "severity": page | warn | info, "title",
    "sentence", "facts": {}, "target", "url": str or null}}.
    """
    data = {
        "id": alert.pk,
        "severity": alert.severity,
        "title": alert.title,
        "sentence": alert.sentence,
        "facts": alert.facts,
        "target": alert.target,
        "url": f"{settings.CONSOLE_URL}{alert.link}" if alert.link else None,
    }
    at = alert.at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    message = {"type": alert.kind, "timestamp": at, "data": data}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def note_death(death: Death, now: datetime) -> None:
    """Note that nobody will try a delivery again, in the transaction that writes its dead letter."""
    if death.name != DELIVER:
        return
    delivery = _named(wire.read(death.payload))
    # One that is delivered: its worker died when all was done.
    if delivery is not None and delivery.state != DeliveryState.DELIVERED:
        _move(delivery, DeliveryEvent.DIED, problem=death.failure.message)


def _named(arguments: Mapping[str, Any]) -> Delivery | None:
    """The delivery that work is about; None where somebody has redriven it with other arguments, which name none."""
    try:
        named = UUID(str(arguments.get("delivery")))
    except ValueError:
        return None
    return Delivery.objects.filter(pk=named).first()


def _move(
    delivery: Delivery,
    event: DeliveryEvent,
    *,
    status: int | None = None,
    ms: int | None = None,
    problem: str = "",
    delivered_at: datetime | None = None,
) -> None:
    """Take the one legal step. Only this function assigns `state`; what somebody else delivered meanwhile stays so."""
    before = DeliveryState(delivery.state)
    after = TRANSITIONS[before, event]
    told: dict[str, Any] = {"state": after, "last_problem": shortened(problem), "delivered_at": delivered_at}
    if event != DeliveryEvent.DIED:
        told |= {"attempts": F("attempts") + 1, "last_status": status or 0, "ms": ms}
    if Delivery.objects.filter(pk=delivery.pk, state=before).update(**told):
        delivery.state = after
