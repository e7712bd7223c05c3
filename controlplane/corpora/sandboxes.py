"""Sandboxes of drills: a copy of what serves, beside it, that may be harmed; and the end of it, whoever made it."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from django.db import connection, transaction
from django.db.models import Max

from controlplane.corpora import namespaces
from controlplane.corpora.errors import DrillNotPossible
from controlplane.corpora.models import (
    Corpus,
    Document,
    Namespace,
    NamespaceState,
    Purpose,
    RecoveryDrill,
    Sandbox,
)
from controlplane.corpora.restoring import mark_differing
from controlplane.corpora.upkeep import matches
from controlplane.corpora.vectors import ExternalVectors, external, forget_namespace
from dataplane.retrieval.policy import Corpus as Promised
from dataplane.retrieval.tables import CHUNK_COLUMNS, DOCUMENTS, NAMESPACES

_AT_A_TIME: Final = 1_000
_COPY: Final = "INSERT INTO {after} ({columns}) SELECT {columns} FROM {before} WHERE died IS NULL"
_NEXT: Final = "SELECT id FROM {table} WHERE id > %s ORDER BY id LIMIT %s"
_DROP_DELETED: Final = "DELETE FROM {after} c USING {documents} d WHERE d.id = c.document_id AND d.is_deleted"


def require_fit(namespace: Namespace, promised: Promised) -> None:
    """See that what serves is what the policy in force would make again.

    Raises:
        DrillNotPossible: it is another model, store or way of cutting.
    """
    if not matches(namespace, promised):
        raise DrillNotPossible(
            f"{namespace} was made by another policy than the one in force; rebuild it and switch, then drill"
        )


def make_namespace(
    corpus: Corpus, promised: Promised, *, purpose: Purpose, fill: bool, now: datetime
) -> tuple[Namespace, int]:
    """An empty namespace, committed at once; and the newest change that every document in it, or marked for it, is as
    new as.
    """
    with transaction.atomic():
        # Its row is held by whoever takes changes in too, so that none of them is half taken in now.
        namespace = namespaces.create_namespace(corpus, promised, purpose=purpose, fill=fill, apart=True, now=now)
        return namespace, newest_change(corpus)


def mark_all_differing(namespace: Namespace, *, now: datetime) -> int:
    """Mark what a namespace does not show as it is; returns the newest change that this has seen."""
    with transaction.atomic():
        Corpus.objects.select_for_update().get(pk=namespace.corpus_id)
        mark_differing(namespace, now=now)
        return newest_change(namespace.corpus)


def newest_change(corpus: Corpus) -> int:
    """The number of the newest accepted change of a corpus; 0: there is none."""
    return Document.objects.filter(corpus=corpus).aggregate(newest=Max("seq"))["newest"] or 0


def copy_alive(before: Namespace, after: Namespace) -> int:
    """Copy what can be found in one namespace into another, which is empty, and index it. Returns how many chunks."""
    names = {
        "before": before.table,
        "after": after.table,
        "columns": ", ".join(CHUNK_COLUMNS),
        "documents": DOCUMENTS,
    }
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_COPY.format(**names))
        copied = int(cursor.rowcount)
        # Who deletes a document looks into every namespace. What he could not see of this one yet, goes here: from the
        # lock on he waits, and who was deleting is waited for.
        cursor.execute(f"LOCK TABLE {after.table} IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute(_DROP_DELETED.format(**names))
        copied -= int(cursor.rowcount)
        cursor.execute(
            f"UPDATE {NAMESPACES} SET index_rev = %s, kept_rev = %s WHERE id = %s",  # noqa: S608 - names of ours; the values are parameters
            [before.index_rev, before.index_rev, after.pk],
        )
    if (store := external(after.store)) is not None:
        _copy_vectors(store, before, after)
    namespaces.build_index(after)
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {after.table}")
    after.refresh_from_db()
    return copied


def _copy_vectors(store: ExternalVectors, before: Namespace, after: Namespace) -> None:
    """Of the chunks that were copied: the store may have others too, such as those that only snapshots show."""
    last = 0
    with connection.cursor() as cursor:
        while True:
            cursor.execute(_NEXT.format(table=after.table), [last, _AT_A_TIME])
            ids = [number for (number,) in cursor.fetchall()]
            if not ids:
                return
            store.put(after, store.fetch(before, ids))
            last = ids[-1]


# --- the alias -------------------------------------------------------------------------------------------------------
def switch_sandbox(sandbox: Sandbox, namespace: Namespace) -> None:
    """Have a sandbox searched in another namespace, from one statement to the next, as a corpus is."""
    Sandbox.objects.filter(pk=sandbox.pk).update(live_namespace=namespace)
    sandbox.live_namespace = namespace


# --- the end ---------------------------------------------------------------------------------------------------------
def clear_sandbox(drill: RecoveryDrill, *, now: datetime, switch_back: Callable[[Namespace], None]) -> bool:
    """Drop all that a drill made; False: nothing of it was left, or the store of its vectors is away and may have some
    still. Called again, it goes on where it broke off.

    Args:
        switch_back: Has the corpus served from a namespace again, where the drill's own still serves.
    """
    sandbox = Sandbox.objects.select_related("lost", "recovered").filter(drill=drill, cleared_at=None).first()
    if sandbox is None:
        return False
    corpus = Corpus.objects.get(pk=drill.corpus_id)
    if sandbox.recovered is not None and corpus.live_namespace_id == sandbox.recovered_id:
        switch_back(sandbox.lost)
    for namespace in own_namespaces(sandbox):
        if namespace.state != NamespaceState.DROPPED:
            with transaction.atomic():
                namespaces.drop_namespace(namespace, now=now)
    # Each was told to when its namespace was dropped. What it says now, it says of that too.
    if not all(forget_namespace(namespace) for namespace in own_namespaces(sandbox)):
        return False
    Sandbox.objects.filter(pk=sandbox.pk).update(cleared_at=now)
    return True


def own_namespaces(sandbox: Sandbox) -> list[Namespace]:
    """Those that go with it: never what served before it was made."""
    found = [sandbox.recovered] if sandbox.recovered is not None else []
    return found + ([sandbox.lost] if sandbox.lost.purpose == Purpose.DRILL else [])
