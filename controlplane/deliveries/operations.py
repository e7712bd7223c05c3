"""Give a tenant the secret of its webhooks, and have an answer sent once more."""

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.utils import timezone

from controlplane.accounts.models import Operator, Tenant
from controlplane.accounts.operations import SYSTEM
from controlplane.alerts import sealing
from controlplane.audit import operations as audit
from controlplane.deliveries.errors import NothingToSend
from controlplane.deliveries.models import WebhookSecret
from controlplane.ledger.deliveries import TRANSITIONS, Delivery, Event
from controlplane.work.errors import GiveUp
from controlplane.work.handlers import Attempt
from dataplane.deadletters import Category
from dataplane.destinations import TRY_SECONDS, DeliveryState

# For so long after a rotation the old secret signs too: receivers change theirs when they get to it.
OVERLAP: Final = timedelta(hours=24)
SEND_AGAIN: Final = "deliveries.send_again"


@audit.operation
def rotate_secret(*, tenant: Tenant, actor: Operator | str, now: datetime) -> str:
    """Give the tenant's webhooks a secret, the first or another, and return it: it is shown this once. For OVERLAP its
    predecessor signs too; the one before that signs no more.
    """
    secret = sealing.new_secret()
    known = WebhookSecret.objects.filter(tenant=tenant).first()
    made = {"secret": sealing.seal(secret), "made_by": audit.name_of(actor), "made_at": now}
    if known is None:
        WebhookSecret.objects.create(tenant=tenant, **made)
        audit.record("tenant.webhook_secret_made", actor=actor, target=tenant, at=now)
        return secret
    until = now + OVERLAP
    WebhookSecret.objects.filter(pk=known.pk).update(**made, old_secret=known.secret, old_secret_until=until)
    data = {"old_signs_until": until.isoformat(timespec="seconds")}
    audit.record("tenant.webhook_secret_rotated", actor=actor, target=tenant, at=now, data=data)
    return secret


def run(told: dict[str, Any], attempt: Attempt) -> None:
    """The handler of work whose dead letter somebody redrives: the answer is sent once more."""
    try:
        named = UUID(str(told.get("job")))
    except ValueError as exc:
        raise GiveUp("this names no job", code="invalid_request", category=Category.VALIDATION) from exc
    delivery = Delivery.objects.filter(pk=named).first()
    if delivery is None:
        raise GiveUp("this job's answer goes nowhere", code="invalid_request", category=Category.VALIDATION)
    try:
        send_again(delivery=delivery, actor=SYSTEM, now=timezone.now())
    except NothingToSend as exc:
        raise GiveUp(str(exc), code=exc.code, category=Category.POLICY) from exc


@audit.operation
def send_again(*, delivery: Delivery, actor: Operator | str, now: datetime) -> None:
    """Have an answer sent once more, at once, under the id that its receiver knows it by.

    Raises:
        NothingToSend: it is under way, or its words are gone; nothing was changed.
    """
    known = Delivery.objects.select_for_update().select_related("job").get(pk=delivery.pk)
    if not known.may_be_sent_again:
        raise NothingToSend(known.job.name, known.state)
    known.state = TRANSITIONS[DeliveryState(known.state), Event.AGAIN]
    known.next_at, known.give_up_at = now, now + timedelta(seconds=TRY_SECONDS)
    known.save(update_fields=["state", "next_at", "give_up_at"])
    audit.record("answer.sent_again", actor=actor, target=f"job:{known.job.name}", at=now)
