"""What a comparison found: how much of each kind, some of it by name, and how it is written down."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from controlplane.accounts.models import Operator
from controlplane.audit import operations as audit
from controlplane.corpora.models import Corpus, Namespace, Reconciliation

# Of each kind so many are named; all are counted.
NAMED: Final = 100
_DETAIL_CHARACTERS: Final = 200


class Difference(StrEnum):
    """How a document, as one side has it, differs from the other."""

    MISSING = "missing"  # the source, or its head, says that it exists; here it cannot be found
    EXTRA = "extra"  # it is here, and the source, or its head, says that it does not exist: a ghost
    STALE = "stale"  # another revision, or other words, and nothing is on its way
    WRONG_MODEL = "wrong_model"  # embedded by another model than the rest: never near anything
    CORRUPT = "corrupt"  # not what it was when it was written
    LEFTOVER = "leftover"  # of no document: a vector in its store whose chunk is gone, which nobody can find


@dataclass(frozen=True, slots=True)
class Finding:
    """One document that differs. `detail` says what stands where, in no words of the document; `source_key` is empty
    for what is of none.
    """

    kind: Difference
    source_key: str
    detail: str


@dataclass(slots=True)
class Findings:
    """Adds up what one comparison finds."""

    compared: int = 0
    buckets: int = 0
    buckets_differing: int = 0
    repaired: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((kind.value for kind in Difference), 0))
    named: list[Finding] = field(default_factory=list)

    def add(self, found: Iterable[Finding]) -> None:
        """Count them, and name the first of each kind."""
        for one in found:
            self.counts[one.kind] += 1
            if self.counts[one.kind] <= NAMED:
                self.named.append(one)

    def fields(self) -> dict[str, Any]:
        """As `Reconciliation` keeps them."""
        return {
            "compared": self.compared,
            "buckets": self.buckets,
            "buckets_differing": self.buckets_differing,
            "repaired": self.repaired,
            "counts": self.counts,
            "findings": [
                {"kind": one.kind.value, "source_key": one.source_key, "detail": one.detail[:_DETAIL_CHARACTERS]}
                for one in sorted(self.named, key=lambda one: (one.kind, one.source_key))
            ],
        }


def begin(
    *,
    corpus: Corpus,
    scope: Reconciliation.Scope,
    actor: Operator | str,
    now: datetime,
    namespace: Namespace | None = None,
    source: str = "",
) -> Reconciliation:
    """Note that a comparison has begun. One that never ends says so by having no end."""
    return Reconciliation.objects.create(
        corpus=corpus, scope=scope, namespace=namespace, source=source, actor=audit.name_of(actor), began_at=now
    )


def end(row: Reconciliation, findings: Findings, *, now: datetime, error: str = "") -> Reconciliation:
    """Note what was found, and why that is not all there is. What was repaired stands in the audit record too."""
    _write(row, findings.fields() | {"ended_at": now, "error": " ".join(error.split())[:300]})
    if findings.repaired:
        _record_repair(row, now=now)
    return row


def _write(row: Reconciliation, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        setattr(row, name, value)
    row.save(update_fields=list(fields))


@audit.operation
def _record_repair(row: Reconciliation, *, now: datetime) -> None:
    found = {kind: number for kind, number in row.counts.items() if number}
    data = {
        "reconciliation": row.pk,
        "scope": row.scope,
        "namespace": row.namespace_id,
        "source": row.source,
        "found": found,
        "repaired": row.repaired,
    }
    audit.record("corpus.repaired", actor=row.actor, target=row.corpus, at=now, data=data)
