"""The ladder over HTTP: each surface as it stands now, and the policy that says what its rungs are. What people engage
is in `engaging`.
"""

from collections.abc import Iterable
from typing import Any, ClassVar, Final

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, describe
from controlplane.api.thresholds import Found, ThresholdRow, threshold_view
from controlplane.api.versions import DocumentProblem, NewVersion, VersionRow, version_views
from controlplane.api.views.engaging import ActivationRow
from controlplane.api.views.prompts import Reference
from controlplane.ladder.access import access_surface, policy_access
from controlplane.ladder.checks import Library, library, policy_problems
from controlplane.ladder.models import LadderPolicy, RungActivation
from controlplane.ladder.policies import propose_thresholds
from controlplane.ladder.standing import live_activations
from dataplane.ladder.policy import Surface

TAG = "ladder"


class RungRow(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    name = serializers.CharField()
    words = serializers.ListField(child=serializers.CharField(), help_text="The pieces of copy that it shows")
    is_signed = serializers.BooleanField(help_text="Whether it can be engaged, by anybody or anything")
    missing = serializers.ListField(child=serializers.CharField(), help_text="Why it cannot be")


class SurfaceRow(serializers.Serializer[Any]):
    slug = serializers.CharField()
    title = serializers.CharField()
    routes = serializers.ListField(child=serializers.CharField())
    regulated = serializers.BooleanField()
    rungs = RungRow(many=True)
    triggers = serializers.ListField(child=serializers.CharField())
    activations = ActivationRow(many=True, help_text="What people engaged or hold down now, the newest first")


class LadderAnswer(serializers.Serializer[Any]):
    policy = Reference(allow_null=True, help_text="In force; null before the first")
    surfaces = SurfaceRow(many=True)


class LadderPolicyRow(VersionRow[LadderPolicy]):
    class Meta(VersionRow.Meta):
        model = LadderPolicy


class LadderPolicyWhole(LadderPolicyRow):
    document = serializers.DictField(help_text="The release's section 'ladder': surfaces by their slug")
    problems = serializers.SerializerMethodField(help_text="What there is against putting it in force now")

    class Meta(LadderPolicyRow.Meta):
        fields: ClassVar = [*LadderPolicyRow.Meta.fields, "document", "problems"]

    def get_problems(self, policy: LadderPolicy) -> list[dict[str, Any]]:
        found: Any = policy_problems(policy.document)
        return [dict(row) for row in DocumentProblem(found, many=True).data]


class NewLadderPolicy(NewVersion):
    document = serializers.JSONField(
        help_text=(
            "{surface: {'title', 'routes', 'regulated', 'eta_seconds', 'emergency_minutes', 'rungs', 'triggers', "
            "'pace', 'promises'}}"
        )
    )


class SurfaceNumbers(serializers.Serializer[Any]):
    slug = serializers.CharField()
    thresholds = serializers.DictField(child=ThresholdRow(), help_text="By name, such as 'triggers.queue.enter'")


class Ladder(OperatorView):
    @describe(
        "ladder_retrieve",
        "Every surface: which of its rungs can be engaged, what is engaged now, and the policy in force",
        tag=TAG,
        gives=LadderAnswer,
        refuses=(403,),
    )
    def get(self, request: Request) -> Response:
        now = timezone.now()
        found, known, live = policy_access.in_force(self.operator), library(), live_activations(now)
        surfaces = [_surface(surface, known, live) for surface in found.parsed.values()]
        policy = found.row.reference if found.row else None
        return Response(LadderAnswer({"policy": policy, "surfaces": surfaces}, context={"now": now}).data)


POLICIES: Final = version_views(
    policy_access,
    name="ladder_policies",
    tag=TAG,
    row=LadderPolicyRow,
    whole=LadderPolicyWhole,
    new=NewLadderPolicy,
)


SurfaceThresholds: Final = threshold_view(
    name="ladder_thresholds",
    tag=TAG,
    summaries=(
        "The thresholds of one surface of the ladder policy in force",
        "Propose other thresholds of a surface: a new ladder policy and its change request",
    ),
    gives=SurfaceNumbers,
    found=lambda operator, slug: Found(dict(access_surface(operator, slug).thresholds())),
    access_to_propose=lambda operator, slug: access_surface(operator, slug, "propose_ladder"),
    propose=propose_thresholds,
)


def _surface(surface: Surface, known: Library, live: Iterable[RungActivation]) -> dict[str, Any]:
    rungs = []
    for number, rung in surface.rungs.items():
        missing = known.missing(surface, rung)
        words = list(rung.words)
        rungs.append(
            {"number": number, "name": rung.name, "words": words, "is_signed": not missing, "missing": missing}
        )
    return {
        "slug": surface.slug,
        "title": surface.title,
        "routes": list(surface.routes),
        "regulated": surface.regulated,
        "rungs": rungs,
        "triggers": list(surface.triggers),
        "activations": [one for one in live if one.surface == surface.slug],
    }
