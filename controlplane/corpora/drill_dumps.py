"""Dumps as drills use them: as if they were half written, and for the documents in them."""

from typing import Final

from controlplane.corpora.bulk import Progress, copy_in, own_session, quiet
from controlplane.corpora.dump_checks import read_block, read_manifest, trusted_keys
from controlplane.corpora.errors import DumpRefused
from controlplane.corpora.models import Corpus, Dump
from controlplane.corpora.vault import Vault, vault
from dataplane.retrieval.acceptance import Check
from dataplane.retrieval.dump_format import CHUNKS, DOCUMENTS, MANIFEST, DumpFlawed, checked_blocks
from dataplane.retrieval.tables import DOCUMENTS as DOCUMENT_TABLE

_COMPARE: Final = f"""
SELECT count(*), count(*) FILTER (WHERE (h.source_rev, h.is_deleted, h.content, h.metadata, h.content_sha256)
    IS DISTINCT FROM (d.source_rev, d.is_deleted, d.content, d.metadata, d.content_sha256))
FROM {DOCUMENT_TABLE} d LEFT JOIN ballast_drill_heads h ON h.source_key = d.source_key
WHERE d.corpus_id = %s AND d.seq <= %s
"""  # noqa: S608 - names of ours; the values are parameters


class HalfWritten(Vault):
    """A store in which a dump was never finished; or it has its manifest, and its last block of chunks breaks off.
    Nothing in it is changed.
    """

    def __init__(self, kept: Vault, *, is_finished: bool) -> None:
        self.url = kept.url
        self._kept = kept
        self._is_finished = is_finished

    def read(self, folder: str, name: str, *, limit: int | None = None) -> bytes:
        """As `Vault`."""
        if name == MANIFEST and not self._is_finished:
            raise FileNotFoundError(f"{folder}/{name} was never written")
        data = self._kept.read(folder, name, limit=limit)
        last = max((one for one in self._kept.names(folder) if one.startswith(CHUNKS)), default="")
        return data[: len(data) // 2] if name == last else data

    def names(self, folder: str) -> set[str]:
        """As `Vault`."""
        found = self._kept.names(folder)
        return found if self._is_finished else found - {MANIFEST}


def compare_heads(dump: Dump, corpus: Corpus, *, progress: Progress = quiet, kept: Vault | None = None) -> Check:
    """Read every document of a dump into a table of this session's own, and compare those that have not changed since
    with the real ones, word for word. Nothing real is written.

    Raises:
        DumpRefused: it is not what was signed.
        VaultUnavailable: the store is away.
    """
    place = kept or vault()
    try:
        manifest, _ = read_manifest(place, dump.name, trusted=trusted_keys(), root=dump.root_sha256)
        stream = manifest.streams[DOCUMENTS]
        blocks = checked_blocks(manifest, DOCUMENTS, lambda block: read_block(place, dump.name, block))
        with own_session() as session, session.transaction(), session.cursor() as cursor:
            cursor.execute(
                "CREATE TEMP TABLE ballast_drill_heads ON COMMIT DROP AS"  # noqa: S608 - names of ours
                f" SELECT {', '.join(stream.columns)} FROM {DOCUMENT_TABLE} WITH NO DATA"
            )
            rows = copy_in(cursor, "ballast_drill_heads", stream.columns, blocks, done=progress, of=stream.rows)
            cursor.execute("ANALYZE ballast_drill_heads")
            cursor.execute(_COMPARE, [corpus.pk, manifest.high_water_seq])
            compared, differing = cursor.fetchone()
    except DumpFlawed as flaw:
        raise DumpRefused(f"the documents of dump {dump.name!r} are not used: {flaw}") from flaw
    words = f"{rows} documents came out of the dump; of {compared} that have not changed since, {differing} differ"
    return Check("documents", passed=differing == 0, words=words)
