"""The words behind a comparison, for who may read them; the audit record says who did."""

from datetime import datetime
from typing import Any

from django.http import Http404

from controlplane.accounts.access import visible
from controlplane.accounts.models import Operator, Tenant
from controlplane.audit import operations as audit
from controlplane.shadows.access import READ
from controlplane.telemetry.shadows import ShadowSample


def may_read(operator: Operator, sample: ShadowSample) -> bool:
    """Whether the operator may read the words of the sample's tenant, and that tenant lets them be kept now."""
    return visible(operator, Tenant.objects.filter(slug=sample.tenant, log_content=True), READ).exists()


@audit.operation
def read_sample(*, sample: ShadowSample, actor: Operator, now: datetime) -> dict[str, Any]:
    """The words of a comparison. Shape: see `dataplane.shadow.comparing.sample_of`.

    Raises:
        Http404: none are kept, or they may not read them; the two cannot be told apart.
    """
    kept = ShadowSample.objects.filter(pk=sample.pk).first()
    if kept is None or kept.texts is None or not may_read(actor, kept):
        raise Http404("there are no such words here, or you may not read them")
    data = {"policy": kept.policy, "tenant": kept.tenant, "request": kept.request_id, "arm": kept.arm}
    audit.record("shadow.sample_read", actor=actor, target=f"shadow:{kept.policy}", at=now, data=data)
    texts: dict[str, Any] = kept.texts
    return texts
