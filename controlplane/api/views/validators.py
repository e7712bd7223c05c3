"""What validators said of answers, over HTTP."""

from typing import Any, Final

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, describe
from controlplane.api.views.repairs import OUTCOME_PARAMETERS, TAG, outcomes_asked
from controlplane.telemetry.outcomes import VALIDATOR
from dataplane.validators.values import ANSWER, Verdict

_OF_RULES: Final = "What one rule, or all of them together, said of answers to one version of a prompt, of one lane"


class VerdictRow(serializers.Serializer[Any]):
    prompt = serializers.CharField(allow_blank=True, help_text="Empty: no managed prompt")
    version = serializers.IntegerField()
    lane = serializers.CharField(allow_blank=True)
    rule = serializers.CharField(
        help_text=f"The rule with its version, 'no-cards@3'; {ANSWER!r}: what came of it in all"
    )
    verdict = serializers.ChoiceField([(verdict.value, verdict.value) for verdict in Verdict])
    effect = serializers.CharField(
        allow_blank=True,
        help_text="Of an abstention, block or warn; of an answer, 'abstained' where a rule could not say; else empty",
    )
    count = serializers.IntegerField(help_text="Texts of answers, and arguments of tool calls; of all rules, answers")


class VerdictsAnswer(serializers.Serializer[Any]):
    next = serializers.URLField(allow_null=True, help_text="Null: there are no further places")
    since = serializers.DateTimeField(help_text="Rounded down to the step that is counted by")
    until = serializers.DateTimeField()
    results = VerdictRow(many=True, help_text=_OF_RULES)


class ValidatorOutcomes(OperatorView):
    @describe(
        "validator_outcomes_list",
        "What validators said of answers, by prompt version, lane, rule and verdict; in pages",
        tag=TAG,
        gives=VerdictsAnswer,
        refuses=(400, 404),
        parameters=OUTCOME_PARAMETERS,
    )
    def get(self, request: Request) -> Response:
        found = outcomes_asked(self.operator, request, VALIDATOR, called=("rule", "verdict", "effect"))
        return Response(VerdictsAnswer(found).data)
