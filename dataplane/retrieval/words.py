"""What readers are told of the age of what was found: signed words, with what is known of the moment in them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dataplane.retrieval.policy import Corpus
from dataplane.signed_copy import SignedCopy, choose_locale


@dataclass(frozen=True, slots=True)
class Banner:
    """Signed words in the language of whoever reads them; `copy` is slug@version."""

    text: str
    locale: str
    copy: str

    def to_json(self) -> dict[str, Any]:
        """As answers have it. Shape: {"text", "locale", "copy": str}."""
        return {"text": self.text, "locale": self.locale, "copy": self.copy}


def banner_of(corpus: Corpus, copy: SignedCopy, *, lag_seconds: float, now: datetime, accepted: str | None) -> Banner:
    """The words of the corpus' banner.

    Args:
        copy: Of the kind `freshness`.
        now: In UTC.
        accepted: An `Accept-Language` header.
    """
    locale = choose_locale(accepted, copy)
    values = {
        "corpus": corpus.title,
        "lag": age_in_words(lag_seconds),
        "as_of": moment_in_words(now - timedelta(seconds=lag_seconds), now=now),
    }
    return Banner(copy.words[locale].filled(values).text, locale, copy.reference)


def age_in_words(seconds: float) -> str:
    """An age in at most two units, rounded down, such as '12 min' or '3 h 5 min'."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86_400
    if hours < 1:
        return f"{minutes} min"
    if days < 1:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{days} d {hours % 24} h" if hours % 24 else f"{days} d"


def moment_in_words(moment: datetime, *, now: datetime) -> str:
    """A moment such as '14:05 UTC', with its date where that is another day than `now`; both in UTC."""
    return f"{moment:%H:%M} UTC" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M} UTC"
