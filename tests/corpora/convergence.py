"""What a corpus must come to, of whatever was handed in, in whatever order; and orders in which it may come."""

from __future__ import annotations

from collections import Counter
from random import Random

from django.db import connection

from controlplane.corpora.accepting import Change
from controlplane.corpora.models import Corpus, Document, Namespace, Pending
from tests.corpora.changes import accept, delete, index, upsert

CHUNKING = {"max_characters": 50}
BACKFILLS = 3


def words(key: str, rev: int) -> str:
    """One to three paragraphs, each a chunk, the first of which several revisions share."""
    return "\n\n".join(
        [f"{key} since {rev // 4} " + "x" * 30, *(f"{key} {rev} {at} " + "y" * 30 for at in range(rev % 3))]
    )


def write(key: str, rev: int) -> Change:
    """The document as it was at that revision."""
    return upsert(key, rev, words(key, rev))


class Model:
    """What a source would say now, of the changes that were handed in; and a corpus that is held against it."""

    def __init__(self, corpus: Corpus, *namespaces: Namespace) -> None:
        self.corpus = corpus
        self.namespaces = namespaces
        self.heads: dict[str, tuple[int, bool]] = {}
        self.resurrections = self.reads = 0

    def take(self, *changes: Change) -> None:
        """Hand changes in, and know by the same rule what they come to."""
        accept(self.corpus, *changes)
        for change in changes:
            self.heads[change.source_key] = max(self.heads.get(change.source_key, (-1, False)), change.order)

    @property
    def expected(self) -> dict[str, tuple[int, int]]:
        """What is there at the end: of each key its revision, and its number of chunks."""
        return {key: (rev, 1 + rev % 3) for key, (rev, is_deleted) in self.heads.items() if not is_deleted}

    def look(self, rng: Random) -> None:
        """Read the newest state and a snapshot; each document is whole, of one revision, and none that is deleted."""
        deleted = {key for key, (_, is_deleted) in self.heads.items() if is_deleted}
        for namespace in self.namespaces:
            namespace.refresh_from_db()
            for index_rev in {namespace.index_rev, rng.randint(0, namespace.index_rev)}:
                seen = self.read(namespace, index_rev)
                self.resurrections += len(seen.keys() & deleted)
                for key, found in seen.items():
                    assert len(found) == 1, f"{key} is read at the revisions {sorted(found)} at once"
                    [(rev, chunks)] = found.items()
                    assert chunks == 1 + rev % 3, f"{key} is read in parts"
        assert not self.resurrections

    def read(self, namespace: Namespace, index_rev: int) -> dict[str, Counter[int]]:
        """By key, how many chunks of which revision are alive."""
        self.reads += 1
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT source_key, source_rev, count(*) FROM {namespace.table}"  # noqa: S608 - a name of ours
                " WHERE born <= %s AND (died IS NULL OR died > %s) GROUP BY 1, 2",
                [index_rev, index_rev],
            )
            seen: dict[str, Counter[int]] = {}
            for key, rev, chunks in cursor.fetchall():
                seen.setdefault(key, Counter())[rev] += chunks
        return seen

    def require_converged(self) -> None:
        """Index what is left: then it is as the model says, to the words, in each namespace."""
        for namespace in self.namespaces:
            index(namespace)
            namespace.refresh_from_db()
            found = self.read(namespace, namespace.index_rev)
            assert {key: next(iter(one.items())) for key, one in found.items()} == self.expected
            with connection.cursor() as cursor:
                cursor.execute(
                    f"SELECT source_key, source_rev, string_agg(text, E'\\n\\n' ORDER BY ordinal)"  # noqa: S608 - a name of ours
                    f" FROM {namespace.table} WHERE died IS NULL GROUP BY 1, 2"
                )
                assert all(text == words(key, rev) for key, rev, text in cursor.fetchall())
        heads = Document.objects.filter(corpus=self.corpus).values_list("source_key", "source_rev", "is_deleted")
        assert {key: (rev, is_deleted) for key, rev, is_deleted in heads} == self.heads
        assert not Pending.objects.filter(namespace__corpus=self.corpus).exists()


def histories(rng: Random, documents: int, revisions: int) -> dict[str, list[Change]]:
    """By key, all that ever happened to it: now and then it was deleted, and written again."""
    return {
        key: [delete(key, rev) if rng.random() < 0.15 else write(key, rev) for rev in range(1, revisions + 1)]
        for key in (f"k{at}" for at in range(documents))
    }


def arrivals(rng: Random, history: dict[str, list[Change]]) -> list[Change]:
    """Everything, in an order that holds back some of it for long and doubles some; with backfills and replays."""
    latest = max(len(run) for run in history.values())
    timed = [
        (place + rng.expovariate(0.5), change)
        for run in history.values()
        for place, change in enumerate(run)
        for _ in range(1 + (rng.random() < 0.1))
    ]
    for _ in range(BACKFILLS):
        began = rng.uniform(0, latest)
        # Each page is read at one moment and comes in at a later one: what was deleted by then may be in it.
        timed += [(began + rng.uniform(0, 5), run[int(began) % len(run)]) for run in history.values()]
    replayed = rng.choices([change for run in history.values() for change in run], k=len(timed) // 5)
    timed += [(latest + rng.uniform(0, 5), change) for change in replayed]
    return [change for _, change in sorted(timed, key=lambda one: one[0])]
