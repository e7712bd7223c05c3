"""What the control plane does about telemetry on its own, on Celery's beat."""

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from controlplane.telemetry import drills, operations, samples


@shared_task(name="telemetry.compact_rollups", expires=60)
def compact_rollups() -> int:
    """Fold, seal and delete; returns how many minutes were folded."""
    return operations.compact_rollups(now=timezone.now()).folded_minutes


@shared_task(name="telemetry.measure_drills", expires=30)
def measure_drills() -> int:
    """Keep what drills measured that are over; returns how many."""
    return drills.measure_ended(now=timezone.now())


@shared_task(name="telemetry.forget_samples", expires=60)
def forget_samples() -> int:
    """Delete answers that may not, or need not, be kept any more; returns how many."""
    return samples.forget_samples(now=timezone.now(), keep_days=settings.SAMPLE_DAYS)
