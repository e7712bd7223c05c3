"""The process that indexes: every corpus gets a namespace, and is served from its first one by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest
from django.db import transaction

from controlplane.audit.models import AuditEvent
from controlplane.corpora import vectors
from controlplane.corpora.embedding import Embedder
from controlplane.corpora.management.commands.index import Indexer
from controlplane.corpora.models import Corpus, Namespace, NamespaceState, Pending, Purpose, RecoveryRate
from controlplane.corpora.namespaces import create_namespace, mark_ready
from controlplane.corpora.policies import promised
from controlplane.corpora.promise import clauses
from dataplane.retrieval.policy import Corpus as Promised
from tests.corpora.changes import HashEmbedder, accept, searchable, upsert
from tests.corpora.kept_corpora import make_corpus, make_namespace, make_policy, policy_document
from tests.factories import NOW
from tests.qdrant_local import LocalQdrant

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]


class Process:
    """An indexer whose embedder is a test's, as are its clocks. `models`: by which it was asked to embed."""

    def __init__(self, embedder: HashEmbedder | None = None) -> None:
        self.embedder = embedder or HashEmbedder()
        self.models: list[str] = []
        self.seconds = 0.0
        self.stop = threading.Event()
        self.indexer = Indexer(
            owner="t",
            stop=self.stop,
            open_with=self.open,
            now=lambda: NOW,
            monotonic=lambda: self.seconds,
            rng=Random(1),
        )

    @contextmanager
    def open(self, corpus: Promised) -> Iterator[Embedder]:
        self.models.append(corpus.embedding.model)
        yield self.embedder

    def rounds(self, count: int = 3) -> None:
        for _ in range(count):
            self.indexer.round()


def live(corpus: Corpus) -> Namespace | None:
    return Corpus.objects.get(pk=corpus.pk).live_namespace


def test_corpus_without_a_namespace_gets_one_and_is_served_from_it_once_it_is_built() -> None:
    """Nobody has to do anything: what was taken in before is in it, and the record says who switched."""
    corpus = make_corpus()
    accept(corpus, upsert("a", 1))

    Process().rounds()

    namespace = live(corpus)
    assert namespace is not None
    assert (namespace.state, namespace.is_indexed) == (NamespaceState.READY, True)
    assert searchable(namespace) == {"a": (1, "Words.")}
    assert AuditEvent.objects.get(action="corpus.switched").actor == "ballast"
    assert Namespace.objects.count() == 1


def test_namespace_serves_only_once_everything_is_in_it() -> None:
    """While something is pending it is being built, and nothing of it is served."""
    corpus = make_corpus()
    accept(corpus, upsert("a", 1))
    process = Process(HashEmbedder(away=True))

    process.rounds()

    assert Namespace.objects.get().state == NamespaceState.BUILDING
    assert live(corpus) is None


def test_namespace_in_another_store_serves_only_once_that_has_built_its_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it: the next rounds look again. How long it took is for drills to measure."""
    qdrant = LocalQdrant()
    monkeypatch.setattr(vectors, "_stores", {"qdrant": qdrant.vectors})
    corpus = make_corpus(store="qdrant")
    accept(corpus, upsert("a", 1))
    process = Process()
    process.rounds(1)
    qdrant.looks_until_built = 2

    states = []
    for _ in range(3):
        process.rounds(1)
        states.append(Namespace.objects.get().state)

    assert states == ["building", "building", "ready"]
    assert live(corpus) is not None
    assert not RecoveryRate.objects.exists()


def test_poisoned_document_does_not_hold_a_namespace_up() -> None:
    """It is a dead letter; the others are served."""
    corpus = make_corpus()
    accept(corpus, upsert("a", 1))
    make_namespace(corpus, is_ready=False)
    Pending.objects.update(is_poisoned=True)

    Process().rounds()

    assert live(corpus) is not None


def test_later_namespace_is_left_ready_for_people_to_switch_to() -> None:
    """It is built, and what serves goes on serving."""
    corpus = make_corpus()
    Process().rounds()
    first = live(corpus)
    second = make_namespace(corpus, is_ready=False)

    Process().rounds()

    second.refresh_from_db()
    assert (live(corpus), second.state) == (first, NamespaceState.READY)


def test_namespace_of_an_older_policy_does_not_begin_to_serve() -> None:
    """Where nothing serves yet, only what is as the policy in force wants it does."""
    corpus = make_corpus()
    make_namespace(corpus)
    make_policy(policy_document(chunking={"max_characters": 60}))

    Process().rounds()

    assert live(corpus) is None


def test_corpus_that_is_replicated_has_a_warm_second() -> None:
    """As fresh as the first: every change is indexed into both."""
    corpus = make_corpus(recovery={"strategy": "replicate"})
    process = Process()
    process.rounds(5)
    accept(corpus, upsert("a", 1))

    process.rounds()

    namespaces = list(Namespace.objects.all())
    assert [one.state for one in namespaces] == [NamespaceState.READY] * 2
    assert all(searchable(one) == {"a": (1, "Words.")} for one in namespaces)


def test_sandbox_of_a_drill_is_left_to_the_drill() -> None:
    """Which measures how long it takes."""
    corpus = make_corpus()
    accept(corpus, upsert("a", 1))
    drill = make_namespace(corpus, is_ready=False, purpose=Purpose.DRILL)

    Process().rounds()

    assert drill.pending.count() == 1


def test_nobody_is_asked_while_it_waits_for_the_gateway() -> None:
    """Who embeds is away: it is asked again after a while, and what waited is searchable then."""
    corpus = make_corpus()
    accept(corpus, upsert("a", 1))
    process = Process(HashEmbedder(away=True))
    process.rounds()
    asked = len(process.embedder.asked)
    process.embedder.away = False

    process.seconds += 60
    process.rounds()

    assert asked == 1
    assert live(corpus) is not None


def test_corpus_in_trouble_stands_in_nobody_elses_way() -> None:
    """Whatever goes wrong with one, the others are indexed."""
    make_policy(policy_document(slug="bad") | policy_document(slug="good"))
    bad, good = Corpus.objects.order_by("slug")
    accept(bad, upsert("a", 1, "boom"))
    accept(good, upsert("a", 1))

    def explode(texts: object) -> None:
        if "boom" in str(texts):
            raise RuntimeError("boom")

    Process(HashEmbedder(before=explode)).rounds()

    assert (live(bad), live(good) is not None) == (None, True)


def test_namespace_is_embedded_by_the_model_that_it_was_made_for() -> None:
    """Vectors of two models are never compared, whatever the policy wants by now."""
    corpus = make_corpus()
    old = make_namespace(corpus)
    Namespace.objects.filter(pk=old.pk).update(model="older")
    accept(corpus, upsert("a", 1))
    process = Process()

    process.rounds(1)

    assert process.models == ["older"]


def test_indexer_that_is_told_to_stop_goes_no_further() -> None:
    """What it has begun is whole; the rest is left to others."""
    make_corpus()
    process = Process()
    process.stop.set()

    process.indexer.run()

    assert not Namespace.objects.exists()


def test_corpus_whose_vectors_nobody_keeps_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again now and then, and has its namespace once there is somebody."""
    monkeypatch.setattr(vectors, "_stores", {})
    make_policy(policy_document(store="qdrant") | policy_document(slug="manuals"))
    corpora = [Corpus.objects.get(slug=slug) for slug in ("help-centre", "manuals")]
    for corpus in corpora:
        accept(corpus, upsert("a", 1))
    process = Process()

    process.rounds()
    without = [live(corpus) is not None for corpus in corpora]
    qdrant = LocalQdrant()
    vectors.register("qdrant", qdrant.vectors)
    qdrant.is_away = True
    process.seconds += 60
    process.rounds()
    away = live(corpora[0])
    qdrant.is_away = False
    process.seconds += 60
    process.rounds()

    assert (without, away) == ([False, True], None)
    assert [live(corpus) is not None for corpus in corpora] == [True, True]


# --- what building took -----------------------------------------------------------------------------------------------
def slow(process: Process, seconds: float) -> Process:
    """Whose embedder takes so long for each request, by the process' own clock."""

    def take_time(texts: object) -> None:
        process.seconds += seconds

    process.embedder.before = take_time
    return process


def rates() -> list[tuple[str, int, int, int, float]]:
    """What was measured of each rebuild: of which corpus, chunks, tokens, microdollars and seconds of loading."""
    fields = ("corpus__slug", "rows", "tokens", "cost_micros", "load_seconds")
    return list(RecoveryRate.objects.filter(way="rebuild").order_by("id").values_list(*fields))


def test_first_build_is_the_first_measure_of_a_rebuild() -> None:
    """What its batches took counts, and neither the waits between them nor what is indexed once it is ready."""
    corpus = make_corpus()
    accept(corpus, *(upsert(f"page/{at}", 1, f"Words of {at}.") for at in range(70)))
    process = slow(Process(), 3.0)  # 64 and 6 documents, so 4 requests and 1

    process.rounds(1)
    process.seconds += 900
    process.rounds()
    accept(corpus, upsert("page/0", 2, "Other words."))
    process.rounds()

    assert rates() == [("help-centre", 70, 70, 70, 15.0)]
    assert Namespace.objects.get().build_seconds == 15.0
    found = {one.name: one for one in clauses(Corpus.objects.get(pk=corpus.pk), promised("help-centre"), now=NOW)}
    assert found["reembed"].tone == "good"
    assert "70 chunks would take" in found["reembed"].words


def test_what_several_took_for_one_build_adds_up() -> None:
    """One alone, by which a rebuild is predicted, would do the work of both."""
    corpus = make_corpus()
    make_namespace(corpus, is_ready=False)
    one, other = slow(Process(), 3.0), slow(Process(), 5.0)

    accept(corpus, upsert("a", 1))
    one.rounds(1)
    accept(corpus, upsert("b", 1, "Two."))
    other.rounds()

    assert rates() == [("help-centre", 2, 2, 2, 8.0)]


def test_outage_of_the_gateway_is_no_part_of_what_a_build_takes() -> None:
    """What was asked in vain made nothing searchable."""
    corpus = make_corpus()
    accept(corpus, upsert("a", 1))
    process = slow(Process(HashEmbedder(away=True)), 3.0)
    process.rounds()
    process.embedder.away = False

    process.seconds += 60
    process.rounds()

    assert rates() == [("help-centre", 1, 1, 1, 3.0)]


def test_build_of_an_empty_corpus_measures_nothing() -> None:
    """It was ready before there was anything to embed."""
    corpus = make_corpus()
    process = Process()
    process.rounds()
    accept(corpus, upsert("a", 1))

    process.rounds()

    assert rates() == []


def test_what_somebody_fills_apart_is_left_to_him_until_it_is_ready() -> None:
    """Half restored it neither serves nor is measured; afterwards what changed meanwhile is indexed into it."""
    corpus = make_corpus()
    with transaction.atomic():
        namespace = create_namespace(corpus, promised("help-centre"), now=NOW, fill=False, apart=True)
    accept(corpus, upsert("a", 1))
    process = Process()

    process.rounds()
    namespace.refresh_from_db()
    before = (namespace.state, namespace.pending.count(), live(corpus))
    mark_ready(namespace, now=NOW)
    process.rounds()

    assert before == (NamespaceState.BUILDING, 1, None)
    assert (searchable(namespace), live(corpus), rates()) == ({"a": (1, "Words.")}, namespace, [])
