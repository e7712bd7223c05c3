"""See that every corpus of the policy in force has a namespace to serve from: made, built, and for the first time
switched to.
"""

from collections.abc import Callable
from datetime import datetime
from time import monotonic
from typing import Final

from django.db import transaction

from controlplane.corpora.models import Corpus, Namespace, NamespaceState, Purpose
from controlplane.corpora.namespaces import build_index, create_namespace, mark_ready, switch
from controlplane.corpora.rates import note_rebuild
from controlplane.corpora.vectors import external
from dataplane.retrieval.policy import REPLICATE
from dataplane.retrieval.policy import Corpus as Promised

ACTOR: Final = "ballast"


def matches(namespace: Namespace, promised: Promised) -> bool:
    """Whether a namespace is made as the policy in force wants it."""
    cut = promised.chunking
    return (
        namespace.store == promised.store
        and namespace.model == promised.embedding.model
        and namespace.dimensions == promised.embedding.dimensions
        and namespace.chunking
        == {
            "version": cut.version,
            "max_characters": cut.max_characters,
            "overlap_characters": cut.overlap_characters,
        }
    )


def serving_namespaces(corpus: Corpus) -> list[Namespace]:
    """Those that serve, or may once: what serves before the others."""
    rows = corpus.namespaces.filter(purpose=Purpose.SERVING).exclude(state=NamespaceState.DROPPED)
    return sorted(rows.select_related("corpus"), key=lambda one: (one.pk != corpus.live_namespace_id, one.pk))


def namespaces_to_index(corpus: Corpus) -> list[Namespace]:
    """Of those, the ones that the process indexes changes into: what somebody fills apart is his until it is ready."""
    return [
        one for one in serving_namespaces(corpus) if one.state != NamespaceState.BUILDING or not one.is_filled_apart
    ]


@transaction.atomic
def ensure_namespaces(corpus: Corpus, promised: Promised, *, now: datetime) -> Namespace | None:
    """Make a namespace for a corpus that has none, or a warm second one where that is how it comes back. None: there is
    as much as there is to be. After a change of the policy people say when a new one is built.
    """
    row = Corpus.objects.select_for_update().get(pk=corpus.pk)
    there = serving_namespaces(row)
    fit = [one for one in there if matches(one, promised)]
    is_second_wanted = promised.recovery.strategy == REPLICATE and row.live_namespace_id is not None and len(fit) == 1
    if there and not is_second_wanted:
        return None
    return create_namespace(row, promised, now=now)


@transaction.atomic
def finish_building(namespace: Namespace, *, now: datetime, clock: Callable[[], float] = monotonic) -> bool:
    """Build the index of a namespace that has caught up, note what building it took, and have it ready; False: it has
    not caught up, its store is still at it, or it is not for indexers to finish now.

    Args:
        clock: Monotonic seconds.
    Raises:
        VectorsNowhere, VectorsUnavailable: whoever keeps its vectors cannot be asked.
    """
    # Others do it, or index into it at this moment: then there will be another look.
    row = (
        Namespace.objects.select_for_update(no_key=True, skip_locked=True)
        .filter(pk=namespace.pk, state=NamespaceState.BUILDING, is_filled_apart=False)
        .first()
    )
    if row is None or row.pending.filter(is_poisoned=False).exists():
        return False
    store = external(row.store)
    if store is not None and not store.is_built(row):
        return False
    began = clock()
    build_index(row)
    # Another store builds beside everything else, and how long it took only drills know, who wait for it.
    if row.build_chunks and store is None:
        note_rebuild(
            namespace=row,
            chunks=row.build_chunks,
            tokens=row.build_tokens,
            cost_micros=row.build_cost_micros,
            load_seconds=row.build_seconds,
            index_seconds=clock() - began,
            at=row.created_at,
        )
    return mark_ready(row, now=now)


def begin_serving(corpus: Corpus, promised: Promised, *, now: datetime) -> bool:
    """Have a corpus that serves nothing served from its first namespace that is ready and as the policy wants it; a
    later one waits for people to switch. False: it serves, or there is none.
    """
    if Corpus.objects.filter(pk=corpus.pk, live_namespace__isnull=False).exists():
        return False
    ready = [one for one in serving_namespaces(corpus) if one.state == NamespaceState.READY and matches(one, promised)]
    if not ready:
        return False
    switch(corpus=corpus, namespace=ready[0], reason="its first namespace is built", actor=ACTOR, now=now)
    return True
