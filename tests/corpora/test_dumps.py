"""Dumps and restores, against a real database: the same rows, of one moment, and nothing that was deleted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import pytest
from django.db import connection, transaction

from controlplane.audit.models import AuditEvent
from controlplane.corpora import vectors
from controlplane.corpora.dump_checks import trusted_keys, verify_folder
from controlplane.corpora.dumping import copy_dump, make_dump, verify_dump
from controlplane.corpora.errors import (
    DumpDoesNotFit,
    DumpFailed,
    DumpRefused,
    NamespaceNotReady,
    VaultUnavailable,
)
from controlplane.corpora.models import Corpus, Document, Dump, Namespace, Pending, Purpose
from controlplane.corpora.restoring import CaughtUp, restore_dump, restore_heads
from controlplane.corpora.vault import Vault
from dataplane.retrieval.hashes import Vector
from launcher.postgres import wait_until
from tests.corpora.kept_corpora import make_corpus, make_namespace
from tests.corpora.kept_dumps import (
    AlteredVault,
    add_chunks,
    add_document,
    chunk_rows,
    directory_vault,
    fill,
    head_rows,
    index_names,
)
from tests.factories import NOW, make_deployment

pytestmark = pytest.mark.django_db(transaction=True)
T = TypeVar("T")


class BreakingVault(Vault):
    """A store that has room for so many objects."""

    def __init__(self, kept: Vault, *, after: int) -> None:
        super().__init__(kept.url, kept._objects)
        self._left = after

    def put(self, folder: str, name: str, data: bytes, *, retain_until: datetime) -> None:
        if not self._left:
            raise VaultUnavailable("the disk is full")
        self._left -= 1
        super().put(folder, name, data, retain_until=retain_until)


class KeptElsewhere:
    """A store of vectors that is a dictionary."""

    def __init__(self) -> None:
        self.kept: dict[int, dict[int, Vector]] = {}

    def create(self, namespace: Namespace) -> None:
        self.kept.setdefault(namespace.pk, {})

    def put(self, namespace: Namespace, vectors: Mapping[int, Vector]) -> None:
        self.kept.setdefault(namespace.pk, {}).update(vectors)

    def remove(self, namespace: Namespace, ids: Sequence[int]) -> None:
        for number in ids:
            self.kept[namespace.pk].pop(number, None)

    def fetch(self, namespace: Namespace, ids: Sequence[int]) -> Mapping[int, Vector]:
        there = self.kept[namespace.pk]
        return {number: there[number] for number in ids if number in there}

    def ids(self, namespace: Namespace, *, after: int, limit: int) -> Sequence[int]:
        return [number for number in sorted(self.kept[namespace.pk]) if number > after][:limit]

    def is_built(self, namespace: Namespace) -> bool:
        return True

    def drop(self, namespace: Namespace) -> None:
        self.kept.pop(namespace.pk, None)


def flipped(data: bytes) -> bytes:
    """The same with one bit of its last byte but ten another."""
    return data[:-10] + bytes([data[-10] ^ 4]) + data[-9:]


def replace_all(namespace: Namespace, corpus: Corpus) -> None:
    """Every document as one chunk, all in one batch."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"WITH rev AS (UPDATE corpora_namespace SET index_rev = index_rev + 1 WHERE id = %s RETURNING index_rev),"  # noqa: S608 - names of ours
            f" old AS (UPDATE {namespace.table} SET died = (SELECT index_rev FROM rev) WHERE died IS NULL RETURNING id)"
            " SELECT index_rev, (SELECT count(*) FROM old) FROM rev",
            [namespace.pk],
        )
        rev, _ = cursor.fetchone()
        cursor.execute(
            f"INSERT INTO {namespace.table} SELECT nextval('corpora_chunk_id'), id, source_key, source_rev, 0, %s, NULL"  # noqa: S608 - names of ours
            ", event_at, event_at, content, metadata, '', %s, array_fill(0.5, ARRAY[%s])::vector"
            " FROM corpora_document WHERE corpus_id = %s",
            [rev, namespace.model, namespace.dimensions, corpus.pk],
        )


def in_thread(act: Callable[[], T]) -> T:
    """What `act` gives, with a connection of the thread's own that is closed."""
    try:
        return act()
    finally:
        connection.close()


def wait_for_lock() -> None:
    """Return when somebody waits for the table of documents."""

    def is_waited_for() -> bool:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'corpora_document'::regclass"
            )
            return bool(cursor.fetchone()[0])

    assert wait_until(is_waited_for, alive=lambda: True, seconds=60)


@pytest.fixture
def kept(tmp_path: Path) -> Vault:
    return directory_vault(tmp_path / "dumps")


@pytest.fixture
def corpus() -> Corpus:
    make_deployment()
    return make_corpus()


@pytest.fixture
def namespace(corpus: Corpus) -> Namespace:
    return make_namespace(corpus, fill=False)


def test_what_is_restored_is_what_was_dumped_bit_by_bit(corpus: Corpus, namespace: Namespace, kept: Vault) -> None:
    """Ids, texts, metadata and vectors, under every index that a namespace has; and the record tells of the dump."""
    fill(corpus, namespace)
    told: list[tuple[int, int]] = []

    dump = make_dump(namespace=namespace, actor="tests", now=NOW, kept=kept, progress=lambda *at: told.append(at))
    other = make_namespace(corpus, is_ready=False, fill=False)
    restored = restore_dump(dump, namespace=other, now=NOW, kept=kept)

    assert chunk_rows(other) == chunk_rows(namespace)
    assert (dump.state, dump.rows, dump.index_rev) == ("complete", 11 + 6, 6)
    assert told[-1] == (17, 17)
    assert restored.rows == 11
    assert (restored.caught_up.removed, restored.caught_up.stale, restored.caught_up.missing) == (0, 0, 0)
    ends = {"pkey", "alive", "born", "died", "document", "near"}
    assert index_names(other) == {f"{other.table}_{end}" for end in ends}
    assert (other.index_rev, other.kept_rev, other.is_indexed) == (6, 6, True)
    assert AuditEvent.objects.get(action="corpus.dumped").data["root"] == dump.root_sha256


def test_dump_shows_one_moment_whatever_is_written_meanwhile(corpus: Corpus, namespace: Namespace, kept: Vault) -> None:
    """Every document is replaced, all in one batch each, again and again while dumps are made: in none of them are
    there chunks of two revisions of the index, or a head that its chunks are not of.
    """
    documents, over, wrong = 40, threading.Event(), []

    def write() -> None:
        rev = 1
        while not over.is_set():
            rev += 1
            with transaction.atomic():
                for number in range(documents):
                    add_document(corpus, f"page/{number:02}", rev=rev)
                replace_all(namespace, corpus)
        connection.close()

    for number in range(documents):
        add_document(corpus, f"page/{number:02}")
    replace_all(namespace, corpus)
    with ThreadPoolExecutor(max_workers=1) as writer:
        writing = writer.submit(write)
        try:
            for _ in range(5):
                dump = make_dump(namespace=namespace, actor="tests", now=NOW, kept=kept)
                other = make_namespace(corpus, is_ready=False, fill=False, purpose=Purpose.DRILL)
                restore_dump(dump, namespace=other, now=NOW, kept=kept)
                with connection.cursor() as cursor:
                    cursor.execute(
                        f"SELECT count(*), min(born), max(born), min(source_rev), max(source_rev) FROM {other.table}"  # noqa: S608 - a name of ours
                    )
                    count, *seen = cursor.fetchone()
                if count != documents or seen[0] != seen[1] or seen[2] != seen[3] or seen[1] != dump.index_rev:
                    wrong.append((count, *seen, dump.index_rev))
        finally:
            over.set()
            writing.result()

    assert wrong == []
    assert namespace.index_rev < Namespace.objects.get(pk=namespace.pk).index_rev


def test_what_is_uncommitted_is_waited_for_and_no_number_is_passed_over(
    corpus: Corpus, namespace: Namespace, kept: Vault
) -> None:
    """A change that got its number before another, and is committed after it, is in a dump that has the other: every
    change up to the high water is.
    """
    is_numbered, may_commit = threading.Event(), threading.Event()

    def accept_slowly() -> None:
        with transaction.atomic():
            add_document(corpus, "page/slow")
            is_numbered.set()
            may_commit.wait(60)
        connection.close()

    with ThreadPoolExecutor(max_workers=2) as others:
        slow = others.submit(accept_slowly)
        is_numbered.wait(60)
        add_document(corpus, "page/fast")
        dumping = others.submit(in_thread, lambda: make_dump(namespace=namespace, actor="tests", now=NOW, kept=kept))
        wait_for_lock()
        may_commit.set()
        slow.result()
        dump = dumping.result()

    seqs = list(corpus.documents.values_list("seq", flat=True))
    assert (dump.rows, dump.high_water_seq) == (2, max(seqs))


def test_delete_after_the_dump_stays_deleted_and_the_rest_catches_up(
    corpus: Corpus, namespace: Namespace, kept: Vault
) -> None:
    """Its chunks are not there, whoever restores; what was replaced or added since is searchable again when it has been
    indexed, and is pending until then.
    """
    heads = fill(corpus, namespace)
    dump = make_dump(namespace=namespace, actor="tests", now=NOW, kept=kept)
    add_document(corpus, heads[1].source_key, rev=2, is_deleted=True)
    add_document(corpus, heads[2].source_key, rev=2)
    add_document(corpus, "page/new")
    other = make_namespace(corpus, is_ready=False, fill=False)

    restored = restore_dump(dump, namespace=other, now=NOW, kept=kept)

    keys = {row[2] for row in chunk_rows(other)}
    assert heads[1].source_key not in keys
    assert restored.caught_up == CaughtUp(removed=2, unknown=0, stale=1, missing=1)
    pending = Pending.objects.filter(namespace=other)
    assert {one.document.source_key for one in pending} == {heads[2].source_key, "page/new"}
    assert {(one.first_seq, one.last_seq) for one in pending} == {(one.document.seq,) * 2 for one in pending}


def test_drill_is_told_what_differs_and_nothing_is_pending_for_it(
    corpus: Corpus, namespace: Namespace, kept: Vault
) -> None:
    """A sandbox is filled by nobody but its drill."""
    heads = fill(corpus, namespace)
    dump = make_dump(namespace=namespace, actor="tests", now=NOW, kept=kept)
    add_document(corpus, heads[2].source_key, rev=2)
    other = make_namespace(corpus, is_ready=False, fill=False, purpose=Purpose.DRILL)

    restored = restore_dump(dump, namespace=other, now=NOW, kept=kept)

    assert restored.caught_up.stale == 1
    assert not Pending.objects.filter(namespace=other).exists()


@pytest.mark.parametrize("stream", ["chunks-000000", "documents-000000", "manifest.json"])
def test_restore_refuses_a_dump_with_a_flipped_byte_and_changes_nothing(
    corpus: Corpus, namespace: Namespace, kept: Vault, stream: str
) -> None:
    """It names the block; what the namespace held is still there, and under its indexes. Documents are not read for
    chunks, nor chunks for documents: each refuses for its own.
    """
    fill(corpus, namespace)
    dump = make_dump(namespace=namespace, actor="tests", now=NOW, kept=kept)
    other = make_namespace(corpus, is_ready=False, fill=False)
    restore_dump(dump, namespace=other, now=NOW, kept=kept)
    before = chunk_rows(other), index_names(other)
    altered = AlteredVault(kept, lambda name, data: flipped(data) if name == stream else data)

    def restore() -> None:
        if stream.startswith("documents"):
            restore_heads(dump, corpus=corpus, kept=altered)
        else:
            restore_dump(dump, namespace=other, now=NOW, kept=altered)

    with pytest.raises(DumpRefused, match=rf"is not restored: {stream}: "):
        restore()
    found = verify_dump(dump, now=NOW, kept=altered)

    assert found.flaw is not None
    assert found.flaw.startswith(f"{stream}: ")
    assert Dump.objects.get(pk=dump.pk).verify_error == found.flaw
    assert (chunk_rows(other), index_names(other)) == before


def test_half_written_dump_is_none(corpus: Corpus, namespace: Namespace, kept: Vault) -> None:
    """The store goes away after the first block: the row says so, the folder has no manifest, nobody restores it."""
    fill(corpus, namespace)
    broken = BreakingVault(kept, after=1)

    with pytest.raises(DumpFailed, match="the disk is full"):
        make_dump(namespace=namespace, actor="tests", now=NOW, kept=broken)

    dump = Dump.objects.get()
    assert (dump.state, kept.names(dump.name)) == ("failed", {"documents-000000"})
    assert "the disk is full" in dump.error
    with pytest.raises(DumpRefused, match="is failed"):
        restore_dump(dump, namespace=make_namespace(corpus, is_ready=False, fill=False), now=NOW, kept=kept)
    found = verify_folder(kept, dump.name, trusted=trusted_keys())
    assert found.flaw == "manifest.json: it is not there: the dump was never finished"


def test_dump_of_another_model_or_chunker_is_not_restored(corpus: Corpus, namespace: Namespace, kept: Vault) -> None:
    """Vectors of two models are never compared, whoever mixes up two dumps."""
    fill(corpus, namespace)
    dump = make_dump(namespace=namespace, actor="tests", now=NOW, kept=kept)
    other = make_namespace(corpus, is_ready=False, fill=False)
    Namespace.objects.filter(pk=other.pk).update(model="another")

    with pytest.raises(DumpDoesNotFit, match=r"has model 'text-embedding-3-small', and .* has 'another'"):
        restore_dump(dump, namespace=Namespace.objects.get(pk=other.pk), now=NOW, kept=kept)


def test_nothing_is_restored_into_what_serves(corpus: Corpus, namespace: Namespace, kept: Vault) -> None:
    """It goes into another namespace, and somebody switches."""
    fill(corpus, namespace)
    dump = make_dump(namespace=namespace, actor="tests", now=NOW, kept=kept)
    Corpus.objects.filter(pk=corpus.pk).update(live_namespace=namespace)

    with pytest.raises(NamespaceNotReady, match="serves"):
        restore_dump(dump, namespace=namespace, now=NOW, kept=kept)


def test_lost_documents_come_back_as_they_were(corpus: Corpus, namespace: Namespace, kept: Vault) -> None:
    """With ids and numbers, tombstones too; what has a head meanwhile keeps it, newer or not."""
    fill(corpus, namespace)
    dump = make_dump(namespace=namespace, actor="tests", now=NOW, kept=kept)
    before = head_rows(corpus)
    Document.objects.all().delete()
    newer = add_document(corpus, "page/3", rev=9)

    restored = restore_heads(dump, corpus=corpus, kept=kept)

    assert restored == len(before) - 1
    after = head_rows(corpus)
    assert [row for row in after if row[1] != "page/3"] == [row for row in before if row[1] != "page/3"]
    assert Document.objects.get(source_key="page/3") == newer
    assert restore_heads(dump, corpus=corpus, kept=kept) == 0
    assert add_document(corpus, "page/after").seq > max(row[-1] for row in before)


def test_in_another_database_documents_are_found_by_their_keys(
    corpus: Corpus, namespace: Namespace, kept: Vault
) -> None:
    """There they have other ids, and the old ones are somebody else's. Chunks of what has no head are left out: nobody
    knows that it was not deleted.
    """
    heads = fill(corpus, namespace)
    dump = make_dump(namespace=namespace, actor="tests", now=NOW, kept=kept)
    Document.objects.all().delete()
    Document.objects.bulk_create(
        Document(
            id=head.pk,
            corpus=corpus,
            source_key=f"other/{head.pk}",
            source_rev=1,
            is_deleted=False,
            content="x",
            event_at=NOW,
            accepted_at=NOW,
            seq=head.seq,
        )
        for head in heads
    )
    unheaded = make_namespace(corpus, is_ready=False, fill=False, purpose=Purpose.DRILL)
    without = restore_dump(dump, namespace=unheaded, now=NOW, kept=kept)

    restore_heads(dump, corpus=corpus, kept=kept)
    other = make_namespace(corpus, is_ready=False, fill=False, purpose=Purpose.DRILL)
    restored = restore_dump(dump, namespace=other, now=NOW, kept=kept)

    assert (without.caught_up.unknown, chunk_rows(unheaded)) == (11, [])
    assert (restored.caught_up.unknown, restored.caught_up.stale) == (0, 0)
    new_ids = dict(corpus.documents.values_list("source_key", "id"))
    assert {(row[2], row[1]) for row in chunk_rows(other)} == {
        (head.source_key, new_ids[head.source_key]) for head in heads
    }


def test_vectors_that_lie_elsewhere_are_in_the_dump_and_come_back_there(corpus: Corpus, kept: Vault) -> None:
    """Bit by bit, and without those of documents that were deleted meanwhile; a vector that is lost fails the dump."""
    store = KeptElsewhere()
    vectors.register("elsewhere", lambda: store)
    namespace = make_namespace(corpus, fill=False)
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {namespace.table} ALTER COLUMN embedding DROP NOT NULL")
    Namespace.objects.filter(pk=namespace.pk).update(store="elsewhere")
    namespace.refresh_from_db()
    heads = [add_document(corpus, f"page/{number}") for number in range(3)]
    for head in heads:
        store.put(namespace, add_chunks(namespace, head))
    dump = make_dump(namespace=namespace, actor="tests", now=NOW, kept=kept)
    add_document(corpus, heads[0].source_key, rev=2, is_deleted=True)
    other = make_namespace(corpus, is_ready=False, fill=False, purpose=Purpose.DRILL)
    Namespace.objects.filter(pk=other.pk).update(store="elsewhere")

    restore_dump(dump, namespace=Namespace.objects.get(pk=other.pk), now=NOW, kept=kept)

    rows = chunk_rows(other)
    assert [row for row in chunk_rows(namespace) if row[2] != heads[0].source_key] == rows
    assert {row[-1] for row in rows} == {None}
    there, before = store.kept[other.pk], store.kept[namespace.pk]
    assert sorted(there) == [row[0] for row in rows]
    assert all(there[number].tobytes() == before[number].tobytes() for number in there)
    store.remove(namespace, [rows[0][0]])
    with pytest.raises(DumpFailed, match=f"1 vectors are not in store 'elsewhere', that of chunk {rows[0][0]} for one"):
        make_dump(namespace=namespace, actor="tests", now=NOW, kept=kept)


def test_dump_is_copied_and_the_copy_verified(
    corpus: Corpus, namespace: Namespace, kept: Vault, tmp_path: Path
) -> None:
    """The second store has every byte; a copy that is not what was written is no copy, and the dump is good all the
    same.
    """
    fill(corpus, namespace)
    second = directory_vault(tmp_path / "elsewhere")
    dump = make_dump(namespace=namespace, actor="tests", now=NOW, kept=kept)
    bad = AlteredVault(second, lambda name, data: flipped(data) if name == "chunks-000000" else data)

    failed = copy_dump(dump, now=NOW, kept=kept, second=bad)
    said = Dump.objects.get(pk=dump.pk).error
    copied = copy_dump(dump, now=NOW, kept=kept, second=second)

    assert (failed, copied) == (False, True)
    assert said.startswith("not copied: chunks-000000: ")
    dump = Dump.objects.get(pk=dump.pk)
    assert (dump.copied_to, dump.error) == (second.url, "")
    assert second.names(dump.name) == kept.names(dump.name)
    other = make_namespace(corpus, is_ready=False, fill=False)
    restore_dump(dump, namespace=other, now=NOW, kept=second)
    assert chunk_rows(other) == chunk_rows(namespace)
