"""How a corpus would come back from a loss: by its strategy, from what is left, and in how long, as was measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from django.db import connection

from controlplane.corpora.dump_keeping import good_dumps
from controlplane.corpora.errors import DrillNotPossible
from controlplane.corpora.models import Corpus, Dump, Namespace, RecoveryDrill
from controlplane.corpora.rates import (
    COUNTED,
    FIXED_SECONDS,
    Kind,
    embedding_cost_micros,
    measured,
    predict_rebuild,
    predict_restore_seconds,
)
from controlplane.corpora.records import DrillState, RecoveryWay
from controlplane.corpora.scenarios import Left, Scenario
from dataplane.retrieval.policy import REBUILD, REPLICATE, RESTORE
from dataplane.retrieval.policy import Corpus as Promised

# Where nobody has counted what a model makes of these words.
_CHARACTERS_PER_TOKEN: Final = 4
_MEASURED: Final = 500
_OTHER_BYTES: Final = 200
# Pages and a look every minute ask; to count so many takes some milliseconds.
_COUNTED: Final = 100_000
# What is alive has no `died`, and how many have none PostgreSQL samples too.
_SIZE: Final = f"""
SELECT CASE WHEN k.rows > %(counted)s THEN k.rows * k.alive ELSE (
        SELECT count(*) FROM {{table}} WHERE died IS NULL
    ) END::bigint, avg(length(c.text)),
    avg(octet_length(c.text) + octet_length(c.source_key) + octet_length(c.metadata::text))
FROM (
    SELECT t.reltuples AS rows, coalesce(s.null_frac, 1) AS alive FROM pg_class t
    LEFT JOIN pg_stats s ON s.tablename = t.relname AND s.schemaname = current_schema() AND s.attname = 'died'
    WHERE t.oid = %(table)s::regclass
) k LEFT JOIN (SELECT * FROM {{table}} WHERE died IS NULL LIMIT {_MEASURED}) c ON true GROUP BY k.rows, k.alive
"""  # noqa: S608 - names of ours; the values are parameters


@dataclass(frozen=True, slots=True)
class Size:
    """What of a namespace can be found, and what it would be in a dump, roughly."""

    chunks: int
    characters: int
    bytes: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class Plan:
    """How it comes back.

    Attributes:
        way: REBUILD, RESTORE or REPLICATE.
        dump: What is restored; None: nothing is.
        dumps: What is tried, in this order; the last is `dump`, and those before it are to be refused.
        why: In words.
        tokens, cost_micros: Of embedding again; 0 where nothing is.
        restore_seconds: As predicted; None: nothing like it was measured yet.
        predicted_seconds: From the loss until it is verified; None likewise.
    """

    way: str
    dump: Dump | None
    dumps: tuple[Dump, ...]
    why: str
    tokens: int
    cost_micros: int
    restore_seconds: float | None
    predicted_seconds: float | None


def size_of(namespace: Namespace, *, counted: int = _COUNTED) -> Size:
    """How large it is, in one query whose cost is bounded: the words of some chunks are measured for all.

    Args:
        counted: Up to so many chunks are counted; of more, it is what PostgreSQL reckons since its last ANALYZE.
    """
    with connection.cursor() as cursor:
        cursor.execute(_SIZE.format(table=namespace.table), {"table": namespace.table, "counted": counted})
        chunks, characters, size = cursor.fetchone()
    # Beside its words a row has its vector, a digest and some numbers.
    row = int(size or 0) + 4 * namespace.dimensions + _OTHER_BYTES
    return Size(chunks, chunks * int(characters or 0), chunks * row, Kind(namespace.store, namespace.dimensions))


def make_plan(corpus: Corpus, promised: Promised, scenario: Scenario | None, *, size: Size) -> Plan:
    """How a corpus comes back from a scenario, or, None, from losing what serves.

    Raises:
        DrillNotPossible: the scenario needs more dumps than there are.
    """
    dumps = _dumps_left(corpus, scenario)
    strategy = promised.recovery.strategy
    if scenario is not None and scenario.needs_dump:
        return _by_dump(corpus, size, dumps, "Only a dump is left of what was lost")
    if strategy == REPLICATE:
        # It is there; what remains is to see that it is whole, and to switch.
        why = "Its strategy is replicate: a second namespace is as fresh as the first"
        return Plan(REPLICATE, None, (), why, 0, 0, 0.0, _with_overhead(corpus, size, 0.0))
    if strategy == RESTORE and dumps:
        return _by_dump(corpus, size, dumps, "Its strategy is restore, and a good dump is there")
    why = "Its strategy is rebuild" if strategy == REBUILD else "Its strategy is restore, and no good dump is there"
    return _by_rebuilding(corpus, promised, size, f"{why}: every document is embedded again")


def _dumps_left(corpus: Corpus, scenario: Scenario | None) -> tuple[Dump, ...]:
    """What is tried, the newest first; in the end the one that is restored."""
    found = list(good_dumps(corpus))
    if scenario is None:
        return tuple(found[:1])
    if len(found) < scenario.least_dumps:
        needed = f"{scenario.least_dumps} good dump{'' if scenario.least_dumps == 1 else 's'}"
        raise DrillNotPossible(
            f"scenario {scenario.slug!r} needs {needed} of corpus {corpus.slug!r}, and there are {len(found)}; make one"
        )
    if scenario.left is Left.OLDEST:
        return tuple(found[-1:])
    return tuple(found[:2] if scenario.left is Left.BEFORE_NEWEST else found[:1])


def _by_dump(corpus: Corpus, size: Size, dumps: Sequence[Dump], why: str) -> Plan:
    dump = dumps[-1]
    predicted = predict_restore_seconds(corpus, rows=size.chunks, bytes=_chunk_bytes(dump, size), kind=size.kind)
    return Plan(RESTORE, dump, tuple(dumps), why, 0, 0, predicted, _with_overhead(corpus, size, predicted))


def _by_rebuilding(corpus: Corpus, promised: Promised, size: Size, why: str) -> Plan:
    tokens = tokens_of(corpus, size)
    found = predict_rebuild(corpus, promised, chunks=size.chunks, tokens=tokens, kind=size.kind)
    seconds = None if found is None else found.seconds
    cost = embedding_cost_micros(promised, tokens=tokens)
    return Plan(REBUILD, None, (), why, tokens, cost, seconds, _with_overhead(corpus, size, seconds))


def _chunk_bytes(dump: Dump, size: Size) -> int:
    """Of the chunks in a dump; as they were when it was restored last, or else what they should be."""
    known = dump.restores.order_by("-id").first()
    return size.bytes if known is None else known.bytes


def tokens_of(corpus: Corpus, size: Size) -> int:
    """What a model would count in these words: as it did the last time, for as many chunks."""
    for rate in measured(corpus, RecoveryWay.REBUILD, kind=size.kind):
        if rate.corpus_id == corpus.pk and rate.tokens:
            return round(rate.tokens / rate.rows * size.chunks)
    return size.characters // _CHARACTERS_PER_TOKEN


def _with_overhead(corpus: Corpus, size: Size, seconds: float | None) -> float | None:
    """The same with what it takes to see the loss, to decide, to verify and to switch, as drills took for it."""
    if seconds is None:
        return None
    known = [
        (max(took - FIXED_SECONDS, 0.0) / rows) for took, rows in map(_overhead, _passed(corpus, size.kind)) if rows
    ]
    return seconds + (FIXED_SECONDS + median(known) * size.chunks if known else 0.0)


def _passed(corpus: Corpus, kind: Kind) -> list[RecoveryDrill]:
    passed = RecoveryDrill.objects.filter(
        state=DrillState.PASSED, namespace__store=kind.store, namespace__dimensions=kind.dimensions
    ).order_by("-id")
    return list(passed.filter(corpus=corpus)[:COUNTED]) or list(passed[:COUNTED])


def _overhead(drill: RecoveryDrill) -> tuple[float, int]:
    """Seconds of a drill that were no restoring, and of how many chunks."""
    rows = (drill.report or {}).get("rows") or 0
    return sum(took for name, took in drill.seconds.items() if name != "restore"), rows
