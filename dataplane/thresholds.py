"""Numbers that decide something, and where each comes from: an incident, a load test, a vendor's limit, or a guess.

A threshold without its origin cannot be argued with, so the release carries both. Guesses are allowed and counted: the
console shows their share, and drills are there to make it smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final
from urllib.parse import urlsplit

from dataplane.documents import Node

GUESS: Final = "guess"
ORIGINS: Final = frozenset({"incident", "load_test", "vendor_limit", GUESS})


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a number comes from, who says so, since when, and when it has to be looked at again.

    `link` leads to the evidence (an address, or a path of the console); only a guess may have none.
    """

    origin: str
    note: str
    link: str
    author: str
    on: date
    review_by: date

    @property
    def is_guess(self) -> bool:
        """True when nothing was measured."""
        return self.origin == GUESS

    def is_overdue(self, today: date) -> bool:
        """True when the day on which it was to be reviewed is over."""
        return today > self.review_by


@dataclass(frozen=True, slots=True)
class Threshold:
    """One number and its provenance; the unit is in the name under which it is given."""

    value: float
    provenance: Provenance

    @classmethod
    def parse(cls, node: Node, *, above: float, maximum: float) -> Threshold:
        """Read a threshold in (above, maximum].

        Shape: {"value": number, "provenance": {"origin": incident | load_test | vendor_limit | guess, "note": str,
                "link": str, "author": str, "on": "YYYY-MM-DD", "review_by": "YYYY-MM-DD"}}.
        Raises:
            MalformedRelease: naming the JSON path.
        """
        members = node.members("value", "provenance")
        value = members["value"].number(above=above, maximum=maximum)
        return cls(value, _parse_provenance(members["provenance"]))

    @classmethod
    def parse_whole(cls, node: Node, *, minimum: int, maximum: int) -> Threshold:
        """As `parse`, for a number that counts something."""
        members = node.members("value", "provenance")
        value = members["value"].integer(minimum=minimum, maximum=maximum)
        return cls(value, _parse_provenance(members["provenance"]))


def _parse_provenance(node: Node) -> Provenance:
    members = node.members("origin", "note", "link", "author", "on", "review_by")
    origin = members["origin"].one_of(ORIGINS)
    link = members["link"].text(empty=origin == GUESS)
    if link and not _leads_somewhere(link):
        members["link"].refuse(
            f"{link[:80]!r} is neither an http(s) address nor a path of the console, such as '/drills/'"
        )
    on = _day(members["on"])
    review_by = _day(members["review_by"])
    if review_by <= on:
        members["review_by"].refuse(f"{review_by} is not after {on}, the day the number was set")
    return Provenance(
        origin=origin,
        note=members["note"].text(),
        link=link,
        author=members["author"].text(),
        on=on,
        review_by=review_by,
    )


def _leads_somewhere(link: str) -> bool:
    if link.startswith("/") and not link.startswith("//"):
        return True
    try:
        parts = urlsplit(link)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)


def _day(node: Node) -> date:
    text = node.text()
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or day.isoformat() != text:  # '20260304' and '2026-W10-3' are dates too, and two spellings of one
        node.refuse(f"{text[:40]!r} is not a date such as '2026-03-04'")
    return day
