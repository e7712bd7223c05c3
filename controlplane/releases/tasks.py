"""What the control plane does about releases on its own, on Celery's beat."""

from celery import shared_task
from django.utils import timezone

from controlplane.releases import operations, propagation


@shared_task(name="releases.push_latest", expires=10)
def push_latest() -> bool:
    """Push the newest release again while a worker lags behind."""
    return operations.push_latest(now=timezone.now())


@shared_task(name="releases.settle_reach", expires=60)
def settle_reach() -> int:
    """Keep how fast releases went that are long replaced."""
    return propagation.settle(now=timezone.now())
