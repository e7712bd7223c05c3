"""The template language of prompts and signed copy.

It is one thing only: `{{name}}` (letters, digits, underscore; spaces allowed inside the braces) is replaced by a value.
A literal `{{` is written `{{"{{"}}`. There is no logic and no attribute access, and what a value holds is never read as
a template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

PLACEHOLDER: Final = re.compile(r'\{\{ *(?:([A-Za-z0-9_]+)|("\{\{")) *\}\}')

# One text, ready to be joined: text and names alternate, beginning with text.
Segments: TypeAlias = tuple[str, ...]


def split(text: str) -> Segments:
    """Cut a template into alternating text and names.

    Raises:
        ValueError: a `{{` opens nothing that the language knows.
    """
    segments: list[str] = [""]
    position = 0
    while (opening := text.find("{{", position)) >= 0:
        match = PLACEHOLDER.match(text, opening)
        if match is None:
            raise ValueError(
                f"{text[opening : opening + 24]!r} at character {opening} is no placeholder; "
                'write {{name}}, or {{"{{"}} for two literal braces'
            )
        segments[-1] += text[position:opening]
        if match[1]:
            segments += [match[1], ""]
        else:
            segments[-1] += "{{"
        position = match.end()
    segments[-1] += text[position:]
    return tuple(segments)


def names_of(segments: Segments) -> tuple[str, ...]:
    """The names that a template asks for, in order, as often as it does."""
    return segments[1::2]


def join(segments: Segments, values: Mapping[str, Any]) -> str:
    """Put values in the places of names: a string as it is, anything else as compact JSON (3, true, null, {"a":1}).

    Raises:
        KeyError: a name has no value.
    """
    if len(segments) == 1:
        return segments[0]
    parts = list(segments)
    for index in range(1, len(parts), 2):
        value = values[parts[index]]
        parts[index] = (
            value
            if isinstance(value, str)
            else json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        )
    return "".join(parts)
