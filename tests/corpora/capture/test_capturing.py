"""Changes taken out of an outbox: once in effect, however often they come, and the odd one out alone."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import count

import psycopg
import pytest
from django.core.management import CommandError, call_command

from controlplane.corpora import capturing
from controlplane.corpora.accepting import Change, accept_changes
from controlplane.corpora.capturing import Captured, capture_all, capture_some, forget_others, note_failure
from controlplane.corpora.models import Corpus, Document, Source
from controlplane.corpora.sources import Address, SourceUnavailable, connect
from controlplane.deadletters.models import DeadLetter
from controlplane.work.handlers import Attempt, find
from dataplane.deadletters import Category
from tests.corpora.capture.conftest import ADDRESS, SOURCE, VARIABLE
from tests.corpora.kept_corpora import make_corpus
from tests.factories import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

ADD = "INSERT INTO articles (id, title, body, url) VALUES (%s, %s, %s, %s)"
BY_HAND = (
    "INSERT INTO ballast_outbox (corpus, source_key, source_rev, op, content, metadata) VALUES (%s, %s, %s, %s, %s, %s)"
)


@pytest.fixture
def corpus() -> Corpus:
    """One that is captured from the articles."""
    return make_corpus(sources={SOURCE: {"dsn_variable": VARIABLE}})


def later(start=NOW):
    """A clock that moves on a second with each look."""
    ticks = count()
    return lambda: start + timedelta(seconds=next(ticks))


def heads(corpus):
    return {
        row.source_key: None if row.is_deleted else (row.content, row.metadata)
        for row in Document.objects.filter(corpus=corpus)
    }


def attempt():
    return Attempt("00000000-0000-0000-0000-000000000001", capturing.TAKE_AGAIN, 1, "")


def test_documents_follow_their_rows(corpus, writer, tap, outbox):
    """What was written, changed and deleted at the source is so here, and the outbox is empty."""
    writer.execute(ADD, [1, "One", "Words", "/1"])
    writer.execute(ADD, [2, "Two", "", None])
    writer.execute("UPDATE articles SET body = 'Other words' WHERE id = 1")
    writer.execute("DELETE FROM articles WHERE id = 2")

    captured = capture_all(tap, ADDRESS, now=later())

    assert captured == Captured(rows=4, refused=0)
    assert heads(corpus) == {"1": ("One\n\nOther words", {"url": "/1"}), "2": None}
    assert outbox() == []


def test_batch_that_was_taken_in_and_not_deleted_comes_again_and_changes_nothing(corpus, writer, tap, outbox):
    """A process that dies between the two commits loses nothing and doubles nothing."""
    writer.execute(ADD, [1, "One", "", ""])
    writer.execute(
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'gone'; END $$;"
        "CREATE TRIGGER die BEFORE DELETE ON ballast_outbox EXECUTE FUNCTION die()"
    )

    with pytest.raises(psycopg.Error, match="gone"):
        capture_some(tap, ADDRESS, now=NOW)
    left, seq = outbox(), Document.objects.get(corpus=corpus).seq
    writer.execute("DROP TRIGGER die ON ballast_outbox")
    capture_all(tap, ADDRESS, now=later())

    assert left == [("1", "upsert", "One")]
    assert outbox() == []
    assert Document.objects.get(corpus=corpus).seq == seq


def test_rows_that_another_process_has_are_left_to_it(corpus, source_url, writer, tap):
    """Nobody waits for anybody: each takes what is free."""
    for number in (1, 2):
        writer.execute(ADD, [number, "T", "", ""])

    with psycopg.connect(source_url) as other:
        other.execute("SELECT FROM ballast_outbox ORDER BY id LIMIT 1 FOR UPDATE")
        captured = capture_some(tap, ADDRESS, now=NOW)

    assert captured.rows == 1
    assert set(heads(corpus)) == {"2"}


def test_later_revision_wins_whichever_is_taken_first(corpus, writer, tap):
    """Two processes may take the changes of one document in the wrong order."""
    for rev, content in ((9, "New"), (8, "Old")):
        writer.execute(BY_HAND, [ADDRESS.corpus, "1", rev, "upsert", content, "{}"])
        capture_all(tap, ADDRESS, now=later())

    assert heads(corpus) == {"1": ("New", {})}


@pytest.mark.parametrize(
    "odd",
    [
        ("k" * 501, 3, "upsert", "words", "{}"),
        (None, 3, "upsert", "words", "{}"),
        ("1", None, "upsert", "words", "{}"),
        ("1", 3, "merge", "words", "{}"),
        ("1", 3, "upsert", "words", "[]"),
        ("1", 3, "upsert", "words", json.dumps({"n": 10**400})),
    ],
)
def test_change_that_cannot_be_taken_in_is_buried_alone(corpus, writer, tap, outbox, odd):
    """What came before and after it in the same batch is taken in, and it stands in nobody's way again."""
    writer.execute(ADD, [7, "Before", "", ""])
    writer.execute(BY_HAND, [ADDRESS.corpus, *odd])
    writer.execute(ADD, [8, "After", "", ""])

    captured = capture_all(tap, ADDRESS, now=later())

    letter = DeadLetter.objects.get()
    assert captured == Captured(rows=3, refused=1)
    assert set(heads(corpus)) == {"7", "8"}
    assert outbox() == []
    assert (letter.kind, letter.name, letter.category) == ("capture", capturing.TAKE_AGAIN, Category.VALIDATION)


def test_buried_change_that_was_mended_is_taken_in_when_it_is_redriven(corpus, writer, tap):
    """Its letter holds the row as it was."""
    writer.execute(BY_HAND, [ADDRESS.corpus, "1", 3, "merge", "words", '{"url": "/1"}'])
    capture_all(tap, ADDRESS, now=later())
    told = json.loads(bytes(DeadLetter.objects.get().payload_body))

    told["row"]["op"] = "upsert"
    find(capturing.TAKE_AGAIN).run(told, attempt())

    assert heads(corpus) == {"1": ("words", {"url": "/1"})}


def test_document_that_is_too_large_for_a_letter_is_asked_for_again(corpus, writer, tap, outbox):
    """The letter names it, and redriving it has the source tell of it as it is by then."""
    writer.execute(ADD, [1, "Shorter by now", "", ""])
    writer.execute("DELETE FROM ballast_outbox")
    writer.execute(BY_HAND, [ADDRESS.corpus, "1", 1, "upsert", "long " * 300_000, "{}"])
    capture_all(tap, ADDRESS, now=later())

    find(capturing.TAKE_AGAIN).run(json.loads(bytes(DeadLetter.objects.get().payload_body)), attempt())

    assert outbox() == [("1", "upsert", "Shorter by now")]


def test_batch_ends_where_it_would_be_too_large(corpus, writer, tap):
    """Rows have whole documents in them; what is left over is taken next."""
    for rev in (1, 2, 3):
        writer.execute(BY_HAND, [ADDRESS.corpus, str(rev), rev, "upsert", "x" * 900_000, "{}"])
        writer.execute(BY_HAND, [ADDRESS.corpus, f"{rev}b", rev, "upsert", "y" * 5_000_000, "{}"])

    first = capture_some(tap, ADDRESS, now=NOW)

    assert first.rows == 4
    assert capture_some(tap, ADDRESS, now=NOW).rows == 2


def test_row_of_a_source_says_what_waits_there_and_since_when(corpus, writer, tap):
    """Of this corpus alone; and when nothing waits, when that was seen."""
    writer.execute(ADD, [1, "One", "", ""])
    writer.execute(BY_HAND, ["other", "1", 1, "upsert", "", "{}"])
    [(event_at,)] = writer.execute("SELECT min(event_at) FROM ballast_outbox").fetchall()

    capturing.note_standing(tap, ADDRESS, now=NOW)
    before = Source.objects.get(corpus=corpus)
    capture_all(tap, ADDRESS, now=later())
    after = Source.objects.get(corpus=corpus)

    assert (before.waiting, before.oldest_at, before.checked_at) == (1, event_at, NOW)
    assert (after.waiting, after.oldest_at, after.checked_at) == (0, None, NOW + timedelta(seconds=1))


def test_look_that_is_older_than_another_is_not_written(corpus, tap):
    """Of several processes the one that looked last is believed."""
    capturing.note_standing(tap, ADDRESS, now=NOW)

    capturing.note_standing(tap, ADDRESS, now=NOW - timedelta(seconds=5))

    assert Source.objects.get(corpus=corpus).checked_at == NOW


def test_source_that_is_away_says_why_and_grows_older(corpus, writer, tap):
    """When it was last looked at stays, so its lag grows; once it is back nothing is left of that."""
    capture_all(tap, ADDRESS, now=later())
    note_failure(ADDRESS, SourceUnavailable("nobody answers"), now=NOW + timedelta(seconds=60))
    away = Source.objects.get(corpus=corpus)
    capture_all(tap, ADDRESS, now=later(NOW + timedelta(seconds=90)))

    assert (away.error, away.checked_at) == ("nobody answers", NOW)
    assert Source.objects.get(corpus=corpus).error == ""


def test_source_that_no_policy_names_any_more_is_forgotten(corpus, tap):
    """Nobody looks there, so its row would only grow old."""
    capture_all(tap, ADDRESS, now=later())

    assert forget_others([ADDRESS]) == 0
    assert forget_others([]) == 1


@pytest.mark.parametrize(
    ("value", "fact"),
    [
        ("", "is not set here"),
        ("a-secret-that-is-no-address", "holds no address"),
        ("postgresql://ballast@127.0.0.1:1/none", "OperationalError"),
    ],
)
def test_source_that_cannot_be_reached_is_told_without_what_its_variable_holds(value, fact):
    """A policy may name the wrong variable, whose value is a secret of somebody else's."""
    with pytest.raises(SourceUnavailable, match=fact) as refused:
        connect(ADDRESS, environment={VARIABLE: value})

    assert "a-secret" not in str(refused.value)


def test_address_of_a_source_may_lie_in_a_file(source_url, tmp_path):
    """As secrets do elsewhere."""
    file = tmp_path / "dsn"
    file.write_text(f"{source_url}\n")

    with connect(Address(ADDRESS.corpus, SOURCE, f"file:{file}"), environment={}) as source:
        assert source.execute("SELECT count(*) FROM ballast_outbox").fetchone() == (0,)


def test_change_handed_in_by_hand_and_captured_change_meet_in_one_document(corpus, writer, tap):
    """The greater revision wins, wherever it came from."""
    accept_changes(corpus=corpus, changes=[Change("1", 10**9, False, "By hand", {}, NOW)], now=NOW)
    writer.execute(ADD, [1, "Captured", "", ""])

    capture_all(tap, ADDRESS, now=later())

    assert heads(corpus) == {"1": ("By hand", {})}


def test_command_fills_the_outbox_with_every_row_and_says_how_far_it_is(corpus, writer, tap, outbox, capsys):
    """A source that no policy names is refused by its name."""
    writer.execute("INSERT INTO articles (id, title) SELECT n, 'T' || n FROM generate_series(1, 4) n")
    writer.execute("DELETE FROM ballast_outbox")

    call_command("corpus_backfill", "--corpus", ADDRESS.corpus, "--source", SOURCE, "--parallel", "2")
    said = capsys.readouterr().out

    assert sorted(key for key, _, _ in outbox()) == ["1", "2", "3", "4"]
    assert "100 %: 4 of 4 rows" in said
    with pytest.raises(CommandError, match="names no source 'nowhere'"):
        call_command("corpus_backfill", "--corpus", ADDRESS.corpus, "--source", "nowhere")
