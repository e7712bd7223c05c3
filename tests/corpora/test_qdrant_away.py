"""Game days of a corpus whose vectors are in Qdrant, while that is away: named, harmless, and cleared in the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.corpora import drills, vectors
from controlplane.corpora.drill_reports import read_report
from controlplane.corpora.dump_checks import trusted_keys
from controlplane.corpora.models import Sandbox
from tests.corpora.game_days import begin, kept_namespaces, nothing_left, run
from tests.corpora.qdrant_corpora import Ticking, held, live_of, qdrant_corpus, set_up, step_of
from tests.factories import NOW
from tests.qdrant_local import LocalQdrant

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]


@pytest.fixture(autouse=True)
def dumps(settings, tmp_path: Path) -> None:
    """A store of dumps of each test's own."""
    settings.DUMP_STORE = (tmp_path / "dumps").as_uri()
    settings.DUMP_COPY_STORE = ""


@pytest.fixture
def qdrant(monkeypatch: pytest.MonkeyPatch) -> LocalQdrant:
    return set_up(monkeypatch, LocalQdrant())


@pytest.mark.parametrize("step", ["prepare", "detect", "restore", "verify"])
def test_qdrant_that_goes_away_ends_the_drill_and_is_cleared_when_it_is_back(qdrant, step):
    """The drill fails and says of whom; what serves is untouched. No table of the sandbox is left, and its collections
    go with the first sweep that reaches Qdrant again: until then the sandbox counts as not cleared.
    """
    corpus = qdrant_corpus()
    live = live_of(corpus)
    before = held(qdrant, live)
    drill = begin(corpus, "vectors_corrupted")

    def go_away(asked: str) -> None:
        # Not before it has made something.
        if step_of(drill) == step and asked not in {"collection_exists", "create_collection"}:
            qdrant.is_away = True

    qdrant.before = go_away
    done = run(drill)
    swept_in_vain = drills.sweep_drills(now=NOW)
    sandbox = Sandbox.objects.get(drill=drill)
    qdrant.before, qdrant.is_away = lambda asked: None, False
    left = qdrant.vectors().namespaces()

    swept = drills.sweep_drills(now=NOW)

    assert done.state == "failed"
    assert done.error.startswith("Qdrant cannot be asked about 'tests_ns_")
    assert "connection refused" in done.error
    assert done.steps[-1]["name"] == step
    report, _ = read_report(drills.report_file(done), trusted=trusted_keys())
    assert (report["state"], report["error"]) == ("failed", done.error)
    assert (sandbox.cleared_at, swept_in_vain, swept) == (None, 0, 1)
    assert len(left) > 1
    assert nothing_left(corpus)
    assert qdrant.vectors().namespaces() == [live.pk]
    assert held(qdrant, live_of(corpus)) == before
    assert drills.sweep_drills(now=NOW) == 0


def test_qdrant_that_is_away_from_the_start_is_named_and_nothing_was_made(qdrant):
    """There is no room for what would be lost."""
    corpus = qdrant_corpus()
    live = live_of(corpus)
    drill = begin(corpus, "index_dropped")
    qdrant.is_away = True

    done = run(drill)

    qdrant.is_away = False
    assert (done.state, Sandbox.objects.count()) == ("failed", 0)
    assert done.error.startswith("Qdrant cannot be asked about 'tests_ns_")
    assert (kept_namespaces(corpus), qdrant.vectors().namespaces()) == ([live], [live.pk])


def test_qdrant_that_is_away_at_the_end_leaves_a_passed_drill_to_the_sweep(qdrant):
    """What was shown was shown; what is left is let go of when it can be."""
    corpus = qdrant_corpus()
    live = live_of(corpus)

    def go_away(asked: str) -> None:
        qdrant.is_away = qdrant.is_away or (asked == "delete_collection" and step_of(drill) == "switch")

    drill = begin(corpus, "index_dropped")
    qdrant.before = go_away
    done = run(drill)
    left = done.sandbox.cleared_at
    qdrant.before, qdrant.is_away = lambda asked: None, False

    swept = drills.sweep_drills(now=NOW)

    assert (done.state, left, swept) == ("passed", None, 1)
    assert qdrant.vectors().namespaces() == [live.pk]


def test_qdrant_that_nobody_is_told_of_any_more_holds_up_no_sweep(qdrant, monkeypatch):
    """A deployment that gave it up has nobody to wait for."""
    corpus = qdrant_corpus()
    drill = begin(corpus, "index_dropped")
    qdrant.before = lambda asked: monkeypatch.setattr(vectors, "_stores", {}) if step_of(drill) == "restore" else None

    done = run(drill)

    assert done.state == "failed"
    assert "no vector store 'qdrant' is set up here" in done.error
    assert done.sandbox.cleared_at is not None
    assert nothing_left(corpus)


def test_drill_that_is_called_off_stops_while_vectors_are_handed_over(qdrant):
    """It is told of each part of them, and not only of rows."""
    clock = Ticking(qdrant)
    corpus = qdrant_corpus()
    live = live_of(corpus)
    clock.drill = drill = begin(corpus, "index_dropped")

    def call_off(asked: str) -> None:
        clock.tick(asked)
        if asked == "upsert" and step_of(drill) == "restore":
            drills.cancel_drill(drill=drill, reason="not today", actor="oncall", now=NOW)

    qdrant.before = call_off
    done = run(drill, clock=clock)

    assert (done.state, done.error) == ("cancelled", "oncall called it off: not today")
    asked = clock.by_step["restore"]
    assert set(asked[asked.index("upsert") + 1 :]) == {"delete_collection"}
    assert qdrant.vectors().namespaces() == [live.pk]
