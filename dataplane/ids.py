"""Ids that sort by time. Pure but for its randomness."""

from __future__ import annotations

from random import getrandbits
from uuid import UUID


def new_id(wall: float) -> str:
    """Return 32 hex digits that sort by time: a UUID of version 7 without its dashes. `wall` is epoch seconds."""
    random = getrandbits(74)
    high = (int(wall * 1000) & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | (random >> 62) << 64
    return f"{high | 0x2 << 62 | random & 0x3FFF_FFFF_FFFF_FFFF:032x}"


def read_named(name: str, *, prefix: str) -> UUID | None:
    """The id that a caller names, such as 'job_' and 32 hex digits; None where it is none of that prefix."""
    text = name.removeprefix(prefix)
    if text == name or len(text) != 32:
        return None
    try:
        return UUID(hex=text)
    except ValueError:
        return None
