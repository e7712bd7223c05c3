"""Trying the validator policies of a change on stored answers, over HTTP. No word of an answer is told here."""

from typing import Any, ClassVar

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import Nothing, OperatorView, describe, read
from controlplane.approvals import preparations
from controlplane.approvals.access import access_change
from controlplane.approvals.models import ChangeRequest
from controlplane.trials.models import TrialState, ValidatorTrial
from controlplane.trials.operations import trials_of, try_change

TAG = "changes"


class TriedRule(serializers.Serializer[Any]):
    """What one rule said, but for those that a model decides: they are not asked."""

    rule = serializers.CharField()
    version = serializers.IntegerField()
    layer = serializers.CharField()
    kind = serializers.CharField()
    counts = serializers.DictField(child=serializers.IntegerField(), help_text="By verdict")
    micros_p50 = serializers.IntegerField(allow_null=True, help_text="Of processor time")
    micros_p99 = serializers.IntegerField(allow_null=True)


class FoundSpan(serializers.Serializer[Any]):
    where = serializers.CharField(help_text="'text' or 'tool_calls[i]'")
    start = serializers.IntegerField()
    end = serializers.IntegerField()
    what = serializers.CharField()


class FoundExample(serializers.Serializer[Any]):
    """Where something was found; the words are on the change's page, for who may read them."""

    sample = serializers.IntegerField()
    rule = serializers.CharField()
    verdict = serializers.CharField()
    why = serializers.CharField()
    spans = FoundSpan(many=True)
    span_count = serializers.IntegerField()


class TrialRow(serializers.ModelSerializer[ValidatorTrial]):
    routes = serializers.ListField(child=serializers.CharField())
    state = serializers.ChoiceField(TrialState.choices)
    sentence = serializers.CharField(help_text="What it found, such as 'would have blocked 3 of 1,000'")
    judges = serializers.ListField(child=serializers.CharField(), help_text="Rules that were not asked")
    rules = TriedRule(many=True)
    examples = FoundExample(many=True)

    class Meta:
        model = ValidatorTrial
        fields: ClassVar = [
            "id",
            "policy",
            "routes",
            "digest",
            "actor",
            "started_at",
            "ended_at",
            "state",
            "problem",
            "available",
            "tried",
            "would_block",
            "would_repair",
            "would_warn",
            "abstained",
            "micros_p50",
            "micros_p99",
            "sentence",
            "judges",
            "rules",
            "examples",
        ]


class ChangeTrials(serializers.Serializer[Any]):
    trials = TrialRow(
        many=True, help_text="Of each policy that has to be tried: its newest that is done, or its newest"
    )
    unmet = serializers.ListField(child=serializers.CharField(), help_text="Why nobody may approve the change yet")
    to_see = serializers.ListField(
        child=serializers.CharField(), help_text="What whoever approves says to have seen, with `has_seen`"
    )


class TrialsOfChange(OperatorView):
    @describe(
        "changes_trials_list",
        "What the validator policies of a change would have done to stored answers",
        tag=TAG,
        gives=ChangeTrials,
        refuses=(404,),
    )
    def get(self, request: Request, pk: int) -> Response:
        return _answer(access_change(self.operator, pk))

    @describe(
        "changes_trials_begin",
        "Try the validator policies of a change on up to 1,000 stored answers; read on until `state` is not running",
        tag=TAG,
        takes=Nothing,
        gives=ChangeTrials,
        status=202,
    )
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        change = access_change(self.operator, pk, "carry")
        read(Nothing, request)
        begun = try_change(change=change, actor=self.operator, now=now)
        return _answer(change, begun={trial.digest: trial for trial in begun}, status=202)


def _answer(change: ChangeRequest, *, begun: dict[str, ValidatorTrial] | None = None, status: int = 200) -> Response:
    newest = begun or {}
    trials = [newest.get(subject.digest, trial) for subject, trial in trials_of(change)]
    told = {
        "trials": [trial for trial in trials if trial is not None],
        "unmet": preparations.unmet(change) if change.is_open else [],
        "to_see": preparations.to_see(change) if change.is_open else [],
    }
    return Response(ChangeTrials(told).data, status=status)
