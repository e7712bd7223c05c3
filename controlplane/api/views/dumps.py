"""Dumps of corpora over HTTP: which there are, another one, and whether one is still what was written."""

from typing import Any, ClassVar, Final

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import Nothing, OperatorView, describe, read
from controlplane.corpora.access import access_corpus, access_dump
from controlplane.corpora.dump_keeping import ask_for_dump, ask_for_verification
from controlplane.corpora.models import Dump

TAG: Final = "corpora"


class DumpRow(serializers.ModelSerializer[Dump]):
    """One dump; its signed manifest, in the store, says the rest."""

    namespace = serializers.IntegerField(source="namespace.number", help_text="Counts those of the corpus")
    rows = serializers.IntegerField(help_text="Chunks and documents")
    bytes = serializers.IntegerField(help_text="Of its blocks")
    retain_until = serializers.DateTimeField(allow_null=True, help_text="Nobody can delete it before")
    verified_at = serializers.DateTimeField(allow_null=True, help_text="When it was last read whole")
    verify_error = serializers.CharField(help_text="What was wrong then, the block's name first; empty: nothing")

    class Meta:
        model = Dump
        fields: ClassVar = [
            *("name", "state", "namespace", "actor", "index_rev", "high_water_seq", "rows", "bytes", "blocks"),
            *("root_sha256", "began_at", "as_of", "ended_at", "retain_until", "copied_to", "copied_at"),
            *("verified_at", "verify_error", "error", "deleted_at"),
        ]


class AskedRow(serializers.Serializer[Any]):
    work = serializers.UUIDField(help_text="It is done as soon as a worker has time")


class Dumps(OperatorView):
    @describe("dumps_list", "The dumps of a corpus, newest first", tag=TAG, pages_of=DumpRow)
    def get(self, request: Request, slug: str) -> Response:
        corpus = access_corpus(self.operator, slug)
        return self.page(corpus.dumps.select_related("namespace"), DumpRow)

    @describe(
        "dumps_create",
        "Dump what the corpus is served from; the list shows it when it is begun",
        tag=TAG,
        takes=Nothing,
        gives=AskedRow,
        status=202,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        corpus = access_corpus(self.operator, slug, "drill_corpus")
        read(Nothing, request)
        asked = ask_for_dump(corpus=corpus, actor=self.operator, now=now)
        return Response(AskedRow({"work": asked}).data, status=202)


class OneDump(OperatorView):
    @describe("dumps_retrieve", "One dump", tag=TAG, gives=DumpRow)
    def get(self, request: Request, slug: str, name: str) -> Response:
        return Response(DumpRow(access_dump(self.operator, slug, name)).data)


class VerifyDump(OperatorView):
    @describe(
        "dumps_verify",
        "Read a dump whole and compare it with what was signed; its row says what was found",
        tag=TAG,
        takes=Nothing,
        gives=AskedRow,
        status=202,
    )
    def post(self, request: Request, slug: str, name: str) -> Response:
        now = timezone.now()
        dump = access_dump(self.operator, slug, name, "drill_corpus")
        read(Nothing, request)
        return Response(AskedRow({"work": ask_for_verification(dump=dump, now=now)}).data, status=202)
