"""What callers ask, numbered, and the one right answer to each, known before it is asked.

A request hands a passage of its own to a model that is told to be brief: what comes back is that passage, with its
source, whichever lane answers. A word that is missing, another request's words, or a word too many all show.
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from random import Random
from typing import Any, Final

ROUTE: Final = "chat"
# A stream is under way for a second or two, so that there are always some when something happens.
DRIP: Final = " [[fault slow_drip:ms=20]]"
NUMBER: Final = re.compile(rb"Where is parcel (\d{7})\?")
_VOCABULARY: Final = (
    "amber",
    "basalt",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "garnet",
    "harbour",
    "indigo",
    "juniper",
    "kelp",
    "lantern",
    "maple",
    "nectar",
    "opal",
    "pebble",
    "quartz",
    "river",
    "saffron",
    "timber",
    "umber",
    "velvet",
    "willow",
    "yarrow",
    "zephyr",
    "anchor",
    "birch",
    "copper",
    "dune",
    "fern",
)


class Kind(StrEnum):
    """The ways in which applications and operators ask."""

    PLAIN = "plain"
    STREAM = "stream"
    KEYED = "keyed"
    JOB = "job"
    ACT = "act"


WORDS: Final = {Kind.PLAIN: 20, Kind.STREAM: 60, Kind.KEYED: 20, Kind.JOB: 20}


def _words(kind: Kind, number: int) -> str:
    return " ".join(Random(f"{kind}/{number}").choices(_VOCABULARY, k=WORDS[kind]))  # noqa: S311 - no secret


def question(kind: Kind, number: int) -> list[dict[str, str]]:
    """The messages of a request."""
    passage = f"Parcel {number:07d}: {_words(kind, number)}."
    drip = DRIP if kind is Kind.STREAM else ""
    return [
        {"role": "system", "content": f"Be brief.\nPassages:\n[1] {passage}"},
        {"role": "user", "content": f"Where is parcel {number:07d}?{drip}"},
    ]


def answer(kind: Kind, number: int) -> str:
    """The one right answer."""
    return f"Parcel {number:07d}: {_words(kind, number)} [1]."


def body(kind: Kind, number: int) -> dict[str, Any]:
    """The body of a request for chat."""
    return {"model": ROUTE, "messages": question(kind, number), "user": user(number), "stream": kind is Kind.STREAM}


def user(number: int) -> str:
    """Each request has a user of its own, by whom its attempts are found in the ledger."""
    return f"chaos-{number:07d}"


def ledger_user(number: int) -> str:
    """The same user as usage rows name it: 16 hexadecimal digits of the SHA-256."""
    return whole_hash(number)[:16]


def whole_hash(number: int) -> str:
    """The same user as evidence of keys names it."""
    return hashlib.sha256(user(number).encode()).hexdigest()


def number_in(request: bytes) -> int | None:
    """Which request of ours a provider was handed; None for somebody else's."""
    found = NUMBER.search(request)
    return int(found[1]) if found else None
