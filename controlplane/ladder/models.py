"""Words that people sign before they are needed, in immutable versions; a log says which version is live."""

from typing import Any, ClassVar

import pgtrigger
from django.db import models
from django.urls import reverse

from controlplane.audit.models import append_only
from dataplane.documents import Node
from dataplane.release import canonical, digest_of
from dataplane.signed_copy import SignedCopy, parse_copy


class CopyKind(models.TextChoices):
    """What a piece of copy is for: the rung of a fallback stack that may name it is called the same, and `escalation`
    is what a validator policy names.
    """

    ANSWERS = "answers", "Answers to known questions"
    TEMPLATE = "template", "Template"
    OUTAGE = "outage", "Outage notice"
    ESCALATION = "escalation", "Words for a withheld answer"


class Copy(models.Model):
    """A piece of copy that fallback stacks and validator policies name by its slug."""

    slug = models.SlugField(unique=True)
    kind = models.CharField(max_length=10, choices=CopyKind.choices)
    title = models.CharField(max_length=120)
    description = models.TextField(blank=True)
    regulated = models.BooleanField(default=False, help_text="Legal signs every word of it too")
    created_by = models.CharField(max_length=150)
    created_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["slug"]
        verbose_name = "piece of copy"
        verbose_name_plural = "pieces of copy"
        permissions: ClassVar = [
            ("write_copy", "Can write and propose copy"),
            ("sign_off_copy", "Can sign off copy"),
            ("return_copy", "Can return copy to words that were signed before"),
        ]
        triggers: ClassVar = [
            # Changes and stacks name it by its slug; who signs, and where it may stand, follow from the other two.
            pgtrigger.Protect(
                name="identity_is_fixed",
                operation=pgtrigger.Update,
                condition=pgtrigger.Condition(
                    "OLD.slug IS DISTINCT FROM NEW.slug OR OLD.kind IS DISTINCT FROM NEW.kind"
                    " OR OLD.regulated IS DISTINCT FROM NEW.regulated"
                ),
            ),
        ]

    def __str__(self) -> str:
        return self.slug

    def get_absolute_url(self) -> str:
        return reverse("copy", args=[self.slug])

    @property
    def audit_name(self) -> str:
        return f"copy:{self.slug}"


class CopyVersion(models.Model):
    """One immutable version: exactly the words that users would read, and why somebody wants them.

    `document` has the shape that `dataplane.signed_copy.parse_copy` reads; that is its validator.
    """

    copy = models.ForeignKey(Copy, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    document = models.JSONField()
    digest = models.CharField(max_length=64)
    author = models.CharField(max_length=150)
    rationale = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["-number"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["copy", "number"], name="one_number_per_copy"),
            models.UniqueConstraint(fields=["copy", "digest"], name="one_content_per_copy"),
        ]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.copy.slug} v{self.number}"

    def get_absolute_url(self) -> str:
        return reverse("copy-version", args=[self.copy.slug, self.number])

    @property
    def audit_name(self) -> str:
        return f"copy:{self.copy.slug}@{self.number}"

    @property
    def reference(self) -> dict[str, Any]:
        """How changes name this version. Shape: {"number": int, "digest": str}."""
        return {"number": self.number, "digest": self.digest}

    def is_intact(self) -> bool:
        """Whether its document, as the database gives it back, is what its digest says."""
        try:
            return digest_of(canonical(self.document)) == self.digest
        except ValueError:  # a number that canonical JSON cannot carry
            return False

    def parsed(self) -> SignedCopy:
        """The words as workers hold them."""
        return parse_copy(self.copy.slug, Node(self.document, "$"), version=self.number, digest=self.digest)


class CopyActivationQuerySet(models.QuerySet["CopyActivation"]):
    def current(self) -> "CopyActivationQuerySet":
        """The newest activation of each piece, with its version and piece: what is live; one query however many."""
        newest = self.order_by("version__copy_id", "-id").distinct("version__copy_id")
        return newest.select_related("version__copy")


class CopyActivation(models.Model):
    """Which version of a piece is live since when; its newest row says which now. Each went live through its sign-offs,
    or went back to what had.
    """

    version = models.ForeignKey(CopyVersion, on_delete=models.PROTECT, related_name="activations")
    change = models.ForeignKey(
        "approvals.ChangeRequest", null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    actor = models.CharField(max_length=150)
    reason = models.TextField()
    at = models.DateTimeField()

    objects = CopyActivationQuerySet.as_manager()

    class Meta:
        ordering: ClassVar = ["-id"]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.version} since {self.at:%Y-%m-%d %H:%M}"
