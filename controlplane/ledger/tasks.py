"""What the control plane does about the ledger on its own, on Celery's beat."""

from datetime import timedelta

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from controlplane.ledger import streams
from controlplane.ledger.repairs import Repair

# Who the audit record says decided it: the setting did.
RETENTION = "BALLAST_TRANSCRIPT_DAYS"


@shared_task(name="ledger.decide_credits", expires=600)
def decide_credits() -> None:
    """Decide the credits of streams whose rule was not registered, or failed, when they ended."""
    last = streams.decide_credits()
    while last:
        last = streams.decide_credits(after=last)


@shared_task(name="ledger.forget_transcripts", expires=3600)
def forget_transcripts() -> int:
    """Delete the transcripts that are older than they are to be kept; returns how many. None are while nobody said."""
    days = settings.TRANSCRIPT_DAYS
    if not days:
        return 0
    now, forgotten = timezone.now(), 0
    asked = {"actor": RETENTION, "reason": f"older than {days} days"}
    while some := streams.forget_transcripts(before=now - timedelta(days=days), now=now, **asked):
        forgotten += some
    return forgotten


@shared_task(name="ledger.forget_repairs", expires=600)
def forget_repairs() -> int:
    """Delete the words of answers that nobody completed in time; returns how many."""
    return Repair.objects.forget(now=timezone.now())
