"""Words that hurt, in the languages of the dictionaries that a library keeps."""

from __future__ import annotations

from functools import cache
from importlib.metadata import distribution
from typing import Final

import orjson

_PACKAGE: Final = "glin-profanity"
# By ISO 639-1, the dictionaries of the package.
DICTIONARIES: Final = {
    "ar": "arabic", "cs": "czech", "da": "danish", "de": "german", "en": "english", "eo": "esperanto", "es": "spanish",
    "fa": "persian", "fi": "finnish", "fr": "french", "hi": "hindi", "hu": "hungarian", "it": "italian",
    "ja": "japanese", "ko": "korean", "nl": "dutch", "no": "norwegian", "pl": "polish", "pt": "portuguese",
    "ru": "russian", "sv": "swedish", "th": "thai", "tr": "turkish", "zh": "chinese",
}  # fmt: skip


@cache
def abusive_words(language: str) -> tuple[str, ...]:
    """The dictionary of one of DICTIONARIES. Only its data is read: the package's code is never imported."""
    place = f"glin_profanity/data/dictionaries/{DICTIONARIES[language]}.json"
    with open(str(distribution(_PACKAGE).locate_file(place)), "rb") as file:
        words: list[str] = orjson.loads(file.read())["words"]
    # Some entries are signs alone, which no list of terms can hold.
    return tuple(dict.fromkeys(word.strip() for word in words if any(map(str.isalnum, word))))
