"""Whether an answer is a refusal, by its words. Pure.

In English, by the forms in which models and people decline: "I can't help with that". An answer that says what the shop
does not do ("we cannot change an order that was sent") is none. Other languages are not known; there the flag of the
provider alone tells.
"""

from __future__ import annotations

import re
from typing import Final

from dataplane.validators.folding import words

# A refusal says so at once; what an answer adds after that much is about something else.
LOOKED_AT_WORDS: Final = 60
_NOT: Final = (
    r"(?:can t|cannot|can not|could not|couldn t|won t|will not|shouldn t|do not|don t"
    r"|(?:m|am) (?:unable|not able|not allowed|not going|sorry but unable) to"
    r"|must decline to|have to decline to|(?:d|would) rather not|must not|may not)"
)
_DOING: Final = (
    r"(?:help|assist|answer|share|provide|give|tell|discuss|do (?:that|this|so)|comply|follow|reveal|disclose|show"
    r"|look (?:that|this|up|into)|repeat|pretend|act as|play|say|write|produce|fulfil|fulfill|advise|hand|pass"
    r"|take part|support (?:that|this)|go along|ignore|have access)"
)
_REFUSALS: Final = re.compile(
    rf"\bi {_NOT}(?: \w+){{0,2}}? {_DOING}\b"
    rf"|\b(?:not|nothing|isn t) (?:something |that )*i (?:can|could|may|will|am able to) {_DOING}\b"
    r"|\bi (?:have|need) to (?:decline|refuse)\b|\bi (?:must )?(?:decline|refuse)\b"
    r"|\bcan t (?:help|assist) (?:you )?with (?:that|this)\b"
)


def is_refusal(text: str) -> bool:
    """Whether its first words decline what was asked."""
    said = b" ".join(words(text)[:LOOKED_AT_WORDS]).decode(errors="replace")
    return _REFUSALS.search(said) is not None
