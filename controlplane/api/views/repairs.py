"""Answers that were to be JSON, over HTTP: what became of them, and those that nothing could repair, to complete."""

from typing import Any, ClassVar, Final
from uuid import UUID

import orjson
from django.http import Http404
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.accounts.models import Operator
from controlplane.api.base import OperatorView, Reason, describe, read
from controlplane.api.cursors import (
    BY_ID,
    CURSOR_PARAMETERS,
    MAX_LIMIT,
    Filters,
    cursor_key,
    newest_page,
    next_page,
    older_pages_of,
    read_query,
    text_key,
)
from controlplane.api.filters import DEFAULT_RANGE, MAX_RANGE, TENANT_PARAMETER, narrow
from controlplane.ledger.access import COMPLETE, READ, access_repair, require_answers
from controlplane.ledger.completions import complete_answer, read_words, standing_of
from controlplane.ledger.newest import uuid_of
from controlplane.ledger.repairs import Repair
from controlplane.routing.access import access_routing
from controlplane.telemetry.outcomes import REPAIR
from controlplane.telemetry.outputs import Place, outcome_start, read_places
from controlplane.telemetry.report_checks import MAX_SMALL
from dataplane.errors.requests import InvalidRequest
from dataplane.repair.completion import Supplied, parse_supplied
from dataplane.repair.kept import ID_PREFIX, OPEN, STATES

TAG: Final = "answers"
_COLUMNS: Final = (
    *("id", "tenant", "user_hash", "request_id", "route", "prompt", "version", "lane", "status", "at", "mode"),
    *("missing_fields", "created_at", "expires_at", "completed_at", "completed_by"),
)


class ListedRepair(serializers.ModelSerializer[Repair]):
    """One answer, without its words."""

    id = serializers.CharField(source="name", help_text="As callers know it")
    status = serializers.ChoiceField(source="state", choices=STATES)
    at = serializers.CharField(source="at_part", help_text='The part that is wrong: "text" or "tool_calls[i]"')
    missing_fields = serializers.ListField(source="missing", child=serializers.CharField(), help_text="JSON pointers")
    completed_by = serializers.CharField(help_text="An API key's id, or 'operator:' and a name; empty: nobody yet")

    class Meta:
        model = Repair
        fields: ClassVar = list(_COLUMNS)


class FlawRow(serializers.Serializer[Any]):
    pointer = serializers.CharField(allow_blank=True, help_text="JSON pointer; empty: the whole part")
    problem = serializers.CharField(help_text="As failure modes are called, such as missing_field")
    wanted = serializers.JSONField(allow_null=True, help_text="What the schema says of the place; null: not plainly")


class OneRepairRow(ListedRepair):
    is_readable = serializers.BooleanField(help_text="False: only all of the part can be supplied, as `value`")
    flaws = FlawRow(many=True, help_text="What is wrong where, while it is open")

    class Meta(ListedRepair.Meta):
        fields: ClassVar = [*_COLUMNS, "is_readable", "flaws"]


class RepairWords(serializers.Serializer[Any]):
    why = serializers.CharField(allow_null=True, help_text="What is wrong, with the words that are")
    value = serializers.CharField(allow_null=True, help_text="As much of the part as could be read, as JSON text")
    response = serializers.JSONField(allow_null=True, help_text="The chat.completion; null: kept no more")
    asked = serializers.JSONField(allow_null=True, help_text="response_format and tools of the request")


class CompleteRepair(Reason):
    # The base class has an attribute of that name, which is read once the class is made.
    fields = serializers.DictField(  # type: ignore[assignment]
        child=serializers.JSONField(allow_null=True),
        required=False,
        allow_empty=False,
        help_text="Values by JSON pointer; or `value`",
    )
    value = serializers.JSONField(required=False, allow_null=True, help_text="All of the part; or `fields`")


class OutcomeRow(serializers.Serializer[Any]):
    prompt = serializers.CharField(allow_blank=True, help_text="Empty: no managed prompt")
    version = serializers.IntegerField()
    lane = serializers.CharField(allow_blank=True)
    mode = serializers.CharField(help_text="What was wrong; none: nothing")
    rung = serializers.CharField(help_text="The rung of the repair ladder that ended it, r0_strict to r7_failed")
    # The base class has an attribute of that name, which only a field inside another serializer has a use for.
    label = serializers.CharField(allow_blank=True, help_text="How far it may be trusted; empty: it failed")  # type: ignore[assignment]
    count = serializers.IntegerField(help_text="Parts of answers: texts, and arguments of tool calls")


class OutcomesAnswer(serializers.Serializer[Any]):
    next = serializers.URLField(allow_null=True, help_text="Null: there are no further places")
    since = serializers.DateTimeField(help_text="Rounded down to the step that is counted by")
    until = serializers.DateTimeField()
    results = OutcomeRow(many=True)


OUTCOME_PARAMETERS: Final = [
    OpenApiParameter("prompt", description="Only answers to this prompt"),
    OpenApiParameter("lane", description="Only answers of this lane"),
    OpenApiParameter("since", OpenApiTypes.DATETIME, description="24 h before `until` unless told"),
    OpenApiParameter("until", OpenApiTypes.DATETIME, description="Now unless told. At most 31 days"),
    OpenApiParameter("limit", int, description="Versions on lanes per page, up to 200; 50 unless told"),
    OpenApiParameter("cursor", description="Where to go on, out of `next`; opaque"),
]


class RepairFilters(Filters):
    repair = serializers.CharField(required=False, max_length=64)
    tenant = serializers.CharField(required=False)
    status = serializers.ChoiceField(required=False, choices=STATES)


class OutcomeFilters(Filters):
    prompt = serializers.CharField(required=False, max_length=100)
    lane = serializers.CharField(required=False, max_length=200)
    since = serializers.DateTimeField(required=False)
    until = serializers.DateTimeField(required=False)


class Repairs(OperatorView):
    @describe(
        "repairs_list",
        "Answers that nothing could repair, newest first: what they lack, until when, who completed them",
        tag=TAG,
        gives=older_pages_of(ListedRepair),
        refuses=(400, 403),
        parameters=[
            OpenApiParameter("repair", description="Exactly this answer, by the id that its caller has"),
            TENANT_PARAMETER,
            OpenApiParameter("status", enum=STATES, description="Exactly this status"),
            *CURSOR_PARAMETERS,
        ],
    )
    def get(self, request: Request) -> Response:
        tenants = require_answers(self.operator)
        asked = read_query(RepairFilters, request)
        rows = Repair.objects.without_words().matching(
            repair=asked.get("repair", ""), tenants=narrow(tenants, asked), state=asked.get("status", "")
        )
        return newest_page(rows, request, asked, order=BY_ID, row=ListedRepair)


class OneRepair(OperatorView):
    @describe(
        "repairs_retrieve", "One answer that nothing could repair, and what is wrong where", tag=TAG, gives=OneRepairRow
    )
    def get(self, request: Request, repair: str) -> Response:
        return Response(_whole(access_repair(self.operator, _id_of(repair))))


class RepairTranscript(OperatorView):
    @describe(
        "repairs_words_retrieve",
        "The words of an answer, for who may read its tenant's content; the audit record says who did",
        tag=TAG,
        gives=RepairWords,
    )
    def get(self, request: Request, repair: str) -> Response:
        row = access_repair(self.operator, _id_of(repair), READ)
        words = read_words(repair=row, actor=self.operator, now=timezone.now())
        if words is None:
            return Response(dict.fromkeys(("why", "value", "response", "asked")))
        return Response({"why": row.why, "value": words["value"], "response": words["body"], "asked": words["asked"]})


class CompleteOneRepair(OperatorView):
    @describe(
        "repairs_complete",
        "Supply what an answer lacks; open still if another part of it is broken too, which `at` names then",
        tag=TAG,
        takes=CompleteRepair,
        gives=OneRepairRow,
    )
    def post(self, request: Request, repair: str) -> Response:
        row = access_repair(self.operator, _id_of(repair), COMPLETE)
        asked = read(CompleteRepair, request)
        given = _supplied(asked)
        complete_answer(repair=row, given=given, reason=asked["reason"], actor=self.operator, now=timezone.now())
        return Response(_whole(access_repair(self.operator, row.pk)))


class RepairOutcomes(OperatorView):
    @describe(
        "repair_outcomes_list",
        "What became of answers that were to be JSON, by prompt version, lane, failure mode, rung and label; in pages",
        tag=TAG,
        gives=OutcomesAnswer,
        refuses=(400, 404),
        parameters=OUTCOME_PARAMETERS,
    )
    def get(self, request: Request) -> Response:
        found = outcomes_asked(self.operator, request, REPAIR, called=("mode", "rung", "label"))
        return Response(OutcomesAnswer(found).data)


def outcomes_asked(
    operator: Operator, request: Request, system: str, *, called: tuple[str, str, str]
) -> dict[str, Any]:
    """What a system counted in the range, and of the prompt and the lane, that a request asks for.

    Shape: {"next": URL or None, "since", "until": datetime, "results": [{"prompt": str, "version": int, "lane": str,
            <each of called>: str, "count": int}]}: of so many places, in their order.

    Args:
        called: What the parts of an `outputs.Key` are to that system.
    Raises:
        Http404, PermissionDenied: as `access_routing`.
        rest_framework.exceptions.ValidationError: naming the field.
    """
    access_routing(operator)
    asked = read_query(OutcomeFilters, request)
    until = asked.setdefault("until", timezone.now())
    since = asked.setdefault("since", until - DEFAULT_RANGE)
    if not since < until or until - since > MAX_RANGE:
        raise serializers.ValidationError({"since": [f"before `until`, and at most {MAX_RANGE.days} days"]})
    limit = min(asked["limit"], MAX_LIMIT)
    of = {name: asked.get(name, "") for name in ("prompt", "lane")}
    found = read_places(system, since=since, until=until, limit=limit + 1, after=_after(asked), **of)
    page = list(found.items())[:limit]
    rows = [
        {**place._asdict(), **dict(zip(called, key, strict=True)), "count": number}
        for place, counts in page
        for key, number in sorted(counts.items())
    ]
    last = page[-1][0] if len(found) > limit else None
    key = None if last is None else [[last.prompt, last.version], last.lane]
    begin = outcome_start(since, until)
    return {"next": next_page(request, asked, key), "since": begin, "until": until, "results": rows}


def _after(asked: dict[str, Any]) -> Place | None:
    """The last place of the page before, None for the first page."""
    if "cursor" not in asked:
        return None
    (prompt, version), lane = cursor_key(asked, _version_key, text_key)
    return Place(prompt, version, lane)


def _version_key(value: Any) -> tuple[str, int]:
    """A prompt's slug and a version as a cursor has them, or ValueError."""
    prompt, version = value
    if type(version) is not int or not 0 <= version <= MAX_SMALL:
        raise ValueError(f"{version!r} is no version")
    return text_key(prompt), version


def _id_of(name: str) -> UUID:
    """The id that an address names, in either way of writing it."""
    found = uuid_of(name.removeprefix(ID_PREFIX))
    if found is None:
        raise Http404("there is no such thing here, or you may not see it")
    return found


def _whole(row: Repair) -> dict[str, Any]:
    standing = None
    if row.state == OPEN and row.expires_at > timezone.now():
        standing = standing_of(Repair.objects.get(pk=row.pk))
    flaws = [] if standing is None else standing.flaws
    return {
        **ListedRepair(row).data,
        "is_readable": standing is not None and standing.is_readable,
        "flaws": [{"pointer": one.pointer, "problem": one.mode, "wanted": one.wanted} for one in flaws],
    }


def _supplied(asked: dict[str, Any]) -> Supplied:
    """What a caller supplies.

    Raises:
        rest_framework.exceptions.ValidationError: naming the field.
    """
    given = {name: asked[name] for name in ("fields", "value") if name in asked}
    if len(given) != 1:
        raise serializers.ValidationError({"fields": ["give either `fields` or `value`"]})
    (name,) = given
    try:
        return parse_supplied(orjson.dumps(given))
    except (TypeError, InvalidRequest) as exc:
        # A number of more than 64 bits, or half a character, which no answer can hold.
        raise serializers.ValidationError({name: [str(exc)]}) from exc
