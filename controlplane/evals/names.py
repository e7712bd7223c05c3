"""How plans, standards and forms name a version of a set or of a judge: 'slug@number', such as grounded@2. Pure."""

import re
from typing import Final

_PINNED: Final = re.compile(r"([a-z0-9][a-z0-9_-]*)@([1-9][0-9]{0,8})\Z", re.IGNORECASE)


def pinned(slug: str, number: int) -> str:
    """The name of a version."""
    return f"{slug}@{number}"


def read_pinned(name: str) -> tuple[str, int] | None:
    """The slug and the number that a name is made of; None: it is no such name."""
    parts = _PINNED.match(name)
    return None if parts is None else (parts[1], int(parts[2]))
