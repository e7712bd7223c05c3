"""Game days of corpora over HTTP: which there were, another one, how far one is, and its signed report."""

from typing import Any, ClassVar, Final

from django.http import Http404
from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, Reason, Strict, describe, read
from controlplane.corpora import drills
from controlplane.corpora.access import access_corpus, access_recovery_drill
from controlplane.corpora.models import RecoveryDrill
from controlplane.corpora.scenarios import SCENARIOS

TAG: Final = "corpora"


class RecoveryDrillRow(serializers.ModelSerializer[RecoveryDrill]):
    """One game day; its signed report says the rest."""

    corpus = serializers.CharField(source="corpus.slug")
    dump = serializers.CharField(source="dump.name", default=None, allow_null=True, help_text="That was restored")
    seconds = serializers.DictField(child=serializers.FloatField(), help_text="By phase")
    checks = serializers.SerializerMethodField(help_text="Each with what it found; empty until it was verified")

    class Meta:
        model = RecoveryDrill
        fields: ClassVar = [
            *("id", "corpus", "scenario", "targets_live", "state", "reason", "actor", "asked_at", "confirmed_by"),
            *("confirmed_at", "began_at", "ended_at", "dump", "seconds", "predicted_seconds", "rto_seconds"),
            *("rpo_seconds", "tokens", "cost_micros", "checks", "error"),
        ]

    def get_checks(self, drill: RecoveryDrill) -> list[dict[str, Any]]:
        return list(drill.acceptance.get("checks", []))


class DrillStepRow(serializers.Serializer[Any]):
    name = serializers.CharField()
    began_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    seconds = serializers.FloatField()
    done = serializers.IntegerField()
    of = serializers.IntegerField(allow_null=True, help_text="Null: nobody knows")
    words = serializers.CharField(allow_blank=True)


class RecoveryDrillWhole(RecoveryDrillRow):
    steps = DrillStepRow(many=True)

    class Meta(RecoveryDrillRow.Meta):
        fields: ClassVar = [*RecoveryDrillRow.Meta.fields, "steps"]


class DrillAsked(Reason):
    scenario = serializers.ChoiceField(choices=sorted(SCENARIOS))
    targets_live = serializers.BooleanField(
        default=False, help_text="What comes back serves for a moment, once a second person has confirmed it"
    )
    typed = serializers.CharField(
        default="", max_length=80, help_text="For one on what serves: 'drill <corpus> live', word by word"
    )


class Confirmed(Strict):
    typed = serializers.CharField(max_length=80, help_text="'drill <corpus> live', word by word")


class SignedReport(serializers.Serializer[Any]):
    """The envelope: `document` is the report as canonical JSON, `signature` is over it."""

    document = serializers.CharField()
    digest = serializers.CharField()
    key_id = serializers.CharField()
    signature = serializers.CharField()


class RecoveryDrills(OperatorView):
    @describe("recovery_drills_list", "The game days of a corpus, newest first", tag=TAG, pages_of=RecoveryDrillRow)
    def get(self, request: Request, slug: str) -> Response:
        corpus = access_corpus(self.operator, slug)
        return self.page(corpus.drills.select_related("corpus", "dump"), RecoveryDrillRow)

    @describe(
        "recovery_drills_create",
        "Begin a game day in a sandbox; or ask a second person for one on what serves",
        tag=TAG,
        takes=DrillAsked,
        gives=RecoveryDrillWhole,
        status=202,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        corpus = access_corpus(self.operator, slug, "drill_corpus")
        drill = drills.start_drill(corpus=corpus, **read(DrillAsked, request), actor=self.operator, now=now)
        return Response(RecoveryDrillWhole(drill).data, status=202)


class OneRecoveryDrill(OperatorView):
    @describe("recovery_drills_retrieve", "One game day, with how far it is", tag=TAG, gives=RecoveryDrillWhole)
    def get(self, request: Request, pk: int) -> Response:
        return Response(RecoveryDrillWhole(access_recovery_drill(self.operator, pk)).data)


class ConfirmRecoveryDrill(OperatorView):
    @describe(
        "recovery_drills_confirm",
        "Agree, as the second person, to one on what serves; it begins by that",
        tag=TAG,
        takes=Confirmed,
        gives=RecoveryDrillWhole,
    )
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        drill = access_recovery_drill(self.operator, pk, "drill_corpus")
        confirmed = drills.confirm_live(drill=drill, **read(Confirmed, request), actor=self.operator, now=now)
        return Response(RecoveryDrillWhole(confirmed).data)


class CancelRecoveryDrill(OperatorView):
    @describe(
        "recovery_drills_cancel",
        "Call a game day off; what it made is dropped",
        tag=TAG,
        takes=Reason,
        gives=RecoveryDrillWhole,
    )
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        drill = access_recovery_drill(self.operator, pk, "drill_corpus")
        cancelled = drills.cancel_drill(drill=drill, **read(Reason, request), actor=self.operator, now=now)
        return Response(RecoveryDrillWhole(cancelled).data)


class RecoveryDrillReport(OperatorView):
    @describe(
        "recovery_drills_report",
        "The signed report; `manage.py corpus_drill_verify` proves it",
        tag=TAG,
        gives=SignedReport,
    )
    def get(self, request: Request, pk: int) -> Response:
        drill = access_recovery_drill(self.operator, pk)
        if drill.report_signature is None:
            raise Http404(f"drill {pk} has no signed report")
        return Response(drill.report_signature)
