"""Word that answers may be due, on Celery's beat."""

import time
from random import Random

from celery import shared_task
from django.utils import timezone

from controlplane.alerts.outside import configured
from controlplane.deliveries import sending


@shared_task(name="deliveries.send_due", expires=5)
def send_due() -> int:
    """Send what is due; returns how many were tried."""
    rng = Random()  # noqa: S311 - jitter, not a secret
    return sending.send_due(outside=configured(), rng=rng, now=timezone.now, clock=time.monotonic)
