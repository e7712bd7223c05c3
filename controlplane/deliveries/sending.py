"""Sending answers: whatever is due is taken by one process, tried once, and written down.

It may happen twice (a worker can die between the receiver's answer and our note of it), always under one id, by which
the receiver knows it again.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final
from uuid import uuid5

from django.db import transaction
from django.db.models import F

from controlplane.alerts import mail, networks, sealing, signatures, webhooks
from controlplane.alerts.errors import DeliveryFailed, InvalidChannel, SecretUnreadable
from controlplane.alerts.mail import MailboxesRefused
from controlplane.alerts.outside import Outside
from controlplane.deliveries import operations
from controlplane.deliveries.errors import Refused
from controlplane.deliveries.messages import body_of, compose
from controlplane.deliveries.models import WebhookSecret
from controlplane.ledger.deliveries import TRANSITIONS, Delivery, Event
from controlplane.work import arguments, deaths
from dataplane.deadletters import Category, Failure, category_of, shortened
from dataplane.destinations import Channel, DeliveryState
from dataplane.retry import backoff

logger = logging.getLogger(__name__)

# Longer than any attempt takes: whoever has had it for so long is gone, and somebody else tries.
LEASE_SECONDS: Final = 120
# For how long one word keeps a process at it; what comes after has word of its own.
BUSY_SECONDS: Final = 10.0
BASE_SECONDS: Final = 5.0
CAP_SECONDS: Final = 3600.0
_TOO_MANY: Final = 429
_TIMEOUT: Final = 408


def send_due(*, outside: Outside, rng: Random, now: Callable[[], datetime], clock: Callable[[], float]) -> int:
    """Send what is due until nothing is, or for BUSY_SECONDS; returns how many were tried. `clock` is monotonic
    seconds.
    """
    begun, tried = clock(), 0
    while clock() - begun < BUSY_SECONDS:
        delivery = take(now=now())
        if delivery is None:
            break
        deliver(delivery, outside=outside, rng=rng, now=now)
        tried += 1
    return tried


@transaction.atomic
def take(*, now: datetime) -> Delivery | None:
    """Take what has been due longest, for LEASE_SECONDS; None: nothing is that somebody else has not taken."""
    due = Delivery.objects.due(now).select_for_update(skip_locked=True, of=("self",)).select_related("job")
    delivery = due.first()
    if delivery is None:
        return None
    delivery.state = TRANSITIONS[DeliveryState(delivery.state), Event.TAKEN]
    delivery.attempts += 1
    delivery.next_at = now + timedelta(seconds=LEASE_SECONDS)
    delivery.save(update_fields=["state", "attempts", "next_at"])
    return delivery


def deliver(delivery: Delivery, *, outside: Outside, rng: Random, now: Callable[[], datetime]) -> None:
    """Try once what was taken, and write what became of it. Never raises for what the receiver does."""
    try:
        status = _send(delivery, outside=outside, now=now())
    except Refused as exc:
        failure = Failure(category_of("receiver_refused", status=exc.status), "receiver_refused", str(exc))
        _end(delivery, Event.REFUSED, failure, status=exc.status, now=now())
        return
    except DeliveryFailed as exc:
        _miss(delivery, str(exc), status=exc.status, rng=rng, now=now())
        return
    except Exception:
        # A fault of ours must not hold up what is due behind it, nor be tried without a pause.
        logger.exception("the answer of %s could not be sent", delivery.job.name)
        _miss(delivery, "sending failed; the log says why", status=0, rng=rng, now=now())
        return
    _move(delivery, Event.DELIVERED, status=status, delivered_at=now())


def _send(delivery: Delivery, *, outside: Outside, now: datetime) -> int:
    """Send it. Returns the status of the receiver's answer, 0 for e-mail.

    Raises:
        DeliveryFailed: try again later.
        Refused: that would not help.
    """
    if delivery.channel == Channel.EMAIL:
        if not outside.mails:
            raise DeliveryFailed("EMAIL_URL is not set, so no e-mail can be sent; .env.example says how")
        try:
            mail.hand_over(compose(delivery))
        except MailboxesRefused as exc:
            raise Refused(str(exc)) from exc
        return 0
    secrets = _secrets(delivery.job.tenant, now)
    try:
        # Looked up again each time: where the name led before says nothing about now.
        place = networks.look_up(delivery.address, reach=outside.reach, resolve=outside.resolve)
    except InvalidChannel as exc:
        raise Refused(str(exc)) from exc
    body = body_of(delivery)
    signed = signatures.headers_of(body, message_id=delivery.message_id, secrets=secrets, at=now)
    headers = {**signed, "User-Agent": "Ballast-Answers/1"}
    status = webhooks.post(place, body, headers, tls=outside.tls, seconds=outside.seconds).status
    if 200 <= status < 300:
        return status
    said = f"{place.host!r} answered {status}"
    if status in (_TIMEOUT, _TOO_MANY) or status >= 500:
        raise DeliveryFailed(said, status=status)
    raise Refused(f"{said}: redirects are not followed" if status < 400 else said, status=status)


def _secrets(tenant: str, now: datetime) -> list[str]:
    found = WebhookSecret.objects.filter(tenant__slug=tenant).first()
    if found is None:
        raise DeliveryFailed(f"tenant {tenant!r} has no secret to sign with; make one on its page under Access")
    try:
        return [sealing.unseal(sealed) for sealed in found.sealed_secrets(now)]
    except SecretUnreadable as exc:
        raise DeliveryFailed(str(exc)) from exc


def _miss(delivery: Delivery, problem: str, *, status: int, rng: Random, now: datetime) -> None:
    """Try again after a pause, unless the time for that is over."""
    pause = max(BASE_SECONDS, backoff(delivery.attempts, base=BASE_SECONDS, cap=CAP_SECONDS, rng=rng))
    next_at = now + timedelta(seconds=pause)
    if delivery.give_up_at is not None and next_at >= delivery.give_up_at:
        failure = Failure(Category.DEPENDENCY, "receiver_unavailable", problem)
        _end(delivery, Event.GIVEN_UP, failure, status=status, now=now)
        return
    _move(delivery, Event.MISSED, problem=problem, status=status, next_at=next_at)


@transaction.atomic
def _end(delivery: Delivery, event: Event, failure: Failure, *, status: int, now: datetime) -> None:
    """Write that nobody tries any more, and the dead letter, from which it can be sent again."""
    if not _move(delivery, event, problem=failure.message, status=status):
        return
    job = delivery.job
    logger.warning("nobody sends the answer of %s any more, after %d attempts", job.name, delivery.attempts)
    cause = {"at": now.isoformat(), "owner": "", "code": failure.code, "message": failure.message, "status": status}
    death = deaths.Death(
        kind=delivery.channel,
        name=operations.SEND_AGAIN,
        # Sent again, it may come to nothing again: then it has another letter.
        work_id=uuid5(delivery.pk, str(delivery.attempts)),
        failure=failure,
        payload=arguments.write(operations.SEND_AGAIN, {"job": str(job.pk)}),
        attempts=delivery.attempts,
        causes=[cause],
        tenant=job.tenant,
        user_hash=job.user_hash,
    )
    deaths.tell(death, now=now)


def _move(
    delivery: Delivery,
    event: Event,
    *,
    status: int,
    problem: str = "",
    next_at: datetime | None = None,
    delivered_at: datetime | None = None,
) -> bool:
    """Take the one legal step; False: somebody else has taken the delivery meanwhile, or its words were erased."""
    after = TRANSITIONS[DeliveryState(delivery.state), event]
    told: dict[str, Any] = {
        "state": after,
        "last_problem": shortened(problem),
        "last_status": status,
        "next_at": next_at,
        # Sent again, and missed: that it was delivered before stays on record.
        "delivered_at": F("delivered_at") if delivered_at is None else delivered_at,
    }
    mine = Delivery.objects.filter(pk=delivery.pk, state=delivery.state, attempts=delivery.attempts)
    if not mine.update(**told):
        return False
    delivery.state = after
    return True
