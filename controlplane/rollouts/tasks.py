"""What the control plane does about canaries on its own, on Celery's beat."""

from celery import shared_task
from django.utils import timezone

from controlplane.approvals import operations as approvals


@shared_task(name="rollouts.lapse_break_glass", expires=15)
def lapse_break_glass() -> int:
    """End every bypass whose time is over; workers stopped serving its effect at that second by themselves."""
    return approvals.lapse_due(now=timezone.now())
