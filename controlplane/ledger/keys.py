"""What became of idempotency keys, as their evidence adds up, and what was billed for them.

Evidence outlives the record of a key, so it is what is counted; the record only says how things stand while it lives.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.db.models import Count, Max, Min, OuterRef, Q, QuerySet, Subquery, Sum

from controlplane.ledger.evidence import ChainVerification, verify_chain
from controlplane.ledger.idempotency import IdempotencyEvidence, IdempotencyRecord
from controlplane.ledger.models import UsageRow
from dataplane.idempotency import BEGINNINGS, Event, State

# Of one record; what a caller who never stops asking adds beyond is listed, but not counted.
COUNTED: Final = 10_000
# A longer chain is walked when somebody asks for it: an answer must not take longer the more often a caller asked.
VERIFIED_AT_ONCE: Final = 500
# Who waited for an answer in one piece may have left before it came; then the replay is missing.
_SERVED: Final = Q(event=Event.REPLAYED) | (Q(event=Event.ATTACHED) & ~Q(stream_id=""))


@dataclass(frozen=True, slots=True)
class KeyLife:
    """One record of a key.

    Attributes:
        first, last: The rows of evidence at its ends.
        record: None once its time is over. Without the answer.
        served: How many requests were given the answer of the last execution without one of their own.
        not_kept: How many came after an answer that had been too long to keep.
        mismatches: How many requests came with the key and were refused, because they were others.
        completed_at: When it was executed to the end; None if it never was.
    """

    first: IdempotencyEvidence
    last: IdempotencyEvidence
    record: IdempotencyRecord | None
    served: int
    not_kept: int
    mismatches: int
    completed_at: datetime | None

    @property
    def state(self) -> State:
        return State.EXPIRED if self.record is None else State(self.record.state)

    @property
    def executions(self) -> int:
        """How often somebody began to execute it."""
        return self.last.epoch

    @property
    def is_counted(self) -> bool:
        """Whether all of it was counted."""
        return self.last.seq <= COUNTED


def lives_of(rows: Iterable[IdempotencyEvidence]) -> dict[UUID, KeyLife]:
    """The records that these rows are of, by their ids. Four queries, however many, that read at most COUNTED rows of
    each.
    """
    one_of_each = {row.record: row.pk for row in rows}
    chain = IdempotencyEvidence.objects.filter(record=OuterRef("record"))
    ends = IdempotencyEvidence.objects.filter(pk__in=one_of_each.values()).values_list(
        "record", Subquery(chain.order_by("seq").values("pk")[:1]), Subquery(chain.order_by("-seq").values("pk")[:1])
    )
    found = {record: (first, last) for record, first, last in ends}
    known = IdempotencyEvidence.objects.in_bulk({pk for both in found.values() for pk in both})
    records = IdempotencyRecord.objects.without_answers().in_bulk(found)
    counts = {(row["record"], row["epoch"]): row for row in _counts(found)}
    mismatches = dict.fromkeys(found, 0)
    for (record, _), row in counts.items():
        mismatches[record] += row["mismatches"]
    lives = {}
    for record, (first, last) in found.items():
        of_last = counts.get((record, known[last].epoch), {})
        lives[record] = KeyLife(
            first=known[first],
            last=known[last],
            record=records.get(record),
            served=of_last.get("served", 0),
            not_kept=of_last.get("not_kept", 0),
            mismatches=mismatches[record],
            completed_at=of_last.get("completed_at"),
        )
    return lives


def _counts(records: Iterable[UUID]) -> QuerySet[IdempotencyEvidence, Any]:
    counted = IdempotencyEvidence.objects.filter(record__in=list(records), seq__lte=COUNTED)
    return (
        counted.order_by()
        .values("record", "epoch")
        .annotate(
            served=Count("request_id", distinct=True, filter=_SERVED),
            not_kept=Count("pk", filter=Q(event=Event.NOT_KEPT)),
            mismatches=Count("pk", filter=Q(event=Event.MISMATCH)),
            completed_at=Max("at", filter=Q(event=Event.COMPLETED)),
        )
    )


def chain_of(life: KeyLife, *, however_long: bool = False) -> ChainVerification | None:
    """Walk the evidence of a key; None for a chain over VERIFIED_AT_ONCE rows, unless it is asked for."""
    return verify_chain(life.first.record) if however_long or life.last.seq <= VERIFIED_AT_ONCE else None


@dataclass(frozen=True, slots=True)
class Billed:
    """What a request with the key was billed. `epoch` counts executions from 1; 0: the request made none, and should
    have no attempts. `at` is None, and all numbers are zero, as long as no attempt is on record.
    """

    request_id: str
    epoch: int
    at: datetime | None = None
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_micros: int = 0


def billed_for(life: KeyLife) -> tuple[Billed, ...]:
    """What is on record of each execution, in their order, and of each other request that was billed. Two queries."""
    rows = IdempotencyEvidence.objects.filter(record=life.first.record, seq__lte=COUNTED)
    owners = dict(rows.filter(event__in=sorted(BEGINNINGS)).order_by("-seq").values_list("request_id", "epoch"))
    usage = (
        UsageRow.objects.filter(tenant=life.first.tenant, request_id__in=rows.order_by().values("request_id"))
        .order_by()
        .values("request_id")
        .annotate(
            at=Min("at"),
            attempts=Count("attempt_id"),
            input_tokens=Sum("input_tokens"),
            output_tokens=Sum("output_tokens"),
            cost_micros=Sum("cost_micros"),
        )
    )
    bills = {row["request_id"]: Billed(epoch=owners.get(row["request_id"], 0), **row) for row in usage}
    executed = [bills.pop(name, Billed(name, epoch)) for name, epoch in sorted(owners.items(), key=lambda one: one[1])]
    return (*executed, *sorted(bills.values(), key=lambda one: one.request_id))
