"""Dumps restored as people ask for it: a namespace beside what serves, lost documents, and who asked."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from controlplane.audit.models import AuditEvent
from controlplane.corpora.dumping import make_dump
from controlplane.corpora.errors import DumpRefused, NamespaceNotReady, UnknownCorpus
from controlplane.corpora.models import Corpus, Document, Dump, Namespace, Pending, Purpose
from controlplane.corpora.namespaces import switch
from controlplane.corpora.restores import bring_back_documents, restore_beside
from tests.corpora.kept_corpora import crew, make_corpus, make_namespace, make_policy, policy_document
from tests.corpora.kept_dumps import add_document, chunk_rows, fill, head_rows
from tests.factories import NOW, SETUP, make_deployment

pytestmark = pytest.mark.django_db(transaction=True)
LATER = NOW + timedelta(hours=1)


@pytest.fixture
def dump(settings, tmp_path: Path) -> Dump:
    """Of a corpus that is served."""
    settings.DUMP_STORE, settings.DUMP_COPY_STORE = (tmp_path / "dumps").as_uri(), ""
    make_deployment()
    corpus = make_corpus()
    namespace = make_namespace(corpus, fill=False)
    fill(corpus, namespace)
    switch(corpus=corpus, namespace=namespace, reason="r", actor=SETUP, now=NOW)
    return make_dump(namespace=namespace, actor=SETUP, now=NOW)


class Clock:
    """Seconds that go on by 30 whenever they are asked for."""

    seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 30
        return self.seconds


def recorded() -> list[tuple[str, str, str]]:
    """What of restores is in the record."""
    events = AuditEvent.objects.filter(action__contains="restored").order_by("seq")
    return list(events.values_list("action", "actor", "target"))


def test_dump_is_restored_beside_what_serves_and_the_record_says_who_asked(dump: Dump) -> None:
    """It is ready, what changed since is marked, and what serves serves on; the record has the dump by its digest."""
    corpus = dump.corpus
    live, before = dump.namespace, chunk_rows(dump.namespace)
    changed = add_document(corpus, "page/1", rev=9)

    made = restore_beside(dump=dump, actor=crew.oncall, now=LATER, clock=Clock())

    assert (made.namespace.number, made.namespace.state, made.namespace.purpose) == (2, "ready", Purpose.SERVING)
    assert chunk_rows(made.namespace) == before
    assert made.restored.caught_up.stale == 1
    assert list(Pending.objects.values_list("namespace", "document")) == [(made.namespace.pk, changed.pk)]
    assert Corpus.objects.get(pk=corpus.pk).live_namespace == live
    event = AuditEvent.objects.get(action="corpus.restored")
    assert (event.actor, event.target) == ("oncall", "corpus:help-centre")
    assert event.data == {
        "dump": dump.name,
        "root": dump.root_sha256,
        "namespace": 2,
        "purpose": "serving",
        "rows": made.restored.rows,
    }
    assert event.at == made.namespace.built_at
    assert event.at > LATER


def test_what_is_restored_for_a_drill_can_never_serve(dump: Dump) -> None:
    """Nothing is marked as pending in it either."""
    made = restore_beside(dump=dump, purpose=Purpose.DRILL, actor="command", now=LATER)

    with pytest.raises(NamespaceNotReady, match="for drill"):
        switch(corpus=dump.corpus, namespace=made.namespace, reason="r", actor=crew.oncall, now=LATER)
    assert AuditEvent.objects.get(action="corpus.restored").data["purpose"] == "drill"


def test_lost_documents_are_brought_back_and_recorded_once(dump: Dump) -> None:
    """What is there is left alone; where nothing was lost there is nothing to record."""
    before = head_rows(dump.corpus)
    Document.objects.filter(source_key__in=["page/1", "page/gone"]).delete()

    count = bring_back_documents(dump=dump, actor=crew.oncall, now=LATER)
    again = bring_back_documents(dump=dump, actor=crew.oncall, now=LATER)

    assert (count, again) == (2, 0)
    assert head_rows(dump.corpus) == before
    assert recorded() == [("corpus.documents_restored", "oncall", "corpus:help-centre")]
    assert AuditEvent.objects.get(action="corpus.documents_restored").data["documents"] == 2


def test_flawed_dump_leaves_no_namespace_and_nothing_in_the_record(dump: Dump, tmp_path: Path) -> None:
    """One byte is another."""
    block = tmp_path / "dumps" / dump.name / "chunks-000000"
    block.chmod(0o644)
    data = block.read_bytes()
    block.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])

    with pytest.raises(DumpRefused, match="chunks-000000"):
        restore_beside(dump=dump, actor=crew.oncall, now=LATER)

    assert list(Namespace.objects.order_by("number").values_list("state", flat=True)) == ["ready", "dropped"]
    assert recorded() == []


def test_restore_that_somebody_interrupts_leaves_nothing_half_restored(dump: Dump) -> None:
    """At a shell, say."""

    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_beside(dump=dump, actor="command", now=LATER, progress=interrupt)

    assert list(Namespace.objects.order_by("number").values_list("state", flat=True)) == ["ready", "dropped"]
    assert recorded() == []


def test_corpus_that_nobody_promises_is_not_restored(dump: Dump) -> None:
    """Nobody knows by which model it would be read."""
    make_policy(policy_document(slug="wiki"))

    with pytest.raises(UnknownCorpus):
        restore_beside(dump=dump, actor=crew.oncall, now=LATER)

    assert Namespace.objects.filter(corpus=dump.corpus).count() == 1
