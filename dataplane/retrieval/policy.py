"""What people decided and signed about each corpus: how it is cut and embedded, how old it may be, how it comes back.

A section of the release. Which corpora have signed words for their freshness banner, the release says beside it: see
`Corpora.with_words`. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from dataplane.documents import Node
from dataplane.retrieval.chunking import CHUNKERS
from dataplane.thresholds import Threshold

PGVECTOR: Final = "pgvector"
QDRANT: Final = "qdrant"
# Each with the most dimensions that its index takes.
STORES: Final[Mapping[str, int]] = {PGVECTOR: 2_000, QDRANT: 8_192}
BLOCK: Final = "block"
BANNER: Final = "banner"
BREACHES: Final = frozenset({BLOCK, BANNER})
PER_KEY: Final = "per_key"
GLOBAL: Final = "global"
REVISIONS: Final = frozenset({PER_KEY, GLOBAL})
# What people call each tier, the strictest first.
TIERS: Final[Mapping[str, str]] = {
    "contractual": "Contractual",
    "standard": "Standard",
    "nice_to_have": "Nice to have",
}
REBUILD: Final = "rebuild"
RESTORE: Final = "restore"
REPLICATE: Final = "replicate"
STRATEGIES: Final = frozenset({REBUILD, RESTORE, REPLICATE})
# Long enough for a name, and short enough to stand in the id of whoever embeds its documents.
MAX_SLUG_CHARACTERS: Final = 28
MAX_CHUNKS: Final = 50
MAX_INSTRUCTION_CHARACTERS: Final = 4_000
MAX_CHUNK_CHARACTERS: Final = 20_000
MAX_SECONDS: Final = 366 * 24 * 3600
MAX_SNAPSHOT_HOURS: Final = 24 * 31
MAX_KEEP_DAYS: Final = 3_660


@dataclass(frozen=True, slots=True)
class Embedding:
    """By what a corpus is made findable. Vectors of two models are never compared.

    Attributes:
        route: Whose lanes embed; only those that serve `model` are asked.
        model: As lanes call it.
        document_input_type, query_input_type: What a model is told as `input_type` that embeds the two differently;
            empty: nothing.
    """

    route: str
    model: str
    dimensions: int
    document_input_type: str
    query_input_type: str

    def parameters(self, *, is_query: bool) -> dict[str, str]:
        """What a model is told beside the texts: those of documents, or a question."""
        input_type = self.query_input_type if is_query else self.document_input_type
        return {"input_type": input_type} if input_type else {}


@dataclass(frozen=True, slots=True)
class Chunking:
    """How documents are cut: see `chunking.cut`. `version` names the rule, so that the same text gives the same chunks
    years later.
    """

    version: str
    max_characters: int
    overlap_characters: int


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old what is found may be, and what happens when it is older.

    Attributes:
        max_lag_seconds: The oldest change that is not searchable yet may be so old.
        on_breach: BLOCK: nothing is answered from it, `corpus_stale`; BANNER: signed words go along.
        banner: The copy of the kind `freshness` that those are.
    """

    max_lag_seconds: Threshold
    on_breach: str
    banner: str


@dataclass(frozen=True, slots=True)
class Answering:
    """How answers are composed from it.

    Attributes:
        chunks: So many are found where the caller does not say: 1..MAX_CHUNKS.
        instructions: What the model is told before them; no word of users'.
        snapshot_hours: So long what was replaced stays readable for conversations that pinned a snapshot.
    """

    chunks: int
    instructions: str
    snapshot_hours: int


@dataclass(frozen=True, slots=True)
class Recovery:
    """What is promised when its index is lost.

    Attributes:
        tier: Member of TIERS.
        strategy: REBUILD: embed every document again; RESTORE: load the last dump; REPLICATE: switch to a second
            namespace that is kept as fresh as the first.
        rpo_seconds: What changed within so long before the loss may be missing afterwards, until it is captured again.
        rto_seconds: After so long it is searchable again.
        reembed_minutes: So long of embedding again is accepted, where that is what it takes.
        dump_hours: A dump is made so often; 0: none is.
        keep_days: Nobody can delete a dump before.
    """

    tier: str
    strategy: str
    rpo_seconds: Threshold
    rto_seconds: Threshold
    reembed_minutes: Threshold
    dump_hours: int
    keep_days: int


@dataclass(frozen=True, slots=True)
class Source:
    """A PostgreSQL database whose outbox of changes is read. `dsn_variable` names the variable, or secret file, of the
    host that reads it, with the address in it: releases carry no secrets.
    """

    dsn_variable: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """One corpus, as people signed it.

    Attributes:
        tenants: Who may ask it; empty: every tenant.
        residency: Where its documents may be sent to be embedded; empty: anywhere.
        revisions: GLOBAL: the source counts all its changes by one clock, so that what is older than a mark is known to
            be a replay; PER_KEY: each document by its own, so tombstones are kept for ever.
        is_banner_signed: Whether the words of its banner are signed.
    """

    slug: str
    title: str
    tenants: tuple[str, ...]
    residency: frozenset[str]
    store: str
    revisions: str
    embedding: Embedding
    chunking: Chunking
    freshness: Freshness
    answering: Answering
    recovery: Recovery
    sources: Mapping[str, Source]
    is_banner_signed: bool = False

    def admits(self, tenant: str) -> bool:
        """Whether a tenant may ask it."""
        return not self.tenants or tenant in self.tenants

    @property
    def on_breach(self) -> str:
        """What happens when it is older than promised: words that nobody signed are not shown, so then it blocks."""
        return self.freshness.on_breach if self.is_banner_signed else BLOCK

    def thresholds(self) -> Iterator[tuple[str, Threshold]]:
        """Every number of the corpus that decides something, with its name, such as 'recovery.rto_seconds'."""
        yield "freshness.max_lag_seconds", self.freshness.max_lag_seconds
        yield "recovery.rpo_seconds", self.recovery.rpo_seconds
        yield "recovery.rto_seconds", self.recovery.rto_seconds
        yield "recovery.reembed_minutes", self.recovery.reembed_minutes


class Corpora(dict[str, Corpus]):
    """The section `corpora` of a release: slug -> Corpus."""

    @classmethod
    def parse(cls, section: object, *, path: str = "$.sections.corpora") -> Corpora:
        """Read the section, or raise MalformedRelease. Whether routes and copy exist is for the release to say.

        Shape: {slug: {"title": str, "tenants": [slug], "residency": [str], "store": member of STORES, "revisions":
                "per_key" | "global", "embedding": {"route", "model": str, "dimensions": int, "document_input_type",
                "query_input_type": str or null}, "chunking": {"version": member of CHUNKERS, "max_characters",
                "overlap_characters": int}, "freshness": {"max_lag_seconds": Threshold, "on_breach": "block" | "banner",
                "banner": slug}, "answering": {"chunks": int, "instructions": str, "snapshot_hours": int}, "recovery":
                {"tier", "strategy": str, "rpo_seconds", "rto_seconds", "reembed_minutes": Threshold, "dump_hours",
                "keep_days": int}, "sources": {slug: {"dsn_variable": str}}}}.
        """
        corpora = cls()
        for slug, node in Node(section, path).slugged_entries():
            if len(slug) > MAX_SLUG_CHARACTERS:
                node.refuse(f"a corpus' name has at most {MAX_SLUG_CHARACTERS} characters, not {len(slug)}")
            corpora[slug] = _parse_corpus(slug, node)
        return corpora

    def with_words(self, signed: Collection[str]) -> Corpora:
        """The same, knowing the slugs of all copy that is signed."""
        return Corpora(
            {slug: replace(corpus, is_banner_signed=corpus.freshness.banner in signed) for slug, corpus in self.items()}
        )


def _parse_corpus(slug: str, node: Node) -> Corpus:
    members = node.members(
        "title",
        "tenants",
        "residency",
        "store",
        "revisions",
        "embedding",
        "chunking",
        "freshness",
        "answering",
        "recovery",
        "sources",
    )
    store = members["store"].one_of(STORES)
    return Corpus(
        slug=slug,
        title=members["title"].text(),
        tenants=members["tenants"].texts(),
        residency=frozenset(members["residency"].texts()),
        store=store,
        revisions=members["revisions"].one_of(REVISIONS),
        embedding=_parse_embedding(members["embedding"], max_dimensions=STORES[store]),
        chunking=_parse_chunking(members["chunking"]),
        freshness=_parse_freshness(members["freshness"]),
        answering=_parse_answering(members["answering"]),
        recovery=_parse_recovery(members["recovery"]),
        sources={
            name: Source(entry.members("dsn_variable")["dsn_variable"].text())
            for name, entry in members["sources"].slugged_entries()
        },
    )


def _parse_embedding(node: Node, *, max_dimensions: int) -> Embedding:
    members = node.members("route", "model", "dimensions", "document_input_type", "query_input_type")
    return Embedding(
        route=members["route"].text(),
        model=members["model"].text(),
        dimensions=members["dimensions"].integer(minimum=1, maximum=max_dimensions),
        document_input_type=members["document_input_type"].optional_text() or "",
        query_input_type=members["query_input_type"].optional_text() or "",
    )


def _parse_chunking(node: Node) -> Chunking:
    members = node.members("version", "max_characters", "overlap_characters")
    largest = members["max_characters"].integer(minimum=50, maximum=MAX_CHUNK_CHARACTERS)
    return Chunking(
        version=members["version"].one_of(CHUNKERS),
        max_characters=largest,
        overlap_characters=members["overlap_characters"].integer(minimum=0, maximum=largest // 2),
    )


def _parse_freshness(node: Node) -> Freshness:
    members = node.members("max_lag_seconds", "on_breach", "banner")
    return Freshness(
        max_lag_seconds=Threshold.parse_whole(members["max_lag_seconds"], minimum=1, maximum=MAX_SECONDS),
        on_breach=members["on_breach"].one_of(BREACHES),
        banner=members["banner"].text(),
    )


def _parse_answering(node: Node) -> Answering:
    members = node.members("chunks", "instructions", "snapshot_hours")
    instructions = members["instructions"].text()
    if len(instructions) > MAX_INSTRUCTION_CHARACTERS:
        members["instructions"].refuse(f"{len(instructions)} characters; at most {MAX_INSTRUCTION_CHARACTERS}")
    return Answering(
        chunks=members["chunks"].integer(minimum=1, maximum=MAX_CHUNKS),
        instructions=instructions,
        snapshot_hours=members["snapshot_hours"].integer(minimum=1, maximum=MAX_SNAPSHOT_HOURS),
    )


def _parse_recovery(node: Node) -> Recovery:
    members = node.members(
        "tier", "strategy", "rpo_seconds", "rto_seconds", "reembed_minutes", "dump_hours", "keep_days"
    )
    strategy = members["strategy"].one_of(STRATEGIES)
    dump_hours = members["dump_hours"].integer(minimum=0, maximum=24 * 31)
    if strategy == RESTORE and not dump_hours:
        members["dump_hours"].refuse("it is to be restored from a dump, and none is ever made; say how often")
    return Recovery(
        tier=members["tier"].one_of(TIERS),
        strategy=strategy,
        rpo_seconds=Threshold.parse_whole(members["rpo_seconds"], minimum=1, maximum=MAX_SECONDS),
        rto_seconds=Threshold.parse_whole(members["rto_seconds"], minimum=1, maximum=MAX_SECONDS),
        reembed_minutes=Threshold.parse(members["reembed_minutes"], above=0, maximum=MAX_SECONDS / 60),
        dump_hours=dump_hours,
        keep_days=members["keep_days"].integer(minimum=1, maximum=MAX_KEEP_DAYS),
    )
