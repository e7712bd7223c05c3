"""Several processes that capture, while writers write and backfills fill: all ends as the source has it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import count
from random import Random

import psycopg
import pytest
from django.db import connection
from django.utils import timezone

from controlplane.corpora.backfilling import backfill
from controlplane.corpora.capturing import capture_all
from controlplane.corpora.management.commands.capture import Capture, Tap
from controlplane.corpora.models import Corpus, Document, Source
from controlplane.corpora.sources import Address, connect
from tests.corpora.capture.conftest import ADDRESS
from tests.corpora_documents import SLUG
from tests.factories import NOW

pytestmark = pytest.mark.django_db(transaction=True)

KEYS = 40
WRITES = 150


@pytest.fixture
def corpus() -> Corpus:
    """One without a policy: nothing of capturing asks it."""
    return Corpus.objects.create(slug=SLUG, created_at=NOW)


def write(url: str, seed: int) -> None:
    """One application: changes, deletes and makes rows again, some of them in one transaction, some undone."""
    rng = Random(seed)
    with psycopg.connect(url, autocommit=True) as application:
        for number in range(WRITES):
            key, text = rng.randrange(KEYS), f"{seed}.{number}"
            with application.transaction(force_rollback=rng.random() < 0.1):
                if rng.random() < 0.3:
                    application.execute("DELETE FROM articles WHERE id = %s", [key])
                if rng.random() < 0.8:
                    application.execute(
                        "INSERT INTO articles (id, title) VALUES (%s, %s)"
                        " ON CONFLICT (id) DO UPDATE SET title = excluded.title",
                        [key, text],
                    )


def take(over: threading.Event) -> None:
    """One process that captures."""
    try:
        with connect(ADDRESS) as source:
            while not over.is_set():
                capture_all(source, ADDRESS, now=timezone.now)
            capture_all(source, ADDRESS, now=timezone.now)
    finally:
        connection.close()


def test_documents_end_as_the_source_has_them_whoever_did_what_at_a_time(corpus, source_url, writer):
    """Three writers, three backfills over three connections each and two processes that capture."""
    over = threading.Event()
    writer.execute("INSERT INTO articles (id, title) SELECT n, 'first' FROM generate_series(0, %s) n", [KEYS - 1])
    writer.execute("DELETE FROM ballast_outbox")  # from before there was an outbox, say

    with ThreadPoolExecutor() as pool:
        takers = [pool.submit(take, over) for _ in range(2)]
        others = [pool.submit(write, source_url, seed) for seed in range(3)]
        others += [pool.submit(backfill, lambda: connect(ADDRESS), SLUG, parallel=3, rows_at_once=7) for _ in range(3)]
        try:
            for other in others:
                other.result()
        finally:
            over.set()
        for taker in takers:
            taker.result()

    rows = dict(writer.execute("SELECT id::text, title FROM articles").fetchall())
    documents = Document.objects.filter(corpus=corpus, is_deleted=False)
    assert dict(documents.values_list("source_key", "content")) == rows
    assert writer.execute("SELECT count(*) FROM ballast_outbox").fetchone() == (0,)


def test_backfill_gives_way_to_a_writer_who_holds_a_row_for_long(corpus, source_url, writer):
    """It goes on with ever fewer rows until he is done, and tells every row once."""
    writer.execute("INSERT INTO articles (id, title) SELECT n, 'first' FROM generate_series(1, 20) n")
    writer.execute("DELETE FROM ballast_outbox")
    steps = []

    with psycopg.connect(source_url) as other, ThreadPoolExecutor() as pool:
        other.execute("UPDATE articles SET title = 'last' WHERE id = 12")
        filling = pool.submit(
            backfill, lambda: connect(ADDRESS), SLUG, rows_at_once=8, progress=lambda done, of: steps.append((done, of))
        )
        # The first eight are told by then, and some of the others.
        while not steps:
            writer.execute("SELECT count(*) FROM ballast_outbox")
        other.commit()
        filling.result()

    told = dict(writer.execute("SELECT source_key, content FROM ballast_outbox ORDER BY source_rev").fetchall())
    assert told == {str(number): "last" if number == 12 else "first" for number in range(1, 21)}
    assert steps[-1] == (20, 20)


def test_tap_of_a_source_that_is_away_writes_so_and_stops_when_told(corpus):
    """Its own row has the reason; nobody else's does."""
    address = Address(SLUG, "nowhere", "NO_SUCH_VARIABLE")
    tap = Tap(address, rng=Random(1), now=lambda: (tap.stop.set(), NOW)[1])

    tap.run()

    row = Source.objects.get(corpus=corpus)
    assert (row.name, row.checked_at) == ("nowhere", NOW)
    assert "'env:NO_SUCH_VARIABLE' is not set here" in row.error


def test_tap_takes_what_there_is_and_what_comes_until_it_is_told_to_stop(corpus, writer):
    """One row is there when it begins, another comes once it has found nothing more."""
    add, looks = "INSERT INTO articles (id, title) VALUES (%s, 'T')", count(1)

    def look() -> datetime:
        number = next(looks)
        if number == 3:  # after the first was taken, and nothing found
            writer.execute(add, [2])
        if number == 5:
            tap.stop.set()
        return NOW

    tap = Tap(ADDRESS, rng=Random(1), now=look, poll=0.01)
    writer.execute(add, [1])

    tap.run()

    assert set(Document.objects.values_list("source_key", flat=True)) == {"1", "2"}
    assert Source.objects.get(corpus=corpus).error == ""


def test_process_without_a_policy_has_no_taps(corpus):
    """And forgets the row of a source that none names."""
    Source.objects.create(corpus=corpus, name="old", checked_at=NOW)
    capture = Capture(make=lambda address: Tap(address, rng=Random(1)))

    capture.refresh()
    capture.close()

    assert capture.taps == {}
    assert not Source.objects.exists()
