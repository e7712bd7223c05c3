"""What every versioned document looks like over HTTP: its versions, one of them, and the way forward and back."""

from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from django.utils import timezone
from django.utils.text import capfirst
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import AnySerializer, OperatorView, Reason, Strict, describe, read
from controlplane.api.views.changes import ChangeRow
from controlplane.versioned.access import VersionAccess
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


class DocumentProblem(serializers.Serializer[Any]):
    path = serializers.CharField()
    message = serializers.CharField()
    is_error = serializers.BooleanField(help_text="Errors forbid putting it in force")


def in_force(versions: Versions[Any, Any]) -> dict[str, Any]:
    """The context of rows: which of them is in force. One query."""
    active = versions.active()
    return {"active": active.pk if active else None}


@dataclass(frozen=True, slots=True)
class VersionViews:
    """The four URLs of a document's versions."""

    versions: type[OperatorView]
    version: type[OperatorView]
    propose: type[OperatorView]
    return_to: type[OperatorView]


def version_views(
    access: VersionAccess[V, Any],
    *,
    name: str,
    tag: str,
    row: AnySerializer,
    whole: AnySerializer,
    new: AnySerializer,
) -> VersionViews:
    """The views of one document.

    Args:
        name: With which the names of its operations begin.
        row, whole, new: A version in a list and by itself, and what is submitted.
    """
    versions = access.versions
    noun, short_noun = versions.model.noun, versions.model.short_noun
    plural = capfirst(str(versions.model._meta.verbose_name_plural))

    class ManyVersions(OperatorView):
        @describe(f"{name}_list", f"{plural}, newest first", tag=tag, pages_of=row, refuses=(403,))
        def get(self, request: Request) -> Response:
            return self.page(access.visible(self.operator).defer("document"), row, **in_force(versions))

        @describe(
            f"{name}_submit",
            f"Submit an immutable {noun}; it moves nothing until its change request is applied",
            tag=tag,
            takes=new,
            gives=whole,
            status=201,
            refuses=(403,),
        )
        def post(self, request: Request) -> Response:
            now = timezone.now()
            access.require_proposer(self.operator)
            version = versions.submit(**read(new, request), actor=self.operator, now=now)
            return Response(whole(version, context=in_force(versions)).data, status=201)

    class OneVersion(OperatorView):
        @describe(f"{name}_retrieve", f"One {noun} with its document", tag=tag, gives=whole, refuses=(404,))
        def get(self, request: Request, number: int) -> Response:
            return Response(whole(access.version(self.operator, number), context=in_force(versions)).data)

    class ProposeVersion(OperatorView):
        @describe(
            f"{name}_propose",
            f"Open the change request that would put a {short_noun} in force",
            tag=tag,
            takes=Reason,
            gives=ChangeRow,
            status=201,
        )
        def post(self, request: Request, number: int) -> Response:
            now = timezone.now()
            version = access.version_to_propose(self.operator, number)
            change = versions.propose(version=version, **read(Reason, request), actor=self.operator, now=now)
            return Response(ChangeRow(change).data, status=201)

    class ReturnToVersion(OperatorView):
        @describe(
            f"{name}_return_to",
            f"Put a {short_noun} in force again that was before; needs no sign-off",
            tag=tag,
            takes=Reason,
            gives=row,
        )
        def post(self, request: Request, number: int) -> Response:
            now = timezone.now()
            version = access.version_to_propose(self.operator, number)
            versions.return_to(version=version, **read(Reason, request), actor=self.operator, now=now)
            return Response(row(version, context=in_force(versions)).data)

    return VersionViews(ManyVersions, OneVersion, ProposeVersion, ReturnToVersion)
