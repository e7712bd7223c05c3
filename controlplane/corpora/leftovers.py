"""Vectors that stayed in their store when their chunks went: found, and let go of.

Nobody can find them, since PostgreSQL has to know a chunk to tell of it; they take room. They come of a store that was
away when a document was deleted, of a process that died between putting vectors and the transaction that would have
shown them, and of restores.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection, transaction

from controlplane.corpora.errors import VectorsNowhere, VectorsUnavailable
from controlplane.corpora.models import Namespace, NamespaceState
from controlplane.corpora.vectors import TRY_VECTORS_LOCK, external, external_stores
from dataplane.retrieval.policy import PGVECTOR

logger = logging.getLogger(__name__)

AT_ONCE: Final = 5_000
# Vectors are put before their chunks can be seen. Whoever puts them has long shown the chunks after so long, or never
# will; should he have stood still for longer, the next comparison finds his chunks without vectors, and repairs them.
ON_THE_WAY: Final = timedelta(hours=1)

# Ids are drawn ascending. So what is not above one whose chunk was there an hour ago was drawn earlier than that.
_SETTLED: Final = "SELECT id FROM {table} WHERE changed_at < %(before)s ORDER BY id DESC LIMIT 1"
_WITHOUT_CHUNK: Final = """
SELECT v.id FROM unnest(%(ids)s::bigint[]) AS v (id)
WHERE NOT EXISTS (SELECT FROM {table} c WHERE c.id = v.id) ORDER BY v.id
"""


def find_leftovers(namespace: Namespace, *, now: datetime, is_to_go: bool) -> Iterator[Sequence[int]]:
    """The ids of vectors of a namespace whose chunks are gone, some at a time; those that may be on their way are no
    leftovers. Each part is removed when it is told, if `is_to_go`.

    Raises:
        VectorsNowhere, VectorsUnavailable: nobody can tell.
    """
    store = external(namespace.store)
    rows = [] if store is None else _run(_SETTLED.format(table=namespace.table), {"before": now - ON_THE_WAY})
    if store is None or not rows:
        return
    settled, after = rows[0][0], 0
    while after < settled and (ids := store.ids(namespace, after=after, limit=AT_ONCE)):
        after = ids[-1]
        with transaction.atomic():
            if not _run(TRY_VECTORS_LOCK, {"namespace": namespace.pk})[0][0]:
                return  # a restore puts the vectors of a whole namespace before its chunks
            asked = {"ids": [one for one in ids if one <= settled]}
            left = [one for (one,) in _run(_WITHOUT_CHUNK.format(table=namespace.table), asked)]
            if left and is_to_go:
                store.remove(namespace, left)
        if left:
            yield left


def collect_leftovers(*, now: datetime) -> int:
    """Let go of all leftovers, and of the vectors of dropped namespaces. Returns how many vectors and namespaces.

    Of namespaces that nobody knows nothing is dropped: they may be another deployment's.
    """
    gone = 0
    for name, store in external_stores().items():
        try:
            dropped = Namespace.objects.filter(pk__in=store.namespaces(), state=NamespaceState.DROPPED, store=name)
            for namespace in dropped:
                store.drop(namespace)
                gone += 1
        except VectorsUnavailable as exc:
            logger.warning("dropped namespaces stay in store %r for now: %s", name, exc)
    for namespace in Namespace.objects.exclude(state=NamespaceState.DROPPED).exclude(store=PGVECTOR):
        try:
            gone += sum(len(some) for some in find_leftovers(namespace, now=now, is_to_go=True))
        except (VectorsNowhere, VectorsUnavailable) as exc:
            logger.warning("leftovers of %s stay for now: %s", namespace, exc)
    return gone


def _run(statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())
