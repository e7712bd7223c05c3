"""What is done about corpora by itself, on Celery's beat."""

from celery import shared_task
from django.utils import timezone

from controlplane.corpora import breaches, collecting, drills, dump_keeping, leftovers, reconciling_work, sampling


@shared_task(name="corpora.dump_due", expires=60)
def dump_due() -> int:
    """Have every dump made whose time has come, and the newest ones verified; returns how many of both."""
    now = timezone.now()
    return dump_keeping.ask_for_due(now=now) + dump_keeping.ask_to_verify(now=now)


@shared_task(name="corpora.expire_dumps", expires=600)
def expire_dumps() -> int:
    """Delete dumps whose time is over, and copy those whose copy failed; returns how many were deleted."""
    now = timezone.now()
    dump_keeping.copy_uncopied(now=now)
    return dump_keeping.expire_dumps(now=now)


@shared_task(name="corpora.collect_leftovers", expires=600)
def collect_leftovers() -> int:
    """Let go of vectors whose chunks are gone; returns how many."""
    return leftovers.collect_leftovers(now=timezone.now())


@shared_task(name="corpora.reconcile_nightly", expires=600)
def reconcile_nightly() -> int:
    """Have every namespace that serves compared with its documents, unless that was asked for today."""
    return reconciling_work.ask_nightly(now=timezone.now())


@shared_task(name="corpora.sample", expires=15)
def sample() -> int:
    """Write down how corpora stand."""
    return sampling.sample(timezone.now())


@shared_task(name="corpora.sample_ghosts", expires=600)
def sample_ghosts() -> int:
    """Look for ghosts in what serves; returns how many were found."""
    return sampling.sample_served(timezone.now())


@shared_task(name="corpora.collect", expires=600)
def collect() -> int:
    """Let go of what nobody can read any more."""
    now = timezone.now()
    return collecting.collect(now=now) + sampling.forget_minutes(now=now)


@shared_task(name="corpora.watch_promises", expires=60)
def watch_promises() -> int:
    """Hold every corpus against what is promised of it, and tell people of what is not kept; returns how much."""
    return breaches.watch_promises(now=timezone.now())


@shared_task(name="corpora.drill_due", expires=60)
def drill_due() -> int:
    """End drills that nobody goes on with, and begin those whose time has come; returns how many of both."""
    now = timezone.now()
    return drills.sweep_drills(now=now) + drills.ask_due(now=now)
