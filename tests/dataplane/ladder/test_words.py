"""What users read of a rung: to whoever asks, and to everybody."""

from __future__ import annotations

from typing import Any

from dataplane.ladder.policy import Ladder
from dataplane.ladder.words import Spoken, speak, speak_to_everybody
from dataplane.signed_copy import CopyBook
from tests.ladders import rung_copy, rung_document, surface

SURFACE = Ladder.parse({"web-chat": surface(title="Web <chat>")})["web-chat"]


def book(**changes: Any) -> CopyBook:
    signed = rung_copy(1)
    signed["rung-1"]["document"] = rung_document(**changes)
    return CopyBook.parse(signed)


def to_everybody(**changes: Any) -> Spoken:
    return speak_to_everybody(SURFACE, 1, book(**changes), accepted=None, eta_seconds=61, status_url="/status/web-chat")


def test_words_are_in_the_callers_language_with_what_is_known_of_the_moment() -> None:
    """What is not known reads as a dash; half a minute more is another minute."""
    spoken = speak(SURFACE, 1, book(), accepted="en", eta_seconds=61, request_id="req_1")
    german = speak(SURFACE, 1, book(), accepted="de-AT, en;q=0.5", eta_seconds=61)

    assert spoken.words.banner == "Web <chat> answers more briefly; back to normal in about 2 min."
    assert spoken.words.detail == "We are very busy. Request req_1, position -."
    assert (german.locale, german.words.banner) == ("de", "Web <chat> antwortet kürzer.")
    assert spoken.to_json() == {
        "surface": "web-chat",
        "rung": 1,
        "name": "Shorter answers",
        "banner": spoken.words.banner,
        "locale": "en",
        "eta_seconds": 61,
        "copy": "rung-1@1",
    }
    assert spoken.to_json_in_full().keys() - spoken.to_json().keys() == {"detail", "html"}


def test_what_speaks_of_one_request_is_told_to_nobody_else() -> None:
    """A page has no place in a queue; the banner, which never speaks of one, stands there instead, as text."""
    spoken = to_everybody(html="<p>You are number {{position}}.</p>")

    assert spoken.words.detail == spoken.words.banner
    assert spoken.words.html == "<p>Web &lt;chat&gt; answers more briefly; back to normal in about 2 min.</p>"


def test_what_speaks_of_no_request_is_told_to_everybody_as_it_was_signed() -> None:
    """With where a page says more."""
    spoken = to_everybody(detail="Busy for {{eta_minutes}} min.")

    assert spoken.words.detail == "Busy for 2 min."
    assert 'href="/status/web-chat"' in spoken.words.html
