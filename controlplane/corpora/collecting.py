"""Let go of what nobody can read any more: chunks that ended long ago, tombstones that no replay can undo, namespaces
that served before.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from django.db import connection, transaction
from django.db.models import Max

from controlplane.accounts.models import Operator
from controlplane.audit import operations as audit
from controlplane.corpora.errors import MarkNotProven
from controlplane.corpora.models import Corpus, Namespace, NamespaceState, Purpose, Reconciliation, Source
from controlplane.corpora.namespaces import drop_namespace
from controlplane.corpora.policies import promised as promised_of
from controlplane.corpora.policies import promises
from controlplane.corpora.vectors import forget
from dataplane.retrieval.policy import GLOBAL, PGVECTOR, REPLICATE, Corpora
from dataplane.retrieval.policy import Corpus as Promised
from dataplane.retrieval.tables import DOCUMENTS

AT_ONCE: Final = 5_000
# Transactions at a source that began before others and committed after them are over by then.
SETTLED: Final = timedelta(hours=1)

# Rows that somebody deletes or reads to delete are his; whoever collects waits for nobody.
_CHUNKS: Final = """
DELETE FROM {table} WHERE id IN (
    SELECT id FROM {table}
    WHERE died IS NOT NULL AND changed_at < %(before)s AND (%(pin)s::bigint IS NULL OR died <= %(pin)s)
    ORDER BY died LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
RETURNING id, died
"""
_TOMBSTONES: Final = f"""
DELETE FROM {DOCUMENTS} WHERE id IN (
    SELECT id FROM {DOCUMENTS} WHERE corpus_id = %(corpus)s AND is_deleted AND source_rev <= %(mark)s
    ORDER BY source_key COLLATE "C" LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
"""  # noqa: S608 - names of ours; the values are parameters


def collect(*, now: datetime) -> int:
    """Let go of all that of every corpus of the policy in force. Returns how many chunks, tombstones and namespaces."""
    gone = 0
    in_force = promises()
    forget_sources(in_force)
    for slug, promised in in_force.items():
        corpus = Corpus.objects.filter(slug=slug).first()
        if corpus is None:
            continue
        gone += drop_served_before(corpus, promised, now=now)
        for namespace in corpus.namespaces.exclude(state=NamespaceState.DROPPED):
            gone += _until_few(partial(collect_chunks, namespace, promised, now=now))
        gone += _until_few(partial(_collect_tombstones, corpus, promised))
    return gone


def forget_sources(in_force: Corpora) -> None:
    """Forget how far those sources were read that the policy in force names no more: nobody reads them, so their age
    would grow in every answer.
    """
    for source in Source.objects.select_related("corpus"):
        named = in_force.get(source.corpus.slug)
        if named is None or source.name not in named.sources:
            source.delete()


def _until_few(collect_some: Any) -> int:
    """In short transactions, until one of them finds less than it could take."""
    total = 0
    while True:
        found: int = collect_some()
        total += found
        if found < AT_ONCE:
            return total


@transaction.atomic
def collect_chunks(namespace: Namespace, promised: Promised, *, now: datetime) -> int:
    """Delete chunks that ended longer ago than snapshots are promised, and say that the snapshots are gone which had
    them; what a pinned one has stays. Returns how many.
    """
    # The namespace before its chunks, as whoever indexes; he ends others than those that have ended.
    row = Namespace.objects.select_for_update(no_key=True).get(pk=namespace.pk)
    if row.state == NamespaceState.DROPPED:
        return 0
    pin = Corpus.objects.filter(pk=row.corpus_id, pinned_namespace=row).values_list("pinned_rev", flat=True).first()
    before = now - timedelta(hours=promised.answering.snapshot_hours)
    rows = _run(_CHUNKS.format(table=row.table), {"before": before, "pin": pin, "limit": AT_ONCE})
    if rows:
        kept = max(row.kept_rev, *(died for _, died in rows))
        Namespace.objects.filter(pk=row.pk).update(kept_rev=kept)
        if row.store != PGVECTOR:
            transaction.on_commit(partial(forget, row, [chunk for chunk, _ in rows]))
    return len(rows)


@transaction.atomic
def _collect_tombstones(corpus: Corpus, promised: Promised) -> int:
    """Delete tombstones at or below the low-water mark: what would replay over them is refused by the mark. Only where
    all changes of the source are counted by one clock; elsewhere tombstones are kept for ever.
    """
    if promised.revisions != GLOBAL:
        return 0
    # Whoever takes changes in holds the corpus too: he finds the tombstone, or none and the mark.
    mark = Corpus.objects.select_for_update().get(pk=corpus.pk).low_water
    if not mark:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(_TOMBSTONES, {"corpus": corpus.pk, "mark": mark, "limit": AT_ONCE})
        return int(cursor.rowcount)


def drop_served_before(corpus: Corpus, promised: Promised, *, now: datetime) -> int:
    """Drop namespaces older than the one that has served for as long as snapshots are promised, but for the warm second
    where that is the strategy. Returns how many.
    """
    hours = timedelta(hours=promised.answering.snapshot_hours)
    with transaction.atomic():
        row = Corpus.objects.select_for_update().get(pk=corpus.pk)
        live = row.live_namespace
        if live is None or row.switched_at is None or row.switched_at > now - hours:
            return 0
        others = corpus.namespaces.filter(purpose=Purpose.SERVING, state=NamespaceState.READY).exclude(pk=live.pk)
        spared = {row.pinned_namespace_id}
        if promised.recovery.strategy == REPLICATE and (warm := others.order_by("-number").first()) is not None:
            spared.add(warm.pk)
        old = [one for one in others.filter(number__lt=live.number) if one.pk not in spared]
        return sum(drop_namespace(one, now=now) for one in old)


@audit.operation
def raise_low_water(*, corpus: Corpus, to: int, reason: str, actor: Operator | str, now: datetime) -> None:
    """Have changes at or below a revision refused where their key is unknown: they are replays. Tombstones at or below
    it can go then.

    Raises:
        MarkNotProven: keys count by themselves; or nobody has seen, by comparing every source and finding nothing, that
            all up to there is here, at least an hour after the last of it came in.
        UnknownCorpus: nothing is promised of it.
    """
    promised = promised_of(corpus.slug)
    row = Corpus.objects.select_for_update().get(pk=corpus.pk)
    if promised.revisions != GLOBAL:
        raise MarkNotProven(f"corpus {corpus.slug!r} counts revisions per key, so no mark tells a replay")
    if to <= row.low_water:
        raise MarkNotProven(f"the mark of corpus {corpus.slug!r} is at {row.low_water} and is never lowered")
    if not row.documents.filter(source_rev__gte=to).exists():
        raise MarkNotProven(f"no change of revision {to} or later has come in to corpus {corpus.slug!r}")
    newest = row.documents.filter(source_rev__lte=to).aggregate(at=Max("accepted_at"))["at"]
    settled = now if newest is None else newest + SETTLED
    proven = set(_clean_since(row, settled))
    if not promised.sources or (unproven := sorted(promised.sources.keys() - proven)):
        named = ", ".join(map(repr, unproven)) if promised.sources else "nothing to compare with"
        raise MarkNotProven(
            f"corpus {corpus.slug!r}: no comparison with its source since {settled:%Y-%m-%d %H:%M} UTC came out clean"
            f" ({named}); reconcile first"
        )
    Corpus.objects.filter(pk=row.pk).update(low_water=to)
    data = {"before": row.low_water, "after": to, "reason": reason}
    audit.record("corpus.low_water_raised", actor=actor, target=row, at=now, data=data)


def _clean_since(corpus: Corpus, since: datetime) -> list[str]:
    """The sources whose last comparison began since then, and found that nothing differs."""
    rows = corpus.reconciliations.filter(scope=Reconciliation.Scope.SOURCE, began_at__gte=since).order_by("id")
    newest = {row.source: row for row in rows}
    return [source for source, row in newest.items() if row.is_clean]


def _run(statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())
