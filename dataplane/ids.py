"""Ids that sort by time. Pure but for its randomness."""

from __future__ import annotations

from random import getrandbits


def new_id(wall: float) -> str:
    """Return 32 hex digits that sort by time: a UUID of version 7 without its dashes. `wall` is epoch seconds."""
    random = getrandbits(74)
    high = (int(wall * 1000) & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | (random >> 62) << 64
    return f"{high | 0x2 << 62 | random & 0x3FFF_FFFF_FFFF_FFFF:032x}"
