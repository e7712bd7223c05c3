"""Signed copy over HTTP: pieces, their versions, and the way from written to signed to live."""

from typing import Any, ClassVar

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, Reason, Strict, describe, read
from controlplane.api.views.changes import ChangeRow
from controlplane.api.views.prompts import Reference
from controlplane.ladder import operations
from controlplane.ladder.access import access_copy, access_version, require_writer, visible_copy
from controlplane.ladder.models import Copy, CopyActivation, CopyKind, CopyVersion
from controlplane.ladder.uses import Use, uses

TAG = "copy"


class LiveCopy(Reference):
    """What users read now."""

    since = serializers.DateTimeField()


class UseRow(serializers.Serializer[Use]):
    """A fallback stack, or a validator policy, of the routing table in force that names the piece."""

    stack = serializers.CharField(help_text="Its name")
    noun = serializers.CharField(help_text="'fallback stack' or 'validator policy'")
    routes = serializers.ListField(child=serializers.CharField())


class PieceRow(serializers.ModelSerializer[Copy]):
    live = serializers.SerializerMethodField(help_text="None until the first version was signed and applied")

    class Meta:
        model = Copy
        fields: ClassVar = ["slug", "kind", "title", "description", "regulated", "live", "created_by", "created_at"]

    @extend_schema_field(LiveCopy(allow_null=True))
    def get_live(self, copy: Copy) -> dict[str, Any] | None:
        live: CopyActivation | None = self.context["live"].get(copy.pk)
        return {**live.version.reference, "since": live.at} if live else None


class Piece(PieceRow):
    used_by = serializers.SerializerMethodField()

    class Meta(PieceRow.Meta):
        fields: ClassVar = [*PieceRow.Meta.fields, "used_by"]

    @extend_schema_field(UseRow(many=True))
    def get_used_by(self, copy: Copy) -> Any:
        found: Any = uses().get(copy.slug, [])
        return UseRow(found, many=True).data


class CopyVersionRow(serializers.ModelSerializer[CopyVersion]):
    class Meta:
        model = CopyVersion
        fields: ClassVar = ["number", "digest", "author", "rationale", "created_at"]


class CopyVersionWhole(CopyVersionRow):
    document = serializers.DictField(help_text="{'kind', 'default_locale', 'locales': {locale: words}}")

    class Meta(CopyVersionRow.Meta):
        fields: ClassVar = [*CopyVersionRow.Meta.fields, "document"]


class NewPiece(Strict):
    slug = serializers.SlugField(max_length=50)
    kind = serializers.ChoiceField(
        CopyKind.choices, help_text="The rung of a fallback stack that may name it; escalation: a validator policy"
    )
    title = serializers.CharField(max_length=120)
    description = serializers.CharField(required=False, allow_blank=True, default="")
    regulated = serializers.BooleanField(default=False, help_text="Whether legal signs every version too; fixed")


class NewCopyVersion(Strict):
    document = serializers.JSONField(
        help_text=(
            "{'kind', 'default_locale', 'locales': {locale: {'text', 'json': object or null}}}; for answers a locale "
            "has [{'questions': [text], 'text', 'json'}]"
        )
    )
    rationale = serializers.CharField(max_length=5000)


class Pieces(OperatorView):
    @describe("copy_list", "Pieces of copy, with what is live", tag=TAG, pages_of=PieceRow, refuses=(403,))
    def get(self, request: Request) -> Response:
        return self.page(visible_copy(self.operator), PieceRow, live=_live(CopyActivation.objects.current()))

    @describe(
        "copy_create",
        "Create a piece of copy; it says nothing yet, and its slug, kind and regulation are fixed",
        tag=TAG,
        takes=NewPiece,
        gives=Piece,
        status=201,
        refuses=(403,),
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require_writer(self.operator)
        copy = operations.create_copy(**read(NewPiece, request), actor=self.operator, now=now)
        return Response(_whole(copy), status=201)


class OnePiece(OperatorView):
    @describe("copy_retrieve", "One piece of copy, and the stacks that show it", tag=TAG, gives=Piece, refuses=(404,))
    def get(self, request: Request, slug: str) -> Response:
        return Response(_whole(access_copy(self.operator, slug)))


class PieceVersions(OperatorView):
    @describe("copy_versions_list", "Versions of a piece", tag=TAG, pages_of=CopyVersionRow, refuses=(404,))
    def get(self, request: Request, slug: str) -> Response:
        return self.page(access_copy(self.operator, slug).versions.defer("document"), CopyVersionRow)

    @describe(
        "copy_versions_submit",
        "Submit an immutable version; nobody reads it until its change request is signed and applied",
        tag=TAG,
        takes=NewCopyVersion,
        gives=CopyVersionWhole,
        status=201,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        copy = access_copy(self.operator, slug, "write_copy")
        version = operations.submit_version(copy=copy, **read(NewCopyVersion, request), actor=self.operator, now=now)
        return Response(CopyVersionWhole(version).data, status=201)


class OnePieceVersion(OperatorView):
    @describe("copy_versions_retrieve", "One version with its words", tag=TAG, gives=CopyVersionWhole, refuses=(404,))
    def get(self, request: Request, slug: str, number: int) -> Response:
        return Response(CopyVersionWhole(access_version(self.operator, slug, number)).data)


class ProposeCopy(OperatorView):
    @describe(
        "copy_versions_propose",
        "Open the change request that would make a version what users read",
        tag=TAG,
        takes=Reason,
        gives=ChangeRow,
        status=201,
    )
    def post(self, request: Request, slug: str, number: int) -> Response:
        now = timezone.now()
        version = access_version(self.operator, slug, number, "write_copy")
        change = operations.propose_version(version=version, **read(Reason, request), actor=self.operator, now=now)
        return Response(ChangeRow(change).data, status=201)


class ReturnToCopy(OperatorView):
    @describe(
        "copy_versions_return_to",
        "Make words live again that were signed and live before; needs no sign-off",
        tag=TAG,
        takes=Reason,
        gives=Piece,
    )
    def post(self, request: Request, slug: str, number: int) -> Response:
        now = timezone.now()
        version = access_version(self.operator, slug, number, "return_copy")
        operations.return_to(version=version, **read(Reason, request), actor=self.operator, now=now)
        return Response(_whole(version.copy))


def _live(activations: QuerySet[CopyActivation]) -> dict[int, CopyActivation]:
    return {one.version.copy_id: one for one in activations.defer("version__document")}


def _whole(copy: Copy) -> Any:
    live = _live(CopyActivation.objects.current().filter(version__copy=copy))
    return Piece(copy, context={"live": live}).data
