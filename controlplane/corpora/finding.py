"""One document as it stands: its newest revision, and where that is searchable."""

from dataclasses import dataclass

from django.db import connection

from controlplane.corpora.models import Corpus, Document, Namespace, NamespaceState, Pending


@dataclass(frozen=True, slots=True)
class Searchable:
    """A document in one namespace.

    Attributes:
        source_rev: The revision that is found there; None: none is.
        pending: Why it is not the newest yet; None: nothing waits.
    """

    namespace: Namespace
    source_rev: int | None
    chunks: int
    pending: Pending | None


@dataclass(frozen=True, slots=True)
class Found:
    """A document's head, and each namespace that is kept, the newest first."""

    document: Document
    namespaces: tuple[Searchable, ...]


def find_document(corpus: Corpus, key: str) -> Found | None:
    """The document of this key; None: no change to it was ever accepted. Four queries."""
    document = Document.objects.filter(corpus=corpus, source_key=key).first()
    if document is None:
        return None
    kept = list(corpus.namespaces.exclude(state=NamespaceState.DROPPED))
    alive = _alive(kept, document)
    pending = {row.namespace_id: row for row in Pending.objects.filter(document=document)}
    none: tuple[int | None, int] = (None, 0)
    return Found(document, tuple(Searchable(one, *alive.get(one.pk, none), pending.get(one.pk)) for one in kept))


def _alive(kept: list[Namespace], document: Document) -> dict[int, tuple[int | None, int]]:
    """The revision and the number of chunks that each namespace has of a document."""
    if not kept:
        return {}
    select = "SELECT {:d}, max(source_rev), count(*) FROM {} WHERE document_id = %(document)s AND died IS NULL"
    parts = [select.format(one.pk, one.table) for one in kept]
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(parts), {"document": document.pk})
        return {namespace: (revision, chunks) for namespace, revision, chunks in cursor.fetchall()}
