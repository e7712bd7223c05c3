"""What the control plane does about dead letters on its own, on Celery's beat."""

import logging

from celery import shared_task
from django.utils import timezone

from controlplane.deadletters import execution, payloads, retention, subjects
from controlplane.deadletters.erasures import Erasure
from dataplane.stores.payloads import PayloadUnavailable

logger = logging.getLogger(__name__)


@shared_task(name="deadletters.store_payloads", expires=10)
def store_payloads() -> int:
    """Put the payloads of new letters into the store; while that is away they stay in the table."""
    try:
        store = payloads.payload_store()
    except PayloadUnavailable as exc:
        logger.warning("payloads of dead letters stay in the table: %s", exc)
        return 0
    return payloads.store_pending(store)


@shared_task(name="deadletters.purge", expires=600)
def purge() -> int:
    """End holds whose time is over, and purge payloads whose time is over; returns how many of these."""
    now, purged = timezone.now(), 0
    retention.lapse_holds(now=now)
    while some := retention.purge_expired(now=now):
        purged += some
    return purged


@shared_task(name="deadletters.finish_erasures", expires=60)
def finish_erasures() -> int:
    """Do what is left of erasures; returns how many are done now. One that cannot be keeps no other from it."""
    finished = 0
    for erasure in Erasure.objects.under_way():
        try:
            finished += subjects.finish(erasure=erasure, store=payloads.ConfiguredStore(), now=timezone.now())
        except Exception:
            logger.exception("an erasure of %s is not done yet; it is tried again", erasure.tenant)
    return finished


@shared_task(name="deadletters.wake_redrives", expires=15)
def wake_redrives() -> int:
    """Begin anew the steps of redrives that have lost theirs; returns how many."""
    return execution.wake_late(now=timezone.now())
