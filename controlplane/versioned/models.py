"""What people sign, in immutable, numbered versions; and of a whole document also the log that says which of them is in
force since when.

Abstract: an app that has such a thing makes the tables its own. `operations.Versions` moves between the versions of a
document.
"""

from typing import Any, ClassVar

from django.db import models
from django.utils.text import capfirst

from controlplane.audit.models import append_only
from dataplane.release import canonical, digest_of


class Version(models.Model):
    """One immutable version of what people sign: they sign its digest, and what it says can never be edited.

    A subclass adds the content, and where it is one of several numbered series, whose it is.
    """

    number = models.PositiveIntegerField()
    digest = models.CharField(max_length=64)
    author = models.CharField(max_length=150)
    rationale = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        abstract = True
        ordering: ClassVar = ["-number"]
        triggers: ClassVar = [append_only()]

    def get_absolute_url(self) -> str:
        """Its page."""
        raise NotImplementedError

    @property
    def reference(self) -> dict[str, Any]:
        """How changes and releases name this version. Shape: {"number": int, "digest": str}."""
        return {"number": self.number, "digest": self.digest}

    def digested(self) -> str:
        """The digest of its content, as the database gives that back.

        Raises:
            ValueError: it holds a number that canonical JSON cannot carry.
        """
        raise NotImplementedError

    def is_intact(self) -> bool:
        """Whether its content, as the database gives it back, is what its digest says."""
        try:
            return self.digested() == self.digest
        except ValueError:
            return False


class DocumentVersion(Version):
    """One immutable version of a document that is in force as a whole, or not at all.

    Attributes:
        noun: What people call one, such as 'routing table'. The audit record knows a version by it, so it stays.
        short_noun: The same where it is clear of what, such as 'table'.
    """

    noun: ClassVar[str]
    short_noun: ClassVar[str]

    number = models.PositiveIntegerField(unique=True)
    document = models.JSONField()

    class Meta(Version.Meta):
        abstract = True

    def __str__(self) -> str:
        return f"{capfirst(self.noun)} {self.number}"

    @property
    def audit_name(self) -> str:
        return f"{self.noun.replace(' ', '-')}:{self.number}"

    def digested(self) -> str:
        return digest_of(canonical(self.document))


class DocumentActivation(models.Model):
    """Which version is in force since when; the newest row says which now.

    A subclass adds the foreign key `version`, whose `related_name` is 'activations'.
    """

    version: Any
    version_id: int
    change_id: int | None

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
        abstract = True
        ordering: ClassVar = ["-id"]
        triggers: ClassVar = [append_only()]

    def __str__(self) -> str:
        return f"{self.version} since {self.at:%Y-%m-%d %H:%M}"
