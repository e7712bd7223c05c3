"""Where a corpus stands in PostgreSQL: the tables that both planes know by name, and what is in each. Pure.

The app `corpora` owns them all. A document's newest revision is one row of `DOCUMENTS`, its head, tombstones too; what
is searchable is in namespaces. A namespace is one way to make a corpus searchable, by one model and one chunker: its
chunks are a table of their own, so that it can be built, indexed, compared and dropped by itself. Which one serves is
`live_namespace_id` of the corpus' row, read in the statement that searches: switching is one update, and no query ever
sees two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

CORPORA: Final = "corpora_corpus"
DOCUMENTS: Final = "corpora_document"
NAMESPACES: Final = "corpora_namespace"
PENDING: Final = "corpora_pending"
SOURCES: Final = "corpora_source"
# Told whenever there is something to index; the payload is the corpus' id.
CHANNEL: Final = "ballast_corpora"
# Of a chunk's table, in the order in which dumps have them.
CHUNK_COLUMNS: Final = (
    "id",
    "document_id",
    "source_key",
    "source_rev",
    "ordinal",
    "born",
    "died",
    "event_at",
    "changed_at",
    "text",
    "metadata",
    "chunk_sha256",
    "model",
    "embedding",
)
_SNAPSHOT: Final = re.compile(r"ns_([1-9]\d{0,17})\.(0|[1-9]\d{0,17})\Z", re.ASCII)
_TOKEN: Final = re.compile(r"ct_([1-9]\d{0,17})\Z", re.ASCII)


def chunks_table(namespace: int) -> str:
    """The table of a namespace's chunks.

    A row is a chunk of one revision of a document, searchable from index revision `born` on, until `died` where that is
    not null. `chunk_sha256`: see `hashes.chunk_digest`; `changed_at`: when it was born or died, whichever was last.
    """
    return f"corpora_chunks_{namespace:d}"


def vectors_collection(prefix: str, namespace: int) -> str:
    """The collection of a namespace's vectors in a store beside PostgreSQL, by the ids of their chunks.

    `prefix` tells deployments apart that share such a store.
    """
    return f"{prefix}_ns_{namespace:d}"


@dataclass(frozen=True, slots=True, order=True)
class Snapshot:
    """A corpus as one namespace had it at one index revision."""

    namespace: int
    index_rev: int

    def __str__(self) -> str:
        return f"ns_{self.namespace}.{self.index_rev}"

    @classmethod
    def read(cls, text: str) -> Snapshot | None:
        """The snapshot that a caller names; None when it cannot be one."""
        found = _SNAPSHOT.match(text)
        return None if found is None else cls(int(found[1]), int(found[2]))


def write_token(seq: int) -> str:
    """What an accepted change is named by, for whoever wants to read no older state: see `read_token`."""
    return f"ct_{seq}"


def read_token(text: str) -> int | None:
    """The number of the change that a token names; None when it cannot be one."""
    found = _TOKEN.match(text)
    return None if found is None else int(found[1])
