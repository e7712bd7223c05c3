"""Who may see which usage, streams, jobs, idempotency keys and answers to complete: those of the tenants on which they
hold the permission, and of no other. Answers are seen by whoever may complete them too, and jobs by whoever may hand
their work in again.

The words of a stream or an answer are for whoever holds another permission besides. What Ballast asked providers by
itself is billed to nobody's tenant; it is seen by whoever sees everybody's.
"""

from typing import Final
from uuid import UUID

from django.http import Http404

from controlplane.accounts.access import may, require, visible
from controlplane.accounts.models import ApiKey, Operator, Tenant
from controlplane.ledger.idempotency import IdempotencyEvidence
from controlplane.ledger.jobs import Job
from controlplane.ledger.models import UsageRow
from controlplane.ledger.repairs import Repair
from controlplane.ledger.stream_rows import StreamRow
from dataplane.access import OURSELVES

VIEW: Final = "accounts.view_usage"
READ: Final = "accounts.read_content"
COMPLETE: Final = "accounts.complete_repair"
REDRIVE: Final = "accounts.redrive_deadletter"


def billed_tenants(operator: Operator) -> list[str]:
    """The slugs of the tenants whose usage the operator may see.

    Raises:
        PermissionDenied: there is none, nor could there be.
    """
    slugs = _billed(operator)
    if not slugs:
        require(operator, VIEW)
    return slugs


def sees_everybody(operator: Operator) -> bool:
    """Whether the operator may see everybody's usage, so that no tenant need be named to show only what they may see:
    also what was billed to one that is gone.
    """
    return may(operator, VIEW)


def keys_beginning(operator: Operator, prefix: str) -> list[str]:
    """The ids of those tenants' keys that begin so; an ellipsis at the end is not part of it."""
    tenants = visible(operator, Tenant.objects.all(), VIEW).order_by().values("pk")
    found = ApiKey.objects.filter(tenant__in=tenants, prefix__startswith=prefix.rstrip("…")[:12])
    return [str(pk) for pk in found.values_list("pk", flat=True)]


def access_request(operator: Operator, request_id: str) -> list[UsageRow]:
    """The attempts of one request, in the order they were made.

    Raises:
        Http404: there is none, or its tenant's usage is not for the operator to see.
    """
    slugs = _billed(operator)
    rows = list(UsageRow.objects.matching(tenants=slugs).of_request(request_id)) if "\0" not in request_id else []
    if not rows:
        raise Http404("there is no such thing here, or you may not see it")
    return rows


def access_stream(operator: Operator, stream_id: str) -> StreamRow:
    """One stream, with how it stands.

    Raises:
        Http404: there is none, or its tenant's usage is not for the operator to see.
    """
    known = StreamRow.objects.matching(tenants=_billed(operator)).select_related("standing")
    row = known.filter(pk=stream_id).first() if "\0" not in stream_id else None
    if row is None:
        raise Http404("there is no such thing here, or you may not see it")
    return row


def access_evidence(operator: Operator, record: UUID) -> IdempotencyEvidence:
    """The first row of evidence of one record of an idempotency key.

    Raises:
        Http404: there is none, or its tenant's usage is not for the operator to see.
    """
    row = IdempotencyEvidence.objects.matching(tenants=_billed(operator)).of_record(record).first()
    if row is None:
        raise Http404("there is no such thing here, or you may not see it")
    return row


def job_tenants(operator: Operator) -> list[str]:
    """The slugs of the tenants whose jobs the operator may see.

    Raises:
        PermissionDenied: there is none, nor could there be.
    """
    slugs = _job_tenants(operator)
    if not slugs and not may(operator, REDRIVE):
        require(operator, VIEW)
    return slugs


def access_job(operator: Operator, job: UUID, permission: str = "") -> Job:
    """One job, without its words.

    Args:
        permission: REDRIVE, where seeing that it is there is not all.
    Raises:
        Http404: there is none, or its tenant's jobs are not for the operator to see.
        PermissionDenied: theirs to see, but not to do this with.
    """
    row = Job.objects.without_words().matching(tenants=_job_tenants(operator)).filter(pk=job).first()
    if row is None:
        raise Http404("there is no such thing here, or you may not see it")
    if permission:
        require(operator, permission, Tenant.objects.filter(slug=row.tenant).first())
    return row


def answering_tenants(operator: Operator) -> list[str]:
    """The slugs of the tenants whose open answers the operator may see; none for who may see nobody's."""
    slugs = [*_billed(operator), *visible(operator, Tenant.objects.all(), COMPLETE).values_list("slug", flat=True)]
    return sorted({*slugs, OURSELVES.slug} if may(operator, COMPLETE) else {*slugs})


def require_answers(operator: Operator) -> list[str]:
    """As `answering_tenants`.

    Raises:
        PermissionDenied: there is none, nor could there be.
    """
    slugs = answering_tenants(operator)
    if not slugs and not may(operator, COMPLETE):
        require(operator, VIEW)
    return slugs


def access_repair(operator: Operator, repair: UUID, permission: str = "") -> Repair:
    """One answer that nothing could repair, without its words.

    Args:
        permission: READ or COMPLETE, where seeing that it is there is not all.
    Raises:
        Http404: there is none, or it is not for the operator to see.
        PermissionDenied: theirs to see, but not to do this with.
    """
    known = Repair.objects.without_words().matching(tenants=answering_tenants(operator))
    row = known.filter(pk=repair).first()
    if row is None:
        raise Http404("there is no such thing here, or you may not see it")
    if permission:
        require(operator, permission, Tenant.objects.filter(slug=row.tenant).first())
    return row


def may_complete(operator: Operator, row: Repair) -> bool:
    """Whether the operator may complete an answer that they may see."""
    return may(operator, COMPLETE, Tenant.objects.filter(slug=row.tenant).first())


def may_read_content(operator: Operator, row: StreamRow | Repair) -> bool:
    """Whether the operator may read the words of a stream or an answer that they may see."""
    return may(operator, READ, Tenant.objects.filter(slug=row.tenant).first())


def access_content(operator: Operator, stream_id: str) -> StreamRow:
    """One stream, to read its words.

    Raises:
        Http404: as `access_stream`.
        PermissionDenied: theirs to see, but not to read.
    """
    row = access_stream(operator, stream_id)
    require(operator, READ, Tenant.objects.filter(slug=row.tenant).first())
    return row


def _billed(operator: Operator) -> list[str]:
    slugs = list(visible(operator, Tenant.objects.all(), VIEW).values_list("slug", flat=True))
    return [*slugs, OURSELVES.slug] if may(operator, VIEW) else slugs


def _job_tenants(operator: Operator) -> list[str]:
    slugs = [*_billed(operator), *visible(operator, Tenant.objects.all(), REDRIVE).values_list("slug", flat=True)]
    return sorted({*slugs, OURSELVES.slug} if may(operator, REDRIVE) else {*slugs})
