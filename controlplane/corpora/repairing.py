"""Put documents of a namespace right that are not shown as they should be."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

from django.db import connection, transaction

from controlplane.corpora.findings import Difference, Finding
from controlplane.corpora.models import Namespace
from controlplane.corpora.vectors import forget
from dataplane.retrieval.policy import PGVECTOR
from dataplane.retrieval.tables import CHANNEL, DOCUMENTS, NAMESPACES, PENDING

# What is wrong is worse than what is not there: it is taken out of the search until it is embedded again, so that
# nothing of it can be carried over into what is written anew.
TAKEN_OUT: Final = frozenset({Difference.WRONG_MODEL, Difference.CORRUPT})

# In the order in which whoever takes changes in locks heads.
_HOLD: Final = f"""
SELECT id FROM {DOCUMENTS} WHERE id = ANY(%(documents)s) ORDER BY source_key COLLATE "C" FOR SHARE
"""  # noqa: S608 - names of ours; the values are parameters
_HOLD_NAMESPACE: Final = f"SELECT id FROM {NAMESPACES} WHERE id = %(namespace)s FOR UPDATE"  # noqa: S608 - as above
# Looked at again under the locks: a document that was made meanwhile is no ghost any more.
_DELETE_GHOSTS: Final = f"""
DELETE FROM {{table}} c WHERE c.document_id = ANY(%(documents)s) AND NOT EXISTS (
    SELECT FROM {DOCUMENTS} d WHERE d.id = c.document_id AND d.corpus_id = %(corpus)s AND NOT d.is_deleted
) RETURNING c.id
"""  # noqa: S608 - as above
_TAKE_OUT: Final = "DELETE FROM {table} WHERE document_id = ANY(%(documents)s) AND died IS NULL RETURNING id"
# What could never be found is as old as the change that made it; what could be until now is as old as this.
_INDEX_AGAIN: Final = f"""
INSERT INTO {PENDING} (namespace_id, document_id, first_seq, last_seq, since, due_at, owner, failures, is_poisoned)
SELECT %(namespace)s, d.id, d.seq, d.seq,
    CASE WHEN d.id = ANY(%(taken_out)s) THEN %(now)s ELSE least(d.event_at, %(now)s) END, %(now)s, '', 0, false
FROM {DOCUMENTS} d WHERE d.id = ANY(%(documents)s) AND NOT d.is_deleted ORDER BY d.id
ON CONFLICT (namespace_id, document_id) DO NOTHING
"""  # noqa: S608 - as above
_TELL: Final = "SELECT pg_notify(%(channel)s, %(corpus)s::text)"


@dataclass(frozen=True, slots=True)
class Differing:
    """A document that differs. `is_certain`: nobody has to look closer."""

    document: int
    finding: Finding
    is_certain: bool = True


def repair_documents(namespace: Namespace, differing: Sequence[Differing], *, now: datetime) -> int:
    """Repair some documents of a namespace in one transaction: see `reconciling.reconcile_store`. Returns how many."""
    ghosts = [one.document for one in differing if one.finding.kind is Difference.EXTRA]
    taken_out = [one.document for one in differing if one.finding.kind in TAKEN_OUT]
    again = [one.document for one in differing if one.finding.kind is not Difference.EXTRA]
    told: dict[str, Any] = {"namespace": namespace.pk, "corpus": namespace.corpus_id, "now": now, "channel": CHANNEL}
    gone: list[int] = []
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_HOLD, {"documents": [one.document for one in differing]})
        cursor.execute(_HOLD_NAMESPACE, told)
        for statement, documents in ((_DELETE_GHOSTS, ghosts), (_TAKE_OUT, taken_out)):
            if documents:
                cursor.execute(statement.format(table=namespace.table), told | {"documents": documents})
                gone += [pk for (pk,) in cursor.fetchall()]
        if again:
            cursor.execute(_INDEX_AGAIN, told | {"documents": again, "taken_out": taken_out})
            cursor.execute(_TELL, told)
        if gone and namespace.store != PGVECTOR:
            transaction.on_commit(partial(forget, namespace, gone))
    return len(differing)
