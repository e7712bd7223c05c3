"""The corpora of `recovery_drills`: documents that are accepted and indexed as all are, and drills of them. Needs the
settings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from random import Random
from statistics import median
from time import monotonic

import numpy as np
from django.db import connection, transaction
from django.utils import timezone

from benchmarks.vector_rows import Ground, settle
from controlplane.corpora.accepting import Change, accept_changes
from controlplane.corpora.drilling import run_piece
from controlplane.corpora.drills import start_drill
from controlplane.corpora.dumping import make_dump
from controlplane.corpora.embedding import Embedded, Embedder
from controlplane.corpora.indexing import index_all
from controlplane.corpora.models import Corpus, CorpusPolicy, RecoveryDrill, RecoveryRate
from controlplane.corpora.namespaces import build_index, switch
from controlplane.corpora.records import RecoveryWay
from dataplane.retrieval.policy import Corpus as Promised
from tests.corpora.kept_corpora import make_namespace, make_policy, policy_document
from tests.factories import make_deployment

CHUNKS_PER_DOCUMENT = 4
CHUNK_CHARACTERS = 400
CENTRES = 200
AT_A_TIME = 100
RAW_ROUNDS = 3
WORDS = ("order", "parcel", "refund", "invoice", "address", "customs", "voucher", "return", "delay", "account")

Row = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class Drawn:
    """Embeds by what is drawn for a text's digest, around some centres, as meanings are; drawn once, for drawing takes
    longer than all that is measured beside it.
    """

    def __init__(self, dimensions: int, seed: int) -> None:
        self._centres = np.random.default_rng(seed).standard_normal((CENTRES, dimensions))
        self._drawn: dict[str, Row] = {}

    def embed(self, texts: Sequence[str]) -> Embedded:
        """As `Embedder`; a token for four characters."""
        rows = [self._row(text) for text in texts]
        found = np.stack(rows) if rows else np.empty((0, self._centres.shape[1]), np.float32)
        return Embedded(found, sum(len(text) for text in texts) // 4, 0)

    def _row(self, text: str) -> Row:
        if text not in self._drawn:
            self._drawn[text] = self._draw(text)
        return self._drawn[text]

    def _draw(self, text: str) -> Row:
        drawn = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))
        vector = self._centres[drawn.integers(CENTRES)] + 0.5 * drawn.standard_normal(self._centres.shape[1])
        return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


class Fields:
    """Everything that is laid out; `promise` comes first."""

    def __init__(self, dimensions: int, seed: int) -> None:
        self._dimensions = dimensions
        self._rng = Random(seed)  # noqa: S311 - words, not a secret
        self._embedder = Drawn(dimensions, seed)
        self._slugs: list[str] = []

    def promise(self, slugs: Sequence[str]) -> None:
        """Have a policy in force that restores every one of them."""
        make_deployment()
        self._slugs = list(slugs)
        self._policy("restore")

    def _policy(self, strategy: str) -> None:
        document = {}
        for slug in self._slugs:
            document |= policy_document(
                slug=slug,
                embedding={"dimensions": self._dimensions},
                chunking={"max_characters": CHUNK_CHARACTERS},
                recovery={"strategy": strategy},
            )
        current = CorpusPolicy.objects.order_by("-number").first()
        if current is None or current.document != document:
            make_policy(document, now=timezone.now())

    def lay(self, slug: str, chunks: int) -> Corpus:
        """A corpus of about so many chunks that serves, with a dump of it."""
        corpus = Corpus.objects.get(slug=slug)
        now = datetime.now(UTC)
        with transaction.atomic():
            namespace = make_namespace(corpus, fill=False, now=now)
        switch(corpus=corpus, namespace=namespace, reason="benchmark", actor="benchmark", now=now)
        changes = [
            Change(f"page/{number}", 1, False, self._text(), {"title": f"Page {number}"}, now)
            for number in range(chunks // CHUNKS_PER_DOCUMENT)
        ]
        for first in range(0, len(changes), AT_A_TIME):
            accept_changes(corpus=corpus, changes=changes[first : first + AT_A_TIME], now=timezone.now())
        index_all(namespace=namespace, embedder=self._embedder, owner="benchmark")
        build_index(namespace)
        with connection.cursor() as cursor:
            cursor.execute(f"ANALYZE {namespace.table}")
        make_dump(namespace=namespace, actor="benchmark", now=timezone.now())
        return Corpus.objects.get(slug=slug)

    def _text(self) -> str:
        """Paragraphs, each of which makes one chunk."""
        paragraphs = []
        for _ in range(CHUNKS_PER_DOCUMENT):
            words = ""
            while len(words) < CHUNK_CHARACTERS - 40:
                words += f"{self._rng.choice(WORDS)} {self._rng.randrange(10**6)} "
            paragraphs.append(words.strip())
        return "\n\n".join(paragraphs)

    def drill(self, corpus: Corpus, strategy: str) -> RecoveryDrill:
        """Lose the index in a sandbox, and come back by a strategy."""
        self._policy(strategy)
        settle()
        drill = start_drill(corpus=corpus, scenario="index_dropped", reason="r", actor="benchmark", now=timezone.now())
        piece = 1
        while not run_piece(drill.pk, piece, now=timezone.now, clock=monotonic, open_embedder=self._open):
            piece += 1
        drill.refresh_from_db()
        if drill.state != "passed":
            raise RuntimeError(f"drill {drill.pk} of {corpus}: {drill.error}")
        return drill

    @contextmanager
    def _open(self, corpus: Promised) -> Iterator[Embedder]:
        yield self._embedder

    def rebuild_rates(self, corpus: Corpus) -> tuple[int, float, float]:
        """How many chunks there are, and how many a second a rebuild brought back and PostgreSQL alone does: medians of
        the drills, and of RAW_ROUNDS.
        """
        namespace = corpus.namespaces.get(pk=corpus.live_namespace_id)
        rates = list(RecoveryRate.objects.filter(corpus=corpus, way=RecoveryWay.REBUILD))
        ground = Ground(corpus, namespace)
        ground.copy_out()
        raw = []
        for _ in range(RAW_ROUNDS):
            settle()
            raw.append(sum(ground.copy_in()))
        rows = rates[0].rows
        return rows, rows / median(rate.seconds for rate in rates), rows / median(raw)
