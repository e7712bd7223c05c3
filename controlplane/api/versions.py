"""What every versioned document looks like over HTTP."""

from typing import Any, ClassVar, TypeVar

from rest_framework import serializers

from controlplane.api.base import Strict
from controlplane.versioned.models import DocumentVersion
from controlplane.versioned.operations import Versions

V = TypeVar("V", bound=DocumentVersion)


class VersionRow(serializers.ModelSerializer[V]):
    # A version without its document; a subclass names its model, and its context is `in_force` of the document. In a
    # comment, as below: the published schema would repeat a docstring under every name.

    is_in_force = serializers.SerializerMethodField()

    class Meta:
        fields: ClassVar = ["number", "digest", "author", "rationale", "created_at", "is_in_force"]

    def get_is_in_force(self, version: V) -> bool:
        return bool(version.pk == self.context["active"])


class NewVersion(Strict):
    # What is submitted; a subclass says what its document is.

    document = serializers.JSONField()
    rationale = serializers.CharField(max_length=5000)


def in_force(versions: Versions[Any]) -> dict[str, Any]:
    """The context of rows: which of them is in force. One query."""
    active = versions.active()
    return {"active": active.pk if active else None}
