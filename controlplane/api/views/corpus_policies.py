"""Corpus policies over HTTP: what is promised of every corpus, in versions, and single numbers of it."""

from typing import Any, ClassVar, Final

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, describe, read
from controlplane.api.versions import DocumentProblem, NewVersion, VersionRow, version_views
from controlplane.api.views.changes import ChangeRow
from controlplane.api.views.thresholds import NewThresholds, ThresholdRow, plain
from controlplane.corpora.access import access_policy, access_promised, require_proposer, visible_policies
from controlplane.corpora.checks import policy_problems
from controlplane.corpora.models import CorpusPolicy
from controlplane.corpora.policies import corpus_policies, propose_thresholds
from controlplane.routing.thresholds import NewValue

TAG: Final = "corpora"


class CorpusPolicyRow(VersionRow[CorpusPolicy]):
    class Meta(VersionRow.Meta):
        model = CorpusPolicy


class CorpusPolicyWhole(CorpusPolicyRow):
    document = serializers.DictField(help_text="The release's section 'corpora': corpora by their slug")
    problems = serializers.SerializerMethodField(help_text="What there is against putting it in force now")

    class Meta(CorpusPolicyRow.Meta):
        fields: ClassVar = [*CorpusPolicyRow.Meta.fields, "document", "problems"]

    def get_problems(self, policy: CorpusPolicy) -> list[dict[str, Any]]:
        found: Any = policy_problems(policy.document)
        return [dict(row) for row in DocumentProblem(found, many=True).data]


class NewCorpusPolicy(NewVersion):
    document = serializers.JSONField(
        help_text=(
            "{corpus: {'title', 'tenants', 'residency', 'store', 'revisions', 'embedding', 'chunking', 'freshness', "
            "'answering', 'recovery', 'sources'}}"
        )
    )


class CorpusNumbers(serializers.Serializer[Any]):
    slug = serializers.CharField()
    thresholds = serializers.DictField(child=ThresholdRow(), help_text="By name, such as 'recovery.rto_seconds'")


POLICIES: Final = version_views(
    corpus_policies,
    name="corpus_policies",
    tag=TAG,
    row=CorpusPolicyRow,
    whole=CorpusPolicyWhole,
    new=NewCorpusPolicy,
    visible=visible_policies,
    access=access_policy,
    access_to_propose=lambda operator, number: access_policy(operator, number, "propose_corpora"),
    require_proposer=require_proposer,
)


class CorpusThresholds(OperatorView):
    @describe(
        "corpus_thresholds_retrieve",
        "The thresholds of one corpus of the corpus policy in force",
        tag=TAG,
        gives=CorpusNumbers,
        refuses=(404,),
    )
    def get(self, request: Request, slug: str) -> Response:
        today = timezone.now().date()
        promised = access_promised(self.operator, slug)
        rows = {name: plain(threshold, today=today) for name, threshold in promised.thresholds()}
        return Response(CorpusNumbers({"slug": slug, "thresholds": rows}).data)

    @describe(
        "corpus_thresholds_propose",
        "Propose other thresholds of a corpus: a new corpus policy and its change request",
        tag=TAG,
        takes=NewThresholds,
        gives=ChangeRow,
        status=201,
    )
    def patch(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        access_promised(self.operator, slug, "propose_corpora")
        asked = read(NewThresholds, request)
        changes = {name: new and NewValue(**new) for name, new in asked["thresholds"].items()}
        change = propose_thresholds(slug=slug, changes=changes, reason=asked["reason"], actor=self.operator, now=now)
        return Response(ChangeRow(change).data, status=201)
