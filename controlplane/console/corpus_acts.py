"""What on-call can do with a corpus, in words: what it does to callers, whom it touches, and how it is undone; and the
namespaces that there are to do it with.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from django.db.models import Count, Q
from django.urls import reverse

from controlplane.console.corpus_content import CorpusRow, Tone
from controlplane.console.wording import listed
from controlplane.corpora.models import Corpus, Document, Namespace, NamespaceState, Pending, Purpose

# The newest.
MOST_NAMESPACES: Final = 12


@dataclass(frozen=True, slots=True)
class Act:
    """One thing to do, as `components/_dialog.html` asks for it. `word`: the button that opens it."""

    id: str
    word: str
    title: str
    url: str
    effect: str
    scope: str
    undo: str
    tone: Literal["primary", "danger"] = "primary"


def acts(row: CorpusRow, *, documents: int) -> Iterator[Act]:
    """What can be done with a corpus now.

    Args:
        documents: How many would be embedded again.
    """
    slug = row.corpus.slug
    yield _pausing(row)
    if row.live is not None:
        yield _pinning(row)
    if row.corpus.pinned is not None:
        yield Act(
            "unpin",
            "Unpin",
            f"Unpin {slug}",
            reverse("corpus-unpin", args=[slug]),
            f"Queries read the newest state again, from the next one on, instead of {row.corpus.pinned}.",
            _readers(row),
            "Pin the snapshot again, as long as it is kept.",
        )
    if row.promised is not None and not row.is_building:
        model, route = row.promised.embedding.model, row.promised.embedding.route
        embedded = "Its one document is" if documents == 1 else f"All {documents:,} documents are"
        yield Act(
            "rebuild",
            "Rebuild",
            f"Build another namespace of {slug}",
            reverse("corpus-rebuild", args=[slug]),
            f"{embedded} embedded again by {model} over route {route}, into a namespace beside the one that serves. "
            "Nobody is served from it until somebody switches.",
            "Nobody's answers; it takes its share of what that route can do.",
            "Drop the namespace.",
        )
    if row.live is not None:
        yield Act(
            "reconcile",
            "Compare and repair",
            f"Compare {slug} with its documents",
            reverse("corpus-reconcile", args=[slug]),
            f"What namespace {row.live.number} serves is compared with every document by digests. What is missing, "
            "stale or wrong is indexed again, and what should not be there is removed.",
            "Nobody's answers, but for what was wrong in them.",
            "Nothing to undo: what is repaired is as its documents say.",
        )


def _pausing(row: CorpusRow) -> Act:
    slug = row.corpus.slug
    if row.corpus.paused_at is not None:
        return Act(
            "resume",
            "Resume queries",
            f"Resume queries of {slug}",
            reverse("corpus-resume", args=[slug]),
            "Queries are answered again, from the next one on, as the policy says.",
            _readers(row),
            "Pause them again.",
        )
    return Act(
        "pause",
        "Pause queries",
        f"Pause queries of {slug}",
        reverse("corpus-pause", args=[slug]),
        "Every query is refused with corpus_paused, from the next one on, and no answer is composed from it. Changes "
        "are taken and indexed all the same.",
        _readers(row),
        "Resume them: one click, as fast.",
        "danger",
    )


def _pinning(row: CorpusRow) -> Act:
    slug, live = row.corpus.slug, row.live
    assert live is not None  # noqa: S101 - narrows the type; the caller has looked
    return Act(
        "pin",
        "Pin a snapshot" if row.corpus.pinned is None else "Pin another snapshot",
        f"Pin {slug} to a snapshot",
        reverse("corpus-pin", args=[slug]),
        "Everybody reads this one state, from the next query on, however old it becomes; answers say so. What is "
        "deleted is gone from it too. Changes are taken and indexed all the same.",
        _readers(row),
        "Unpin: one click, and the newest state is read.",
        "danger",
    )


def _readers(row: CorpusRow) -> str:
    """Whom it touches."""
    if row.promised is not None and row.promised.tenants:
        return f"Callers of {listed(list(row.promised.tenants))}"
    return "Callers of every tenant"


# --- namespaces -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class NamespaceRow:
    """One namespace: where it stands, what waits for it, and what can be done with it."""

    namespace: Namespace
    pending: int
    poisoned: int
    is_live: bool
    is_pinned: bool
    acts: tuple[Act, ...]

    @property
    def tone(self) -> Tone:
        if self.is_live:
            return "good"
        return "watch" if self.namespace.state == NamespaceState.BUILDING or self.is_pinned else "off"

    @property
    def pill(self) -> str:
        if self.is_live:
            return "serves"
        said = self.namespace.get_state_display().lower()
        if self.namespace.purpose == Purpose.DRILL:
            said = f"{said}, of a drill"
        return f"{said}, pinned" if self.is_pinned else said

    @property
    def kept(self) -> str:
        """The revisions that are readable: '3 to 12'."""
        return f"{self.namespace.kept_rev:,} to {self.namespace.index_rev:,}"


def namespace_rows(corpus: Corpus) -> list[NamespaceRow]:
    """The newest namespaces that there are; two queries however many."""
    found = list(corpus.namespaces.exclude(state=NamespaceState.DROPPED)[:MOST_NAMESPACES])
    good, bad = Count("id", filter=Q(is_poisoned=False)), Count("id", filter=Q(is_poisoned=True))
    counts = Pending.objects.filter(namespace__in=found).order_by().values("namespace").annotate(good=good, bad=bad)
    waiting = {row["namespace"]: (row["good"], row["bad"]) for row in counts}
    rows = []
    for namespace in found:
        pending, poisoned = waiting.get(namespace.pk, (0, 0))
        is_live = namespace.pk == corpus.live_namespace_id
        is_pinned = namespace.pk == corpus.pinned_namespace_id
        rows.append(
            NamespaceRow(
                namespace, pending, poisoned, is_live, is_pinned, tuple(_acts_with(corpus, namespace, pending))
            )
        )
    return rows


def _acts_with(corpus: Corpus, namespace: Namespace, pending: int) -> Iterator[Act]:
    """What can be done with a namespace that does not serve."""
    if namespace.pk == corpus.live_namespace_id:
        return
    number, live = namespace.number, corpus.live_namespace
    address = [corpus.slug, number]
    if namespace.state == NamespaceState.READY and namespace.purpose == Purpose.SERVING:
        waits = f" Not indexed into it yet: {pending:,}." if pending else ""
        pinned = f" While {corpus.pinned} is pinned, that is read all the same." if corpus.pinned else ""
        yield Act(
            f"switch-{number}",
            "Switch to it",
            f"Serve {corpus.slug} from namespace {number}",
            reverse("corpus-switch", args=address),
            f"Every query reads namespace {number}, by {namespace.model}, from the next one on; none ever reads both."
            f"{waits}{pinned}",
            "Every caller of the corpus.",
            f"Switch back to namespace {live.number}: the same act, as fast." if live else "Switch to another one.",
            "danger",
        )
    if namespace.pk != corpus.pinned_namespace_id:
        yield Act(
            f"drop-{number}",
            "Drop it",
            f"Drop namespace {number} of {corpus.slug}",
            reverse("corpus-drop", args=address),
            "Its chunks and vectors are gone at once, and conversations that hold a snapshot of it are told so.",
            "Whoever holds one of its snapshots; nobody else is served from it.",
            "Nothing brings it back: rebuild, or restore a dump.",
            "danger",
        )


def dropped_namespaces(corpus: Corpus) -> int:
    """How many namespaces it had besides, those of drills too; one query."""
    return corpus.namespaces.filter(state=NamespaceState.DROPPED).count()


def living_documents(corpus: Corpus) -> int:
    """How many documents it has that are not deleted; one query."""
    return Document.objects.filter(corpus=corpus, is_deleted=False).count()
