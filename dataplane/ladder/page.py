"""The status page as HTML: the signed words of a surface, or that all is as usual. Pure.

It needs no script, asks nobody else for anything, and comes anew every half minute, unless its reader asks it not to:
whoever has it read out does not want it to begin anew in the middle of a sentence. The few words around the signed
ones are ours, in the languages of `WORDS`; those are all that anybody reads who did not sign them.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Final

from dataplane.ladder.status import SurfaceStatus, written
from dataplane.ladder.words import Spoken
from dataplane.signed_copy import best_locale

REFRESH_SECONDS: Final = 30
WORDS: Final = {
    "en": {
        "status": "Status",
        "ok": "All systems answer as usual",
        "degraded": "Reduced service",
        "maintenance": "Maintenance",
        "since": "Since",
        "until": "Until",
        "eta": "Expected wait: about {minutes} min",
        "tiers": "Not for every customer: this concerns the tiers {tiers}.",
        "all": "All surfaces",
        "fairness": "Who is served when capacity runs short",
        "as_of": "As of",
        "again": "This page looks again by itself every 30 seconds.",
        "stop": "Do not look again",
        "stopped": "This page does not look again by itself.",
        "no_page": "There is no such status page",
        "no_page_detail": "Nothing here has the name in the address. It may have another name now; look at the list.",
        "unknown": "The status is not known yet",
        "unknown_detail": "This gateway has only just started. Please look again in a moment.",
        "nothing": "Nothing is listed here yet.",
    },
    "de": {
        "status": "Status",
        "ok": "Alle Systeme antworten wie gewohnt",
        "degraded": "Eingeschränkter Betrieb",
        "maintenance": "Wartung",
        "since": "Seit",
        "until": "Bis",
        "eta": "Voraussichtliche Wartezeit: etwa {minutes} min",
        "tiers": "Nicht für alle Kunden: betroffen sind die Stufen {tiers}.",
        "all": "Alle Bereiche",
        "fairness": "Wer bedient wird, wenn es eng wird",
        "as_of": "Stand",
        "again": "Diese Seite sieht alle 30 Sekunden von selbst wieder nach.",
        "stop": "Nicht wieder nachsehen",
        "stopped": "Diese Seite sieht nicht von selbst wieder nach.",
        "no_page": "Diese Statusseite gibt es nicht",
        "no_page_detail": "Nichts hier heißt so wie in der Adresse. Vielleicht heißt es jetzt anders; siehe Liste.",
        "unknown": "Der Status ist noch nicht bekannt",
        "unknown_detail": "Dieses Gateway ist eben erst gestartet. Bitte sehen Sie gleich noch einmal nach.",
        "nothing": "Hier ist noch nichts aufgeführt.",
    },
}
MARKS: Final = {"ok": "✓", "degraded": "▲", "maintenance": "■"}
STYLE: Final = (
    ":root{color-scheme:light dark;--ink:#1d2430;--soft:#5a6472;--page:#f6f7f9;--card:#fff;--line:#d9dde3;"
    "--link:#0b5cad;--ok:#17723b;--degraded:#8a5300;--maintenance:#b3261e}"
    "@media (prefers-color-scheme:dark){:root{--ink:#e8ebf0;--soft:#a5afbd;--page:#12161c;--card:#1b2129;"
    "--line:#343d4a;--link:#7cb8f5;--ok:#6fd394;--degraded:#f0b35a;--maintenance:#ff8a80}}"
    "body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}"
    "main{max-width:44rem;margin:0 auto;padding:2rem 1rem}"
    "h1{font-size:1.5rem;margin:0 0 1rem}h2{font-size:1.125rem}"
    "section{background:var(--card);border:1px solid var(--line);border-radius:8px;"
    "padding:1rem 1.25rem;margin:0 0 1rem}"
    ".pill{font-weight:600;margin:0}.ok{color:var(--ok)}.degraded{color:var(--degraded)}"
    ".maintenance{color:var(--maintenance)}.banner{font-size:1.125rem;font-weight:600}"
    ".facts,footer{color:var(--soft)}a{color:var(--link)}ul.surfaces{list-style:none;padding:0;margin:0}"
    "ul.surfaces li{padding:.5rem 0;display:flex;gap:1rem;justify-content:space-between;flex-wrap:wrap}"
    "ul.surfaces a{display:inline-block;min-height:2.5rem;line-height:2.5rem}"
)


def content_policy() -> str:
    """The value of `Content-Security-Policy` that these pages keep to: nothing but their own style."""
    style = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads a page, and when.

    Attributes:
        accepted: An `Accept-Language` header.
        now: When the page is made.
        stop: Where the same page is that does not look again; None: this is it.
        fairness_url: Where it is said who is promised what; empty: nowhere.
    """

    accepted: str | None
    now: datetime
    stop: str | None
    fairness_url: str = ""


def surface_page(status: SurfaceStatus, reader: Reader) -> str:
    """The page of one surface, in the language that suits its reader best."""
    language = best_locale(reader.accepted, tuple(WORDS))
    words = WORDS[language]
    title = f"{status.surface.title} · {words['status']}"
    parts = [f"<h1>{escape(status.surface.title)}</h1>", f"<section>{_pill(status, words)}"]
    if (spoken := status.spoken) is not None:
        parts += [
            f'<div lang="{escape(spoken.locale)}" dir="auto"><p class="banner">{escape(spoken.words.banner)}</p>',
            # Signed, and checked when it was: text, a few tags, and links.
            f"{spoken.words.html}</div>",
            f'<p class="facts">{"<br>".join(_facts(status, spoken, words))}</p>',
        ]
    parts += ["</section>", f'<p><a href="/status">{words["all"]}</a></p>']
    return _page(language, title, "".join(parts), reader)


def index_page(statuses: Sequence[SurfaceStatus], reader: Reader) -> str:
    """The page of all surfaces."""
    language = best_locale(reader.accepted, tuple(WORDS))
    words = WORDS[language]
    rows = [
        f'<li><a href="/status/{escape(one.surface.slug)}">{escape(one.surface.title)}</a>{_pill(one, words)}</li>'
        for one in statuses
    ]
    listed = f'<ul class="surfaces">{"".join(rows)}</ul>' if rows else f"<p>{words['nothing']}</p>"
    return _page(language, words["status"], f"<h1>{words['status']}</h1><section>{listed}</section>", reader)


def plain_page(what: str, reader: Reader) -> str:
    """A page that has nothing to tell of any surface; `what` is `no_page` or `unknown`."""
    language = best_locale(reader.accepted, tuple(WORDS))
    words = WORDS[language]
    body = (
        f"<h1>{words[what]}</h1><section><p>{words[f'{what}_detail']}</p></section>"
        f'<p><a href="/status">{words["all"]}</a></p>'
    )
    return _page(language, words[what], body, reader)


def _pill(status: SurfaceStatus, words: dict[str, str]) -> str:
    kind = status.status
    return f'<p class="pill {kind}"><span aria-hidden="true">{MARKS[kind]}</span> {words[kind]}</p>'


def _facts(status: SurfaceStatus, spoken: Spoken, words: dict[str, str]) -> list[str]:
    facts = [words["eta"].format(minutes=max(1, math.ceil(spoken.eta_seconds / 60)))]
    if status.since is not None:
        facts.append(f"{words['since']} {_clock(status.since)}")
    if status.until is not None:
        facts.append(f"{words['until']} {_clock(status.until)}")
    concerned = sorted(tier for tier, rung in status.tiers.items() if rung == status.rung)
    if len(concerned) < len(status.tiers):
        facts.append(words["tiers"].format(tiers=", ".join(concerned)))
    return facts


def _clock(moment: datetime) -> str:
    return f'<time datetime="{written(moment)}">{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC</time>'


def _page(language: str, title: str, body: str, reader: Reader) -> str:
    words = WORDS[language]
    refresh, footer = "", words["stopped"]
    if reader.fairness_url:
        body += f'<p><a href="{escape(reader.fairness_url)}">{words["fairness"]}</a></p>'
    if reader.stop is not None:
        refresh = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">'
        footer = f'{words["again"]} <a href="{escape(reader.stop)}">{words["stop"]}</a>'
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'{refresh}<meta name="robots" content="noindex">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>{body}"
        f"<footer>{words['as_of']} {_clock(reader.now)}. {footer}</footer></main></body></html>"
    )
