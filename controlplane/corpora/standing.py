"""How every corpus stands now: what is served, how old that is, and what waits. For pages, checks and samples.

Gateways reckon the same for one corpus, in the statement that searches it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection

from controlplane.corpora.models import Corpus, NamespaceState, Purpose, Source
from controlplane.corpora.policies import promises
from dataplane.retrieval.policy import Corpus as Promised
from dataplane.retrieval.tables import NAMESPACES, PENDING, Snapshot, chunks_table

# A source that was looked at within so long hides nothing that is worth telling.
CHECKED_WITHIN: Final = timedelta(seconds=15)

_PENDING: Final = f"""
SELECT n.id, n.corpus_id, n.index_rev,
       min(p.since) FILTER (WHERE NOT p.is_poisoned), count(p.id) FILTER (WHERE NOT p.is_poisoned),
       count(p.id) FILTER (WHERE p.is_poisoned)
FROM {NAMESPACES} n LEFT JOIN {PENDING} p ON p.namespace_id = n.id
WHERE n.purpose = %(serving)s AND n.state <> %(dropped)s GROUP BY n.id ORDER BY n.id
"""  # noqa: S608 - names of ours; the values are parameters
_BORN_AFTER: Final = "SELECT {namespace:d}, min(event_at) FROM {table} WHERE born > {index_rev:d}"


@dataclass(frozen=True, slots=True)
class CorpusStanding:
    """One corpus of the policy in force.

    Attributes:
        snapshot: What everybody reads who asks for nothing else; None: nothing is served yet.
        lag_seconds: Age of the oldest change that is not in it, as far as anybody knows; 0: every one is. Poisoned
            documents are in no lag.
        pending, poisoned: Documents whose newest revision is not searchable; before the first namespace serves, in the
            newest that is being built.
        waiting: Changes that sources are known to have and nobody has taken.
        is_stale: Whether that is older than promised; nothing that is served is as stale as can be.
    """

    corpus: Corpus
    promised: Promised
    snapshot: Snapshot | None
    lag_seconds: float
    pending: int
    poisoned: int
    waiting: int
    is_stale: bool


@dataclass(frozen=True, slots=True)
class _Namespace:
    """What waits for one namespace."""

    id: int
    index_rev: int
    oldest: datetime | None
    pending: int
    poisoned: int


def standings(*, now: datetime) -> dict[str, CorpusStanding]:
    """How each corpus of the policy in force stands, by its slug. At most five queries."""
    promised = promises()
    corpora = {corpus.slug: corpus for corpus in Corpus.objects.filter(slug__in=list(promised))}
    namespaces: dict[int, list[_Namespace]] = {}
    for pk, corpus, index_rev, oldest, pending, poisoned in _fetch(
        _PENDING, {"serving": Purpose.SERVING, "dropped": NamespaceState.DROPPED}
    ):
        namespaces.setdefault(corpus, []).append(_Namespace(pk, index_rev, oldest, pending, poisoned))
    sources: dict[int, list[Source]] = {}
    for source in Source.objects.all():
        sources.setdefault(source.corpus_id, []).append(source)
    lacking = _lacking([corpus.pinned for corpus in corpora.values()], namespaces)
    return {
        slug: _standing(
            corpora[slug],
            one,
            namespaces=namespaces.get(corpora[slug].pk, []),
            # A source that the policy has dropped is nobody's any more.
            sources=[source for source in sources.get(corpora[slug].pk, []) if source.name in one.sources],
            lacking=lacking,
            now=now,
        )
        for slug, one in promised.items()
        if slug in corpora
    }


def _standing(
    corpus: Corpus,
    promised: Promised,
    *,
    namespaces: Sequence[_Namespace],
    sources: Sequence[Source],
    lacking: Mapping[int, datetime | None],
    now: datetime,
) -> CorpusStanding:
    pinned = corpus.pinned
    served = corpus.live_namespace_id if pinned is None else pinned.namespace
    found = next((one for one in namespaces if one.id == served), None)
    waits = found or (namespaces[-1] if namespaces else None)
    since = [_since(source, now) for source in sources]
    if waits is not None:
        since.append(waits.oldest)
    if pinned is not None:
        since.append(lacking.get(pinned.namespace))
    moments = [moment for moment in since if moment is not None]
    lag = max(0.0, (now - min(moments)).total_seconds()) if moments else 0.0
    live = None if found is None else Snapshot(found.id, found.index_rev)
    return CorpusStanding(
        corpus=corpus,
        promised=promised,
        snapshot=live if pinned is None else pinned,
        lag_seconds=lag,
        pending=0 if waits is None else waits.pending,
        poisoned=0 if waits is None else waits.poisoned,
        waiting=sum(source.waiting for source in sources),
        is_stale=found is None or lag > promised.freshness.max_lag_seconds.value,
    )


def _since(source: Source, now: datetime) -> datetime | None:
    """Since when a change may stand there that nobody took; None: nothing does, as of just now."""
    if now - source.checked_at > CHECKED_WITHIN:
        return source.lag_since()
    return source.oldest_at


def _lacking(
    pins: Sequence[Snapshot | None], namespaces: Mapping[int, Sequence[_Namespace]]
) -> dict[int, datetime | None]:
    """By namespace, when the oldest change happened that the snapshot lacks which is pinned there. One query."""
    there = {one.id for some in namespaces.values() for one in some}
    parts = [
        _BORN_AFTER.format(namespace=pin.namespace, table=chunks_table(pin.namespace), index_rev=pin.index_rev)
        for pin in pins
        if pin is not None and pin.namespace in there
    ]
    return dict(_fetch(" UNION ALL ".join(parts), {})) if parts else {}


def _fetch(statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())
