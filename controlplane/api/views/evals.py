"""Eval sets over HTTP: their versions, rows and imports, and what of held-out rows stands in prompts."""

from typing import Any, ClassVar, Final

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.accounts.access import require
from controlplane.api.base import OperatorView, Strict, describe, read
from controlplane.evals import operations
from controlplane.evals.access import (
    MANAGE,
    access_set,
    access_set_version,
    may_read_rows,
    visible_leaks,
    visible_sets,
)
from controlplane.evals.importing import MAX_BYTES, MAX_ROWS
from controlplane.evals.models import EvalRow, EvalSet, EvalSetVersion, LeakFinding, Purpose

TAG: Final = "evals"


class JsonLines(BaseParser):
    """Hands on the body as it comes: rows are read line by line, up to a limit far above that of other bodies."""

    media_type = "application/x-ndjson"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        return stream


class SetRow(serializers.ModelSerializer[EvalSet]):
    residency = serializers.ListField(child=serializers.CharField(), help_text="Where its rows may go; empty: anywhere")

    class Meta:
        model = EvalSet
        fields: ClassVar = [
            *("slug", "name", "purpose", "capability", "residency", "tenant", "description", "created_by"),
            "created_at",
        ]


class NewSet(Strict):
    slug = serializers.SlugField(max_length=50)
    name = serializers.CharField(max_length=120)
    purpose = serializers.ChoiceField(Purpose.choices)
    capability = serializers.CharField(required=False, default="chat", max_length=20)
    residency = serializers.ListField(child=serializers.CharField(max_length=50), required=False, default=list)
    tenant = serializers.CharField(required=False, allow_blank=True, default="", max_length=50)
    description = serializers.CharField(required=False, allow_blank=True, default="", max_length=5000)


class SetVersionRow(serializers.ModelSerializer[EvalSetVersion]):
    class Meta:
        model = EvalSetVersion
        fields: ClassVar = ["number", "digest", "rows_count", "author", "reason", "created_at"]


class RowOfSet(serializers.ModelSerializer[EvalRow]):
    """A row; of a held-out set its hash alone, but for those who look after evals."""

    document = serializers.SerializerMethodField(help_text="null: not for you to read")

    class Meta:
        model = EvalRow
        fields: ClassVar = ["position", "key", "row_hash", "document"]

    def get_document(self, row: EvalRow) -> dict[str, Any] | None:
        """The words, if the caller may read them."""
        document: dict[str, Any] | None = row.document if self.context["may_read"] else None
        return document


class SetDiff(serializers.Serializer[Any]):
    """Rows by their ids."""

    before = serializers.IntegerField()
    after = serializers.IntegerField()
    added = serializers.ListField(child=serializers.CharField())
    removed = serializers.ListField(child=serializers.CharField())
    changed = serializers.ListField(child=serializers.CharField())


class LeakRow(serializers.ModelSerializer[LeakFinding]):
    set = serializers.CharField(source="set_version.set.slug")
    set_number = serializers.IntegerField(source="set_version.number")
    prompt = serializers.CharField(source="prompt_version.prompt.slug")
    prompt_number = serializers.IntegerField(source="prompt_version.number")

    class Meta:
        model = LeakFinding
        fields: ClassVar = [
            *("set", "set_number", "row_key", "place", "prompt", "prompt_number", "matched", "share", "at"),
        ]


class EvalSets(OperatorView):
    @describe("evals_sets_list", "Eval sets", tag=TAG, pages_of=SetRow, refuses=(403,))
    def get(self, request: Request) -> Response:
        return self.page(visible_sets(self.operator), SetRow)

    @describe(
        "evals_sets_create",
        "Create a set without rows; its purpose, capability, tenant and residency are fixed from then on",
        tag=TAG,
        takes=NewSet,
        gives=SetRow,
        status=201,
        refuses=(403,),
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require(self.operator, MANAGE)
        made = operations.create_set(**read(NewSet, request), actor=self.operator, now=now)
        return Response(SetRow(made).data, status=201)


class OneEvalSet(OperatorView):
    @describe("evals_sets_retrieve", "One eval set", tag=TAG, gives=SetRow, refuses=(404,))
    def get(self, request: Request, slug: str) -> Response:
        return Response(SetRow(access_set(self.operator, slug)).data)


class EvalSetVersions(OperatorView):
    parser_classes = [JsonLines]

    @describe("evals_versions_list", "Versions of a set, newest first", tag=TAG, pages_of=SetVersionRow, refuses=(404,))
    def get(self, request: Request, slug: str) -> Response:
        return self.page(access_set(self.operator, slug).versions.all(), SetVersionRow)

    @extend_schema(request={"application/x-ndjson": OpenApiTypes.BINARY})
    @describe(
        "evals_versions_import",
        f"Import JSON lines, up to {MAX_ROWS:,} rows and {MAX_BYTES // 1024 // 1024} MiB, as the next version; the "
        "same rows again give the version that has them, and nothing is stored if any line is wrong",
        tag=TAG,
        takes=Strict,
        gives=SetVersionRow,
        status=201,
        parameters=[OpenApiParameter("reason", str, required=True, description="Where the rows come from")],
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        eval_set = access_set(self.operator, slug, to_manage=True)
        version = operations.import_rows(
            eval_set=eval_set,
            # A request without a body never gets to the parser.
            rows=request.data if hasattr(request.data, "readline") else b"",
            reason=request.query_params.get("reason", ""),
            actor=self.operator,
            now=now,
        )
        return Response(SetVersionRow(version).data, status=201)


class OneEvalSetVersion(OperatorView):
    @describe("evals_versions_retrieve", "One version of a set", tag=TAG, gives=SetVersionRow, refuses=(404,))
    def get(self, request: Request, slug: str, number: int) -> Response:
        return Response(SetVersionRow(access_set_version(self.operator, slug, number)).data)


class EvalSetRows(OperatorView):
    @describe(
        "evals_rows_list",
        "Rows of a version, in their order; the words of held-out rows are for those who look after evals",
        tag=TAG,
        pages_of=RowOfSet,
        refuses=(404,),
    )
    def get(self, request: Request, slug: str, number: int) -> Response:
        version = access_set_version(self.operator, slug, number)
        return self.page(version.rows.all(), RowOfSet, may_read=may_read_rows(self.operator, version.set))


class CompareEvalSetVersions(OperatorView):
    @describe("evals_versions_diff", "Which rows differ between two versions", tag=TAG, gives=SetDiff, refuses=(404,))
    def get(self, request: Request, slug: str, number: int, other: int) -> Response:
        before, after = (access_set_version(self.operator, slug, which) for which in (number, other))
        found = operations.compare(before, after)
        told = {"before": number, "after": other, "added": found.added, "removed": found.removed}
        return Response(SetDiff({**told, "changed": found.changed}).data)


class Leaks(OperatorView):
    @describe(
        "evals_leaks_list",
        "Held-out rows whose words stand in prompt versions, newest first",
        tag=TAG,
        pages_of=LeakRow,
        refuses=(403,),
    )
    def get(self, request: Request) -> Response:
        return self.page(visible_leaks(self.operator), LeakRow)
