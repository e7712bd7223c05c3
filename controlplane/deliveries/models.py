"""What the webhooks are signed with that bring a tenant the answers of its jobs."""

from datetime import datetime
from typing import ClassVar

import pgtrigger
from django.db import models

from controlplane.accounts.models import Tenant


class WebhookSecret(models.Model):
    """The secret of one tenant, sealed, and its predecessor, which signs too for a while after a rotation."""

    tenant = models.OneToOneField(Tenant, on_delete=models.PROTECT, primary_key=True, related_name="webhook_secret")
    secret = models.TextField(help_text="Sealed")
    old_secret = models.TextField(blank=True, help_text="Its predecessor, sealed; signs too until old_secret_until")
    old_secret_until = models.DateTimeField(null=True, blank=True)
    made_by = models.CharField(max_length=150)
    made_at = models.DateTimeField()

    class Meta:
        triggers: ClassVar = [pgtrigger.Protect(name="no_delete", operation=pgtrigger.Delete)]

    def __str__(self) -> str:
        return f"webhook secret of {self.tenant.slug}"

    def sealed_secrets(self, now: datetime) -> list[str]:
        """The secrets that are signed with now, the new one first."""
        is_overlapping = self.old_secret_until is not None and now < self.old_secret_until
        return [self.secret, *([self.old_secret] if is_overlapping else [])]
