"""The numbers of corpora: all of them with where each stands, and a policy in which some are others. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from controlplane.corpora.errors import InvalidThreshold, UnknownCorpus
from controlplane.routing.thresholds import Placed
from controlplane.versioned.numbers import with_numbers
from dataplane.retrieval.policy import Corpora

CORPUS: Final = "corpus"


def placed_thresholds(corpora: Corpora) -> list[Placed]:
    """Every threshold of all corpora, corpus by corpus, in their order there."""
    return list(_placed(corpora))


def with_thresholds(document: Mapping[str, Any], slug: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a corpus policy in which some thresholds of a corpus are others, and nothing else is.

    Whether the numbers are in range is for `Corpora.parse` to say.

    Args:
        document: One that `Corpora.parse` reads.
        changes: From a threshold's name, such as 'recovery.rto_seconds', to what stands in its place: {"value",
            "provenance"}.
    Raises:
        UnknownCorpus: the document has no such corpus.
        InvalidThreshold: the corpus has no threshold of that name, or cannot do without it.
    """
    corpora = Corpora.parse(document, path="$")
    if slug not in corpora:
        raise UnknownCorpus(f"{slug!r} is not a corpus of this policy; it has {', '.join(sorted(corpora)) or 'none'}")
    known = [name for name, _ in corpora[slug].thresholds()]
    return with_numbers(document, slug, changes, known=known, noun=CORPUS, invalid=InvalidThreshold)


def _placed(corpora: Corpora) -> Iterator[Placed]:
    for slug, corpus in corpora.items():
        for name, threshold in corpus.thresholds():
            yield Placed(CORPUS, slug, name, threshold)
