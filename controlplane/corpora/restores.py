"""Dumps restored as people ask for it: into a new namespace beside the one that serves, and documents that were lost.
How it is done is in `restoring`; here it is decided what it leads to, and written down who asked.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction

from controlplane.accounts.models import Operator
from controlplane.audit import operations as audit
from controlplane.corpora.bulk import Progress, quiet
from controlplane.corpora.errors import NamespaceNotReady
from controlplane.corpora.models import Dump, Namespace, Purpose
from controlplane.corpora.namespaces import create_namespace, drop_namespace, mark_ready
from controlplane.corpora.policies import promised
from controlplane.corpora.restoring import Restored, restore_dump, restore_heads
from controlplane.corpora.telling import announce
from controlplane.corpora.vault import Vault


@dataclass(frozen=True, slots=True)
class Beside:
    """A namespace out of a dump, and what restoring it took."""

    namespace: Namespace
    restored: Restored


def restore_beside(
    *,
    dump: Dump,
    actor: Operator | str,
    now: datetime,
    purpose: Purpose = Purpose.SERVING,
    progress: Progress = quiet,
    kept: Vault | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Beside:
    """Restore a dump into a new namespace of its corpus, ready and up to date. Nobody is served from it until somebody
    switches to it. Not in a transaction of the caller's: what that has not committed is not seen.

    To undo: `operations.drop_retired`.

    Args:
        purpose: Of a drill's it never serves.
        progress: Told of chunks.
        kept: The store to take it from; None: the one that the settings name.
        clock: Monotonic seconds.
    Raises:
        UnknownCorpus: nothing is promised of the corpus, so nobody knows how to make a namespace of it.
        VectorsNowhere, VectorsUnavailable: as `namespaces.create_namespace`.
        DumpRefused, DumpDoesNotFit, VaultUnavailable: as `restoring.restore_dump`.
        NamespaceNotReady: somebody dropped it meanwhile.
    Whatever it raises, no namespace is left behind.
    """
    began = clock()
    with transaction.atomic():
        namespace = create_namespace(
            dump.corpus, promised(dump.corpus.slug), now=now, purpose=purpose, fill=False, apart=True
        )
    try:
        restored = restore_dump(dump, namespace=namespace, now=now, progress=progress, kept=kept, clock=clock)
        _finish(dump, namespace, restored, actor=actor, now=now + timedelta(seconds=clock() - began))
    except BaseException:  # who interrupts it too leaves nothing half restored
        with transaction.atomic():
            drop_namespace(namespace, now=now + timedelta(seconds=clock() - began))
        raise
    return Beside(namespace, restored)


@audit.operation
def _finish(dump: Dump, namespace: Namespace, restored: Restored, *, actor: Operator | str, now: datetime) -> None:
    if not mark_ready(namespace, now=now):
        raise NamespaceNotReady(f"{namespace} was dropped while it was restored; restore the dump into another one")
    data = {
        "dump": dump.name,
        "root": dump.root_sha256,
        "namespace": namespace.number,
        "purpose": namespace.purpose,
        "rows": restored.rows,
    }
    audit.record("corpus.restored", actor=actor, target=dump.corpus, at=now, data=data)
    announce(dump.corpus)


def bring_back_documents(*, dump: Dump, actor: Operator | str, now: datetime, kept: Vault | None = None) -> int:
    """Bring back the documents of a corpus that were lost, tombstones too, from a dump of it; none that is there is
    replaced. Returns how many. Not in a transaction of the caller's.

    To undo: nothing takes them away again but changes from their sources.

    Args:
        kept: As `restore_beside`.
    Raises:
        DumpRefused, DumpDoesNotFit, VaultUnavailable: as `restoring.restore_heads`.
    """
    count = restore_heads(dump, corpus=dump.corpus, kept=kept)
    if count:
        _note_documents(dump, count, actor=actor, now=now)
    return count


@audit.operation
def _note_documents(dump: Dump, count: int, *, actor: Operator | str, now: datetime) -> None:
    data = {"dump": dump.name, "root": dump.root_sha256, "documents": count}
    audit.record("corpus.documents_restored", actor=actor, target=dump.corpus, at=now, data=data)
    announce(dump.corpus)
