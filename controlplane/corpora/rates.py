"""How long it takes to have a namespace again, by how long it took: what recovery is promised, and predicted, by."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import log2
from statistics import median
from typing import Final

from controlplane.corpora.models import Corpus, Namespace, RecoveryRate
from controlplane.corpora.records import RecoveryWay
from controlplane.routing.operations import routing_tables
from dataplane.retrieval.policy import Corpus as Promised

# Of so many of the newest; the median, so that one on a busy machine decides nothing.
COUNTED: Final = 5
# Begun and ended once, however little it is: connections, locks, the manifest.
FIXED_SECONDS: Final = 0.2
# A graph of n nodes is asked for a place n times, each time over more of them.
_LEAST_ROWS: Final = 2


@dataclass(frozen=True, slots=True)
class Kind:
    """What namespaces have in common that are as fast: the store that indexes their vectors, and how long those are."""

    store: str
    dimensions: int


@dataclass(frozen=True, slots=True)
class Rebuilding:
    """What embedding again would take, and cost by the price of the lane that embeds."""

    seconds: float
    tokens: int
    cost_micros: int


def note_rebuild(
    *,
    namespace: Namespace,
    chunks: int,
    tokens: int,
    cost_micros: int,
    load_seconds: float,
    index_seconds: float,
    at: datetime,
) -> RecoveryRate:
    """Note how long it took to embed all of a corpus, for the first time or again.

    Args:
        load_seconds: Of work: who waits for changes, or for a gateway that is away, embeds nothing. Where several
            indexed at a time it is the sum of theirs, since one alone is predicted; that is never too short.
        at: When it was begun.
    """
    return RecoveryRate.objects.create(
        corpus=namespace.corpus,
        way=RecoveryWay.REBUILD,
        namespace_id_then=namespace.pk,
        store=namespace.store,
        dimensions=namespace.dimensions,
        rows=chunks,
        tokens=tokens,
        cost_micros=cost_micros,
        load_seconds=load_seconds,
        index_seconds=index_seconds,
        at=at,
    )


def measured(corpus: Corpus, way: RecoveryWay, *, kind: Kind) -> Sequence[RecoveryRate]:
    """The newest measures that count, of this corpus; those of others of the same kind where it has none."""
    alike = RecoveryRate.objects.filter(way=way, store=kind.store, dimensions=kind.dimensions, rows__gt=0).order_by(
        "-id"
    )
    return list(alike.filter(corpus=corpus)[:COUNTED]) or list(alike[:COUNTED])


def predict_restore_seconds(corpus: Corpus, *, rows: int, bytes: int, kind: Kind) -> float | None:
    """Seconds until so many chunks, of so many bytes in their dump, are loaded and indexed; None: nothing was measured.

    Loading goes by bytes. Indexing goes by rows, each a little dearer the more there are.
    """
    known = measured(corpus, RecoveryWay.RESTORE, kind=kind)
    if not known:
        return None
    per_byte = median(_above(one.load_seconds) / max(one.bytes, 1) for one in known)
    return FIXED_SECONDS + per_byte * bytes + _index_seconds(known, rows)


def predict_rebuild(corpus: Corpus, promised: Promised, *, chunks: int, tokens: int, kind: Kind) -> Rebuilding | None:
    """What it takes to embed so many chunks of so many tokens again; None: nothing was measured."""
    known = measured(corpus, RecoveryWay.REBUILD, kind=kind)
    if not known:
        return None
    per_token = median(_above(one.load_seconds) / max(one.tokens, 1) for one in known)
    return Rebuilding(
        seconds=FIXED_SECONDS + per_token * tokens + _index_seconds(known, chunks),
        tokens=tokens,
        cost_micros=embedding_cost_micros(promised, tokens=tokens),
    )


def embedding_cost_micros(promised: Promised, *, tokens: int) -> int:
    """What embedding so many tokens costs, by the dearest lane that may be asked; 0: no lane in force can be."""
    active = routing_tables.active()
    if active is None:
        return 0
    route = active.parsed().routes.get(promised.embedding.route)
    lanes = [] if route is None else [lane for lane in route.lanes if lane.model == promised.embedding.model]
    return max((lane.cost_micros(input_tokens=tokens, output_tokens=0) for lane in lanes), default=0)


def _index_seconds(known: Sequence[RecoveryRate], rows: int) -> float:
    return median(one.index_seconds / _effort(one.rows) for one in known) * _effort(rows)


def _effort(rows: int) -> float:
    return rows * log2(max(rows, _LEAST_ROWS))


def _above(seconds: float) -> float:
    """What of a measured time was not the same for any size."""
    return max(seconds - FIXED_SECONDS, seconds / 10)
