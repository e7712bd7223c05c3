"""How a dump of a namespace is written down: blocks of rows as PostgreSQL copies them, and a signed manifest.

A block is a run of whole rows of `COPY … (FORMAT binary)`, without what stands before the first and after the last row
of a stream: every block can be counted and checked by itself, and put one behind the other they are the stream again.
The manifest names each with its length and SHA-256. It is signed with the key of releases, and written last: a folder
without one was never finished. Its own SHA-256 is the root of the dump. Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from dataplane.documents import Node, ReleaseRefused, parse_json
from dataplane.release import Envelope, UnknownKey, sign_under, verified_digest
from dataplane.retrieval.tables import CHUNK_COLUMNS

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
_SIGNED_PREFIX: Final = b"ballast.dump.v1\n"
CHUNKS: Final = "chunks"
DOCUMENTS: Final = "documents"
DOCUMENT_COLUMNS: Final = (
    "id",
    "source_key",
    "source_rev",
    "is_deleted",
    "content",
    "metadata",
    "content_sha256",
    "event_at",
    "accepted_at",
    "seq",
)
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {DOCUMENTS: DOCUMENT_COLUMNS, CHUNKS: CHUNK_COLUMNS}
# What stands before the first row of a stream and after its last: the signature, no flags, no extension; and -1.
HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER: Final = b"\xff\xff"
# A few MiB: enough for a store's round trip to count little, few enough to be held, hashed and read again at once.
BLOCK_BYTES: Final = 4 * 1024 * 1024
# A row is never cut. No document of ours is as long as this; what is longer is no block of ours.
MAX_BLOCK_BYTES: Final = 256 * 1024 * 1024


class DumpFlawed(Exception):
    """A dump is not what was written and signed; `part` names the block, or the manifest."""

    code = "dump_flawed"

    def __init__(self, part: str, fact: str) -> None:
        super().__init__(f"{part}: {fact}")
        self.part = part
        self.fact = fact


@dataclass(frozen=True, slots=True)
class Block:
    """A run of whole rows, and the object that they lie in."""

    name: str
    sha256: str
    bytes: int
    rows: int


@dataclass(frozen=True, slots=True)
class Stream:
    """One table of a dump; its blocks in their order."""

    columns: tuple[str, ...]
    blocks: tuple[Block, ...]

    @property
    def rows(self) -> int:
        """Of all its blocks."""
        return sum(block.rows for block in self.blocks)

    @property
    def bytes(self) -> int:
        """Of all its blocks."""
        return sum(block.bytes for block in self.blocks)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a dump holds, and what it was made of.

    Attributes:
        name: Of its folder: another dump cannot stand in for it.
        upstream_models: What providers call the model, by the lanes that could embed by it then.
        chunking: Shape: {"version": str, "max_characters", "overlap_characters": int}.
        high_water_seq: Every change accepted up to it is in the dump.
        as_of: The moment that it shows.
        policy_digest: Of the corpus policy in force then.
    """

    name: str
    corpus: str
    namespace: int
    store: str
    model: str
    upstream_models: tuple[str, ...]
    dimensions: int
    chunking: Mapping[str, Any]
    index_rev: int
    high_water_seq: int
    as_of: datetime
    policy_digest: str
    streams: Mapping[str, Stream]

    @property
    def blocks(self) -> Iterator[Block]:
        """Of all streams."""
        for name in COLUMNS:
            yield from self.streams[name].blocks

    @property
    def rows(self) -> int:
        """Of all streams."""
        return sum(stream.rows for stream in self.streams.values())

    @property
    def bytes(self) -> int:
        """Of all blocks; the manifest's own are not counted."""
        return sum(stream.bytes for stream in self.streams.values())

    def to_document(self) -> dict[str, Any]:
        """Shape: {"format": FORMAT, "name", "corpus": str, "namespace": int, "store", "model": str, "upstream_models":
        [str], "dimensions": int, "chunking": {…}, "index_rev", "high_water_seq": int, "as_of": ISO-8601,
        "policy_digest": str, "streams": {"documents" | "chunks": {"columns": [str], "blocks": [{"name", "sha256": str,
        "bytes", "rows": int}]}}}.
        """
        return {
            "format": FORMAT,
            "name": self.name,
            "corpus": self.corpus,
            "namespace": self.namespace,
            "store": self.store,
            "model": self.model,
            "upstream_models": list(self.upstream_models),
            "dimensions": self.dimensions,
            "chunking": dict(self.chunking),
            "index_rev": self.index_rev,
            "high_water_seq": self.high_water_seq,
            "as_of": self.as_of.isoformat(),
            "policy_digest": self.policy_digest,
            "streams": {
                name: {
                    "columns": list(stream.columns),
                    "blocks": [
                        {"name": block.name, "sha256": block.sha256, "bytes": block.bytes, "rows": block.rows}
                        for block in stream.blocks
                    ],
                }
                for name, stream in self.streams.items()
            },
        }


def block_name(stream: str, number: int) -> str:
    """What a stream's block is called in the folder; `number` counts from 0."""
    return f"{stream}-{number:06d}"


def seal(manifest: Manifest, key: Ed25519PrivateKey) -> tuple[bytes, str]:
    """Sign a manifest. Returns the bytes of the object MANIFEST, and the root of the dump."""
    envelope = sign_under(manifest.to_document(), key, prefix=_SIGNED_PREFIX)
    return envelope.to_json().encode(), envelope.digest


def unseal(
    data: bytes, *, name: str, trusted: Mapping[str, Ed25519PublicKey], root: str | None = None
) -> tuple[Manifest, str]:
    """Read the object MANIFEST of the folder `name`, and return it with the root. Nothing of it is parsed before its
    signature holds.

    Args:
        root: What the root must be, where somebody kept it elsewhere; None: any that was signed.
    Raises:
        DumpFlawed: it was not signed by a key that is trusted, not for this folder, or is not as we write it.
    """
    try:
        envelope = Envelope.from_json(data)
        digest = verified_digest(envelope, trusted, prefix=_SIGNED_PREFIX)
        # The same can be written in more than one way: base64 has bits that nobody reads, JSON has escapes and space.
        signature = base64.b64encode(base64.b64decode(envelope.signature)).decode()
    except UnknownKey as exc:
        raise DumpFlawed(MANIFEST, f"signed with key {exc.key_id[:16]!r}, which is not trusted here") from exc
    except (ReleaseRefused, UnicodeError, binascii.Error) as exc:
        raise DumpFlawed(MANIFEST, str(exc)) from exc
    if signature != envelope.signature or envelope.to_json().encode() != data:
        raise DumpFlawed(MANIFEST, "it says what was signed, but not byte by byte as it was written")
    try:
        manifest = _parse(Node(parse_json(envelope.document), "$"))
    except ReleaseRefused as exc:
        raise DumpFlawed(MANIFEST, str(exc)) from exc
    if manifest.name != name:
        raise DumpFlawed(MANIFEST, f"it is of dump {manifest.name[:200]!r}, not of {name!r}")
    if root is not None and digest != root:
        raise DumpFlawed(MANIFEST, f"its root is {digest}, and {root} was noted when it was made")
    return manifest, digest


def _parse(node: Node) -> Manifest:
    members = node.members(
        "format",
        "name",
        "corpus",
        "namespace",
        "store",
        "model",
        "upstream_models",
        "dimensions",
        "chunking",
        "index_rev",
        "high_water_seq",
        "as_of",
        "policy_digest",
        "streams",
    )
    members["format"].integer(minimum=FORMAT, maximum=FORMAT)
    chunking = members["chunking"].members("version", "max_characters", "overlap_characters")
    streams = members["streams"].members(*COLUMNS)
    return Manifest(
        name=members["name"].text(),
        corpus=members["corpus"].text(),
        namespace=members["namespace"].integer(),
        store=members["store"].text(),
        model=members["model"].text(),
        upstream_models=members["upstream_models"].texts(),
        dimensions=members["dimensions"].integer(minimum=1),
        chunking={
            "version": chunking["version"].text(),
            "max_characters": chunking["max_characters"].integer(),
            "overlap_characters": chunking["overlap_characters"].integer(),
        },
        index_rev=members["index_rev"].integer(),
        high_water_seq=members["high_water_seq"].integer(),
        as_of=members["as_of"].moment(),
        policy_digest=members["policy_digest"].text(),
        streams={name: _parse_stream(streams[name], name) for name in COLUMNS},
    )


def _parse_stream(node: Node, name: str) -> Stream:
    members = node.members("columns", "blocks")
    columns = members["columns"].texts()
    if columns != COLUMNS[name]:
        members["columns"].refuse(f"format {FORMAT} has the columns {', '.join(COLUMNS[name])}")
    blocks = []
    for number, entry in enumerate(members["blocks"].items()):
        block = entry.members("name", "sha256", "bytes", "rows")
        if block["name"].text() != block_name(name, number):
            block["name"].refuse(f"the block in this place is called {block_name(name, number)!r}")
        blocks.append(
            Block(
                name=block["name"].text(),
                sha256=block["sha256"].sha256(),
                bytes=block["bytes"].integer(minimum=1, maximum=MAX_BLOCK_BYTES),
                rows=block["rows"].integer(minimum=1),
            )
        )
    return Stream(columns=columns, blocks=tuple(blocks))


def check_names(manifest: Manifest, present: Collection[str]) -> None:
    """Return if a folder holds exactly what its manifest names.

    Raises:
        DumpFlawed: a block is not there, or something is that nobody signed.
    """
    expected = {MANIFEST, *(block.name for block in manifest.blocks)}
    for name in sorted(expected.difference(present)):
        raise DumpFlawed(name, "it is not there")
    for name in sorted(set(present).difference(expected)):
        raise DumpFlawed(name, "the manifest knows no such block")


def checked_blocks(manifest: Manifest, stream: str, read: Callable[[Block], bytes]) -> Iterator[tuple[Block, bytes]]:
    """Each block of a stream with its bytes, once they have been found to be those that were signed. One is held at a
    time.

    Args:
        read: Gives a block's bytes; may give fewer, or up to one more than there should be, never many more.
    Raises:
        DumpFlawed: naming the block and where in the stream it stands.
    """
    offset = 0
    for block in manifest.streams[stream].blocks:
        data = read(block)
        if len(data) != block.bytes:
            what = "is cut short" if len(data) < block.bytes else "goes on where it should end"
            raise DumpFlawed(block.name, f"it {what}: it has {block.bytes} bytes in the manifest")
        if hashlib.sha256(data).hexdigest() != block.sha256:
            raise DumpFlawed(
                block.name,
                f"its bytes are not those that were written ({offset} to {offset + block.bytes} of the {stream})",
            )
        yield block, data
        offset += block.bytes


class Cutter:
    """Cuts a stream of `COPY … TO STDOUT (FORMAT binary)` into blocks. Each message that PostgreSQL sends is one row,
    but for the header before the first and the trailer at the end.
    """

    def __init__(self, stream: str, *, block_bytes: int = BLOCK_BYTES) -> None:
        self._stream = stream
        self._block_bytes = block_bytes
        self._rows: list[bytes] = []
        self._bytes = 0
        self._blocks: list[Block] = []
        self._is_begun = False
        self._is_over = False

    def feed(self, message: bytes) -> tuple[Block, bytes] | None:
        """Take the next message; returns a block that is full by it.

        Raises:
            ValueError: this is no such stream.
        """
        if not self._is_begun:
            if not message.startswith(HEADER):
                raise ValueError(f"the {self._stream} do not begin as a binary copy does")
            self._is_begun, message = True, message[len(HEADER) :]
        if not message:
            return None
        if message == TRAILER:
            self._is_over = True
            return None
        if self._is_over:
            raise ValueError(f"the {self._stream} go on after their end")
        self._rows.append(message)
        self._bytes += len(message)
        return self._cut() if self._bytes >= self._block_bytes else None

    def end(self) -> tuple[Block, bytes] | None:
        """What is left, when PostgreSQL has said that this was all; None: nothing is.

        Raises:
            ValueError: it was not all.
        """
        if not self._is_over:
            raise ValueError(f"the {self._stream} broke off")
        return self._cut() if self._rows else None

    @property
    def rows(self) -> int:
        """Cut until now."""
        return sum(block.rows for block in self._blocks)

    def stream(self) -> Stream:
        """All that was cut."""
        return Stream(COLUMNS[self._stream], tuple(self._blocks))

    def _cut(self) -> tuple[Block, bytes]:
        data = b"".join(self._rows)
        block = Block(
            name=block_name(self._stream, len(self._blocks)),
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            rows=len(self._rows),
        )
        self._blocks.append(block)
        self._rows, self._bytes = [], 0
        return block, data
