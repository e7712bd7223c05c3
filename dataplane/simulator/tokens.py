"""The simulator's tokenizer: simple, documented, and the same for usage and for stream pieces."""

from __future__ import annotations

import re
from functools import lru_cache

# A token is up to eight word characters or one other visible character, each with at most one leading space, or a
# run of
# remaining white space. English text gives about 1.2 tokens a word, near enough to the vendors' for costs to look
# right.
_TOKEN = re.compile(r" ?\w{1,8}| ?[^\w\s]|\s+")

MESSAGE_OVERHEAD_TOKENS = 4
REPLY_PRIMING_TOKENS = 3
IMAGE_TOKENS = 85


def tokenize(text: str) -> list[str]:
    """Return the tokens of `text`; joined, they are `text` again."""
    return _TOKEN.findall(text)


@lru_cache(maxsize=4096)
def count_tokens(text: str) -> int:
    """Return how many tokens `text` has; what usage reports and what a stream's content chunks add up to."""
    return len(_TOKEN.findall(text))
