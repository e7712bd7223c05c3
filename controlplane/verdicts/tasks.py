"""What is done about canaries by itself, on Celery's beat."""

from celery import shared_task
from django.utils import timezone

from controlplane.verdicts import replay, watching


@shared_task(name="verdicts.watch", expires=10)
def watch() -> int:
    """Look at every running canary, and act on what is seen."""
    return watching.look_at_all(now=timezone.now())


@shared_task(name="verdicts.replay", expires=10)
def hand_out_replays() -> int:
    """Have the next held-out queries asked of every running canary's versions."""
    return replay.hand_out_all(now=timezone.now())


@shared_task(name="verdicts.forget", expires=600)
def forget() -> int:
    """Delete what was replayed for canaries that are over for long."""
    return replay.forget_old(now=timezone.now())
