"""What alerts can be about. Whoever raises a kind of its own registers it at start-up, so that channels can want it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

CANARY_ROLLED_BACK: Final = "canary.rolled_back"
CHANNEL_DISABLED: Final = "channel.disabled"
CHANNEL_TEST: Final = "channel.test"  # goes to the one channel that is tested, whatever it wants

_words: dict[str, str] = {
    CANARY_ROLLED_BACK: "A canary was rolled back by itself",
    CHANNEL_DISABLED: "A channel was disabled because its receiver is gone",
}


def register(kind: str, words: str) -> None:
    """Let channels want alerts of this kind; `words` say what it tells, in sentence case."""
    _words[kind] = words


def known() -> Mapping[str, str]:
    """The kinds that a channel can want, with their words."""
    return MappingProxyType(_words)
