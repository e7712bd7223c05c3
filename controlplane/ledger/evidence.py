"""Find out whether anybody changed the evidence of an idempotency key.

Each record has a chain of its own, so requests never wait for each other's evidence. It shows every row that was
altered, inserted, moved or taken out of the middle. The end is held by the record while that lives, and afterwards by
the row that says that it expired, the last of every whole chain; so a chain that was cut short shows too.

It cannot show that a chain was removed altogether after its end, nor that somebody who can write both tables made all
of it anew: hashes are no signatures, and nothing outside knows them. The usage rows of the same request ids, which come
by another way, still say what was executed and billed.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db.models import OuterRef, Subquery

from controlplane.audit.models import GENESIS
from controlplane.audit.operations import Finding
from controlplane.ledger.idempotency import IdempotencyEvidence, IdempotencyRecord
from dataplane.idempotency import Event

# What is the same in every row of a chain.
_FIXED = ("tenant", "user_hash", "key")


@dataclass(frozen=True, slots=True)
class ChainVerification:
    """What a walk over one chain found; rows without findings are a clean bill.

    `is_closed`: the record has expired, so that nothing follows any more.
    """

    rows: int
    is_closed: bool
    findings: tuple[Finding, ...]


def verify_chain(record: UUID) -> ChainVerification:
    """Walk the evidence of one record from its first row; a body that is kept is held against it too. Two queries."""
    head = IdempotencyRecord.objects.filter(pk=OuterRef("record"))
    # Read with the rows: between two queries another row could have come.
    chain = list(
        IdempotencyEvidence.objects.of_record(record).annotate(
            head_seq=Subquery(head.values("evidence_seq")), head_hash=Subquery(head.values("evidence_hash"))
        )
    )
    findings = [*_broken_links(chain), *_wrong_end(chain), *_wrong_body(record, chain)]
    return ChainVerification(len(chain), bool(chain) and chain[-1].event == Event.EXPIRED, tuple(findings))


def _broken_links(chain: Sequence[IdempotencyEvidence]) -> Iterator[Finding]:
    previous_seq, previous_hash = 0, GENESIS
    for row in chain:
        if row.seq != previous_seq + 1:
            yield Finding(row.seq, f"row {previous_seq + 1} is missing before this one")
        elif row.previous_hash != previous_hash:
            yield Finding(row.seq, "does not follow from the row before it (altered or reordered)")
        if row.computed_hash() != row.hash:
            yield Finding(row.seq, "its fields do not give its hash (altered)")
        if (row.event == Event.CREATED) != (row.seq == 1):
            yield Finding(row.seq, f"says {row.event!r}; a chain begins with 'created', and nothing else does")
        if any(getattr(row, name) != getattr(chain[0], name) for name in _FIXED):
            yield Finding(row.seq, "is of another key than the first row")
        previous_seq, previous_hash = row.seq, row.hash


def _wrong_end(chain: Sequence[IdempotencyEvidence]) -> Iterator[Finding]:
    if not chain:
        return
    last = chain[-1]
    head_seq, head_hash = getattr(last, "head_seq"), getattr(last, "head_hash")  # noqa: B009 - annotations, unknown to mypy
    if head_seq is None and last.event != Event.EXPIRED:
        yield Finding(last.seq, "is the last one, and neither is there a record nor did it expire (truncated)")
    elif head_seq is not None and (head_seq, head_hash) != (last.seq, last.hash):
        yield Finding(last.seq, f"is the last one, the record knows row {head_seq} as that (truncated or rewritten)")


def _wrong_body(record: UUID, chain: Sequence[IdempotencyEvidence]) -> Iterator[Finding]:
    body = IdempotencyRecord.objects.filter(pk=record).values_list("body", flat=True).first()
    if body is None:
        return
    digest = hashlib.sha256(body).hexdigest()
    for row in chain:
        if row.event == Event.COMPLETED and row.body_sha256 != digest:
            yield Finding(row.seq, f"tells of another body than the record keeps, whose SHA-256 is {digest} (altered)")
