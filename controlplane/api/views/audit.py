"""The audit record over HTTP: read only."""

from typing import Any, ClassVar

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.accounts.access import access_event, visible_events
from controlplane.api.base import OperatorView, Strict, describe
from controlplane.audit.models import AuditEvent

TAG = "audit"


class EventRow(serializers.ModelSerializer[AuditEvent]):
    class Meta:
        model = AuditEvent
        fields: ClassVar = ["seq", "at", "actor", "action", "target", "data", "previous_hash", "hash"]


class Filters(Strict):
    """The query of a list of events; unknown parameters are ignored, malformed ones refused."""

    actor = serializers.CharField(required=False)
    action = serializers.CharField(required=False)
    target = serializers.CharField(required=False)
    since = serializers.DateTimeField(required=False)
    until = serializers.DateTimeField(required=False)


class Events(OperatorView):
    @describe(
        "audit_events_list",
        "Events of the audit record, newest first",
        tag=TAG,
        pages_of=EventRow,
        refuses=(400, 403),
        parameters=[
            OpenApiParameter("actor", description="Exactly this operator"),
            OpenApiParameter("action", description="This action, such as 'canary.started', or a family, 'canary.'"),
            OpenApiParameter("target", description="Exactly this target, such as 'prompt:support-answer'"),
            OpenApiParameter("since", OpenApiTypes.DATETIME, description="At or after"),
            OpenApiParameter("until", OpenApiTypes.DATETIME, description="Before"),
        ],
    )
    def get(self, request: Request) -> Response:
        rows = visible_events(self.operator)
        filters = Filters(data={name: value for name, value in request.query_params.items() if name in _LOOKUPS})
        filters.is_valid(raise_exception=True)
        asked: dict[str, Any] = filters.validated_data
        return self.page(rows.filter(**{_LOOKUPS[name]: value for name, value in asked.items()}), EventRow)


class OneEvent(OperatorView):
    @describe("audit_events_retrieve", "One event", tag=TAG, gives=EventRow, refuses=(404,))
    def get(self, request: Request, seq: int) -> Response:
        return Response(EventRow(access_event(self.operator, seq)).data)


_LOOKUPS = {
    "actor": "actor",
    "action": "action__startswith",
    "target": "target",
    "since": "at__gte",
    "until": "at__lt",
}
