"""The statements by which corpora are searched. What may be told of them stands in `corpora.py`. Pure."""

from __future__ import annotations

from typing import Final

from dataplane.retrieval.freshness import UNCHECKED_SECONDS
from dataplane.retrieval.tables import CORPORA, NAMESPACES, PENDING, SOURCES

# What is pending is counted up to here, and of what a snapshot lacks, so much is looked at for the oldest: a search
# costs the same however much is behind.
MOST_COUNTED: Final = 1_000
# Of namespaces that may be read at all: drills never, whoever names one.
_MAY_SERVE: Final = "n.state = 'ready' AND n.purpose = 'serving'"

PLACE: Final = f"""
SELECT s.id AS serving, s.model, s.dimensions, s.store, s.index_rev, c.pinned_rev,
    c.paused_at IS NOT NULL AS is_paused
FROM {CORPORA} c LEFT JOIN {NAMESPACES} s ON s.id = coalesce(c.pinned_namespace_id, c.live_namespace_id)
WHERE c.slug = %(slug)s
"""  # noqa: S608 - names of ours; the values are parameters
PLACE_OF_SNAPSHOT: Final = f"""
SELECT n.id AS serving, n.model, n.dimensions, n.store, c.paused_at IS NOT NULL AS is_paused
FROM {NAMESPACES} n JOIN {CORPORA} c ON c.id = n.corpus_id
WHERE c.slug = %(slug)s AND n.id = %(namespace)s AND {_MAY_SERVE}
"""  # noqa: S608 - as above

# One row for each chunk found, at least one; `is_readable` says whether chunks were looked for.
#
# `f` is a subquery with a LIMIT, which nothing is pulled out of: its condition on rows outside it is decided before its
# table is touched. So a vector is compared with none of another length, and a namespace that does not serve costs
# nothing.
_SEARCH: Final = """
SELECT c.paused_at IS NOT NULL AS is_paused, c.pinned_rev, s.id AS serving, s.model, s.dimensions, s.store,
    n.index_rev, coalesce({is_readable}, false) AS is_readable, p.pending, p.poisoned,
    coalesce(p.waited_for, false) AS waited_for, least(p.since, o.since, {missing_since}) AS since,
    f.id, f.source_key, f.source_rev, f.ordinal, f.text, f.metadata, f.event_at, f.chunk_sha256, f.distance,
    f.died IS NULL AND NOT EXISTS (
        SELECT FROM {pending} q WHERE q.namespace_id = n.id AND q.document_id = f.document_id
    ) AS is_current
FROM {corpora} c
LEFT JOIN {namespaces} s ON s.id = coalesce(c.pinned_namespace_id, c.live_namespace_id)
LEFT JOIN {namespaces} n ON n.id = %(namespace)s AND n.corpus_id = c.id AND {may_serve}
CROSS JOIN LATERAL (
    SELECT (SELECT count(*) FROM (
            SELECT FROM {pending} q WHERE q.namespace_id = n.id AND NOT q.is_poisoned LIMIT {most}
        ) counted) AS pending,
        (SELECT count(*) FROM (
            SELECT FROM {pending} q WHERE q.namespace_id = n.id AND q.is_poisoned LIMIT {most}
        ) counted) AS poisoned,
        (SELECT min(q.since) FROM {pending} q WHERE q.namespace_id = n.id AND NOT q.is_poisoned) AS since,
        {is_waited_for} AS waited_for
) p
CROSS JOIN LATERAL (
    SELECT min(least(
        t.oldest_at,
        CASE WHEN t.checked_at < %(now)s::timestamptz - make_interval(secs => {unchecked}) THEN t.checked_at END
    )) AS since
    FROM {sources} t WHERE t.corpus_id = c.id
) o
LEFT JOIN LATERAL (
    SELECT h.id, h.document_id, h.source_key, h.source_rev, h.ordinal, h.died, h.text, h.metadata, h.event_at,
        h.chunk_sha256, {distance} AS distance
    FROM {chunks}
    WHERE c.paused_at IS NULL AND {is_readable} AND {is_alive} {filters}
    ORDER BY {distance} LIMIT {k}
) f ON true
WHERE c.slug = %(slug)s
ORDER BY f.distance, f.id
"""
# Whether what the statement names is what serves, or a snapshot that is kept. What operators pinned withdraws what came
# after it.
_IS_SERVING: Final = """(
    s.id = n.id AND c.pinned_rev IS NOT DISTINCT FROM %(rev)s::bigint
    AND coalesce(c.pinned_rev >= n.kept_rev, true)
)"""
_IS_KEPT: Final = """(
    %(rev)s::bigint BETWEEN n.kept_rev AND n.index_rev
    AND (c.pinned_namespace_id IS DISTINCT FROM n.id OR c.pinned_rev >= %(rev)s::bigint)
)"""
_IS_NEWEST: Final = "h.died IS NULL"
_WAS_ALIVE: Final = "h.born <= %(rev)s::bigint AND (h.died IS NULL OR h.died > %(rev)s::bigint)"
# A document that nothing could index is waited for by nobody: it is a dead letter, and would hold everybody up.
_IS_WAITED_FOR: Final = f"""EXISTS (
    SELECT FROM {PENDING} q
    WHERE q.namespace_id = n.id AND q.first_seq <= %(at_least)s::bigint AND NOT q.is_poisoned
)"""
# Of what became searchable after the revision that is read, nobody knows which change it was.
_IS_BEHIND: Final = f"{_IS_WAITED_FOR} OR (%(at_least)s::bigint IS NOT NULL AND n.index_rev > %(rev)s::bigint)"


def search(table: str, *, k: int, is_snapshot: bool, is_newest: bool, is_proposed: bool, is_filtered: bool) -> str:
    """The statement that finds up to `k` chunks in `table`.

    Parameters: slug, namespace (the table's), rev (that is read; null for the newest), at_least (a change that is
    waited for, or null), now, filter (JSON) and, of a proposal, ids and distances, else vector.

    Args:
        is_snapshot: The caller names the revision; else it is the operators', or the newest.
        is_proposed: Which chunks are near was asked elsewhere.
    """
    chunks, distance = f"{table} h", "h.embedding <=> %(vector)s"
    if is_proposed:
        chunks = f"unnest(%(ids)s::bigint[], %(distances)s::float8[]) AS g(id, distance) JOIN {table} h USING (id)"
        distance = "g.distance"
    return _SEARCH.format(
        corpora=CORPORA,
        namespaces=NAMESPACES,
        pending=PENDING,
        sources=SOURCES,
        may_serve=_MAY_SERVE,
        unchecked=UNCHECKED_SECONDS,
        is_readable=_IS_KEPT if is_snapshot else _IS_SERVING,
        is_alive=_IS_NEWEST if is_newest else _WAS_ALIVE,
        is_waited_for=_IS_WAITED_FOR if is_newest else _IS_BEHIND,
        # What the revision lacks although it is searchable by now.
        missing_since="NULL" if is_newest else _missing_since(table),
        most=MOST_COUNTED,
        chunks=chunks,
        distance=distance,
        filters="AND h.metadata @> %(filter)s::jsonb" if is_filtered else "",
        k=f"{k:d}",
    )


def _missing_since(table: str) -> str:
    """When the oldest change happened that became searchable after the revision that is read, of the first ones."""
    return f"""(SELECT min(l.event_at) FROM (
        SELECT event_at FROM {table} WHERE born > %(rev)s::bigint ORDER BY born LIMIT {MOST_COUNTED}
    ) l)"""  # noqa: S608 - a table of ours
