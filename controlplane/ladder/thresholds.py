"""The numbers of a ladder: all of them with where each stands, and a policy in which some are others. Pure."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Final

from controlplane.ladder.errors import InvalidThreshold, UnknownSurface
from controlplane.routing.thresholds import Placed
from dataplane.documents import child_path
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
    known = dict(ladder[slug].thresholds())
    changed = copy.deepcopy(dict(document))
    for name, threshold in changes.items():
        if name not in known:
            names = ", ".join(known)
            raise InvalidThreshold(f"{name!r} is not a threshold of surface {slug!r}; it has {names}")
        if threshold is None:
            raise InvalidThreshold(f"surface {slug!r} cannot do without {name!r}; give it a number")
        *way, member = _place_of(name)
        place = changed[slug]
        for step in way:
            place = place[step]
        place[member] = dict(threshold)
    return changed


def path_of(slug: str, name: str) -> str:
    """The JSON path of a threshold in a ladder policy, by which the parser names it when it refuses it."""
    path = child_path("$", slug)
    for step in _place_of(name):
        path = child_path(path, step)
    return path


def _place_of(name: str) -> list[str]:
    """The members on the way to a threshold: the part that it is of, in which, and its name there. Slugs hold dots."""
    part, _, rest = name.partition(".")
    slug, _, member = rest.rpartition(".")
    return [one for one in (part, slug, member) if one]


def _placed(ladder: Ladder) -> Iterator[Placed]:
    for slug, surface in ladder.items():
        for name, threshold in surface.thresholds():
            yield Placed(SURFACE, slug, name, threshold)
