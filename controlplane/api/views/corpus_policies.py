"""Corpus policies over HTTP: what is promised of every corpus, in versions, and single numbers of it."""

from typing import Any, ClassVar, Final

from rest_framework import serializers

from controlplane.api.thresholds import Found, ThresholdRow, threshold_view
from controlplane.api.versions import DocumentProblem, NewVersion, VersionRow, version_views
from controlplane.corpora.access import access_promised, policy_access
from controlplane.corpora.checks import policy_problems
from controlplane.corpora.models import CorpusPolicy
from controlplane.corpora.policies import propose_thresholds

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
    policy_access,
    name="corpus_policies",
    tag=TAG,
    row=CorpusPolicyRow,
    whole=CorpusPolicyWhole,
    new=NewCorpusPolicy,
)


CorpusThresholds: Final = threshold_view(
    name="corpus_thresholds",
    tag=TAG,
    summaries=(
        "The thresholds of one corpus of the corpus policy in force",
        "Propose other thresholds of a corpus: a new corpus policy and its change request",
    ),
    gives=CorpusNumbers,
    found=lambda operator, slug: Found(dict(access_promised(operator, slug).thresholds())),
    access_to_propose=lambda operator, slug: access_promised(operator, slug, "propose_corpora"),
    propose=propose_thresholds,
)
