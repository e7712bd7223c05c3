"""Other numbers for a versioned document, each with where it comes from; and those of a document made of entries by
their slugs, such as surfaces or corpora, in which a number's name says where it stands. Pure.
"""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from dataplane.documents import child_path


@dataclass(frozen=True, slots=True)
class NewValue:
    """Another number for a threshold, and where it comes from. Who says so, and when, is added as it is proposed."""

    value: float
    origin: str
    note: str
    link: str
    review_by: date

    def to_json(self, *, author: str, on: date) -> dict[str, Any]:
        """As the document has it; see `dataplane.thresholds.Threshold.parse`."""
        # A number that counts something is refused as 10.0, so what is whole is written so.
        value = int(self.value) if float(self.value).is_integer() else float(self.value)
        provenance = {
            "origin": self.origin,
            "note": self.note,
            "link": self.link,
            "author": author,
            "on": on.isoformat(),
            "review_by": self.review_by.isoformat(),
        }
        return {"value": value, "provenance": provenance}


def written(changes: Mapping[str, NewValue | None], *, author: str, on: date) -> dict[str, dict[str, Any] | None]:
    """New values by the thresholds' names, each as the document has it; None stays."""
    return {name: None if new is None else new.to_json(author=author, on=on) for name, new in changes.items()}


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
