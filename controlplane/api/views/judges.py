"""Judges over HTTP: how each decides, and how far it agrees with people."""

from typing import Any, ClassVar, Final

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.accounts.access import require
from controlplane.api.base import OperatorView, Strict, describe, read
from controlplane.evals import calibration, operations
from controlplane.evals.access import (
    MANAGE,
    access_judge,
    access_judge_version,
    access_set_version,
    visible_judge_versions,
    visible_judges,
)
from controlplane.evals.judges.kinds import JudgeKind
from controlplane.evals.models import Calibration, CalibrationState, Judge, JudgeVersion

TAG: Final = "evals"


class JudgeRow(serializers.ModelSerializer[Judge]):
    class Meta:
        model = Judge
        fields: ClassVar = ["slug", "name", "score", "description", "created_by", "created_at"]


class NewJudge(Strict):
    slug = serializers.SlugField(max_length=50)
    name = serializers.CharField(max_length=120)
    score = serializers.SlugField(max_length=50, help_text="grounded, safe, correct, schema, or a name of its own")
    description = serializers.CharField(required=False, allow_blank=True, default="", max_length=5000)


class ShareRow(serializers.Serializer[Any]):
    """A share with Wilson's 95 % interval; `value` is null where there was nothing to take a share of."""

    value = serializers.FloatField(allow_null=True)
    low = serializers.FloatField()
    high = serializers.FloatField()


class CalibrationRow(serializers.ModelSerializer[Calibration]):
    set = serializers.CharField(source="set_version.set.slug")
    set_number = serializers.IntegerField(source="set_version.number")
    state = serializers.ChoiceField(CalibrationState.choices)
    n = serializers.IntegerField(source="agreement.n", help_text="Answers that it said something of")
    agreed = ShareRow(source="agreement.agreed")
    sensitivity = ShareRow(source="agreement.sensitivity", help_text="Of bad answers, those it failed")
    specificity = ShareRow(source="agreement.specificity", help_text="Of good answers, those it passed")
    is_good = serializers.BooleanField(help_text="Whether a judge that did so counts as calibrated")
    sentence = serializers.CharField()

    class Meta:
        model = Calibration
        fields: ClassVar = [
            *("id", "set", "set_number", "actor", "started_at", "ended_at", "state", "problem", "labelled", "judged"),
            *("abstained", "good_passed", "good_failed", "bad_passed", "bad_failed", "n", "kappa", "agreed"),
            *("sensitivity", "specificity", "is_good", "sentence"),
        ]


class JudgeVersionRow(serializers.ModelSerializer[JudgeVersion]):
    kind = serializers.CharField(help_text=f"One of {', '.join(JudgeKind)}")
    params = serializers.DictField()
    is_calibrated = serializers.BooleanField(help_text="False: its word counts for nothing at a gate yet")
    calibration = CalibrationRow(allow_null=True, help_text="The newest that is done")

    class Meta:
        model = JudgeVersion
        fields: ClassVar = [
            *("number", "kind", "params", "digest", "author", "reason", "created_at", "is_calibrated", "calibration"),
        ]


class NewJudgeVersion(Strict):
    kind = serializers.CharField(max_length=15)
    params = serializers.JSONField()
    reason = serializers.CharField(max_length=1000)


class NewCalibration(Strict):
    """On which labelled answers."""

    set = serializers.SlugField(max_length=50)
    number = serializers.IntegerField(min_value=1)


class Judges(OperatorView):
    @describe("evals_judges_list", "Judges", tag=TAG, pages_of=JudgeRow, refuses=(403,))
    def get(self, request: Request) -> Response:
        return self.page(visible_judges(self.operator), JudgeRow)

    @describe(
        "evals_judges_create",
        "Create a judge without a version; it decides nothing yet",
        tag=TAG,
        takes=NewJudge,
        gives=JudgeRow,
        status=201,
        refuses=(403,),
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require(self.operator, MANAGE)
        judge = operations.create_judge(**read(NewJudge, request), actor=self.operator, now=now)
        return Response(JudgeRow(judge).data, status=201)


class OneJudge(OperatorView):
    @describe("evals_judges_retrieve", "One judge", tag=TAG, gives=JudgeRow, refuses=(404,))
    def get(self, request: Request, slug: str) -> Response:
        return Response(JudgeRow(access_judge(self.operator, slug)).data)


class JudgeVersions(OperatorView):
    @describe(
        "evals_judge_versions_list",
        "Versions of a judge, newest first, each with its newest calibration",
        tag=TAG,
        pages_of=JudgeVersionRow,
        refuses=(404,),
    )
    def get(self, request: Request, slug: str) -> Response:
        judge = access_judge(self.operator, slug)
        return self.page(visible_judge_versions(self.operator, judge), JudgeVersionRow)

    @describe(
        "evals_judge_versions_submit",
        "Submit an immutable version of a judge; it is uncalibrated until it was held against labels",
        tag=TAG,
        takes=NewJudgeVersion,
        gives=JudgeVersionRow,
        status=201,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        judge = access_judge(self.operator, slug, to_manage=True)
        asked = read(NewJudgeVersion, request)
        version = operations.submit_judge_version(judge=judge, **asked, actor=self.operator, now=now)
        return Response(JudgeVersionRow(version).data, status=201)


class OneJudgeVersion(OperatorView):
    @describe("evals_judge_versions_retrieve", "One version", tag=TAG, gives=JudgeVersionRow, refuses=(404,))
    def get(self, request: Request, slug: str, number: int) -> Response:
        return Response(JudgeVersionRow(access_judge_version(self.operator, slug, number)).data)


class Calibrations(OperatorView):
    @describe(
        "evals_calibrations_list",
        "Calibrations of a judge version, newest first; those that run say how far they are",
        tag=TAG,
        pages_of=CalibrationRow,
        refuses=(404,),
    )
    def get(self, request: Request, slug: str, number: int) -> Response:
        version = access_judge_version(self.operator, slug, number)
        return self.page(version.calibrations.select_related("set_version__set"), CalibrationRow)

    @describe(
        "evals_calibrations_begin",
        "Hold a judge version against labelled answers; read on until `state` is not running",
        tag=TAG,
        takes=NewCalibration,
        gives=CalibrationRow,
        status=202,
    )
    def post(self, request: Request, slug: str, number: int) -> Response:
        now = timezone.now()
        version = access_judge_version(self.operator, slug, number, to_manage=True)
        asked = read(NewCalibration, request)
        rows = access_set_version(self.operator, asked["set"], asked["number"])
        made = calibration.calibrate(judge_version=version, set_version=rows, actor=self.operator, now=now)
        return Response(CalibrationRow(made).data, status=202)
