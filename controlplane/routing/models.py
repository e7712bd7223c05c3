"""Providers, accounts, lanes and routes: one immutable document per version, and a log of which is in force."""

from typing import Any, ClassVar

from django.db import models
from django.urls import reverse

from controlplane.audit.models import append_only
from dataplane.release import canonical, digest_of


class RoutingTable(models.Model):
    """One immutable version of everything that says where requests may go.

    `document` has the shape of a release's section 'routing'; `dataplane.routing.RoutingTable.parse` is its validator.
    """

    number = models.PositiveIntegerField(unique=True)
    document = models.JSONField()
    digest = models.CharField(max_length=64)
    author = models.CharField(max_length=150)
    rationale = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["-number"]
        permissions: ClassVar = [
            ("propose_routing", "Can propose another routing table"),
            ("sign_off_routing", "Can sign off a routing table"),
            ("break_glass_routing", "Can bypass sign-offs on routing in an incident"),
            ("review_break_glass_routing", "Can review a bypass on routing"),
        ]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"Routing table {self.number}"

    def get_absolute_url(self) -> str:
        return reverse("routing-table", args=[self.number])

    @property
    def audit_name(self) -> str:
        return f"routing-table:{self.number}"

    def is_intact(self) -> bool:
        """Whether its document, as the database gives it back, is what its digest says."""
        try:
            return digest_of(canonical(self.document)) == self.digest
        except ValueError:  # a number that canonical JSON cannot carry
            return False

    @property
    def reference(self) -> dict[str, Any]:
        """How changes name this version. Shape: {"number": int, "digest": str}."""
        return {"number": self.number, "digest": self.digest}


class RoutingActivation(models.Model):
    """Which routing table is in force since when; the newest row says which now."""

    table = models.ForeignKey(RoutingTable, on_delete=models.PROTECT, related_name="activations")
    change = models.ForeignKey(
        "approvals.ChangeRequest", null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    actor = models.CharField(max_length=150)
    reason = models.TextField()
    at = models.DateTimeField()
    lapses_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="Set when glass was broken for it: it was never approved, so nothing returns to it",
    )

    class Meta:
        ordering: ClassVar = ["-id"]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.table} since {self.at:%Y-%m-%d %H:%M}"
