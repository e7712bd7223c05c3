"""What the control plane does about exports on its own, on Celery's beat."""

from celery import shared_task
from django.utils import timezone

from controlplane.archive import operations


@shared_task(name="archive.export_audit", expires=60)
def export_audit() -> int:
    """Export what of the audit record is due, and tell people when it could not be for too long."""
    return operations.export_due(now=timezone.now())
