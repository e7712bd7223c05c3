"""Runs of evals over HTTP: what answers are held to, runs with their answers, and those that changes wait for."""

from typing import Any, ClassVar, Final

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.accounts.access import require
from controlplane.api.base import Nothing, OperatorView, Strict, describe, read
from controlplane.api.cursors import (
    CURSOR_PARAMETERS,
    Filters,
    cursor_key,
    next_page,
    older_pages_of,
    page_of,
    read_query,
)
from controlplane.approvals.access import access_change
from controlplane.approvals.models import ChangeRequest
from controlplane.evals.access import MANAGE, access_run, access_set, access_set_version, may_read_rows, visible_runs
from controlplane.evals.gate import run_change, runs_of, to_see, unmet
from controlplane.evals.placing import live_lane, prompt_subject
from controlplane.evals.running import begin_run, cancel_run
from controlplane.evals.runs import EvalAnswer, EvalRun, EvalStandard, RunState
from controlplane.evals.standards import DEFAULT_COST_MICROS, MAX_COST_MICROS, set_standard
from controlplane.evals.subjects import Subject

TAG: Final = "evals"


# --- standards -------------------------------------------------------------------------------------------------------
class StandardRow(serializers.ModelSerializer[EvalStandard]):
    judges = serializers.ListField(child=serializers.CharField(), help_text="Versions, such as grounded@2")
    thresholds = serializers.DictField(child=serializers.FloatField(), help_text="By score, the share that has to pass")
    routes = serializers.ListField(
        child=serializers.CharField(), help_text="Whose lanes have to pass it; empty: every route's"
    )

    class Meta:
        model = EvalStandard
        fields: ClassVar = [
            *("judges", "thresholds", "routes", "prompt", "max_cost_micros", "author", "reason", "created_at"),
        ]


class NewStandard(Strict):
    judges = serializers.ListField(child=serializers.CharField(max_length=80))
    thresholds = serializers.DictField(child=serializers.FloatField())
    reason = serializers.CharField(max_length=1000)
    routes = serializers.ListField(child=serializers.SlugField(max_length=100), required=False, default=list)
    prompt = serializers.SlugField(required=False, allow_blank=True, default="", max_length=50)
    max_cost_micros = serializers.IntegerField(
        required=False, default=DEFAULT_COST_MICROS, min_value=1, max_value=MAX_COST_MICROS
    )


class Standards(OperatorView):
    @describe(
        "evals_standards_list",
        "What answers to a set were held to, newest first; the first is in force",
        tag=TAG,
        pages_of=StandardRow,
        refuses=(404,),
    )
    def get(self, request: Request, slug: str) -> Response:
        return self.page(access_set(self.operator, slug).standards.all(), StandardRow)

    @describe(
        "evals_standards_set",
        "Say what answers to a set are held to from now on; lanes that enter routes have to pass it",
        tag=TAG,
        takes=NewStandard,
        gives=StandardRow,
        status=201,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        eval_set = access_set(self.operator, slug, to_manage=True)
        standard = set_standard(eval_set=eval_set, **read(NewStandard, request), actor=self.operator, now=now)
        return Response(StandardRow(standard).data, status=201)


# --- runs ------------------------------------------------------------------------------------------------------------
class ProgressRow(serializers.Serializer[Any]):
    asked = serializers.IntegerField()
    total = serializers.IntegerField()
    per_second = serializers.FloatField(allow_null=True)
    eta_seconds = serializers.FloatField(allow_null=True)


class ScoreRow(serializers.Serializer[Any]):
    name = serializers.CharField()
    passed = serializers.IntegerField()
    n = serializers.IntegerField(help_text="Rows that count; one without an answer counts, and passes nothing")
    undecided = serializers.IntegerField(help_text="Of these, rows of which a judge could not say")
    share = serializers.FloatField(allow_null=True)
    lower = serializers.FloatField(help_text="Of the share: what so many rows can show, one-sided at 95 %")
    threshold = serializers.FloatField(allow_null=True, help_text="Null: nothing hangs on it")
    is_met = serializers.BooleanField()


class RunRow(serializers.ModelSerializer[EvalRun]):
    subject = serializers.CharField(source="subject_name")
    set = serializers.CharField(source="set_version.set.slug")
    set_number = serializers.IntegerField(source="set_version.number")
    state = serializers.ChoiceField(RunState.choices)
    judges = serializers.ListField(child=serializers.CharField())
    progress = ProgressRow()
    scores = ScoreRow(many=True, source="counts")
    sentence = serializers.CharField(help_text="What it found, or how far it is")
    passed = serializers.BooleanField(allow_null=True, help_text="Null: it is not done, or nothing hangs on it")
    is_stalled = serializers.SerializerMethodField(help_text="Its worker seems gone; the work comes back by itself")

    class Meta:
        model = EvalRun
        fields: ClassVar = [
            *("id", "subject", "subject_digest", "digest", "set", "set_number", "purpose", "change", "judges", "state"),
            *("progress", "scores", "sentence", "passed", "unanswered", "withheld", "cost_micros", "max_cost_micros"),
            *("problem", "actor", "begun_at", "started_at", "moved_at", "ended_at", "ended_by", "is_stalled"),
        ]

    def get_is_stalled(self, run: EvalRun) -> bool:
        """Whether nobody has moved it for long."""
        return run.is_stalled(timezone.now())


class NewRun(Strict):
    """What to ask which rows: a version of a prompt, or a lane of the routing table in force."""

    set = serializers.SlugField(max_length=50)
    set_number = serializers.IntegerField(required=False, min_value=1, help_text="Left out: the newest version")
    prompt = serializers.SlugField(required=False, max_length=50, help_text="Of a lane: the one that asks variables")
    number = serializers.IntegerField(required=False, min_value=1, help_text="The prompt's version, without a lane")
    lane = serializers.CharField(required=False, max_length=200)
    judges = serializers.ListField(
        child=serializers.CharField(max_length=80),
        required=False,
        default=list,
        help_text="To look without holding the answers to anything; empty: those of the standard",
    )
    max_cost_micros = serializers.IntegerField(required=False, min_value=1, max_value=MAX_COST_MICROS)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """One subject, and all of it."""
        if "lane" in attrs:
            if "number" in attrs:
                raise serializers.ValidationError({"number": ["a lane is asked by a prompt's live version"]})
        elif "prompt" not in attrs or "number" not in attrs:
            raise serializers.ValidationError({"lane": ["name a lane, or a prompt with a number"]})
        return attrs


class EvalRuns(OperatorView):
    @describe("evals_runs_list", "Eval runs, newest first", tag=TAG, pages_of=RunRow, refuses=(403,))
    def get(self, request: Request) -> Response:
        return self.page(visible_runs(self.operator), RunRow)

    @describe(
        "evals_runs_begin",
        "Ask a prompt version or a lane the rows of a set; read on until `state` is neither queued nor running",
        tag=TAG,
        takes=NewRun,
        gives=RunRow,
        status=202,
    )
    def post(self, request: Request) -> Response:
        now = timezone.now()
        require(self.operator, MANAGE)
        asked = read(NewRun, request)
        run = begin_run(
            subject=_subject(asked),
            set_version=access_set_version(self.operator, asked["set"], asked.get("set_number")),
            judges=asked["judges"],
            max_cost_micros=asked.get("max_cost_micros"),
            actor=self.operator,
            now=now,
        )
        return Response(RunRow(run).data, status=202)


def _subject(asked: dict[str, Any]) -> Subject:
    if "lane" in asked:
        return live_lane(asked["lane"], prompt=asked.get("prompt", ""))
    return prompt_subject(asked["prompt"], asked["number"])


class OneEvalRun(OperatorView):
    @describe("evals_runs_retrieve", "One run with its progress", tag=TAG, gives=RunRow, refuses=(404,))
    def get(self, request: Request, pk: int) -> Response:
        return Response(RunRow(access_run(self.operator, pk)).data)


class CancelEvalRun(OperatorView):
    @describe("evals_runs_cancel", "End a run at once; what it found stays", tag=TAG, takes=Nothing, gives=RunRow)
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        run = access_run(self.operator, pk, to_cancel=True)
        read(Nothing, request)
        return Response(RunRow(cancel_run(run=run, actor=self.operator, now=now)).data)


class AnswerScore(serializers.Serializer[Any]):
    judge = serializers.CharField()
    score = serializers.CharField()
    passed = serializers.BooleanField(allow_null=True)
    value = serializers.FloatField()
    why = serializers.CharField()
    applies = serializers.BooleanField(help_text="Whether the row is one that the judge is for")


class AnswerRow(serializers.ModelSerializer[EvalAnswer]):
    """What came of one row. Of a held-out set's the words are for those who look after evals."""

    row = serializers.CharField(source="row.key")
    position = serializers.IntegerField(source="row.position")
    text = serializers.SerializerMethodField(help_text="Null: not for you to read")
    tool_calls = serializers.SerializerMethodField(help_text="Null: not for you to read")
    scores = AnswerScore(many=True)

    class Meta:
        model = EvalAnswer
        fields: ClassVar = [
            *("row", "position", "text", "tool_calls", "refused", "schema_passed", "scores", "cost_micros"),
            *("judging_micros", "latency_ms", "lane", "request_id", "problem_code", "problem", "is_unanswered", "at"),
        ]

    def get_text(self, answer: EvalAnswer) -> str | None:
        """The words, if the caller may read them."""
        return answer.text if self.context["may_read"] else None

    def get_tool_calls(self, answer: EvalAnswer) -> list[list[str]] | None:
        """As `text`."""
        calls: list[list[str]] = answer.tool_calls
        return calls if self.context["may_read"] else None

    def to_representation(self, instance: EvalAnswer) -> dict[str, Any]:
        """Also what a model judge wrote about the words is for those who may read them."""
        told: dict[str, Any] = super().to_representation(instance)
        if not self.context["may_read"]:
            told["scores"] = [score | {"why": ""} for score in told["scores"]]
        return told


class EvalAnswers(OperatorView):
    @describe(
        "evals_answers_list",
        "Answers of a run in the order of its rows; while it asks there may be more later",
        tag=TAG,
        gives=older_pages_of(AnswerRow),
        refuses=(400, 404),
        parameters=CURSOR_PARAMETERS,
    )
    def get(self, request: Request, pk: int) -> Response:
        run = access_run(self.operator, pk)
        asked = read_query(Filters, request)
        rows = run.answers.select_related("row").order_by("row__position")
        if "cursor" in asked:
            (after,) = cursor_key(asked, int)
            rows = rows.filter(row__position__gt=after)
        page, more = page_of(rows, asked)
        key = [page[-1].row.position, ""] if more else None
        may_read = may_read_rows(self.operator, run.set_version.set)
        told = AnswerRow(page, many=True, context={"may_read": may_read}).data
        return Response({"next": next_page(request, asked, key), "results": told})


# --- what a change waits for -----------------------------------------------------------------------------------------
class DemandRow(serializers.Serializer[Any]):
    lane = serializers.CharField(source="demand.subject.name")
    routes = serializers.ListField(source="demand.entering.routes", child=serializers.CharField())
    set = serializers.CharField(source="demand.held.version.set.slug")
    set_number = serializers.IntegerField(source="demand.held.version.number")
    is_met = serializers.BooleanField()
    run = RunRow(allow_null=True, help_text="The one that counts: the newest that is done, or the newest")


class ChangeEvals(serializers.Serializer[Any]):
    demands = DemandRow(many=True)
    unmet = serializers.ListField(child=serializers.CharField(), help_text="Why nobody may approve the change yet")
    to_see = serializers.ListField(
        child=serializers.CharField(), help_text="What whoever approves says to have seen, with `has_seen`"
    )


class RunsOfChange(OperatorView):
    @describe(
        "changes_evals_list",
        "The eval runs that a change of routing waits for, and what they found",
        tag="changes",
        gives=ChangeEvals,
        refuses=(404,),
    )
    def get(self, request: Request, pk: int) -> Response:
        return _answer(access_change(self.operator, pk))

    @describe(
        "changes_evals_begin",
        "Begin what a change waits for and nobody is at, also again what did not pass",
        tag="changes",
        takes=Nothing,
        gives=ChangeEvals,
        status=202,
    )
    def post(self, request: Request, pk: int) -> Response:
        now = timezone.now()
        change = access_change(self.operator, pk, "carry")
        read(Nothing, request)
        run_change(change=change, actor=self.operator, now=now)
        return _answer(change, status=202)


def _answer(change: ChangeRequest, *, status: int = 200) -> Response:
    told = {
        "demands": runs_of(change),
        "unmet": unmet(change) if change.is_open else [],
        "to_see": to_see(change) if change.is_open else [],
    }
    return Response(ChangeEvals(told).data, status=status)
