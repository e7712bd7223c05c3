"""Game days of a corpus whose vectors are in Qdrant: seen, come back from, and verified as any."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path

import pytest
from qdrant_client import models

from controlplane.audit.models import AuditEvent
from controlplane.corpora import drills
from controlplane.corpora.acceptance import measure_recall
from controlplane.corpora.drill_reports import read_report
from controlplane.corpora.drilling import PHASES
from controlplane.corpora.dump_checks import trusted_keys
from controlplane.corpora.models import RecoveryRate, Sandbox
from controlplane.corpora.scenarios import SCENARIOS
from controlplane.corpora.vectors import BUILT_WITHIN_SECONDS, await_built
from dataplane.retrieval.modes import ANY
from dataplane.stores.corpora import PostgresCorpusStore
from tests.corpora.changes import accept, index, upsert, vector_of
from tests.corpora.game_days import (
    begin,
    checks,
    game_day,
    kept_namespaces,
    nothing_left,
    run,
    words,
)
from tests.corpora.kept_corpora import MODEL, make_policy, policy_document
from tests.corpora.kept_dumps import chunk_rows
from tests.corpora.qdrant_corpora import DOCUMENTS, Ticking, held, live_of, qdrant_corpus, set_up, step_of
from tests.corpora_documents import SLUG
from tests.factories import NOW
from tests.qdrant_local import LocalQdrant

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]

ALL = {"counts", "digests", "samples", "recall"}
LIVE = {"targets_live": True, "typed": "drill help-centre live"}
# Only what the scenario names, and what belongs to it.
SEEN = {
    "index_dropped": "Seen: 0 of 12 chunks",
    "vectors_corrupted": "Seen: 2 of 12 sampled chunks are not what their checksum says",
    "wrong_model": "Seen: 12 of 12 chunks are of another model than text-embedding-3-small",
    "old_dump": "Seen: 0 of 12 chunks",
    "lost_source": "Seen: 0 of 12 chunks; 0 of 12 documents can be read: they count as lost",
    "half_written_dump": "Seen: 0 of 12 chunks",
}


@pytest.fixture(autouse=True)
def dumps(settings, tmp_path: Path) -> None:
    """A store of dumps of each test's own."""
    settings.DUMP_STORE = (tmp_path / "dumps").as_uri()
    settings.DUMP_COPY_STORE = ""


@pytest.fixture
def qdrant(monkeypatch: pytest.MonkeyPatch) -> LocalQdrant:
    return set_up(monkeypatch, LocalQdrant())


def search(qdrant: LocalQdrant, url: str) -> set[str]:
    """The documents that a gateway which has just started finds."""

    async def ask() -> set[str]:
        store = PostgresCorpusStore(url, beside={"qdrant": qdrant.nearest_ids()}, timeout_seconds=60)
        await store.start()
        try:
            told = {"k": DOCUMENTS, "mode": ANY, "filters": {}, "now": NOW}
            found = await store.search(SLUG, MODEL, vector_of("Words of page 3."), **told)
            return {chunk.source_key for chunk in found.chunks}
        finally:
            await store.close()

    return asyncio.run(ask())


# --- to the end -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("strategy", ["restore", "rebuild", "replicate"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_is_seen_and_comes_back_by_every_strategy(qdrant, scenario, strategy):
    """Each loss is seen by the check that it names, and comes back; what serves is as it was, in PostgreSQL and in
    Qdrant, the sandbox is gone from both, and the signed report says which way it was.
    """
    corpus = qdrant_corpus(strategy)
    live = live_of(corpus)
    before = held(qdrant, live)

    drill = game_day(corpus, scenario)

    assert drill.state == "passed", drill.error
    assert words(drill)["detect"] == SEEN[scenario]
    found = checks(drill)
    assert set(found) == (ALL | {"documents"} if scenario == "lost_source" else ALL)
    assert all(found.values())
    report, _ = read_report(drills.report_file(drill), trusted=trusted_keys())
    way = "restore" if SCENARIOS[scenario].needs_dump else strategy
    assert (report["state"], report["way"], report["namespace"]["store"]) == ("passed", way, "qdrant")
    lost_at = datetime.fromisoformat(drill.sandbox.facts["lost_at"])
    age = (lost_at - drill.dump.as_of).total_seconds() if drill.dump is not None else 0
    assert (drill.dump is None, drill.rpo_seconds) == (way != "restore", age)
    assert set(drill.seconds) == {"detect", "decide", "restore", "verify", "switch"}
    assert drill.rto_seconds == pytest.approx(sum(drill.seconds.values()))
    assert held(qdrant, live_of(corpus)) == before
    assert nothing_left(corpus)
    assert qdrant.vectors().namespaces() == [live.pk]
    assert drill.sandbox.cleared_at is not None


def test_copy_has_the_vectors_of_what_can_be_found_and_no_others(qdrant):
    """What only snapshots show stays behind, so that all the damage is done to what is looked at."""
    corpus = qdrant_corpus()
    live = live_of(corpus)
    accept(corpus, *(upsert(f"page/{at}", 2, f"Other words of page {at}.") for at in range(DOCUMENTS)))
    index(live)
    copied: list[int] = []

    def look(asked: str) -> None:
        if step_of(drill) == "detect" and not copied:
            qdrant.before = lambda asked: None
            lost = Sandbox.objects.select_related("lost").get(drill=drill).lost
            copied.extend(qdrant.vectors().ids(lost, after=0, limit=1_000))

    drill = begin(corpus, "vectors_corrupted")
    qdrant.before = look
    done = run(drill)

    assert done.state == "passed", done.error
    assert words(done)["detect"] == SEEN["vectors_corrupted"]
    assert copied == [row[0] for row in chunk_rows(live)]


def test_what_qdrant_takes_is_counted_in_its_phase(qdrant):
    """Every request, and the building of its graph, which is part of the restore and of what the next one is predicted
    by.
    """
    clock = Ticking(qdrant)
    corpus = qdrant_corpus()
    clock.drill = begin(corpus, "vectors_corrupted")
    qdrant.looks_until_built = 4  # one of them by whoever sees that there is room

    done = run(clock.drill, clock=clock, wait=clock.wait)

    assert done.state == "passed", done.error
    # Nothing is asked of it to decide; what clears up after a drill is no part of what a loss costs.
    asked = clock.by_step | {"decide": [], "switch": []}
    assert done.seconds == {name: len(asked[name]) for name in PHASES}
    put = asked["restore"].index("upsert") + 1
    assert asked["restore"][put:] == ["get_collection", "wait"] * 3 + ["get_collection"]
    rate = RecoveryRate.objects.get()
    assert rate.index_seconds == 7
    assert rate.index_seconds + rate.load_seconds <= done.seconds["restore"]
    assert asked["detect"] == ["retrieve"]
    assert asked["verify"].count("query_batch_points") == 10  # fifty questions, asked both ways
    assert done.rto_seconds == sum(done.seconds.values())


def test_rebuild_and_replica_wait_for_the_graph_too(qdrant):
    """The one while its time is measured, the other beforehand."""
    clock = Ticking(qdrant)
    corpus = qdrant_corpus("rebuild")
    clock.drill = begin(corpus, "index_dropped")
    qdrant.looks_until_built = 5
    rebuilt = run(clock.drill, clock=clock, wait=clock.wait)
    waited = clock.by_step["restore"].count("wait")
    make_policy(policy_document(store="qdrant", recovery={"strategy": "replicate"}))
    clock.drill = begin(corpus, "index_dropped")
    clock.by_step, qdrant.looks_until_built = {}, 5

    switched = run(clock.drill, clock=clock, wait=clock.wait)

    assert (rebuilt.state, switched.state) == ("passed", "passed"), (rebuilt.error, switched.error)
    assert waited == clock.by_step["prepare"].count("wait") == 5
    assert RecoveryRate.objects.get().index_seconds == 5 + 6
    assert switched.seconds["restore"] == 0


def test_graph_that_is_not_built_in_hours_or_that_nobody_tells_of_is_waited_for_no_longer(qdrant, caplog):
    """It is no reason to have nothing: what is in no graph is searched too."""
    live = live_of(qdrant_corpus())
    waited: list[float] = []
    qdrant.looks_until_built = 10**9

    in_vain = await_built(live, wait=waited.append)
    qdrant.is_away = True
    untold = await_built(live, wait=waited.append)

    assert (in_vain, untold) == (False, False)
    assert sum(waited) == BUILT_WITHIN_SECONDS
    assert "it was waited for 14400 s" in caplog.text
    assert "connection refused" in caplog.text


# --- what came back is searched as it should be -----------------------------------------------------------------------
class ShortSighted(LocalQdrant):
    """Finds every other neighbour, unless it is told to compare with every one."""

    def query_batch_points(self, name: str, *, requests: list[models.QueryRequest]) -> list[models.QueryResponse]:
        """As `QdrantClient.query_batch_points`."""
        answers = list(self.__getattr__("query_batch_points")(name, requests=requests))
        for request, answer in zip(requests, answers, strict=True):
            if request.params is None or not request.params.exact:
                answer.points = answer.points[::2]
        return answers


def test_recall_is_measured_of_what_qdrant_finds_against_what_is_nearest(monkeypatch, qdrant):
    """Over fifty questions, however few chunks there are; where half of the nearest are not found, it is a half."""
    live = live_of(qdrant_corpus())
    short_sighted = ShortSighted()
    short_sighted.vectors().create(live)
    store = qdrant.vectors()
    short_sighted.vectors().put(live, store.fetch(live, list(store.ids(live, after=0, limit=1_000))))

    found = measure_recall(live)
    set_up(monkeypatch, short_sighted)
    less = measure_recall(live)

    assert (found, less) == ((1.0, 50), (0.5, 50))


def test_graph_that_loses_neighbours_fails_the_drill(monkeypatch):
    """Every chunk and vector is there, and half of what is near is not found: it is not accepted."""
    set_up(monkeypatch, ShortSighted())
    corpus = qdrant_corpus()

    drill = game_day(corpus, "index_dropped")

    assert drill.state == "failed"
    assert drill.error == (
        "what came back is not accepted: recall@10 0.500 over 50 questions; at least 0.95 is asked for"
    )
    assert checks(drill) == dict.fromkeys(ALL, True) | {"recall": False}
    assert nothing_left(corpus)


# --- on what serves ---------------------------------------------------------------------------------------------------
def test_drill_on_what_serves_is_searched_in_qdrant_and_goes_back(qdrant, keys_url):
    """Two people; for a moment gateways find every document in what came back, and afterwards in what served before."""
    corpus = qdrant_corpus()
    live = live_of(corpus)
    before = held(qdrant, live)
    drill = begin(corpus, "index_dropped", actor="one", **LIVE)
    drills.confirm_live(drill=drill, typed=LIVE["typed"], actor="two", now=NOW)
    found: dict[int, set[str]] = {}

    def clock() -> float:
        # It is read between the switch there and the one back.
        serving = live_of(corpus).pk
        if serving != live.pk and serving not in found:
            found[serving] = search(qdrant, keys_url)
        return 0.0

    done = run(drill, clock=clock)

    assert done.state == "passed", done.error
    everything = {f"page/{at}" for at in range(DOCUMENTS)}
    assert found == {done.namespace_id: everything}
    assert search(qdrant, keys_url) == everything
    switched = AuditEvent.objects.filter(action="corpus.switched", data__reason=f"drill {done.pk}").order_by("seq")
    assert [event.data["after"] for event in switched] == [done.namespace_id, live.pk]
    assert done.report["people"] == {"asked_by": "one", "confirmed_by": "two", "reason": "a game day"}
    assert checks(done) == dict.fromkeys(ALL, True)
    assert (live_of(corpus), kept_namespaces(corpus)) == (live, [live])
    assert held(qdrant, live) == before
    assert qdrant.vectors().namespaces() == [live.pk]
