"""The numbers of a ladder: all of them with where each stands, and a policy in which some are others. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from controlplane.ladder.errors import InvalidThreshold, UnknownSurface
from controlplane.routing.thresholds import Placed
from controlplane.versioned.numbers import with_numbers
from dataplane.ladder.policy import Ladder

SURFACE: Final = "surface"


def placed_thresholds(ladder: Ladder) -> list[Placed]:
    """Every threshold of a ladder, by surface, in their order there."""
    return list(_placed(ladder))


def with_thresholds(document: Mapping[str, Any], slug: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a ladder policy in which some thresholds of a surface are others, and nothing else is.

    Whether the numbers are in range is for `Ladder.parse` to say.

    Args:
        document: One that `Ladder.parse` reads.
        changes: From a threshold's name, such as 'triggers.queue.enter', to what stands in its place: {"value",
            "provenance"}.
    Raises:
        UnknownSurface: the document has no such surface.
        InvalidThreshold: the surface has no threshold of that name, or cannot do without it.
    """
    ladder = Ladder.parse(document, path="$")
    if slug not in ladder:
        raise UnknownSurface(f"{slug!r} is not a surface of this policy; it has {', '.join(sorted(ladder)) or 'none'}")
    known = [name for name, _ in ladder[slug].thresholds()]
    return with_numbers(document, slug, changes, known=known, noun=SURFACE, invalid=InvalidThreshold)


def _placed(ladder: Ladder) -> Iterator[Placed]:
    for slug, surface in ladder.items():
        for name, threshold in surface.thresholds():
            yield Placed(SURFACE, slug, name, threshold)
