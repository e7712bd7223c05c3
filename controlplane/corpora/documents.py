"""One document: where it stands in each namespace."""

from dataclasses import dataclass
from typing import Final

from django.db import connection

from controlplane.corpora.models import Document, Namespace, NamespaceState, Purpose

_ALIVE: Final = (
    "SELECT {namespace:d}, max(source_rev), count(*) FROM {table} WHERE document_id = {document:d} AND died IS NULL"
)


@dataclass(frozen=True, slots=True)
class Searchable:
    """A document in one namespace.

    Attributes:
        source_rev: That is searchable; None: no chunk of it is.
        is_pending: Whether its newest revision is not indexed there yet.
        is_poisoned: Whether nothing could.
    """

    namespace: Namespace
    is_live: bool
    source_rev: int | None
    chunks: int
    is_pending: bool
    is_poisoned: bool


def searchable(document: Document) -> list[Searchable]:
    """Where it stands in each namespace for serving, the newest first. Three queries."""
    corpus = document.corpus
    namespaces = list(
        corpus.namespaces.filter(purpose=Purpose.SERVING).exclude(state=NamespaceState.DROPPED).order_by("-number")
    )
    if not namespaces:
        return []
    pending = dict(document.pending.values_list("namespace_id", "is_poisoned"))
    parts = [_ALIVE.format(namespace=one.pk, table=one.table, document=document.pk) for one in namespaces]
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(parts))
        alive = {namespace: (rev, chunks) for namespace, rev, chunks in cursor.fetchall()}
    return [
        Searchable(
            namespace=one,
            is_live=one.pk == corpus.live_namespace_id,
            source_rev=alive[one.pk][0],
            chunks=alive[one.pk][1],
            is_pending=one.pk in pending,
            is_poisoned=pending.get(one.pk, False),
        )
        for one in namespaces
    ]
