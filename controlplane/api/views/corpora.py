"""Corpora over HTTP: how each stands against its promise, what was seen of it, and on-call's own hand on it. Changes of
documents come in elsewhere.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, ClassVar, Final

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema_field
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.accounts.models import Operator
from controlplane.api.base import AnySerializer, OperatorView, Reason, describe, read
from controlplane.api.csv_files import CsvRenderer
from controlplane.api.filters import asked_period, period_parameters
from controlplane.corpora import operations
from controlplane.corpora.access import access_corpus, access_namespace, policy_access, visible_corpora
from controlplane.corpora.models import Corpus, CorpusMinute, GhostSample, Namespace
from controlplane.corpora.standing import CorpusStanding, standings
from controlplane.ladder.checks import signed_words
from dataplane.retrieval.tables import Snapshot

TAG: Final = "corpora"


class NamespaceRow(serializers.ModelSerializer[Namespace]):
    class Meta:
        model = Namespace
        fields: ClassVar = [
            "number",
            "purpose",
            "state",
            "store",
            "model",
            "dimensions",
            "chunking",
            "index_rev",
            "kept_rev",
            "is_indexed",
            "created_at",
            "built_at",
            "dropped_at",
        ]


class CorpusStandingRow(serializers.Serializer[Any]):
    lag_seconds = serializers.FloatField(help_text="Age of the oldest change that is not searchable")
    pending = serializers.IntegerField(help_text="Documents whose newest revision is not searchable yet")
    poisoned = serializers.IntegerField(help_text="Documents that nothing could index; they are in no lag")
    waiting = serializers.IntegerField(help_text="Changes that were seen at its sources and not taken yet")
    is_stale = serializers.BooleanField(help_text="Whether its lag is over what is promised")


class FreshnessPromise(serializers.Serializer[Any]):
    max_lag_seconds = serializers.FloatField(source="freshness.max_lag_seconds.value")
    on_breach = serializers.CharField(help_text="block or banner, as gateways do it: unsigned words are never shown")
    banner = serializers.CharField(source="freshness.banner")
    is_banner_signed = serializers.BooleanField()
    tier = serializers.CharField(source="recovery.tier")
    strategy = serializers.CharField(source="recovery.strategy")
    rpo_seconds = serializers.FloatField(source="recovery.rpo_seconds.value")
    rto_seconds = serializers.FloatField(source="recovery.rto_seconds.value")
    reembed_minutes = serializers.FloatField(source="recovery.reembed_minutes.value")


class PausedRow(serializers.Serializer[Any]):
    at = serializers.DateTimeField(source="paused_at")
    by = serializers.CharField(source="paused_by")
    reason = serializers.CharField(source="paused_reason")


class PinnedRow(serializers.Serializer[Any]):
    snapshot = serializers.CharField(source="pinned")
    at = serializers.DateTimeField(source="pinned_at")
    by = serializers.CharField(source="pinned_by")
    reason = serializers.CharField(source="pinned_reason")


class CorpusRow(serializers.Serializer[Any]):
    # Its context: `promises` with signed words, and `standings`, by slug.

    slug = serializers.CharField()
    title = serializers.SerializerMethodField()
    snapshot = serializers.SerializerMethodField(help_text="What is read now; null: nothing is searchable yet")
    namespace = serializers.IntegerField(
        source="live_namespace.number", default=None, allow_null=True, help_text="That serves, by its number"
    )
    switched_at = serializers.DateTimeField(allow_null=True)
    paused = serializers.SerializerMethodField(help_text="Who refuses its queries, since when and why; null: nobody")
    pinned = serializers.SerializerMethodField(help_text="What everybody reads; null: the newest state")
    promised = serializers.SerializerMethodField(help_text="Null: no policy in force names it")
    standing = serializers.SerializerMethodField(help_text="Null: no policy in force names it")

    def get_title(self, corpus: Corpus) -> str:
        promised = self.context["promises"].get(corpus.slug)
        return str(promised.title) if promised else corpus.slug

    def get_snapshot(self, corpus: Corpus) -> str | None:
        standing: CorpusStanding | None = self.context["standings"].get(corpus.slug)
        return str(standing.snapshot) if standing and standing.snapshot else None

    def get_paused(self, corpus: Corpus) -> dict[str, Any] | None:
        return None if corpus.paused_at is None else dict(PausedRow(corpus).data)

    def get_pinned(self, corpus: Corpus) -> dict[str, Any] | None:
        return None if corpus.pinned is None else dict(PinnedRow(corpus).data)

    def get_promised(self, corpus: Corpus) -> dict[str, Any] | None:
        promised = self.context["promises"].get(corpus.slug)
        return None if promised is None else dict(FreshnessPromise(promised).data)

    def get_standing(self, corpus: Corpus) -> dict[str, Any] | None:
        standing = self.context["standings"].get(corpus.slug)
        return None if standing is None else dict(CorpusStandingRow(standing).data)


class CorporaAnswer(serializers.Serializer[Any]):
    results = CorpusRow(many=True)


class GhostsRow(serializers.ModelSerializer[GhostSample]):
    class Meta:
        model = GhostSample
        fields: ClassVar = ["at", "sampled", "ghosts", "most"]


class CorpusWhole(CorpusRow):
    ghosts = serializers.SerializerMethodField(help_text="The newest sample of what serves; null: none yet")
    namespaces = NamespaceRow(many=True, help_text="The newest first, those that were dropped too")

    @extend_schema_field(GhostsRow(allow_null=True))
    def get_ghosts(self, corpus: Corpus) -> dict[str, Any] | None:
        newest = corpus.ghost_samples.first()
        return None if newest is None else dict(GhostsRow(newest).data)


class PinAsked(Reason):
    snapshot = serializers.CharField(
        max_length=60, required=False, help_text="Such as ns_7.1234, as answers name theirs; the newest unless told"
    )

    def validate_snapshot(self, text: str) -> Snapshot:
        snapshot = Snapshot.read(text)
        if snapshot is None:
            raise serializers.ValidationError("no snapshot; one looks like ns_7.1234")
        return snapshot


class NamespaceAsked(Reason):
    namespace = serializers.IntegerField(min_value=1, help_text="By its number")


class TaskRow(serializers.Serializer[Any]):
    task = serializers.UUIDField(help_text="Of the work; what is found stands in the corpus' comparisons")


class MinuteRow(serializers.ModelSerializer[CorpusMinute]):
    namespace = serializers.IntegerField(
        source="namespace_id_then", allow_null=True, help_text="That served, by its id"
    )

    class Meta:
        model = CorpusMinute
        fields: ClassVar = [
            "minute",
            "lag_seconds",
            "max_lag_seconds",
            "pending",
            "poisoned",
            "index_rev",
            "namespace",
        ]


class MinutesAnswer(serializers.Serializer[Any]):
    since = serializers.DateTimeField()
    until = serializers.DateTimeField()
    results = MinuteRow(many=True, help_text="The worst that was seen in each minute; a gap: nobody looked")


class MinutesCsv(CsvRenderer):
    """What was seen of a corpus, minute by minute."""

    filename = "corpus.csv"


class Corpora(OperatorView):
    @describe("corpora_list", "Every corpus as it stands against its promise", tag=TAG, gives=CorporaAnswer)
    def get(self, request: Request) -> Response:
        now = timezone.now()
        context = _context(self.operator, now=now)
        return Response({"results": CorpusRow(visible_corpora(self.operator), many=True, context=context).data})


class OneCorpus(OperatorView):
    @describe("corpora_retrieve", "One corpus, with all its namespaces", tag=TAG, gives=CorpusWhole)
    def get(self, request: Request, slug: str) -> Response:
        return Response(_whole(self.operator, slug, now=timezone.now()))


class CorpusMinutes(OperatorView):
    renderer_classes = [JSONRenderer, MinutesCsv]

    @describe(
        "corpora_minutes",
        "How a corpus stood, minute by minute; as JSON, or as CSV by `format=csv`",
        tag=TAG,
        gives=MinutesAnswer,
        refuses=(400, 403, 404),
        parameters=[*period_parameters("Seen"), OpenApiParameter("format", description="csv; JSON unless told")],
    )
    def get(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        corpus = access_corpus(self.operator, slug)
        since, until = asked_period(request.query_params, now=now)
        found = MinuteRow(corpus.minutes.filter(minute__gte=since, minute__lt=until).order_by("minute"), many=True).data
        if request.accepted_renderer.format == "csv":
            return Response(list(_table(found)))
        return Response({"since": since, "until": until, "results": found})


def _act(
    name: str,
    summary: str,
    act: Callable[..., Any],
    *,
    takes: type[Reason] = Reason,
    gives: AnySerializer = CorpusWhole,
    status: int = 200,
) -> type[OperatorView]:
    """The endpoint of one thing that on-call does with a corpus.

    Args:
        name: Of its operation, behind 'corpora_'.
        act: With the corpus, or with its namespace where `takes` names one; and with everything else that is taken.
        gives: The corpus as it stands then, or shows what `act` returned.
    """

    class ActOnCorpus(OperatorView):
        @describe(f"corpora_{name}", summary, tag=TAG, takes=takes, gives=gives, status=status)
        def post(self, request: Request, slug: str) -> Response:
            now = timezone.now()
            on: dict[str, Any] = {"corpus": access_corpus(self.operator, slug, "operate_corpus")}
            asked = read(takes, request)
            if "namespace" in asked:
                on = {"namespace": access_namespace(self.operator, slug, asked.pop("namespace"), "operate_corpus")}
            came = act(**on, **asked, actor=self.operator, now=now)
            return Response(_whole(self.operator, slug, now=now) if gives is CorpusWhole else gives(came).data, status)

    return ActOnCorpus


PauseCorpus = _act(
    "pause",
    "Refuse every query of a corpus until it is resumed; nothing happens when it is paused",
    operations.pause_queries,
)
ResumeCorpus = _act(
    "resume",
    "Answer queries of a corpus again; nothing happens when it is not paused",
    operations.resume_queries,
)
PinCorpus = _act(
    "pin",
    "Have everybody read one snapshot of a corpus, however old it becomes, until it is unpinned",
    operations.pin_snapshot,
    takes=PinAsked,
)
UnpinCorpus = _act(
    "unpin",
    "Have everybody read the newest state of a corpus again; nothing happens when it is not pinned",
    operations.unpin,
)
RebuildCorpus = _act(
    "rebuild",
    "Build another namespace of a corpus by the policy in force; nobody is served from it before a switch",
    operations.rebuild,
    gives=NamespaceRow,
    status=201,
)
SwitchCorpus = _act(
    "switch",
    "Serve a corpus from another namespace, from one query to the next; going back is the same act",
    operations.switch,
    takes=NamespaceAsked,
)
DropNamespace = _act(
    "drop_namespace",
    "Drop a namespace that serves nobody, with its snapshots; nothing brings it back",
    operations.drop_retired,
    takes=NamespaceAsked,
)
ReconcileStore = _act(
    "reconcile_store",
    "Have the namespace that serves compared with all documents by digests, and repaired",
    lambda **asked: {"task": operations.reconcile_now(**asked)},
    gives=TaskRow,
    status=202,
)


def _whole(operator: Operator, slug: str, *, now: datetime) -> dict[str, Any]:
    """One corpus as it stands."""
    return dict(CorpusWhole(access_corpus(operator, slug), context=_context(operator, now=now)).data)


def _context(operator: Operator, *, now: datetime) -> dict[str, Any]:
    """Three queries beside those of the standings."""
    promises = policy_access.in_force(operator).parsed
    return {"promises": promises.with_words(signed_words()), "standings": standings(now=now)}


def _table(rows: Iterable[dict[str, Any]]) -> Iterable[list[Any]]:
    yield list(MinuteRow.Meta.fields)
    for row in rows:
        yield list(row.values())
