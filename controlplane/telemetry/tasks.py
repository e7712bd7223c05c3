"""What the control plane does about telemetry on its own, on Celery's beat."""

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from controlplane import figures
from controlplane.telemetry import (
    deployment,
    drills,
    ladder_states,
    operations,
    samples,
    shadow_minutes,
    shadows,
    surface_minutes,
)


@shared_task(name="telemetry.compact_rollups", expires=60)
def compact_rollups() -> int:
    """Fold, seal and delete; returns how many minutes were folded."""
    now = timezone.now()
    folded = operations.compact_rollups(now=now).folded_minutes
    folded += shadow_minutes.compact_shadows(now=now) + surface_minutes.compact_surfaces(now=now)
    ladder_states.forget_ladders(now=now)
    return folded


@shared_task(name="telemetry.audit_orders", expires=10)
def audit_orders() -> int:
    """Write into the record what was ordered on hosts; returns how many orders were news."""
    return ladder_states.audit_orders(now=timezone.now())


@shared_task(name="telemetry.measure_drills", expires=30)
def measure_drills() -> int:
    """Keep what drills measured that are over; returns how many."""
    return drills.measure_ended(now=timezone.now())


@shared_task(name="telemetry.forget_samples", expires=60)
def forget_samples() -> int:
    """Delete answers and comparisons that may not, or need not, be kept any more; returns how many."""
    now, days = timezone.now(), settings.SAMPLE_DAYS
    return samples.forget_samples(now=now, keep_days=days) + shadows.forget_shadow_samples(now=now, keep_days=days)


@shared_task(name="telemetry.compute_figures", expires=10)
def compute_figures() -> int:
    """Keep how the deployment stands for whoever scrapes it; returns how many figures there are."""
    now = timezone.now()
    found = deployment.compute(now=now)
    figures.keep(found, now=now)
    return len(found)
