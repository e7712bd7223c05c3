"""Dumps: one moment of a namespace, with the documents that it is of, in a store where nobody can change it.

A dump needs nothing else to be restored: it holds the text, the metadata and the vectors of every chunk that is alive,
every document's newest revision, tombstones too, and says by which model and chunker. It is made while everything goes
on: what it shows is one moment, whatever is written meanwhile.
"""

import logging
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any, Final

import numpy as np
from django.db import connection

from controlplane.accounts.models import Operator
from controlplane.audit import operations as audit
from controlplane.corpora.bulk import Progress, copy_out, one_moment, own_session, quiet
from controlplane.corpora.dump_checks import Verified, read_block, read_manifest, trusted_keys, verify_folder
from controlplane.corpora.errors import (
    CorpusError,
    DumpFailed,
    DumpRefused,
    NamespaceNotReady,
    UnknownCorpus,
    VaultUnavailable,
)
from controlplane.corpora.models import Dump, Namespace, NamespaceState
from controlplane.corpora.policies import corpus_policies
from controlplane.corpora.records import DumpState
from controlplane.corpora.vault import Vault, second_vault, vault
from controlplane.corpora.vectors import ExternalVectors, external
from controlplane.releases.signing import signing_key
from controlplane.routing.operations import routing_tables
from dataplane.retrieval.dump_format import (
    CHUNKS,
    COLUMNS,
    DOCUMENTS,
    HEADER,
    MANIFEST,
    TRAILER,
    Block,
    DumpFlawed,
    Manifest,
    Stream,
    seal,
)
from dataplane.retrieval.hashes import Vector
from dataplane.retrieval.tables import CHUNK_COLUMNS
from dataplane.retrieval.tables import DOCUMENTS as DOCUMENT_TABLE

logger = logging.getLogger(__name__)

_AT_A_TIME: Final = 1_000
_VECTORS: Final = "ballast_dump_vectors"


def make_dump(
    *,
    namespace: Namespace,
    actor: Operator | str,
    now: datetime,
    progress: Progress = quiet,
    kept: Vault | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Dump:
    """Dump what a namespace holds now, and copy it to the second store, where there is one. Not in a transaction of the
    caller's: what that has not committed is not seen.

    Args:
        now: When it begins, which is the moment that it is taken to show: it is never younger than it says.
        progress: Told of rows, of those that there are.
        kept: Where; None: the store that the settings name.
        clock: Monotonic seconds, for when it ended.
    Raises:
        NamespaceNotReady: it was dropped.
        UnknownCorpus: nothing is promised of the corpus, so nobody knows how long to keep it.
        SigningKeyMissing: it could not be signed.
        DumpFailed: it could not be made; its row says why.
    """
    began, key = clock(), signing_key()
    dump, policy = _begin(namespace, actor, now)
    assert dump.retain_until is not None  # noqa: S101 - as `_begin` makes it
    try:
        place = kept or vault()
        streams, index_rev, high_water = _write(dump, namespace, place, progress)
        manifest = Manifest(
            name=dump.name,
            corpus=dump.corpus.slug,
            namespace=namespace.pk,
            store=namespace.store,
            model=namespace.model,
            upstream_models=_upstream_models(namespace.model),
            dimensions=namespace.dimensions,
            chunking=namespace.chunking,
            index_rev=index_rev,
            high_water_seq=high_water,
            as_of=now,
            policy_digest=policy,
            streams=streams,
        )
        data, root = seal(manifest, key)
        place.put(dump.name, MANIFEST, data, retain_until=dump.retain_until)
        place.finish(dump.name)
    except Exception as exc:
        ended = now + timedelta(seconds=clock() - began)
        said = str(exc) if isinstance(exc, CorpusError) else f"{type(exc).__name__}: {exc}"
        Dump.objects.filter(pk=dump.pk).update(state=DumpState.FAILED, error=said[:300], ended_at=ended)
        raise DumpFailed(f"dump {dump.name!r} could not be made: {said}") from exc
    _end(dump, manifest, root, actor=actor, ended_at=now + timedelta(seconds=clock() - began))
    if kept is None:
        copy_dump(dump, now=now, clock=clock, since=began)
    return dump


@audit.operation
def _begin(namespace: Namespace, actor: Operator | str, now: datetime) -> tuple[Dump, str]:
    """Returns the row, and the digest of the policy that says how long the dump is kept."""
    namespace.refresh_from_db()
    if namespace.state == NamespaceState.DROPPED:
        raise NamespaceNotReady(f"{namespace} was dropped; there is nothing to dump")
    corpus, policy = namespace.corpus, corpus_policies.active()
    promised = None if policy is None else policy.parsed().get(corpus.slug)
    if policy is None or promised is None:
        raise UnknownCorpus(f"the corpus policy in force names no corpus {corpus.slug!r}")
    dump = Dump.objects.create(
        corpus=corpus,
        namespace=namespace,
        name=f"{corpus.slug}-{now:%Y%m%dT%H%M%SZ}-n{namespace.number}-{token_hex(4)}",
        actor=audit.name_of(actor),
        began_at=now,
        retain_until=now + timedelta(days=promised.recovery.keep_days),
    )
    return dump, policy.digest


def _write(dump: Dump, namespace: Namespace, place: Vault, progress: Progress) -> tuple[dict[str, Stream], int, int]:
    """Write the blocks. Returns what they are, the index revision that they show and the newest change in them."""
    until = dump.retain_until
    assert until is not None  # noqa: S101 - as `_begin` makes it
    documents = f"FROM {DOCUMENT_TABLE} WHERE corpus_id = {dump.corpus_id:d}"
    chunks = f"FROM {namespace.table} c WHERE c.died IS NULL"
    store = external(namespace.store)
    done = 0

    def keep(block: Block, data: bytes) -> None:
        place.put(dump.name, block.name, data, retain_until=until)

    with own_session() as reader:
        if store is not None:
            # Beforehand: who only reads may fill a table of his own, and make none.
            reader.execute(f"CREATE TEMP TABLE {_VECTORS} (id bigint NOT NULL, v vector({namespace.dimensions:d}))")
        with one_moment(reader):
            index_rev, high_water, total = reader.execute(
                f"SELECT n.index_rev, (SELECT coalesce(max(seq), 0) {documents}),"  # noqa: S608 - names of ours
                f" (SELECT count(*) {documents}) + (SELECT count(*) {chunks})"
                " FROM corpora_namespace n WHERE n.id = %s",
                [namespace.pk],
            ).fetchone()

            def told(rows: int) -> None:
                nonlocal done
                done += rows
                progress(done, max(total, done))

            columns = [f"c.{name}" for name in CHUNK_COLUMNS]
            if store is not None:
                _fetch_vectors(reader, store, namespace, chunks)
                chunks = f"FROM {namespace.table} c JOIN {_VECTORS} USING (id) WHERE c.died IS NULL"
                columns[-1] = "v AS embedding"
            queries = {
                DOCUMENTS: f"SELECT {', '.join(COLUMNS[DOCUMENTS])} {documents}",
                CHUNKS: f"SELECT {', '.join(columns)} {chunks}",
            }
            streams = {name: copy_out(reader, query, name, keep=keep, done=told) for name, query in queries.items()}
    return streams, index_rev, high_water


def _fetch_vectors(reader: Any, store: ExternalVectors, namespace: Namespace, chunks: str) -> None:
    """Bring the vectors of all chunks that `reader` sees to where they can be copied with them.

    Raises:
        ValueError: some are not there, although their chunks are.
    """
    with reader.cursor() as cursor:
        ids = [number for (number,) in cursor.execute(f"SELECT c.id {chunks} ORDER BY c.id").fetchall()]
        missing: list[int] = []
        with cursor.copy(f"COPY {_VECTORS} FROM STDIN (FORMAT binary)") as copy:
            copy.write(HEADER)
            for first in range(0, len(ids), _AT_A_TIME):
                asked = ids[first : first + _AT_A_TIME]
                found = store.fetch(namespace, asked)
                missing += [number for number in asked if number not in found]
                copy.write(b"".join(_as_rows(asked, found)))
            copy.write(TRAILER)
    # What was deleted since that moment is gone from the other store at once. It is no part of the dump then, and its
    # document has a tombstone by the time that anybody restores it.
    lost = _still_there(namespace, missing)
    if lost:
        raise ValueError(f"{len(lost)} vectors are not in store {namespace.store!r}, that of chunk {lost[0]} for one")


def _as_rows(ids: Sequence[int], vectors: Any) -> Iterator[bytes]:
    """Rows of a binary copy: an id, and a vector as pgvector receives it."""
    for number in ids:
        vector: Vector | None = vectors.get(number)
        if vector is not None:
            numbers = np.ascontiguousarray(vector, dtype=">f4").tobytes()
            yield struct.pack(">hiqihh", 2, 8, number, 4 + len(numbers), len(vector), 0) + numbers


def _still_there(namespace: Namespace, ids: Sequence[int]) -> list[int]:
    if not ids:
        return []
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT id FROM {namespace.table} WHERE id = ANY(%s) AND died IS NULL ORDER BY id",  # noqa: S608 - a name of ours
            [list(ids)],
        )
        return [number for (number,) in cursor.fetchall()]


@audit.operation
def _end(dump: Dump, manifest: Manifest, root: str, *, actor: Operator | str, ended_at: datetime) -> None:
    dump.state = DumpState.COMPLETE
    dump.index_rev, dump.high_water_seq = manifest.index_rev, manifest.high_water_seq
    dump.rows, dump.bytes, dump.blocks = manifest.rows, manifest.bytes, sum(1 for _ in manifest.blocks)
    dump.root_sha256, dump.as_of, dump.ended_at = root, manifest.as_of, ended_at
    dump.save()
    data = {"dump": dump.name, "root": root, "rows": dump.rows, "index_rev": dump.index_rev}
    audit.record("corpus.dumped", actor=actor, target=dump.corpus, at=ended_at, data=data)


def copy_dump(
    dump: Dump,
    *,
    now: datetime,
    kept: Vault | None = None,
    second: Vault | None = None,
    clock: Callable[[], float] = time.monotonic,
    since: float | None = None,
) -> bool:
    """Copy a complete dump to the second store, and verify it there; False: the settings name none, or it failed, which
    its row says. The dump is good without its copy.

    Args:
        since: When `now` was, by `clock`; None: now.
    """
    began = clock() if since is None else since
    until = dump.retain_until
    assert until is not None  # noqa: S101 - as `_begin` makes it
    try:
        there = second or second_vault()
        if there is None:
            return False
        here, trusted = kept or vault(), trusted_keys()
        manifest, _ = read_manifest(here, dump.name, trusted=trusted, root=dump.root_sha256)
        for block in manifest.blocks:
            there.put(dump.name, block.name, read_block(here, dump.name, block), retain_until=until)
        there.put(dump.name, MANIFEST, here.read(dump.name, MANIFEST), retain_until=until)
        there.finish(dump.name)
        flaw = verify_folder(there, dump.name, trusted=trusted, root=dump.root_sha256).flaw
    except (CorpusError, DumpFlawed, FileNotFoundError) as exc:
        flaw, there = str(exc), None
    if flaw is not None or there is None:
        logger.warning("dump %s is not copied: %s", dump.name, flaw)
        dump.error = f"not copied: {flaw}"[:300]
        dump.save(update_fields=["error"])
        return False
    dump.copied_to, dump.copied_at, dump.error = there.url[:200], now + timedelta(seconds=clock() - began), ""
    dump.save(update_fields=["copied_to", "copied_at", "error"])
    return True


def verify_dump(dump: Dump, *, now: datetime, progress: Progress = quiet, kept: Vault | None = None) -> Verified:
    """Read a dump whole, and note in its row whether it is what was written.

    Args:
        kept: The store to look in; None: the one that the settings name.
    Raises:
        DumpRefused: it was never finished, or is deleted.
        VaultUnavailable: it cannot be read now.
    """
    if dump.state != DumpState.COMPLETE or dump.deleted_at is not None:
        raise DumpRefused(f"dump {dump.name!r} is {'deleted' if dump.deleted_at else dump.get_state_display().lower()}")
    place = kept or vault()
    found = verify_folder(place, dump.name, trusted=trusted_keys(), root=dump.root_sha256, progress=progress)
    if found.flaw is None and found.blocks != dump.blocks:
        raise VaultUnavailable(f"dump {dump.name!r} changed while it was read; try again")
    dump.verified_at, dump.verify_error = now, (found.flaw or "")[:300]
    dump.save(update_fields=["verified_at", "verify_error"])
    return found


def _upstream_models(model: str) -> tuple[str, ...]:
    """What providers call a model, by the lanes in force that embed by it."""
    active = routing_tables.active()
    if active is None:
        return ()
    lanes = active.parsed().lanes.values()
    return tuple(sorted({lane.upstream_model for lane in lanes if lane.model == model}))
