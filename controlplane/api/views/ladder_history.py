"""What a surface's ladder did, over HTTP: what its tiers were served, when rungs were on and what came of that, whether
what serves it is large enough, and what another policy would have done on the load that is stored.
"""

from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.http import Http404, HttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import ErrorEnvelope, OperatorView, describe, read
from controlplane.api.csv_files import CsvRenderer
from controlplane.api.filters import Period, asked_period, period_parameters, settled_period
from controlplane.api.views.judges import ShareRow
from controlplane.ladder.access import access_surface
from controlplane.telemetry.ladder_capacity import DAYS, MOST_DAYS, VERDICTS, capacity, capacity_rows
from controlplane.telemetry.ladder_episodes import Episode, episode, episodes
from controlplane.telemetry.ladder_postmortem import postmortem
from controlplane.telemetry.ladder_simulation import simulate
from controlplane.telemetry.surface_load import raw_readings, readings
from controlplane.telemetry.surfaces import served
from dataplane.documents import MalformedRelease
from dataplane.ladder.policy import Ladder, Surface

TAG: Final = "ladder"


class TierRow(serializers.Serializer[Any]):
    tier = serializers.CharField()
    requests = serializers.IntegerField(help_text="Of callers; runners' own are not among them")
    answerable = serializers.IntegerField(help_text="Of these: neither callers' mistakes nor of callers who left")
    reserved = serializers.IntegerField(help_text="Served in places that the tier is promised")
    outcomes = serializers.DictField(child=serializers.IntegerField(), help_text="How many came to what")
    answered = ShareRow(help_text="By a model at once, of the answerable: what the promise is about")
    later = ShareRow(help_text="Put off with a promise, of the answerable")
    copied = ShareRow(help_text="Answered by signed words")
    refused = ShareRow()
    failed = ShareRow()
    reserved_share = serializers.FloatField(allow_null=True, help_text="Of all requests, 0..1")
    promised_share = serializers.FloatField(
        source="promise.served_share.value", default=None, allow_null=True, help_text="0..1; null: nothing is promised"
    )
    is_kept = serializers.BooleanField(allow_null=True, help_text="Null: nothing was asked, or is promised")


class ServedAnswer(serializers.Serializer[Any]):
    since = serializers.DateTimeField()
    until = serializers.DateTimeField()
    tiers = TierRow(many=True, help_text="The most promised first")


class StepRow(serializers.Serializer[Any]):
    at = serializers.DateTimeField()
    before = serializers.IntegerField(help_text="The highest rung that stood for anybody before it")
    rung = serializers.IntegerField(help_text="The same after it")
    cause = serializers.CharField()
    named = serializers.IntegerField(help_text="The rung that it is about")
    by = serializers.CharField(allow_blank=True, help_text="Empty: triggers, or it ended by itself")
    reason = serializers.CharField(allow_blank=True)
    trigger = serializers.CharField(allow_blank=True)
    reading = serializers.FloatField(allow_null=True)
    regions = serializers.ListField(child=serializers.CharField(), help_text="Empty: all")
    tiers = serializers.ListField(child=serializers.CharField(), help_text="Empty: all")
    name = serializers.CharField(allow_blank=True, help_text="Of the activation, hold or order")
    sentence = serializers.CharField()


class EpisodeRow(serializers.Serializer[Any]):
    id = serializers.IntegerField(help_text="The epoch second in which it began")
    surface = serializers.CharField()
    since = serializers.DateTimeField()
    until = serializers.DateTimeField(allow_null=True, help_text="Null: it is still on")
    seconds = serializers.FloatField()
    highest = serializers.IntegerField(help_text="The highest rung that stood for anybody")
    requests = serializers.IntegerField(help_text="Of callers, on any rung or none")
    touched_requests = serializers.IntegerField(help_text="Served on a rung")
    refused = serializers.IntegerField()
    later = serializers.IntegerField(help_text="Put off with a promise")
    touched = serializers.DictField(
        child=serializers.DictField(child=serializers.IntegerField()), help_text="{rung: {tier: requests}}"
    )
    outcomes = serializers.DictField(child=serializers.IntegerField())
    wait_p50_ms = serializers.FloatField(allow_null=True, help_text="Of those who got an answer at once, to its end")
    wait_p95_ms = serializers.FloatField(allow_null=True)
    cost_micros = serializers.IntegerField(help_text="Millionths of a US dollar")
    cost_before_micros = serializers.IntegerField(help_text="Of the hour before")
    cost_per_hour_micros = serializers.FloatField(allow_null=True)
    steps = StepRow(many=True)


class EpisodesAnswer(serializers.Serializer[Any]):
    since = serializers.DateTimeField()
    until = serializers.DateTimeField()
    results = EpisodeRow(many=True, help_text="The newest first; each whole")


class RungUseRow(serializers.Serializer[Any]):
    rung = serializers.IntegerField()
    name = serializers.CharField()
    seconds = serializers.FloatField(help_text="For how long it was the highest that stood for anybody")
    on_seconds = serializers.FloatField(help_text="For how long it was on, alone or below a higher one")
    share = serializers.FloatField(help_text="What `on_seconds` is of the time that was told of, 0..1")
    requests = serializers.IntegerField(help_text="Served on exactly this rung")
    request_share = serializers.FloatField(allow_null=True)
    verdict = serializers.ChoiceField(list(VERDICTS))


class TriggerUseRow(serializers.Serializer[Any]):
    slug = serializers.CharField()
    presses = serializers.IntegerField()
    seconds = serializers.FloatField(help_text="For how long triggers stood up, when it had pressed last")


class WorstHourRow(serializers.Serializer[Any]):
    at = serializers.DateTimeField()
    requests = serializers.IntegerField()
    touched = serializers.IntegerField()


class CapacityAnswer(serializers.Serializer[Any]):
    surface = serializers.CharField()
    since = serializers.DateTimeField()
    until = serializers.DateTimeField()
    days = serializers.IntegerField()
    told_seconds = serializers.FloatField(help_text="How much of it anybody told of; shares of time are of this")
    untold_seconds = serializers.FloatField()
    verdict = serializers.ChoiceField([*VERDICTS, "unknown"])
    sentence = serializers.CharField()
    rungs = RungUseRow(many=True)
    triggers = TriggerUseRow(many=True)
    worst = WorstHourRow(allow_null=True)


class LoadRow(serializers.Serializer[Any]):
    at = serializers.DateTimeField()
    values = serializers.DictField(child=serializers.FloatField(allow_null=True), help_text="By signal, the highest")
    gauges = serializers.DictField(child=serializers.FloatField(), help_text="By trigger")
    attempts = serializers.IntegerField()
    failures = serializers.IntegerField()
    level = serializers.IntegerField(help_text="The highest rung that triggers had engaged")
    generation = serializers.IntegerField()
    is_alone = serializers.BooleanField()


class ReadingsAnswer(serializers.Serializer[Any]):
    since = serializers.DateTimeField()
    until = serializers.DateTimeField()
    step_seconds = serializers.FloatField()
    sentence = serializers.CharField(help_text="How much there is, and how many gaps")
    points = LoadRow(many=True)


class Trial(Period):
    document = serializers.JSONField(
        required=False,
        help_text="A ladder policy that has the surface, as if all its words were signed; else that in force",
    )


class SimulatedMoveRow(serializers.Serializer[Any]):
    at = serializers.DateTimeField()
    before = serializers.IntegerField()
    after = serializers.IntegerField()
    cause = serializers.CharField()
    trigger = serializers.CharField(allow_blank=True)
    reading = serializers.FloatField(allow_null=True)


class SimulationAnswer(serializers.Serializer[Any]):
    since = serializers.DateTimeField()
    until = serializers.DateTimeField()
    told_seconds = serializers.FloatField()
    gaps = serializers.IntegerField()
    sentence = serializers.CharField()
    caveat = serializers.CharField()
    moves = SimulatedMoveRow(many=True)
    seconds = serializers.DictField(child=serializers.FloatField(), help_text="By rung, as it would have been")
    happened = serializers.DictField(child=serializers.FloatField(), help_text="By rung, as it was")
    unread = serializers.ListField(child=serializers.CharField(), help_text="Triggers that nothing is stored for")


class CapacityCsv(CsvRenderer):
    """The table of a capacity report."""

    filename = "capacity.csv"


class Served(OperatorView):
    @describe(
        "ladder_served",
        "What each tier of a surface was served, beside what it is promised",
        tag=TAG,
        gives=ServedAnswer,
        refuses=(400, 403, 404),
        parameters=period_parameters("Ended"),
    )
    def get(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        surface = access_surface(self.operator, slug)
        since, until = asked_period(request.query_params, now=now)
        tiers = served(slug, since=since, until=until, promises=surface.promises)
        return Response(ServedAnswer({"since": since, "until": until, "tiers": tiers}).data)


class Episodes(OperatorView):
    @describe(
        "ladder_episodes_list",
        "When rungs of a surface were on, and what that did",
        tag=TAG,
        gives=EpisodesAnswer,
        refuses=(400, 403, 404),
        parameters=period_parameters("Was on"),
    )
    def get(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        access_surface(self.operator, slug)
        since, until = asked_period(request.query_params, now=now)
        found = [one.to_json() for one in episodes(slug, since=since, until=until, now=now)]
        return Response({"since": since, "until": until, "results": found})


class OneEpisode(OperatorView):
    @describe("ladder_episodes_retrieve", "One stretch with a rung on", tag=TAG, gives=EpisodeRow)
    def get(self, request: Request, slug: str, pk: int) -> Response:
        now = timezone.now()
        access_surface(self.operator, slug)
        return Response(_episode(slug, pk, now=now).to_json())


class Postmortem(OperatorView):
    @extend_schema(
        operation_id="ladder_episodes_postmortem",
        summary="A postmortem of one episode, with what is known filled in, in Markdown",
        tags=[TAG],
        responses={
            (200, "text/markdown"): OpenApiTypes.STR,
            401: ErrorEnvelope,
            403: ErrorEnvelope,
            404: OpenApiResponse(ErrorEnvelope, description="No such surface, or episode"),
        },
    )
    def get(self, request: Request, slug: str, pk: int) -> HttpResponse:
        now = timezone.now()
        surface = access_surface(self.operator, slug)
        text = postmortem(_episode(slug, pk, now=now), surface=surface, url=settings.CONSOLE_URL)
        response = HttpResponse(text, content_type="text/markdown; charset=utf-8")
        response["Content-Disposition"] = f'attachment; filename="postmortem-{pk}.md"'
        return response


class CapacityReport(OperatorView):
    renderer_classes = [JSONRenderer, CapacityCsv]

    @describe(
        "ladder_capacity",
        "How much of the last days each rung of a surface was on; as JSON, or as CSV by `format=csv`",
        tag=TAG,
        gives=CapacityAnswer,
        refuses=(400, 403, 404),
        parameters=[OpenApiParameter("days", int, description=f"1 to {MOST_DAYS}; {DAYS} unless told")],
    )
    def get(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        access_surface(self.operator, slug)
        days = serializers.IntegerField(min_value=1, max_value=MOST_DAYS)
        try:
            asked = days.run_validation(request.query_params.get("days", DAYS))
        except serializers.ValidationError as exc:
            raise serializers.ValidationError({"days": exc.detail}) from exc
        found = capacity(slug, days=asked, now=now)
        return Response(capacity_rows(found) if request.accepted_renderer.format == "csv" else found.to_json())


class Readings(OperatorView):
    @describe(
        "ladder_readings",
        "How loaded a surface was, in as many points as a chart shows",
        tag=TAG,
        gives=ReadingsAnswer,
        refuses=(400, 403, 404),
        parameters=period_parameters("Read"),
    )
    def get(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        access_surface(self.operator, slug)
        since, until = asked_period(request.query_params, now=now)
        load = readings(slug, since=since, until=until)
        return Response(
            {
                "since": since,
                "until": until,
                "step_seconds": load.step.total_seconds(),
                "sentence": load.sentence,
                "points": [point.to_json() for point in load.points],
            }
        )


class Simulate(OperatorView):
    @describe(
        "ladder_simulate",
        "Let a ladder decide on the load that is stored, of the last 14 days at most; nothing is changed",
        tag=TAG,
        takes=Trial,
        gives=SimulationAnswer,
    )
    def post(self, request: Request, slug: str) -> Response:
        now = timezone.now()
        surface = access_surface(self.operator, slug)
        asked = read(Trial, request)
        if "document" in asked:
            surface = _surface_of(asked["document"], slug)
        since, until = settled_period(asked, now=now)
        return Response(simulate(surface, raw_readings(slug, since=since, until=until, now=now)).to_json())


def _episode(slug: str, number: int, *, now: datetime) -> Episode:
    found = episode(slug, number, now=now)
    if found is None:
        raise Http404(f"no rung of surface {slug!r} began to be on at {number}")
    return found


def _surface_of(document: Any, slug: str) -> Surface:
    try:
        ladder = Ladder.parse(document, path="$")
    except MalformedRelease as exc:
        raise serializers.ValidationError({"document": [str(exc)]}) from exc
    if slug not in ladder:
        raise serializers.ValidationError({"document": [f"it has no surface {slug!r}"]})
    return ladder[slug]
