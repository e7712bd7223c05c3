"""The numbers of a document made of entries by their slugs, such as surfaces or corpora, in which a number's name says
where it stands. Pure.
"""

import copy
from collections.abc import Collection, Mapping
from typing import Any

from dataplane.documents import child_path


def with_numbers(
    document: Mapping[str, Any],
    slug: str,
    changes: Mapping[str, Any],
    *,
    known: Collection[str],
    noun: str,
    invalid: type[Exception],
) -> dict[str, Any]:
    """A copy of a document in which some thresholds of one entry are others, and nothing else is.

    Whether the numbers are in range is for the document's parser to say.

    Args:
        slug: Of an entry that the document has.
        changes: From a threshold's name, such as 'triggers.queue.enter', to what stands in its place: {"value",
            "provenance"}.
        known: The names of the entry's thresholds.
        noun: What people call an entry.
        invalid: Raised with one sentence.
    Raises:
        invalid: the entry has no threshold of that name, or cannot do without it.
    """
    changed = copy.deepcopy(dict(document))
    for name, threshold in changes.items():
        if name not in known:
            raise invalid(f"{name!r} is not a threshold of {noun} {slug!r}; it has {', '.join(known)}")
        if threshold is None:
            raise invalid(f"{noun} {slug!r} cannot do without {name!r}; give it a number")
        *way, member = _place_of(name)
        place = changed[slug]
        for step in way:
            place = place[step]
        place[member] = dict(threshold)
    return changed


def path_of(slug: str, name: str) -> str:
    """The JSON path of a threshold in the document, by which the parser names it when it refuses it."""
    path = child_path("$", slug)
    for step in _place_of(name):
        path = child_path(path, step)
    return path


def _place_of(name: str) -> list[str]:
    """The members on the way to a threshold: the part that it is of, in which, and its name there. Slugs hold dots."""
    part, _, rest = name.partition(".")
    slug, _, member = rest.rpartition(".")
    return [one for one in (part, slug, member) if one]
