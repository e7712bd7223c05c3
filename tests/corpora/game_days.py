"""A corpus that serves, with dumps of it, and drills of it run to their end by whoever has time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic, sleep
from typing import Any

from django.db import connection, transaction

from controlplane.corpora.drill_reports import sign_report
from controlplane.corpora.drilling import run_piece
from controlplane.corpora.drills import start_drill
from controlplane.corpora.dumping import make_dump
from controlplane.corpora.embedding import Embedder
from controlplane.corpora.models import Corpus, Dump, Namespace, Purpose, RecoveryDrill
from controlplane.corpora.namespaces import build_index, switch
from dataplane.retrieval.policy import Corpus as Promised
from tests.corpora.changes import HashEmbedder, accept, index, upsert
from tests.corpora.kept_corpora import make_corpus, make_namespace
from tests.factories import NOW, SETUP, make_deployment

DOCUMENTS = 40


def serving_corpus(*, documents: int = DOCUMENTS, **changes: Any) -> Corpus:
    """A corpus whose documents are all searchable."""
    make_deployment()
    corpus = make_corpus(**changes)
    with transaction.atomic():
        namespace = make_namespace(corpus, is_ready=True, fill=False)
    switch(corpus=corpus, namespace=namespace, reason="r", actor=SETUP, now=NOW)
    accept(corpus, *(upsert(f"page/{at}", 1, f"Words of page {at}.") for at in range(documents)))
    index(namespace)
    build_index(namespace)
    corpus.refresh_from_db()
    return corpus


def dump_of(corpus: Corpus, *, at: datetime = NOW) -> Dump:
    """A dump of what serves."""
    assert corpus.live_namespace is not None
    return make_dump(namespace=corpus.live_namespace, actor=SETUP, now=at)


@dataclass
class Watch:
    """A clock of the drill's own, and what embeds for it. `before`: called with each word of the clock."""

    embedder: HashEmbedder = field(default_factory=HashEmbedder)
    started: datetime = NOW + timedelta(hours=1)
    began: float = field(default_factory=monotonic)

    def now(self) -> datetime:
        """As real time goes on, from an hour after everything was made."""
        return self.started + timedelta(seconds=monotonic() - self.began)

    @contextmanager
    def open_embedder(self, corpus: Promised) -> Iterator[Embedder]:
        """As `embedding.open_embedder`."""
        yield self.embedder


def begin(corpus: Corpus, scenario: str, *, now: datetime = NOW, **asked: Any) -> RecoveryDrill:
    """A drill that somebody asked for."""
    told = {"reason": "a game day", "actor": SETUP} | asked
    return start_drill(corpus=corpus, scenario=scenario, now=now, **told)


def run(
    drill: RecoveryDrill,
    watch: Watch | None = None,
    *,
    clock: Callable[[], float] = monotonic,
    wait: Callable[[float], object] = sleep,
) -> RecoveryDrill:
    """Run a drill to its end, piece by piece."""
    watch = watch or Watch()
    piece = 1
    while not run_piece(drill.pk, piece, now=watch.now, clock=clock, open_embedder=watch.open_embedder, wait=wait):
        piece += 1
    return RecoveryDrill.objects.select_related("corpus", "sandbox", "namespace", "dump").get(pk=drill.pk)


def game_day(corpus: Corpus, scenario: str, watch: Watch | None = None, **asked: Any) -> RecoveryDrill:
    """Both."""
    return run(begin(corpus, scenario, **asked), watch)


def checks(drill: RecoveryDrill) -> dict[str, bool]:
    """What an acceptance found, by name."""
    return {one["name"]: one["passed"] for one in drill.acceptance["checks"]}


def words(drill: RecoveryDrill) -> dict[str, str]:
    """What each step found."""
    return {step["name"]: step["words"] for step in drill.steps}


def kept_namespaces(corpus: Corpus) -> list[Namespace]:
    """Those that are not dropped."""
    return list(corpus.namespaces.exclude(state="dropped"))


def nothing_left(corpus: Corpus) -> bool:
    """Whether no namespace of a drill is kept, and no table of one."""
    kept, made = kept_namespaces(corpus), [one.table for one in corpus.namespaces.all()]
    with connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE tablename = ANY(%s)", [made])
        tables = {name for (name,) in cursor.fetchall()}
    return tables == {one.table for one in kept} and not any(one.purpose == Purpose.DRILL for one in kept)


def furnish(now: datetime) -> None:
    """A game day of the demo's corpus that failed, with every step and check, for whoever looks at its page."""
    steps = [
        {"name": name, "began_at": now.isoformat(), "ended_at": now.isoformat(), "seconds": 1.5, "done": 8, "of": 8}
        | {"words": f"What was found at the step {name}"}
        for name in ("prepare", "detect", "decide", "restore", "verify")
    ]
    report = {"drill": 0, "way": "restore", "rows": 56}
    RecoveryDrill.objects.create(
        corpus=Corpus.objects.get(slug="help-centre"),
        scenario="old_dump",
        state="failed",
        reason="the quarter",
        actor="oncall",
        asked_at=now,
        began_at=now,
        ended_at=now,
        steps=steps,
        seconds={"detect": 1.5, "decide": 0.1, "restore": 240.0, "verify": 1.5},
        acceptance={"checks": [{"name": "counts", "passed": False, "words": "55 of 56 chunks"}]},
        error="what came back is not accepted: 55 of 56 chunks",
        report=report,
        report_signature=sign_report(report).to_mapping(),
    )
