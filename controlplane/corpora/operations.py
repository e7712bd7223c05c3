"""On-call's own hand on a corpus: pause its queries, pin it to a snapshot, build another namespace, switch, drop, and
have it compared. Each says what it does to callers, and how it is undone.
"""

from datetime import datetime
from typing import Final
from uuid import UUID

from controlplane.accounts.models import Operator
from controlplane.audit import operations as audit
from controlplane.corpora import namespaces
from controlplane.corpora.errors import AlreadyBuilding, NamespaceNotReady, SnapshotGone
from controlplane.corpora.models import Corpus, Namespace, NamespaceState, Purpose
from controlplane.corpora.policies import promised
from controlplane.corpora.telling import announce
from controlplane.work import operations as work
from dataplane.retrieval.tables import Snapshot

RECONCILE: Final = "corpora.reconcile"


@audit.operation
def pause_queries(*, corpus: Corpus, reason: str, actor: Operator, now: datetime) -> bool:
    """Refuse every query of a corpus from the next one on, until somebody resumes them; changes are taken and indexed
    all the same. False: they were paused already, and nothing was changed.

    To undo: `resume_queries`.
    """
    row = _lock(corpus)
    if row.paused_at is not None:
        return False
    _change(row, paused_at=now, paused_by=audit.name_of(actor), paused_reason=reason)
    audit.record("corpus.paused", actor=actor, target=row, at=now, data={"reason": reason})
    return True


@audit.operation
def resume_queries(*, corpus: Corpus, reason: str, actor: Operator, now: datetime) -> bool:
    """Answer its queries again from the next one on. False: they were not paused, and nothing was changed.

    To undo: `pause_queries`.
    """
    row = _lock(corpus)
    if row.paused_at is None:
        return False
    _change(row, paused_at=None, paused_by="", paused_reason="")
    data = {"reason": reason, "since": row.paused_at.isoformat(), "by": row.paused_by}
    audit.record("corpus.resumed", actor=actor, target=row, at=now, data=data)
    return True


@audit.operation
def pin_snapshot(
    *, corpus: Corpus, snapshot: Snapshot | None = None, reason: str, actor: Operator, now: datetime
) -> Snapshot:
    """Have everybody read one snapshot from the next query on, however old it becomes, but for what is deleted: that is
    gone from it too. Answers say that it is pinned. Returns the snapshot.

    To undo: `unpin`, or another pin.

    Args:
        snapshot: None: the newest state of the namespace that serves.
    Raises:
        NamespaceNotReady: nothing serves yet, or the snapshot is of a namespace that nobody may be served from.
        SnapshotGone: it is older than what is kept, or was never.
    """
    row = _lock(corpus)
    number = row.live_namespace_id if snapshot is None else snapshot.namespace
    if number is None:
        raise NamespaceNotReady(f"nothing of {row} is searchable yet; pin it once its first namespace is built")
    # After the corpus, as whoever drops a namespace has it; what is collected from a namespace waits for its row.
    namespace = Namespace.objects.select_for_update().filter(pk=number, corpus=row).first()
    if namespace is None or namespace.state == NamespaceState.DROPPED:
        raise SnapshotGone(f"no namespace of {row} that is kept has snapshot {snapshot}; pin its newest one")
    if namespace.state != NamespaceState.READY or namespace.purpose != Purpose.SERVING:
        raise NamespaceNotReady(f"{namespace} is {_standing(namespace)}; pin a snapshot of one that can serve")
    wanted = snapshot or namespace.snapshot
    if not namespace.kept_rev <= wanted.index_rev <= namespace.index_rev:
        kept = f"{namespace.kept_rev:,} to {namespace.index_rev:,}"
        raise SnapshotGone(f"{namespace} keeps revisions {kept}, not {wanted.index_rev:,}; pin one of them")
    before = row.pinned
    if before == wanted:
        return wanted
    _change(
        row,
        pinned_namespace=namespace,
        pinned_rev=wanted.index_rev,
        pinned_at=now,
        pinned_by=audit.name_of(actor),
        pinned_reason=reason,
    )
    data = {"snapshot": str(wanted), "before": str(before) if before else None, "reason": reason}
    audit.record("corpus.pinned", actor=actor, target=row, at=now, data=data)
    return wanted


@audit.operation
def unpin(*, corpus: Corpus, reason: str, actor: Operator, now: datetime) -> bool:
    """Have everybody read the newest state again from the next query on. False: it was not pinned, and nothing was
    changed.

    To undo: `pin_snapshot`, as long as the snapshot is kept.
    """
    row = _lock(corpus)
    before = row.pinned
    if before is None:
        return False
    _change(row, pinned_namespace=None, pinned_rev=None, pinned_at=None, pinned_by="", pinned_reason="")
    data = {"snapshot": str(before), "reason": reason}
    audit.record("corpus.unpinned", actor=actor, target=row, at=now, data=data)
    return True


@audit.operation
def rebuild(*, corpus: Corpus, reason: str, actor: Operator, now: datetime) -> Namespace:
    """Build another namespace beside the one that serves, by what the policy in force says: every document is embedded
    again. Nobody is served from it until somebody switches to it. Returns it.

    To undo: `drop_retired`.

    Raises:
        UnknownCorpus: no policy in force names the corpus.
        AlreadyBuilding: another one for serving is being built.
        VectorsNowhere, VectorsUnavailable: as `namespaces.create_namespace`.
    """
    # Whoever accepts a change holds the row in share mode: each change is in the namespace from its beginning, or is
    # marked as pending for it.
    row = _lock(corpus)
    building = row.namespaces.filter(state=NamespaceState.BUILDING, purpose=Purpose.SERVING).first()
    if building is not None:
        raise AlreadyBuilding(f"{building} is being built; wait until it is ready, or drop it first")
    namespace = namespaces.create_namespace(row, promised(row.slug), now=now)
    data = {"namespace": namespace.number, "model": namespace.model, "reason": reason}
    audit.record("corpus.rebuild_begun", actor=actor, target=row, at=now, data=data)
    _tell(row)
    return namespace


@audit.operation
def switch(*, namespace: Namespace, reason: str, actor: Operator, now: datetime) -> None:
    """Serve a corpus from another namespace from the next query on; nothing happens when it serves already.

    To undo: switch to the one that served before, as long as it is kept.

    Raises:
        NamespaceNotReady: as `namespaces.switch`.
    """
    namespaces.switch(corpus=namespace.corpus, namespace=namespace, reason=reason, actor=actor, now=now)
    _tell(namespace.corpus)


@audit.operation
def drop_retired(*, namespace: Namespace, reason: str, actor: Operator, now: datetime) -> bool:
    """Drop the chunks of a namespace that serves nobody; its snapshots go with them. False: it was dropped before.

    To undo: nothing brings it back; `rebuild` makes another, and a dump can be restored.

    Raises:
        NamespaceNotReady: it serves, or is pinned.
    """
    if not namespaces.drop_namespace(namespace, now=now):
        return False
    data = {"namespace": namespace.number, "model": namespace.model, "reason": reason}
    audit.record("corpus.namespace_dropped", actor=actor, target=namespace.corpus, at=now, data=data)
    _tell(namespace.corpus)
    return True


@audit.operation
def reconcile_now(*, corpus: Corpus, reason: str, actor: Operator, now: datetime) -> UUID:
    """Have the namespace that serves compared with all documents, and repaired: what is missing, stale or wrong is
    indexed again, what should not be there is removed. Returns the id of the work.

    To undo: there is nothing to undo; what it repairs is as its documents say.

    Raises:
        NamespaceNotReady: nothing serves yet.
    """
    row = _lock(corpus)
    if row.live_namespace_id is None:
        raise NamespaceNotReady(f"nothing of {row} is searchable yet, so there is nothing to compare")
    task = _enqueue_reconciliation(row, row.live_namespace_id, audit.name_of(actor), now=now)
    audit.record("corpus.reconcile_asked", actor=actor, target=row, at=now, data={"reason": reason})
    return task


def _enqueue_reconciliation(corpus: Corpus, namespace: int, actor: str, *, now: datetime) -> UUID:
    arguments = {"corpus": corpus.slug, "namespace": namespace, "source": "", "actor": actor, "repair": True}
    return work.enqueue(kind=RECONCILE, arguments=arguments, now=now)


def _lock(corpus: Corpus) -> Corpus:
    return Corpus.objects.select_for_update().get(pk=corpus.pk)


def _change(row: Corpus, **fields: object) -> None:
    Corpus.objects.filter(pk=row.pk).update(**fields)
    _tell(row)


def _tell(row: Corpus) -> None:
    announce(row)


def _standing(namespace: Namespace) -> str:
    return f"{namespace.get_state_display().lower()}, for {namespace.get_purpose_display().lower()}"
