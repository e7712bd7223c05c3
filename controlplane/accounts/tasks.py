"""What the control plane does about credentials on its own, on Celery's beat."""

from celery import shared_task
from django.utils import timezone

from controlplane.accounts import operations
from controlplane.accounts.models import ApiKey


@shared_task(name="accounts.lapse_keys", expires=60)
def lapse_keys() -> int:
    """Take API keys whose time is over out of the release."""
    now = timezone.now()
    # Asked beforehand, without the audit chain's lock: as good as always there is none.
    return operations.lapse_keys(now=now) if ApiKey.objects.over(now).exists() else 0
