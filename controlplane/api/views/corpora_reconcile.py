"""A listing of what a source holds, compared over HTTP: for sources that are no database of ours to read."""

from typing import Any, Final

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, Strict, describe, read
from controlplane.corpora.accepting import MAX_REVISION
from controlplane.corpora.access import access_corpus
from controlplane.corpora.findings import NAMED, Difference
from controlplane.corpora.listing_reconciling import MAX_LISTED, Listed, Span, reconcile_listing
from controlplane.corpora.models import MAX_KEY_CHARACTERS

TAG: Final = "corpora"


class ListedBody(Strict):
    """A document as its source has it."""

    key = serializers.CharField(max_length=MAX_KEY_CHARACTERS, trim_whitespace=False)
    rev = serializers.IntegerField(min_value=0, max_value=MAX_REVISION)
    sha256 = serializers.RegexField(
        r"\A[0-9a-f]{64}\Z",
        required=False,
        allow_null=True,
        default=None,
        help_text="Of the content, a zero byte, and the metadata as canonical JSON (RFC 8785); in hex",
    )


class ListingBody(Strict):
    """What a source holds, all of it or some."""

    listing = ListedBody(many=True, help_text=f"At most {MAX_LISTED}; of more, by ranges of keys")
    complete = serializers.BooleanField(default=False, help_text="The source holds nothing else, in this range of keys")
    after = serializers.CharField(
        required=False,
        allow_null=True,
        default=None,
        trim_whitespace=False,
        help_text="The range begins after this key, by code points; null: with the first",
    )
    until = serializers.CharField(
        required=False, allow_null=True, default=None, trim_whitespace=False, help_text="It ends with this one"
    )
    token = serializers.CharField(
        required=False,
        allow_null=True,
        default=None,
        help_text="From an answer before the listing was made: what was taken in since then is no difference",
    )
    repair = serializers.BooleanField(
        default=False, help_text="Delete documents that are not listed; what is missing or stale, hand in as changes"
    )


class ListingFindingRow(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=[kind.value for kind in Difference])
    key = serializers.CharField(source="source_key")
    detail = serializers.CharField()


class ListingAnswer(serializers.Serializer[Any]):
    compared = serializers.IntegerField(source="findings.compared")
    counts = serializers.DictField(source="findings.counts", child=serializers.IntegerField(), help_text="By kind")
    findings = ListingFindingRow(source="findings.named", many=True, help_text=f"The first {NAMED} of each kind")
    repaired = serializers.IntegerField(source="findings.repaired")
    token = serializers.CharField(allow_null=True, help_text="For a listing that is made after this answer")


class ReconcileListing(OperatorView):
    @describe(
        "corpora_reconcile",
        "Compare the documents of a corpus with a listing of what its source holds; an empty one gives a token to begin"
        " with",
        tag=TAG,
        takes=ListingBody,
        gives=ListingAnswer,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        corpus = access_corpus(self.operator, slug, "feed_corpus")
        asked = read(ListingBody, request)
        compared = reconcile_listing(
            corpus=corpus,
            listed=[Listed(row["key"], row["rev"], row["sha256"]) for row in asked["listing"]],
            span=Span(asked["complete"], asked["after"], asked["until"]),
            token=asked["token"],
            actor=self.operator,
            now=now,
            repair=asked["repair"],
        )
        return Response(ListingAnswer(compared).data)
