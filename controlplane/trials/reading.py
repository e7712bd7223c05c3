"""The words behind what a trial found, for who may read them; the audit record says who did."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from controlplane.accounts.access import visible
from controlplane.accounts.models import Operator, Tenant
from controlplane.audit import operations as audit
from controlplane.telemetry.samples import AnswerSample
from controlplane.trials.models import ValidatorTrial

READ: Final = "accounts.read_content"


@dataclass(frozen=True, slots=True)
class Example:
    """One thing that a rule found.

    Attributes:
        found: See `tally.Tally.examples`.
        sample: The answer, where the reader may see its words; None: they may not, or it is kept no more.
        is_kept: Whether it is there still.
    """

    found: Mapping[str, Any]
    sample: AnswerSample | None
    is_kept: bool


@audit.operation
def read_examples(*, trial: ValidatorTrial, actor: Operator, now: datetime) -> list[Example]:
    """What a trial found, each with the answer's words where `actor` may read those of its tenant."""
    kept = AnswerSample.objects.allowed().in_bulk([found["sample"] for found in trial.examples])
    readable = set(visible(actor, Tenant.objects.all(), READ).values_list("slug", flat=True))
    read = {pk: sample for pk, sample in kept.items() if sample.tenant in readable}
    if read:
        data = {
            "trial": trial.pk,
            "policy": trial.policy,
            "answers": len(read),
            "tenants": sorted({sample.tenant for sample in read.values()}),
        }
        audit.record("samples.read", actor=actor, target=trial.change, at=now, data=data)
    return [Example(found, read.get(found["sample"]), found["sample"] in kept) for found in trial.examples]
