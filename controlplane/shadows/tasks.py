"""What is done about shadows by itself, on Celery's beat."""

from celery import shared_task
from django.utils import timezone

from controlplane.shadows import checklists, operations


@shared_task(name="shadows.follow", expires=10)
def follow() -> int:
    """Put what killed itself into the release; returns how many did."""
    return operations.follow_kills(now=timezone.now())


@shared_task(name="shadows.settle_checklists", expires=20)
def settle_checklists() -> int:
    """End checklists whose lane was promoted or whose subject is another now; returns how many."""
    return checklists.settle(now=timezone.now())
