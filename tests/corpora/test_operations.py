"""On-call's own hand on a corpus: pause, pin, rebuild, switch, drop, reconcile; each with its way back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from controlplane.audit.models import AuditEvent
from controlplane.corpora import operations
from controlplane.corpora.errors import AlreadyBuilding, NamespaceNotReady, SnapshotGone, UnknownCorpus
from controlplane.corpora.models import Corpus, Document, Namespace, NamespaceState, Pending, Purpose
from controlplane.work import handlers
from controlplane.work.models import Task
from dataplane.retrieval.tables import Snapshot
from tests.corpora.kept_corpora import crew, make_corpus, make_namespace, make_policy, policy_document
from tests.factories import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deployment")]

WHY: dict[str, Any] = {"reason": "it burns", "now": NOW}


def make_live(corpus: Corpus, **fields: int) -> Namespace:
    """A namespace that serves, with these revisions."""
    namespace = make_namespace(corpus)
    Namespace.objects.filter(pk=namespace.pk).update(**fields)
    namespace.refresh_from_db()
    operations.switch(namespace=namespace, actor=crew.oncall, **WHY)
    corpus.refresh_from_db()
    return namespace


def make_document(corpus: Corpus, number: int, *, is_deleted: bool = False) -> Document:
    return Document.objects.create(
        corpus=corpus,
        source_key=f"faq/{number}",
        source_rev=1,
        is_deleted=is_deleted,
        event_at=NOW,
        accepted_at=NOW,
        seq=number,
    )


def actions(corpus: Corpus) -> list[str]:
    return list(AuditEvent.objects.filter(target=corpus.audit_name).order_by("seq").values_list("action", flat=True))


@pytest.fixture
def reconciled() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Somebody who would do work of the kind; called, it tells with which arguments there is some."""
    before = handlers._handlers.get(operations.RECONCILE)
    handlers.register(handlers.Handler(operations.RECONCILE, lambda arguments, attempt: None))
    yield lambda: [json.loads(bytes(task.arguments)) for task in Task.objects.filter(kind=operations.RECONCILE)]
    handlers._handlers.pop(operations.RECONCILE)
    if before is not None:
        handlers.register(before)


def test_queries_are_paused_and_resumed_once() -> None:
    """Who did it, when and why stands in the row; a second time changes nothing and leaves no trace."""
    corpus = make_corpus()

    paused = [operations.pause_queries(corpus=corpus, actor=crew.oncall, **WHY) for _ in range(2)]
    held = Corpus.objects.get(pk=corpus.pk)
    resumed = [operations.resume_queries(corpus=corpus, actor=crew.admin, **WHY) for _ in range(2)]

    assert (paused, resumed) == ([True, False], [True, False])
    assert (held.paused_at, held.paused_by, held.paused_reason) == (NOW, "oncall", "it burns")
    assert Corpus.objects.get(pk=corpus.pk).paused_at is None
    assert actions(corpus) == ["corpus.paused", "corpus.resumed"]


def test_newest_snapshot_is_pinned_unless_told_which() -> None:
    """Another pin takes the place of the first; unpinned, the newest state is read again."""
    corpus = make_corpus()
    live = make_live(corpus, index_rev=7, kept_rev=3)

    newest = operations.pin_snapshot(corpus=corpus, actor=crew.oncall, **WHY)
    older = operations.pin_snapshot(corpus=corpus, snapshot=Snapshot(live.pk, 3), actor=crew.oncall, **WHY)
    held = Corpus.objects.get(pk=corpus.pk)
    unpinned = [operations.unpin(corpus=corpus, actor=crew.oncall, **WHY) for _ in range(2)]

    assert (newest, older) == (Snapshot(live.pk, 7), Snapshot(live.pk, 3))
    assert (held.pinned, held.pinned_by, held.pinned_reason) == (older, "oncall", "it burns")
    assert unpinned == [True, False]
    assert Corpus.objects.get(pk=corpus.pk).pinned is None
    assert actions(corpus)[1:] == ["corpus.pinned", "corpus.pinned", "corpus.unpinned"]


@pytest.mark.parametrize(
    ("revision", "fact"), [(2, "keeps revisions 3 to 7, not 2"), (8, "keeps revisions 3 to 7, not 8")]
)
def test_snapshot_that_is_not_kept_cannot_be_pinned(revision: int, fact: str) -> None:
    """Neither one that was collected, nor one that never was."""
    corpus = make_corpus()
    live = make_live(corpus, index_rev=7, kept_rev=3)

    with pytest.raises(SnapshotGone, match=fact):
        operations.pin_snapshot(corpus=corpus, snapshot=Snapshot(live.pk, revision), actor=crew.oncall, **WHY)

    assert Corpus.objects.get(pk=corpus.pk).pinned is None


def test_nothing_is_pinned_to_what_serves_nobody() -> None:
    """Not before there is anything, nor to a drill's sandbox, another corpus' namespace, or one that was dropped."""
    make_policy(policy_document() | policy_document(slug="wiki"))
    corpus, other = Corpus.objects.order_by("slug")
    drill, foreign = make_namespace(corpus, purpose=Purpose.DRILL), make_namespace(other)
    dropped = make_namespace(corpus)
    operations.drop_retired(namespace=dropped, actor=crew.oncall, **WHY)

    with pytest.raises(NamespaceNotReady, match="nothing of help-centre is searchable yet"):
        operations.pin_snapshot(corpus=corpus, actor=crew.oncall, **WHY)
    with pytest.raises(NamespaceNotReady, match="is ready to serve, for drill"):
        operations.pin_snapshot(corpus=corpus, snapshot=drill.snapshot, actor=crew.oncall, **WHY)
    for gone in (foreign, dropped):
        with pytest.raises(SnapshotGone, match="no namespace of help-centre that is kept"):
            operations.pin_snapshot(corpus=corpus, snapshot=gone.snapshot, actor=crew.oncall, **WHY)


def test_rebuild_makes_a_namespace_for_every_document_beside_what_serves() -> None:
    """By the policy in force now; what is deleted is not among them, and nobody is served from it yet."""
    corpus = make_corpus()
    live = make_live(corpus)
    wanted = [make_document(corpus, number) for number in (1, 2)]
    make_document(corpus, 3, is_deleted=True)
    make_policy(policy_document(embedding={"dimensions": 16}))

    made = operations.rebuild(corpus=corpus, actor=crew.oncall, **WHY)

    assert (made.number, made.state, made.dimensions) == (2, NamespaceState.BUILDING, 16)
    assert set(Pending.objects.filter(namespace=made).values_list("document", flat=True)) == {one.pk for one in wanted}
    assert Corpus.objects.get(pk=corpus.pk).live_namespace == live
    assert actions(corpus)[-1] == "corpus.rebuild_begun"


def test_one_namespace_is_built_at_a_time() -> None:
    """Dropped, it is out of the way of the next one; a drill's is in nobody's way."""
    corpus = make_corpus()
    make_namespace(corpus, is_ready=False, purpose=Purpose.DRILL)
    first = operations.rebuild(corpus=corpus, actor=crew.oncall, **WHY)

    with pytest.raises(AlreadyBuilding, match="namespace 2 is being built; wait until it is ready, or drop it first"):
        operations.rebuild(corpus=corpus, actor=crew.oncall, **WHY)
    dropped = [operations.drop_retired(namespace=first, actor=crew.oncall, **WHY) for _ in range(2)]
    second = operations.rebuild(corpus=corpus, actor=crew.oncall, **WHY)

    assert (dropped, second.number) == ([True, False], 3)


def test_corpus_that_nobody_promises_is_not_rebuilt() -> None:
    """There is no model to embed it by."""
    corpus = make_corpus()
    make_policy(policy_document(slug="wiki"))

    with pytest.raises(UnknownCorpus, match="names no corpus 'help-centre'"):
        operations.rebuild(corpus=corpus, actor=crew.oncall, **WHY)


def test_what_serves_or_is_pinned_is_not_dropped() -> None:
    """Whoever wants it gone switches and unpins first."""
    corpus = make_corpus()
    first = make_live(corpus)
    operations.pin_snapshot(corpus=corpus, actor=crew.oncall, **WHY)
    second = make_live(corpus)

    for namespace in (first, second):
        with pytest.raises(NamespaceNotReady, match="serves now; switch to another one first"):
            operations.drop_retired(namespace=namespace, actor=crew.oncall, **WHY)

    assert Namespace.objects.filter(state=NamespaceState.DROPPED).count() == 0


def test_comparison_is_handed_in_as_work(reconciled: Callable[[], list[dict[str, Any]]]) -> None:
    """With who asked for it, and with leave to repair; before anything is searchable there is nothing to compare."""
    corpus = make_corpus()
    with pytest.raises(NamespaceNotReady, match="nothing to compare"):
        operations.reconcile_now(corpus=corpus, actor=crew.oncall, **WHY)
    live = make_live(corpus)

    operations.reconcile_now(corpus=corpus, actor=crew.oncall, **WHY)

    assert reconciled() == [
        {"corpus": "help-centre", "namespace": live.pk, "source": "", "actor": "oncall", "repair": True}
    ]
    assert actions(corpus)[-1] == "corpus.reconcile_asked"
