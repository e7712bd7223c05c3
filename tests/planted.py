"""Words that are planted where they belong, to be searched for where they do not.

Each is found as it is, and as whoever writes it may have turned it: inside JSON, in base64, by percent signs.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from urllib.parse import quote


def forms(word: str) -> set[str]:
    """How a word may be written."""
    data = word.encode()
    found = {word, json.dumps(word)[1:-1], quote(word), quote(word, safe=""), data.hex(), repr(word)[1:-1]}
    # At each of the three places where a group of base64 may begin, without what depends on its neighbours.
    for skipped in range(3):
        inner = base64.b64encode(data[skipped : skipped + (len(data) - skipped) // 3 * 3]).decode().rstrip("=")
        found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return {one for one in found if len(one) >= 6}


def found_in(text: str, plants: Mapping[str, str]) -> list[str]:
    """The names of the plants that `text` holds, whatever they are written as."""
    return sorted(name for name, word in plants.items() if any(form in text for form in forms(word)))
