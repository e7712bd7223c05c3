"""Game days as people decide about them: who may begin one, confirm one on what serves, and call it off."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import IntegrityError, ProgrammingError, transaction

from controlplane.audit.models import AuditEvent
from controlplane.corpora import drills
from controlplane.corpora.drill_reports import ReportRefused, read_report
from controlplane.corpora.dump_checks import trusted_keys
from controlplane.corpora.errors import (
    DrillNotPossible,
    DrillOver,
    DrillUnderWay,
    SamePerson,
    UnknownScenario,
    WordsNotTyped,
)
from controlplane.corpora.models import Corpus, Dump, RecoveryDrill
from controlplane.corpora.policies import promised
from controlplane.corpora.promise import clauses, proven
from controlplane.corpora.records import DrillState
from tests.corpora.changes import searchable
from tests.corpora.game_days import Watch, begin, dump_of, game_day, kept_namespaces, run, serving_corpus, words
from tests.factories import NOW

pytestmark = pytest.mark.django_db(transaction=True)
LIVE = {"targets_live": True, "typed": "drill help-centre live"}


@pytest.fixture(autouse=True)
def dumps(settings, tmp_path: Path) -> None:
    """A store of dumps of each test's own."""
    settings.DUMP_STORE = (tmp_path / "dumps").as_uri()
    settings.DUMP_COPY_STORE = ""


@pytest.fixture
def corpus() -> Corpus:
    return serving_corpus(documents=12)


def test_one_drill_of_a_corpus_at_a_time(corpus):
    """While one has not ended, another is refused: by the operation, and by the database."""
    drill = begin(corpus, "index_dropped")

    with pytest.raises(DrillUnderWay, match=f"drill {drill.pk}"):
        begin(corpus, "wrong_model")
    with pytest.raises(IntegrityError), transaction.atomic():
        RecoveryDrill.objects.create(corpus=corpus, scenario="wrong_model", reason="r", actor="a", asked_at=NOW)


def test_a_scenario_without_its_dumps_is_refused(corpus):
    """What needs two dumps is refused with one, and says how many there are; an unknown scenario names the known."""
    dump_of(corpus)

    with pytest.raises(DrillNotPossible, match="needs 2 good dumps of corpus 'help-centre', and there are 1"):
        begin(corpus, "half_written_dump")
    with pytest.raises(UnknownScenario, match="index_dropped"):
        begin(corpus, "flood")


def test_a_drill_on_what_serves_needs_two_people_and_their_words(corpus):
    """It begins when somebody else has typed the words; neither wrong words nor the same person do."""
    dump_of(corpus)
    with pytest.raises(WordsNotTyped, match="drill help-centre live"):
        begin(corpus, "index_dropped", targets_live=True, typed="yes")
    drill = begin(corpus, "index_dropped", actor="one", **LIVE)
    assert drill.state == DrillState.WAITING

    with pytest.raises(SamePerson):
        drills.confirm_live(drill=drill, typed=LIVE["typed"], actor="one", now=NOW)
    with pytest.raises(WordsNotTyped):
        drills.confirm_live(drill=drill, typed="drill live", actor="two", now=NOW)
    confirmed = drills.confirm_live(drill=drill, typed=LIVE["typed"], actor="two", now=NOW)

    assert (confirmed.state, confirmed.confirmed_by) == (DrillState.QUEUED, "two")


@pytest.mark.parametrize("confirmed", [{}, {"confirmed_by": "one", "confirmed_at": NOW}])
def test_the_database_wants_two_people_too(corpus, confirmed):
    """A drill on what serves cannot stand there as queued unless another person than its actor confirmed it."""
    drill = begin(corpus, "index_dropped", actor="one", **LIVE)

    with pytest.raises(IntegrityError, match="live_drill_has_two_people"), transaction.atomic():
        RecoveryDrill.objects.filter(pk=drill.pk).update(state=DrillState.QUEUED, **confirmed)


def test_a_drill_on_what_serves_switches_there_and_back(corpus):
    """A recovered namespace serves for a moment, and then what served before, with every chunk as it was."""
    dump_of(corpus)
    live, before = corpus.live_namespace, searchable(corpus.live_namespace)
    drill = begin(corpus, "index_dropped", actor="one", **LIVE)
    drills.confirm_live(drill=drill, typed=LIVE["typed"], actor="two", now=NOW)

    done = run(drill)

    assert done.state == DrillState.PASSED, done.error
    corpus.refresh_from_db()
    assert (corpus.live_namespace, searchable(live)) == (live, before)
    switched = AuditEvent.objects.filter(action="corpus.switched", data__reason=f"drill {drill.pk}").order_by("seq")
    assert [event.data["after"] for event in switched] == [done.namespace_id, live.pk]
    assert kept_namespaces(corpus) == [live]
    assert done.report["people"] == {"asked_by": "one", "confirmed_by": "two", "reason": "a game day"}


def test_a_live_drill_that_dies_between_the_switches_leaves_what_served_before(corpus, monkeypatch):
    """Whoever sweeps has the corpus served from its own namespace again, before the drill's is dropped."""
    dump_of(corpus)
    live = corpus.live_namespace
    drill = begin(corpus, "index_dropped", actor="one", **LIVE)
    drills.confirm_live(drill=drill, typed=LIVE["typed"], actor="two", now=NOW)

    def die(log: object, seconds: float) -> None:
        raise SystemExit

    monkeypatch.setattr("controlplane.corpora.drilling.switch_sandbox", lambda sandbox, namespace: die(None, 0))
    with pytest.raises(SystemExit):
        run(drill)
    corpus.refresh_from_db()
    assert corpus.live_namespace != live

    drills.end_failed(drill, error=drills.GONE, now=NOW)
    drills.sweep_drills(now=NOW)

    corpus.refresh_from_db()
    assert corpus.live_namespace == live
    assert kept_namespaces(corpus) == [live]


def test_a_drill_is_called_off_until_it_has_ended(corpus):
    """Queued it ends at once; ended, it is refused, and the database keeps it as it ended."""
    drill = begin(corpus, "index_dropped")

    done = drills.cancel_drill(drill=drill, reason="not today", actor="oncall", now=NOW)

    assert done.state == DrillState.CANCELLED
    with pytest.raises(DrillOver):
        drills.cancel_drill(drill=drill, reason="again", actor="oncall", now=NOW)
    with pytest.raises(ProgrammingError, match="Cannot update or delete"), transaction.atomic():
        RecoveryDrill.objects.filter(pk=drill.pk).update(error="")


def test_its_report_is_signed_and_one_changed_byte_is_found(corpus, tmp_path):
    """The downloaded file verifies offline; with one byte changed it is refused, wherever that byte is."""
    dump = dump_of(corpus)
    drill = game_day(corpus, "index_dropped")
    data = drills.report_file(drill)

    report, digest = read_report(data, trusted=trusted_keys())

    assert report == json.loads(json.dumps(drill.report))
    assert digest == drill.report_signature["digest"]
    assert report["dump"]["root_sha256"] == dump.root_sha256
    place = data.index(b"index_dropped")
    with pytest.raises(ReportRefused):
        read_report(data[:place] + b"I" + data[place + 1 :], trusted=trusted_keys())
    out, path = StringIO(), tmp_path / "report.json"
    path.write_bytes(data)
    call_command("corpus_drill_verify", str(path), stdout=out)
    assert digest in out.getvalue()
    path.write_bytes(data.replace(b"passed", b"Passed"))
    with pytest.raises(CommandError, match="key"):
        call_command("corpus_drill_verify", str(path))


def test_a_drill_is_begun_by_command(corpus):
    """The command begins one in a sandbox, and says why it cannot."""
    dump_of(corpus)
    out = StringIO()

    call_command("corpus_drill", corpus="help-centre", scenario="index_dropped", actor="oncall", stdout=out)

    drill = RecoveryDrill.objects.get()
    assert (drill.state, drill.actor) == (DrillState.QUEUED, "oncall")
    assert f"drill {drill.pk}" in out.getvalue()
    with pytest.raises(CommandError, match="has not ended"):
        call_command("corpus_drill", corpus="help-centre", scenario="index_dropped")


def test_the_clock_begins_the_next_scenario_in_turn_once_a_quarter(corpus):
    """After a quarter without a drill the clock begins one, of the scenario after its last."""
    assert drills.ask_due(now=NOW + timedelta(days=90)) == 0

    assert drills.ask_due(now=NOW + timedelta(days=92)) == 1
    first = RecoveryDrill.objects.get()
    drills.cancel_drill(drill=first, reason="r", actor="oncall", now=NOW + timedelta(days=92))
    assert drills.ask_due(now=NOW + timedelta(days=93)) == 0
    assert drills.ask_due(now=NOW + timedelta(days=184)) == 1

    assert [one.scenario for one in RecoveryDrill.objects.order_by("pk")] == ["index_dropped", "vectors_corrupted"]
    assert first.actor == "ballast"


def test_a_contractual_corpus_is_drilled_once_a_month():
    """The strictest tier is asked more often."""
    serving_corpus(documents=3, recovery={"tier": "contractual"})

    assert drills.ask_due(now=NOW + timedelta(days=29)) == 0
    assert drills.ask_due(now=NOW + timedelta(days=31)) == 1


# --- what is promised -------------------------------------------------------------------------------------------------
def test_a_promise_is_a_guess_until_it_was_measured_and_red_when_it_breaks(corpus):
    """Before any drill nobody knows; after one the prediction stands beside the promise, and an old dump is red."""
    what, later = promised("help-centre"), NOW + timedelta(hours=2)
    before = {one.name: one.tone for one in clauses(corpus, what, now=later)}
    dump_of(corpus)

    drill = game_day(corpus, "index_dropped")

    after = {one.name: one for one in clauses(corpus, what, now=later)}
    assert before == {"rto": "watch", "reembed": "watch", "rpo": "bad", "proven": "watch"}
    assert {name: one.tone for name, one in after.items()} == {
        "rto": "good",
        "reembed": "watch",
        "rpo": "bad",
        "drilled": "good",
        "proven": "good",
    }
    assert "2 h old; 1 h is promised" in after["rpo"].words
    assert proven(corpus) == drill


@pytest.mark.parametrize(
    ("dumps", "at", "tone", "said"),
    [
        ((), 50, "watch", "There is no good dump"),
        (((0, True),), 50, "good", "The newest verified dump is 50 min old"),
        (((0, False),), 50, "watch", "The newest dump, which nobody verified yet, is 50 min old"),
        (((0, True), (40, False)), 50, "good", "The newest verified dump is 50 min old"),
        (((0, True), (40, False)), 90, "watch", "The newest dump, which nobody verified yet, is 50 min old"),
        (((0, True),), 90, "bad", "The newest dump is 1 h 30 min old"),
        (((0, False),), 90, "bad", "The newest dump, which nobody verified yet, is 1 h 30 min old"),
        ((), 90, "bad", "There is no good dump"),
    ],
)
def test_a_dump_as_new_as_promised_keeps_the_promise_and_is_sure_once_it_was_verified(corpus, dumps, at, tone, said):
    """An old one that was verified takes nothing from a new one; before the first is due, nothing is late."""
    for minutes, is_verified in dumps:
        made = NOW + timedelta(minutes=minutes)
        Dump.objects.create(
            corpus=corpus,
            namespace=corpus.live_namespace,
            name=f"d-{minutes}",
            state="complete",
            actor="ballast",
            began_at=made,
            as_of=made,
            verified_at=made if is_verified else None,
        )

    found = {one.name: one for one in clauses(corpus, promised("help-centre"), now=NOW + timedelta(minutes=at))}

    assert (found["rpo"].tone, found["rpo"].words.partition(";")[0]) == (tone, said)


def test_a_replica_proves_no_restore():
    """A drill in which nothing was restored or rebuilt is not the last proven restore."""
    corpus = serving_corpus(documents=6, recovery={"strategy": "replicate", "dump_hours": 0})

    drill = game_day(corpus, "index_dropped", Watch())

    assert drill.state == DrillState.PASSED, drill.error
    assert "was there" in words(drill)["restore"]
    assert proven(corpus) is None
    found = {one.name: one for one in clauses(corpus, promised("help-centre"), now=NOW + timedelta(days=200))}
    assert (found["proven"].tone, found["proven"].is_kept) == ("watch", None)


def test_a_second_drill_is_predicted_by_the_first(corpus):
    """What was measured stands in the next one before it begins."""
    dump_of(corpus)
    first = game_day(corpus, "index_dropped")

    second = begin(corpus, "index_dropped")

    assert first.predicted_seconds is None
    assert second.predicted_seconds is not None
