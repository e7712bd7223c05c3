"""Game days against a real database: each loss is seen, each comes back, and what was made for it is gone."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from controlplane.alerts.models import Alert
from controlplane.corpora import drilling, drills
from controlplane.corpora.models import Purpose, RecoveryDrill, RecoveryRate
from controlplane.corpora.records import RecoveryWay
from controlplane.corpora.scenarios import SCENARIOS
from controlplane.work import operations as work
from controlplane.work.models import Task
from dataplane.retrieval.acceptance import Check
from tests.corpora.changes import HashEmbedder, accept, delete, index, searchable, upsert
from tests.corpora.game_days import (
    DOCUMENTS,
    Watch,
    begin,
    checks,
    dump_of,
    game_day,
    kept_namespaces,
    nothing_left,
    run,
    serving_corpus,
    words,
)
from tests.factories import NOW

pytestmark = pytest.mark.django_db(transaction=True)
ALL = {"counts", "digests", "samples", "recall"}


@pytest.fixture(autouse=True)
def dumps(settings, tmp_path: Path) -> None:
    """A store of dumps of each test's own."""
    settings.DUMP_STORE = (tmp_path / "dumps").as_uri()
    settings.DUMP_COPY_STORE = ""


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_is_seen_and_comes_back_from_its_dump(scenario):
    """Each loss is seen, the corpus comes back whole, what serves is as it was, and no sandbox is left."""
    corpus = serving_corpus()
    before = searchable(corpus.live_namespace)
    for at in (0, 10):
        dump_of(corpus, at=NOW + timedelta(minutes=at))

    drill = game_day(corpus, scenario)

    assert drill.state == "passed", drill.error
    found = checks(drill)
    assert set(found) == (ALL | {"documents"} if scenario == "lost_source" else ALL)
    assert all(found.values())
    assert set(drill.seconds) == {"detect", "decide", "restore", "verify", "switch"}
    assert drill.rto_seconds == pytest.approx(sum(drill.seconds.values()))
    assert searchable(corpus.live_namespace) == before
    assert nothing_left(corpus)


@pytest.mark.parametrize("scenario", ["index_dropped", "vectors_corrupted", "wrong_model"])
def test_rebuilding_embeds_every_document_and_says_what_it_cost(scenario):
    """By the strategy rebuild every document is embedded again; tokens and cost are told, and nothing counts as old."""
    corpus = serving_corpus(recovery={"strategy": "rebuild"})
    watch = Watch()

    drill = game_day(corpus, scenario, watch)

    assert drill.state == "passed", drill.error
    assert len(watch.embedder.texts) == drill.tokens == drill.cost_micros == DOCUMENTS
    assert drill.rpo_seconds == 0
    assert RecoveryRate.objects.get().way == RecoveryWay.REBUILD


def test_a_replica_is_switched_to_as_it_is():
    """By the strategy replicate a second namespace is there before the loss, and nothing is restored."""
    corpus = serving_corpus(recovery={"strategy": "replicate", "dump_hours": 0})

    drill = game_day(corpus, "index_dropped")

    assert drill.state == "passed", drill.error
    assert "Nothing is restored" in words(drill)["restore"]
    assert nothing_left(corpus)


def test_an_old_dump_is_caught_up_with_what_changed_since():
    """The oldest dump is restored; what was written since is indexed, and what was deleted since stays deleted."""
    corpus = serving_corpus()
    oldest = dump_of(corpus)
    accept(corpus, upsert("page/1", 2, "Other words."), upsert("page/new", 1, "New words."), delete("page/2", 2))
    index(corpus.live_namespace)
    dump_of(corpus, at=NOW + timedelta(minutes=1))
    watch = Watch()

    drill = game_day(corpus, "old_dump", watch)

    assert drill.state == "passed", drill.error
    assert drill.dump == oldest
    assert sorted(watch.embedder.texts) == ["New words.", "Other words."]
    assert drill.rpo_seconds >= 3600


def test_a_half_written_dump_is_refused_and_the_one_before_it_restored():
    """Neither a dump without its manifest nor one that breaks off is used; the drill tells what was wrong with each."""
    corpus = serving_corpus()
    before = dump_of(corpus)
    newest = dump_of(corpus, at=NOW + timedelta(minutes=1))

    drill = game_day(corpus, "half_written_dump")

    assert drill.state == "passed", drill.error
    assert drill.dump == before
    assert words(drill)["restore"].count(newest.name) == 2


def test_a_lost_source_comes_back_as_old_as_its_dump_and_nothing_real_is_touched():
    """Documents come out of the dump word for word; what changed since is not part of what is back."""
    corpus = serving_corpus()
    dump_of(corpus)
    accept(corpus, upsert("page/1", 2, "Other words."))
    index(corpus.live_namespace)
    heads = list(corpus.documents.order_by("pk").values())

    drill = game_day(corpus, "lost_source")

    assert drill.state == "passed", drill.error
    assert not Alert.objects.exists()
    assert f"of {DOCUMENTS - 1} that have not changed since, 0 differ" in words(drill)["verify"]
    assert list(corpus.documents.order_by("pk").values()) == heads


def test_what_is_not_accepted_fails_the_drill(monkeypatch):
    """A recovery that one check does not accept is a failed drill, with its report, and its sandbox is gone."""
    corpus = serving_corpus()
    dump_of(corpus)
    bad = Check("samples", passed=False, words="1 of 299 sampled chunks are not what their checksum says")
    monkeypatch.setattr(drilling, "accept", lambda *args, **named: iter([bad]))

    drill = game_day(corpus, "index_dropped")

    assert drill.state == "failed"
    assert bad.words in drill.error
    assert drill.report["acceptance"] == [bad.to_json()]
    assert nothing_left(corpus)
    alert = Alert.objects.get()
    assert (alert.kind, alert.severity, alert.link) == (drills.FAILED, "warn", drill.get_absolute_url())
    assert "1 of 299 sampled chunks are not what their checksum says. A real loss may end like this" in alert.sentence


def test_a_loss_that_nobody_sees_fails_the_drill(monkeypatch):
    """Damage that its check does not find is a failure of the checks."""
    corpus = serving_corpus()
    dump_of(corpus)
    monkeypatch.setattr(drilling, "examine", lambda *args, **named: iter([Check("counts", True, "40 of 40 chunks")]))

    drill = game_day(corpus, "index_dropped")

    assert (drill.state, "was not seen" in drill.error) == ("failed", True)


def test_an_embedder_that_is_away_fails_the_drill_and_leaves_nothing():
    """Who cannot embed cannot rebuild; the drill says so."""
    corpus = serving_corpus(recovery={"strategy": "rebuild"})

    drill = game_day(corpus, "index_dropped", Watch(embedder=HashEmbedder(away=True)))

    assert (drill.state, drill.error) == ("failed", "the gateway cannot be asked")
    assert nothing_left(corpus)


def test_a_long_rebuild_is_done_in_pieces():
    """What takes longer than a piece is gone on with by the next one, and its times add up."""
    corpus = serving_corpus(documents=200, recovery={"strategy": "rebuild"})
    elapsed = iter(range(0, 100_000, 7))  # seconds: each look at the clock
    drill = begin(corpus, "index_dropped")

    done = run(drill, clock=lambda: float(next(elapsed)))

    assert done.state == "passed", done.error
    assert Task.objects.filter(kind=drills.KIND, key__startswith=f"{drill.pk}/").count() > 2
    assert done.tokens == 200


# --- ends before their time ------------------------------------------------------------------------------------------
def test_a_drill_that_is_called_off_stops_and_leaves_nothing():
    """Whoever runs it finds out with the next word of progress; nothing it made is kept."""
    corpus = serving_corpus(recovery={"strategy": "rebuild"})
    drill = begin(corpus, "index_dropped")

    def call_off(texts: object) -> None:
        drills.cancel_drill(drill=drill, reason="not today", actor="oncall", now=NOW)

    done = run(drill, Watch(embedder=HashEmbedder(before=call_off)))

    assert (done.state, done.error) == ("cancelled", "oncall called it off: not today")
    assert nothing_left(corpus)


def test_a_drill_whose_worker_died_fails_and_its_sandbox_is_dropped():
    """Who takes the piece up after a death ends the drill, and drops what the dead one made."""
    corpus = serving_corpus(recovery={"strategy": "rebuild"})
    drill = begin(corpus, "index_dropped")

    def die(texts: object) -> None:
        raise SystemExit  # as a process that is killed, nothing of it is caught

    with pytest.raises(SystemExit):
        run(drill, Watch(embedder=HashEmbedder(before=die)))
    assert any(one.purpose == Purpose.DRILL for one in kept_namespaces(corpus))
    watch = Watch()

    drilling.run_piece(drill.pk, 1, is_again=True, now=watch.now, clock=lambda: 0.0)

    drill.refresh_from_db()
    assert (drill.state, drill.error) == ("failed", drills.GONE)
    assert nothing_left(corpus)


def test_the_sweep_ends_drills_that_nobody_works_on():
    """A drill whose work is over or gone is ended by the clock, and its sandbox is dropped."""
    corpus = serving_corpus(recovery={"strategy": "rebuild"})
    drill = begin(corpus, "index_dropped")

    def die(texts: object) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        run(drill, Watch(embedder=HashEmbedder(before=die)))
    assert drills.sweep_drills(now=NOW) == 0
    Task.objects.filter(kind=drills.KIND).delete()

    swept = drills.sweep_drills(now=NOW)

    assert swept == 2
    assert RecoveryDrill.objects.get(pk=drill.pk).state == "failed"
    assert nothing_left(corpus)
    assert drills.sweep_drills(now=NOW) == 0
    assert Alert.objects.get().sentence.startswith("Whoever ran it was gone before it ended. ")


def test_a_drill_is_durable_work():
    """Asking for a drill puts its first piece among the work that is due, once."""
    corpus = serving_corpus()
    dump_of(corpus)

    drill = begin(corpus, "index_dropped")

    taken = work.take(owner="t")
    assert taken is not None
    assert (taken.kind, taken.arguments) == (drills.KIND, f'{{"drill":{drill.pk},"piece":1}}'.encode())
