"""Changes of a corpus over HTTP: batches come in, and where one document stands."""

from collections import Counter
from datetime import datetime
from typing import Any, Final

from django.http import Http404
from django.utils import timezone
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, Strict, describe, read
from controlplane.corpora.accepting import (
    MAX_CHANGES,
    MAX_CONTENT_CHARACTERS,
    MAX_REVISION,
    Accepted,
    Change,
    Fate,
    accept_changes,
)
from controlplane.corpora.access import access_corpus
from controlplane.corpora.documents import Searchable, searchable
from controlplane.corpora.errors import InvalidChanges
from controlplane.corpora.models import MAX_KEY_CHARACTERS, Document
from controlplane.corpora.policies import promised
from dataplane.retrieval.tables import Snapshot, write_token

TAG: Final = "corpora"
UPSERT, DELETE = "upsert", "delete"


class ChangeBody(Strict):
    """One change of one document."""

    key = serializers.CharField(
        max_length=MAX_KEY_CHARACTERS, trim_whitespace=False, help_text="As its source names it"
    )
    rev = serializers.IntegerField(min_value=0, max_value=MAX_REVISION, help_text="Grows with each change of the key")
    op = serializers.ChoiceField([UPSERT, DELETE])
    content = serializers.CharField(
        max_length=MAX_CONTENT_CHARACTERS,
        required=False,
        allow_blank=True,
        trim_whitespace=False,
        help_text="All of the document's text; of an upsert",
    )
    metadata = serializers.DictField(required=False, help_text="Cited beside it, such as title and url; of an upsert")
    event_time = serializers.DateTimeField(required=False, help_text="When it happened at the source; now, unless said")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if attrs["op"] == UPSERT and "content" not in attrs:
            raise ValidationError({"content": ["an upsert has the document's content, be it empty"]})
        return attrs


class ChangesBody(Strict):
    """A batch; several changes of one key are applied by revision, wherever they stand in it."""

    changes = ChangeBody(many=True, allow_empty=False, help_text=f"At most {MAX_CHANGES}")


class ResultRow(serializers.Serializer[Any]):
    key = serializers.CharField()
    rev = serializers.IntegerField()
    fate = serializers.ChoiceField(
        [fate.value for fate in Fate],
        help_text="superseded: something newer was there; duplicate: exactly this was; conflict: another content of the"
        " same revision was, and stays",
    )


class ChangesAnswer(serializers.Serializer[Any]):
    token = serializers.CharField(
        allow_null=True,
        help_text="Retrieve with it as `at_least` to read no older state; null: all were replays of what is long gone",
    )
    results = ResultRow(many=True, help_text="One for each change, in their order")
    counts = serializers.DictField(child=serializers.IntegerField(), help_text="By fate")


class InNamespaceRow(serializers.Serializer[Any]):
    snapshot = serializers.SerializerMethodField(help_text="Of the namespace now")
    is_live = serializers.BooleanField(help_text="Whether queries are served from it")
    searchable_rev = serializers.IntegerField(source="source_rev", allow_null=True, help_text="null: nothing of it is")
    chunks = serializers.IntegerField()
    is_pending = serializers.BooleanField(help_text="Its newest revision is not searchable there yet")
    is_poisoned = serializers.BooleanField(help_text="Nothing could index it; its dead letter tells why")

    def get_snapshot(self, one: Searchable) -> str:
        """As retrieval names it."""
        return str(Snapshot(one.namespace.pk, one.namespace.index_rev))


class DocumentRow(serializers.Serializer[Any]):
    """A document by its newest accepted revision."""

    key = serializers.CharField(source="source_key")
    rev = serializers.IntegerField(source="source_rev")
    is_deleted = serializers.BooleanField(help_text="A tombstone: nothing of it is searchable, wherever")
    token = serializers.SerializerMethodField(help_text="Of the change that made it so")
    event_time = serializers.DateTimeField(source="event_at")
    accepted_at = serializers.DateTimeField()
    namespaces = serializers.SerializerMethodField()

    def get_token(self, document: Document) -> str:
        """For `at_least`."""
        return write_token(document.seq)

    def get_namespaces(self, document: Document) -> InNamespaceRow(many=True):  # type: ignore[valid-type]  # for the schema
        """Where it stands in each."""
        return InNamespaceRow(searchable(document), many=True).data


class Changes(OperatorView):
    @describe(
        "corpora_feed",
        "Take changes of documents in: all of a batch or none. A delete is done when this answers; an upsert becomes"
        " searchable later. A change is idempotent by its key and revision, so no Idempotency-Key is needed: send it"
        " again whenever in doubt",
        tag=TAG,
        takes=ChangesBody,
        gives=ChangesAnswer,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        corpus = access_corpus(self.operator, slug, "feed_corpus")
        changes = _read_changes(request, now)
        promised(slug)  # nobody indexes what nothing is promised of
        accepted = accept_changes(corpus=corpus, changes=changes, now=now)
        return Response(ChangesAnswer(_answer(changes, accepted)).data)


class OneDocument(OperatorView):
    @describe(
        "corpora_document",
        "One document: its newest accepted revision, and which one is searchable in each namespace",
        tag=TAG,
        gives=DocumentRow,
    )
    def get(self, request: Request, slug: str, key: str) -> Response:
        corpus = access_corpus(self.operator, slug)
        document = Document.objects.select_related("corpus").filter(corpus=corpus, source_key=key).first()
        if document is None:
            raise Http404(f"corpus {slug!r} knows no document {key!r}")
        return Response(DocumentRow(document).data)


def _read_changes(request: Request, now: datetime) -> list[Change]:
    try:
        rows = read(ChangesBody, request)["changes"]
    except ValidationError as exc:
        raise InvalidChanges(problems) if (problems := _problems(exc.detail)) else exc from None
    return [
        Change(
            source_key=row["key"],
            source_rev=row["rev"],
            is_deleted=row["op"] == DELETE,
            content=row.get("content", ""),
            metadata=row.get("metadata", {}),
            event_at=row.get("event_time", now),
        )
        for row in rows
    ]


def _problems(detail: Any) -> list[tuple[int, str, str]]:
    """What is wrong with which change; empty where it is the batch itself that is."""
    found = detail.get("changes") if isinstance(detail, dict) else None
    if not isinstance(found, dict):
        return []
    return [
        (index, "" if member == "non_field_errors" else member, " ".join(map(str, words)))
        for index, members in sorted((at, one) for at, one in found.items() if isinstance(at, int))
        for member, words in members.items()
    ]


def _answer(changes: list[Change], accepted: Accepted) -> dict[str, Any]:
    rows = zip(changes, accepted.fates, strict=True)
    return {
        "token": accepted.token,
        "results": [{"key": one.source_key, "rev": one.source_rev, "fate": fate.value} for one, fate in rows],
        "counts": {fate.value: number for fate, number in Counter(accepted.fates).items()},
    }
