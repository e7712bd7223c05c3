"""Jobs over HTTP: who handed in what when, and how it goes. Read only, and without anybody's words."""

from typing import ClassVar, Final

from drf_spectacular.utils import OpenApiParameter
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from controlplane.api.base import OperatorView, describe
from controlplane.api.cursors import BY_ID, CURSOR_PARAMETERS, Filters, newest_page, older_pages_of, read_query
from controlplane.api.filters import TENANT_PARAMETER, narrow
from controlplane.ledger.access import billed_tenants
from controlplane.ledger.jobs import STATES, Job

TAG: Final = "jobs"


class ListedJob(serializers.ModelSerializer[Job]):
    """One job, without question and answer."""

    id = serializers.CharField(source="name", help_text="As callers know it")
    status = serializers.ChoiceField(source="state", choices=STATES)
    attempts = serializers.IntegerField(source="epoch", help_text="How often a runner has taken it")
    answer_status = serializers.IntegerField(source="status", help_text="HTTP status of the last answer; 0: none yet")
    error_code = serializers.CharField(help_text="Of the last attempt that brought nothing; empty: there is none")

    class Meta:
        model = Job
        fields: ClassVar = [
            *("id", "tenant", "key_id", "user_hash", "endpoint", "status", "attempts", "failures", "cancel_asked"),
            *("created_at", "not_before", "expires_at", "taken_at", "ended_at", "forgotten_at", "erased_at"),
            *("request_id", "answer_status", "error_code", "usage"),
        ]


class JobFilters(Filters):
    job = serializers.CharField(required=False, max_length=64)
    tenant = serializers.CharField(required=False)
    status = serializers.ChoiceField(required=False, choices=STATES)


class Jobs(OperatorView):
    @describe(
        "jobs_list",
        "Jobs, newest first: who handed them in when, how they go, how they ended",
        tag=TAG,
        gives=older_pages_of(ListedJob),
        refuses=(400, 403),
        parameters=[
            OpenApiParameter("job", description="Exactly this job, by the id that its caller has"),
            TENANT_PARAMETER,
            OpenApiParameter("status", enum=STATES, description="Exactly this status"),
            *CURSOR_PARAMETERS,
        ],
    )
    def get(self, request: Request) -> Response:
        tenants = billed_tenants(self.operator)
        asked = read_query(JobFilters, request)
        rows = Job.objects.without_words().matching(
            job=asked.get("job", ""), tenants=narrow(tenants, asked), state=asked.get("status", "")
        )
        return newest_page(rows, request, asked, order=BY_ID, row=ListedJob)
