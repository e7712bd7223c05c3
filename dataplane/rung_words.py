"""What users read while a rung is engaged: a banner, what stands behind it as text and as HTML, and the e-mail that an
answer which comes later goes out with. Pure; parsed as a part of signed copy.

The HTML is shown on other people's pages, so it is checked when it is signed: a few tags of text, no attribute but
where a link leads and which language it is in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from html.parser import HTMLParser
from typing import Final
from urllib.parse import urlsplit

from dataplane.documents import MalformedRelease, Node
from dataplane.placeholders import join, names_of, split

# `position` and `job` are those of an answer that comes later.
RUNG_PLACEHOLDERS: Final = frozenset(
    {"eta_minutes", "eta_seconds", "job", "position", "request_id", "status_url", "surface"}
)
# No request stands behind a banner on a page.
BANNER_PLACEHOLDERS: Final = frozenset({"eta_minutes", "eta_seconds", "status_url", "surface"})
MAX_BANNER_CHARACTERS: Final = 200
MAX_DETAIL_CHARACTERS: Final = 5_000
# With the attributes that each may have; `lang` may stand on every one.
TAGS: Final[Mapping[str, frozenset[str]]] = {
    "p": frozenset(),
    "br": frozenset(),
    "strong": frozenset(),
    "em": frozenset(),
    "ul": frozenset(),
    "ol": frozenset(),
    "li": frozenset(),
    "h2": frozenset(),
    "span": frozenset(),
    "a": frozenset({"href"}),
}
VOID: Final = frozenset({"br"})
_TAG: Final = re.compile(r"</?[a-zA-Z0-9]+(\s[^<>]*)?>")
SCHEMES: Final = frozenset({"http", "https", "mailto", "tel"})


@dataclass(frozen=True, slots=True)
class Mail:
    """The e-mail that an answer goes out with: its subject, and the words above the answer."""

    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class RungWords:
    """What users read of one rung in one language. `detail` and `html` say the same."""

    banner: str
    detail: str
    html: str
    mail: Mail | None

    def filled(self, values: Mapping[str, str]) -> RungWords:
        """The words with every placeholder replaced; in HTML, what replaces it is text."""
        as_html = {name: escape(value) for name, value in values.items()}
        mail = self.mail
        return RungWords(
            banner=join(split(self.banner), values),
            detail=join(split(self.detail), values),
            html=join(split(self.html), as_html),
            mail=mail and Mail(join(split(mail.subject), values), join(split(mail.text), values)),
        )


def parse_rung_words(node: Node) -> RungWords:
    """Read the words of one language.

    Shape: {"banner": str, "detail": str, "html": str, "mail": {"subject", "text"} or null}.
    Raises:
        MalformedRelease: naming the JSON path; also for a placeholder that does not exist, and for HTML that other
            people's pages could not take as it is.
    """
    members = node.members("banner", "detail", "html", "mail")
    banner = _text(members["banner"], BANNER_PLACEHOLDERS, maximum=MAX_BANNER_CHARACTERS)
    if "\n" in banner:
        members["banner"].refuse("a banner is one line; what does not fit is for 'detail'")
    html = _text(members["html"], RUNG_PLACEHOLDERS, maximum=MAX_DETAIL_CHARACTERS)
    _check_html(members["html"], html)
    mail = None
    if members["mail"].value is not None:
        inner = members["mail"].members("subject", "text")
        mail = Mail(
            _text(inner["subject"], RUNG_PLACEHOLDERS, maximum=MAX_BANNER_CHARACTERS),
            _text(inner["text"], RUNG_PLACEHOLDERS, maximum=MAX_DETAIL_CHARACTERS),
        )
        if "\n" in mail.subject:
            inner["subject"].refuse("a subject is one line")
    return RungWords(banner, _text(members["detail"], RUNG_PLACEHOLDERS, maximum=MAX_DETAIL_CHARACTERS), html, mail)


def _text(node: Node, allowed: frozenset[str], *, maximum: int) -> str:
    text = node.text()
    if len(text) > maximum:
        node.refuse(f"{len(text)} characters; at most {maximum}")
    try:
        unknown = sorted(set(names_of(split(text))) - allowed)
    except ValueError as exc:
        raise MalformedRelease(node.path, str(exc)) from exc
    if unknown:
        node.refuse(f"placeholder {unknown[0]!r} does not exist here; there are {', '.join(sorted(allowed))}")
    return text


def _check_html(node: Node, html: str) -> None:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    if reader.fault is None and "<" in _TAG.sub("", html):
        # A browser would take what follows on the page into the tag that is begun here.
        reader.fault = "a '<' that begins no whole tag; write &lt;"
    if reader.fault is None and reader.open:
        reader.fault = f"<{reader.open[-1]}> is not closed"
    if reader.fault is not None:
        node.refuse(reader.fault)


class _Reader(HTMLParser):
    """Notes the first thing that must not be in signed HTML."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.fault: str | None = None
        self._link_says = True

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            self._note(f"<{tag}> must not be in it; there are {', '.join(TAGS)}")
            return
        for name, value in attrs:
            if name != "lang" and name not in TAGS[tag]:
                self._note(f"attribute {name!r} must not be on <{tag}>")
            if name == "lang" and "{{" in (value or ""):
                # Without quotes around it, what replaces it could begin an attribute of its own.
                self._note("a language holds no placeholder")
            if name == "href" and not _leads_somewhere(value or ""):
                self._note(f"{(value or '')[:80]!r} is no address that a link may lead to")
        if tag == "a" and not any(name == "href" for name, _ in attrs):
            self._note("a link without href leads nowhere")
        if tag not in VOID:
            self.open.append(tag)
            self._link_says = tag != "a" and self._link_says

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._note(f"<{tag}/> closes nothing in HTML")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self._note(f"</{tag}> closes nothing that was opened last")
            return
        self.open.pop()
        if tag == "a" and not self._link_says:
            self._note("a link without words says nothing to who cannot see it")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self._link_says = True

    def handle_comment(self, data: str) -> None:
        self._note("comments must not be in it")

    def handle_decl(self, decl: str) -> None:
        self._note("declarations must not be in it")

    def handle_pi(self, data: str) -> None:
        self._note("instructions must not be in it")

    def _note(self, fault: str) -> None:
        self.fault = self.fault or fault


def _leads_somewhere(link: str) -> bool:
    if link == "{{status_url}}":
        return True
    if "{{" in link:
        return False
    try:
        return urlsplit(link).scheme in SCHEMES
    except ValueError:
        return False
