"""How several things are said in one sentence. Pure."""

from collections.abc import Sequence


def listed(words: Sequence[str], *, last: str = "and") -> str:
    """Some words as one reads them out: 'a, b and c'."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"
