"""The word that Celery carries: something is due; and the sweep on its beat."""

import time
from random import Random

from celery import shared_task
from django.utils import timezone

from controlplane.work import handlers, operations, runner


# Word is acknowledged when it comes, not when the work is done: what a worker had when it died comes back by its lease,
# and a worker that lost its broker while it was busy could not acknowledge any more, and might stay deaf afterwards.
# How long each piece may take is for its handler to say.
@shared_task(name=operations.RUN_TASK, acks_late=False, time_limit=handlers.LONGEST_SECONDS)
def run_due() -> int:
    """Do what is due."""
    return runner.run_due(rng=Random(), now=timezone.now, clock=time.monotonic)  # noqa: S311 - jitter, not a secret


@shared_task(name=operations.RUN_URGENT_TASK, acks_late=False, time_limit=handlers.LONGEST_SECONDS)
def run_urgent() -> int:
    """Do what is due of what is urgent."""
    return runner.run_due(rng=Random(), now=timezone.now, clock=time.monotonic, is_urgent=True)  # noqa: S311 - as above


@shared_task(name="work.sweep", expires=5)
def sweep() -> int:
    """Put back what dead workers had, and send word of what is due."""
    return operations.sweep(now=timezone.now())
