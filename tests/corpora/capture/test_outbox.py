"""The outbox that we print: what it tells of each change, and that no order of commits misleads it."""

from __future__ import annotations

import threading

import psycopg
import pytest
from django.core.management import CommandError, call_command
from psycopg.errors import LockNotAvailable, RaiseException

from controlplane.corpora.outbox import InvalidOutbox, Outbox, outbox_sql
from tests.corpora.capture.conftest import OUTBOX
from tests.corpora_documents import SLUG

BACKFILL = f'SELECT "ballast_backfill_{SLUG}"(%s, %s)'
ADD = "INSERT INTO articles (id, title, body, url) VALUES (%s, %s, %s, %s)"


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("INSERT INTO articles (id, title, url) VALUES (2, 'Two', '/2')", [("2", "upsert", "Two")]),
        ("UPDATE articles SET body = 'Again' WHERE id = 1", [("1", "upsert", "One\n\nAgain")]),
        ("UPDATE articles SET url = '/one' WHERE id = 1", [("1", "upsert", "One\n\nWords")]),
        ("UPDATE articles SET views = views + 1", []),
        ("UPDATE articles SET id = 7 WHERE id = 1", [("1", "delete", ""), ("7", "upsert", "One\n\nWords")]),
        ("DELETE FROM articles", [("1", "delete", "")]),
        ("TRUNCATE articles", [("1", "delete", "")]),
    ],
)
def test_every_kind_of_change_is_told_as_what_it_makes_of_documents(writer, outbox, statement, told):
    """A row is a document, a key that changes is one less and one more, and what nobody indexes is no change."""
    writer.execute(ADD, [1, "One", "Words", "/1"])
    writer.execute("DELETE FROM ballast_outbox")

    writer.execute(statement)

    assert outbox() == told


def test_change_that_is_rolled_back_was_never_told(writer, outbox):
    """The outbox is written in the transaction of the change itself."""
    with writer.transaction(force_rollback=True):
        writer.execute(ADD, [1, "One", "", ""])

    assert outbox() == []


def test_printed_sql_may_run_again_over_what_it_made(writer, outbox):
    """What waits stays, and each change is still told once."""
    writer.execute(ADD, [1, "One", "", ""])

    writer.execute(outbox_sql(OUTBOX))
    writer.execute(ADD, [2, "Two", "", ""])

    assert outbox() == [("1", "upsert", "One"), ("2", "upsert", "Two")]


def test_names_and_words_are_quoted_whatever_is_in_them(writer, outbox):
    """A table, a column and a prefix with capitals, spaces and quotation marks are only names."""
    writer.execute("""CREATE TABLE "My ""own"" table" ("The Key" text PRIMARY KEY, "select" text, t int)""")
    odd = Outbox(
        corpus="other",
        table='My "own" table',
        key="The Key",
        content=["select"],
        metadata=["t"],
        prefix="o'ne\\/",
    )

    writer.execute(outbox_sql(odd))
    writer.execute("""INSERT INTO "My ""own"" table" VALUES ('ä', 'words', 3)""")
    [(reached,)] = writer.execute('SELECT "ballast_backfill_other"(NULL, 10)').fetchall()

    assert outbox() == [("o'ne\\/ä", "upsert", "words")] * 2
    assert reached == "ä"


@pytest.mark.parametrize("index", ["", "CREATE UNIQUE INDEX ON loose (id) WHERE id > 0", "CREATE INDEX ON loose (id)"])
def test_table_whose_key_two_rows_may_share_gets_no_outbox(writer, index):
    """Else nobody could say which of two revisions is the later."""
    writer.execute(f"CREATE TABLE loose (id int, title text); {index}")

    with pytest.raises(RaiseException, match="has no unique index of its own"):
        writer.execute(outbox_sql(Outbox(corpus="loose", table="loose", key="id", content=["title"])))


def test_second_table_cannot_take_over_the_outbox_of_a_first(writer, outbox):
    """The first one's writers would be told that their rows are malformed."""
    writer.execute("CREATE TABLE others (id int PRIMARY KEY, title text)")

    with pytest.raises(RaiseException, match="told of another table already"):
        writer.execute(outbox_sql(Outbox(corpus=SLUG, table="others", key="id", content=["title"])))
    writer.execute("ROLLBACK")
    writer.execute(ADD, [1, "One", "", ""])

    assert outbox() == [("1", "upsert", "One")]


def test_backfill_waits_for_a_writer_and_tells_what_he_wrote(source_url, writer, outbox):
    """The greater revision is the later state of the row: here the backfill's, with the writer's own words."""
    writer.execute(ADD, [1, "Old", "", ""])
    writer.execute("DELETE FROM ballast_outbox")

    with psycopg.connect(source_url) as other:
        other.execute("UPDATE articles SET title = 'New'")
        with pytest.raises(LockNotAvailable):
            writer.execute(BACKFILL, [None, 10])
        other.commit()
    writer.execute(BACKFILL, [None, 10])

    assert outbox() == [("1", "upsert", "New"), ("1", "upsert", "New")]


def test_change_that_waits_for_a_backfill_is_the_later_one(source_url, writer, outbox):
    """A writer who comes while rows are being filled in draws his revision once the backfill has committed."""
    writer.execute(ADD, [1, "Old", "", ""])
    writer.execute("DELETE FROM ballast_outbox")
    thread = threading.Thread(target=lambda: writer.execute("UPDATE articles SET title = 'New'"))

    with psycopg.connect(source_url) as filler:
        filler.execute(BACKFILL, [None, 10])
        thread.start()
        filler.commit()
    thread.join()

    assert outbox() == [("1", "upsert", "Old"), ("1", "upsert", "New")]


def test_backfill_goes_through_all_rows_in_steps(writer, outbox):
    """Each step says how far it came; the last, that there is nothing left."""
    writer.execute("INSERT INTO articles (id, title) SELECT n, 'T' || n FROM generate_series(1, 5) n")
    writer.execute("DELETE FROM ballast_outbox")

    steps, after = [], None
    while (row := writer.execute(BACKFILL, [after, 2]).fetchone()) and row[0] is not None:
        after = row[0]
        steps.append(after)

    assert steps == ["2", "4", "5"]
    assert [key for key, _, _ in outbox()] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(("stands", "moves"), [(5, False), (3, True)])
def test_clock_that_was_restored_from_a_copy_is_moved_past_what_is_known(writer, stands, moves):
    """One that has counted so far already is left alone."""
    writer.execute("SELECT setval('ballast_rev', %s)", [stands])

    writer.execute("SELECT ballast_raise_rev(5)")
    [(drawn,)] = writer.execute("SELECT nextval('ballast_rev')").fetchall()

    assert drawn == (1_000_006 if moves else 6)


@pytest.mark.parametrize(
    ("asked", "fact"),
    [
        ({"corpus": "Not a slug"}, "is no name of a corpus"),
        ({"content": ()}, "at least one column"),
        ({"table": "a.b.c"}, "is no table"),
        ({"key": "id$body$"}, "no name of a table"),
        ({"prefix": "a\nb"}, "the prefix"),
    ],
)
def test_outbox_that_cannot_be_is_refused_by_what_is_wrong(asked, fact):
    """Before anybody runs it."""
    usual = {"corpus": SLUG, "table": "articles", "key": "id", "content": ("title",)}

    with pytest.raises(InvalidOutbox, match=fact):
        Outbox(**usual | asked)


def test_command_prints_the_sql_of_what_it_is_told(capsys):
    """It connects to nothing, and refuses like everybody else."""
    told = ("--corpus", SLUG, "--table", "articles", "--key", "id", "--content", "title", "--content", "body")

    call_command("corpus_outbox_sql", *told, "--metadata", "url")
    printed = capsys.readouterr().out

    assert printed == outbox_sql(OUTBOX)
    with pytest.raises(CommandError, match="is no table"):
        call_command("corpus_outbox_sql", *told, "--table", "a.b.c")
