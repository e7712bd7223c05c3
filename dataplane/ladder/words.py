"""What users read of a rung, in their language and with what is known of the moment filled in. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from html import escape

from dataplane.ladder.policy import Rung, Surface
from dataplane.messages import Json
from dataplane.placeholders import names_of, split
from dataplane.rung_words import BANNER_PLACEHOLDERS, RUNG_PLACEHOLDERS, RungWords
from dataplane.signed_copy import CopyBook, SignedCopy, choose_locale


@dataclass(frozen=True, slots=True)
class Spoken:
    """Signed words of one rung as somebody reads them; every placeholder of `words` is filled in."""

    surface: Surface
    rung: Rung
    copy: SignedCopy
    locale: str
    words: RungWords
    eta_seconds: int

    def to_json(self) -> Json:
        """What goes with an answer, as its member `ballast`.

        Shape: {"surface": slug, "rung": 1..6, "name": str, "banner": str, "locale": str, "eta_seconds": int, "copy":
                "slug@version"}.
        """
        return {
            "surface": self.surface.slug,
            "rung": self.rung.number,
            "name": self.rung.name,
            "banner": self.words.banner,
            "locale": self.locale,
            "eta_seconds": self.eta_seconds,
            "copy": self.copy.reference,
        }

    def to_json_in_full(self) -> Json:
        """What stands in the place of an answer. Shape: that of `to_json`, with "detail": str and "html": str."""
        return {**self.to_json(), "detail": self.words.detail, "html": self.words.html}


def speak(
    surface: Surface, number: int, book: CopyBook, *, accepted: str | None, eta_seconds: float, **values: str
) -> Spoken:
    """The words of a rung that can be engaged.

    Args:
        accepted: An `Accept-Language` header.
        values: Those placeholders of `rung_words.RUNG_PLACEHOLDERS` that are known beside; another one reads as a dash.
    """
    rung = surface.rungs[number]
    copy = book[rung.copy]
    locale = choose_locale(accepted, copy)
    filled = copy.rung[locale].filled(_values(surface, eta_seconds) | values)
    return Spoken(surface, rung, copy, locale, filled, math.ceil(eta_seconds))


def respoken(spoken: Spoken, eta_seconds: float, **values: str) -> Spoken:
    """The same words once more is known of the moment; what `speak` was told beside is to be told again."""
    filled = spoken.copy.rung[spoken.locale].filled(_values(spoken.surface, eta_seconds) | values)
    return replace(spoken, words=filled, eta_seconds=math.ceil(eta_seconds))


def speak_to_everybody(
    surface: Surface, number: int, book: CopyBook, *, accepted: str | None, eta_seconds: float, **values: str
) -> Spoken:
    """As `speak`, where no request stands behind the words: what would speak of one, its place in a queue, say, has the
    banner in its place, which never does.
    """
    spoken = speak(surface, number, book, accepted=accepted, eta_seconds=eta_seconds, **values)
    written, words = spoken.copy.rung[spoken.locale], spoken.words
    if _is_of_a_request(written.detail):
        words = replace(words, detail=words.banner)
    if _is_of_a_request(written.html):
        words = replace(words, html=f"<p>{escape(words.banner)}</p>")
    return replace(spoken, words=words)


def _is_of_a_request(text: str) -> bool:
    return not RUNG_PLACEHOLDERS.intersection(names_of(split(text))) <= BANNER_PLACEHOLDERS


def _values(surface: Surface, eta_seconds: float) -> dict[str, str]:
    unknown: dict[str, str] = dict.fromkeys(("job", "position", "request_id", "status_url"), "-")
    seconds = math.ceil(eta_seconds)
    return unknown | {
        "eta_seconds": str(seconds),
        "eta_minutes": str(max(1, math.ceil(seconds / 60))),
        "surface": surface.title,
    }
