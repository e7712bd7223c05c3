"""Takes out of a text what must not leave, and puts words in its place. Pure.

In JSON the words go where what they replace stood: within a string as they are, for any other value as a string. What
reaches over the edge of a string cannot be replaced so that JSON is left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from dataplane.documents import Node

REPLACEMENT: Final = "[removed]"
MAX_REPLACEMENT_CHARACTERS: Final = 64
_QUOTE: Final = re.compile(r'\\.|"', re.DOTALL)


class WouldBreakJson(ValueError):
    """What is to be taken out begins within a string and ends without, or the other way round."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Characters `start` to `end` of a text are to be replaced. `order` decides between cuts that begin together."""

    start: int
    end: int
    replacement: str
    order: tuple[int, str] = (0, "")


class Strings:
    """Knows whether the place that has been reached in a JSON text is within a string."""

    __slots__ = ("inside",)

    def __init__(self) -> None:
        self.inside = False

    def pass_over(self, text: str) -> bool:
        """Go on by `text`, which ends in no open escape, and say whether an edge of a string was passed."""
        if '"' not in text:
            return False
        edges = sum(found[0] == '"' for found in _QUOTE.finditer(text))
        self.inside ^= edges % 2 == 1
        return edges > 0


def words_for(replacement: str, *, in_string: bool) -> str:
    """The replacement as JSON has it."""
    quoted = json.dumps(replacement, ensure_ascii=False)
    return quoted[1:-1] if in_string else quoted


def redact(text: str, cuts: Iterable[Cut], *, is_json: bool = False) -> str:
    """Replace what is cut; cuts that overlap are one, replaced as the first of them says.

    Raises:
        WouldBreakJson: `is_json`, and a cut reaches over the edge of a string.
    """
    out: list[str] = []
    strings = Strings()
    at = 0  # characters of the text that are dealt with
    for cut in sorted(cuts, key=lambda cut: (cut.start, cut.order, cut.end)):
        if cut.start >= at:
            kept = text[at : cut.start]
            out.append(kept)
            if is_json:
                strings.pass_over(kept)
            out.append(words_for(cut.replacement, in_string=strings.inside) if is_json else cut.replacement)
            at = cut.start
        if cut.end > at:
            if is_json and strings.pass_over(text[at : cut.end]):
                raise WouldBreakJson(f"characters {cut.start} to {cut.end} reach over the edge of a string")
            at = cut.end
    out.append(text[at:])
    return "".join(out)


def parse_replacement(members: Mapping[str, Node]) -> str:
    """The member `replacement` of a rule's parameters; without one, REPLACEMENT."""
    if "replacement" not in members:
        return REPLACEMENT
    node = members["replacement"]
    text = node.text()
    if len(text) > MAX_REPLACEMENT_CHARACTERS:
        node.refuse(f"{len(text)} characters, more than {MAX_REPLACEMENT_CHARACTERS}; say it in fewer")
    return text
