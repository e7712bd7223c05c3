"""What the control plane does about releases on its own, on Celery's beat."""

from celery import shared_task
from django.utils import timezone

from controlplane.releases import operations


@shared_task(name="releases.push_latest", expires=10)
def push_latest() -> bool:
    """Push the newest release again while a worker lags behind."""
    return operations.push_latest(now=timezone.now())
