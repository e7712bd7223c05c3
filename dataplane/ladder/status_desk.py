"""Where apps and users ask how a surface stands: a small JSON document, a script that shows its banner, and pages.

Nobody needs a key for it, and no part of serving requests is asked: what is told is known beforehand, and worked out
at most once a second for each way of asking. So it answers when nothing else does, and costs nobody's places.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode

import orjson

from dataplane.access import Tenant
from dataplane.asgi_request import Scope
from dataplane.envelope import JSON_TYPE, Header, MethodNotAllowed, UnknownPath
from dataplane.errors.admission import NoRelease
from dataplane.errors.requests import InvalidRequest
from dataplane.ladder.desk import LadderDesk
from dataplane.ladder.page import Reader, content_policy, index_page, plain_page, surface_page
from dataplane.ladder.policy import Surface
from dataplane.ladder.status import SurfaceStatus, highest, status_of, tiers_asked, written
from dataplane.messages import Json
from dataplane.release import Release

STATUS: Final = "/v1/status"
BANNER: Final = "/v1/status/banner.js"
PAGES: Final = "/status"
ASKED: Final = ("surface", "tier", "locale", "refresh")
MAX_QUERY_BYTES: Final = 1_000
# What is kept for the second. So many ways of asking are more than anybody needs who does not try to fill it.
MAX_KEPT: Final = 500
# Of an `Accept-Language` header; what comes behind changes nothing for whoever has one that a browser sends.
MAX_ACCEPTED_CHARACTERS: Final = 200

ANY_ORIGIN: Final[Header] = (b"access-control-allow-origin", b"*")
NO_SNIFF: Final[Header] = (b"x-content-type-options", b"nosniff")
ASK_AGAIN: Final[Header] = (b"cache-control", b"no-cache")
HTML: Final[Header] = (b"content-type", b"text/html; charset=utf-8")
SCRIPT: Final[Header] = (b"content-type", b"text/javascript; charset=utf-8")
DAY_LONG: Final[Header] = (b"cache-control", b"public, max-age=86400")
FROM_ANYWHERE: Final[Header] = (b"cross-origin-resource-policy", b"cross-origin")


@dataclass(frozen=True, slots=True)
class StatusCall:
    """A question, as the edge read it. `query` is not decoded; `if_none_match` is what the caller has already."""

    method: str
    path: str
    query: str = ""
    authorization: str | None = None
    accept_language: str | None = None
    if_none_match: str | None = None

    @classmethod
    def read(cls, scope: Scope) -> StatusCall:
        """The question of an HTTP request."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        return cls(
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode("latin-1"),
            authorization=headers.get(b"authorization"),
            accept_language=headers.get(b"accept-language"),
            if_none_match=headers.get(b"if-none-match"),
        )


@dataclass(frozen=True, slots=True)
class StatusReply:
    """An answer. `tag` is what tells its content from another, in quotes, where there is one."""

    status: int
    headers: tuple[Header, ...]
    body: bytes
    tag: str = ""


class StatusDesk:
    """See the module. One per process, on one event loop."""

    def __init__(
        self,
        *,
        desk: LadderDesk,
        release: Callable[[], Release | None],
        tenant_of: Callable[[str], Tenant],
        moved_at: Callable[[str], float | None],
        wall: Callable[[], float],
        fairness_url: str = "",
    ) -> None:
        """The callables must not wait.

        Args:
            release: What is being served.
            tenant_of: Whose an `Authorization` header is; raises Unauthorized or NoRelease.
            moved_at: When triggers last moved the ladder of a surface, in epoch seconds; None where nobody knows.
            wall: Epoch seconds.
            fairness_url: The page that says who is promised what, to which pages link; empty: there is none.
        """
        self._desk = desk
        self._release = release
        self._tenant_of = tenant_of
        self._moved_at = moved_at
        self._wall = wall
        self._fairness_url = fairness_url
        script = Path(__file__).with_name("banner.js").read_bytes()
        self._script = StatusReply(
            200, (SCRIPT, DAY_LONG, ANY_ORIGIN, FROM_ANYWHERE, NO_SNIFF), script, f'"{_short_hash(script)}"'
        )
        self._page_headers: tuple[Header, ...] = (
            HTML,
            ASK_AGAIN,
            NO_SNIFF,
            (b"vary", b"accept-language"),
            (b"content-security-policy", content_policy().encode()),
            (b"referrer-policy", b"no-referrer"),
        )
        self._kept: dict[tuple[str, ...], StatusReply] = {}
        self._kept_second = 0
        self._kept_release: Release | None = None

    def serves(self, path: str) -> bool:
        """Whether a path is this desk's."""
        return path in (STATUS, PAGES) or path.startswith((f"{STATUS}/", f"{PAGES}/"))

    def answer(self, call: StatusCall) -> StatusReply:
        """Answer one question.

        Raises:
            UnknownPath, MethodNotAllowed, InvalidRequest, Unauthorized, NoRelease.
        """
        if call.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(call.method, call.path[:200], allowed="GET")
        if call.path == BANNER:
            return _unless_known(self._script, call)
        asked = _read_query(call.query)
        accepted = (asked["locale"] or call.accept_language or "")[:MAX_ACCEPTED_CHARACTERS]
        if call.path == STATUS:
            return _unless_known(self._answer_in_json(call, asked, accepted), call)
        if call.path == PAGES or call.path.startswith(f"{PAGES}/"):
            return self._answer_in_html(call.path.removeprefix(PAGES).strip("/"), asked, accepted)
        raise UnknownPath(f"{call.method} {call.path[:200]} does not exist")

    def _answer_in_json(self, call: StatusCall, asked: Mapping[str, str | None], accepted: str) -> StatusReply:
        release = self._release()
        if release is None:
            raise NoRelease
        tier, is_own = asked["tier"], call.authorization is not None
        if call.authorization is not None:
            tier = self._tenant_of(call.authorization).tier
        tiers = tiers_asked(tier)
        name = asked["surface"]
        if name is not None and name not in release.ladder:
            raise UnknownPath(f"{name[:80]!r} is not a surface of this release")
        return self._once_a_second(
            release,
            (STATUS, name or "", *tiers, str(is_own), accepted),
            lambda: self._document(release, name, tiers, accepted, is_own=is_own),
        )

    def _answer_in_html(self, name: str, asked: Mapping[str, str | None], accepted: str) -> StatusReply:
        release = self._release()
        tiers = tiers_asked(asked["tier"])
        stop = None
        if asked["refresh"] != "off":
            stop = "?" + urlencode({key: asked[key] for key in ("tier", "locale") if asked[key]} | {"refresh": "off"})
        reader = Reader(accepted or None, self._now(), stop, self._fairness_url)
        # Not kept by its name: the names that do not exist are without number.
        if release is None:
            page = plain_page("unknown", reader).encode()
            return StatusReply(503, (*self._page_headers, (b"retry-after", b"1")), page)
        if name and name not in release.ladder:
            return StatusReply(404, self._page_headers, plain_page("no_page", reader).encode())
        return self._once_a_second(
            release, (PAGES, name, *tiers, accepted, stop or ""), lambda: self._page(release, name, tiers, reader)
        )

    def _once_a_second(self, release: Release, key: tuple[str, ...], make: Callable[[], StatusReply]) -> StatusReply:
        second = int(self._wall())
        if second != self._kept_second or release is not self._kept_release or len(self._kept) >= MAX_KEPT:
            self._kept.clear()
            self._kept_second, self._kept_release = second, release
        reply = self._kept.get(key)
        if reply is None:
            reply = self._kept[key] = make()
        return reply

    def _document(
        self, release: Release, name: str | None, tiers: tuple[str, ...], accepted: str, *, is_own: bool
    ) -> StatusReply:
        """Shape: {"surfaces": [see `SurfaceStatus.to_json`], "release": int, "at": ISO-8601}."""
        chosen = release.ladder.values() if name is None else [release.ladder[name]]
        statuses = [self._status(release, surface, tiers, accepted or None) for surface in chosen]
        document: Json = {
            "surfaces": [one.to_json() for one in statuses],
            "release": release.revision,
            "at": written(self._now()),
        }
        content = orjson.dumps([release.revision, [one.without_seconds().to_json() for one in statuses]])
        headers = (
            JSON_TYPE,
            (b"cache-control", b"private, no-cache") if is_own else ASK_AGAIN,
            ANY_ORIGIN,
            NO_SNIFF,
            (b"vary", b"accept-language, authorization"),
        )
        return StatusReply(200, headers, orjson.dumps(document), f'W/"{_short_hash(content)}"')

    def _page(self, release: Release, name: str, tiers: tuple[str, ...], reader: Reader) -> StatusReply:
        if name:
            page = surface_page(self._status(release, release.ladder[name], tiers, reader.accepted), reader)
        else:
            surfaces = release.ladder.values()
            page = index_page([self._status(release, one, tiers, reader.accepted) for one in surfaces], reader)
        return StatusReply(200, self._page_headers, page.encode())

    def _status(
        self, release: Release, surface: Surface, tiers: tuple[str, ...], accepted: str | None
    ) -> SurfaceStatus:
        engaged = {tier: self._desk.engaged(surface, tier) for tier in tiers}
        moved_at = self._moved_at(surface.slug)
        return status_of(
            surface,
            engaged,
            book=release.copy,
            accepted=accepted,
            eta_seconds=self._desk.eta_seconds(surface, highest(engaged.values())),
            moved_at=None if moved_at is None else datetime.fromtimestamp(moved_at, UTC),
            status_url=self._desk.status_url(surface.slug),
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall(), UTC)


def _read_query(query: str) -> dict[str, str | None]:
    """What is asked, of `ASKED`; an empty value is none, what else there is is passed over."""
    if len(query) > MAX_QUERY_BYTES:
        raise InvalidRequest(f"the query is {len(query)} bytes long; at most {MAX_QUERY_BYTES}")
    given = dict(parse_qsl(query))
    return {name: given.get(name) for name in ASKED}


def _unless_known(reply: StatusReply, call: StatusCall) -> StatusReply:
    """The reply with its tag; without its body where the caller has that already."""
    headers = (*reply.headers, (b"etag", reply.tag.encode()))
    known = [tag.strip().removeprefix("W/") for tag in (call.if_none_match or "").split(",")]
    if reply.tag.removeprefix("W/") in known or "*" in known:
        return StatusReply(304, tuple(header for header in headers if header[0] != b"content-type"), b"", reply.tag)
    return StatusReply(reply.status, headers, reply.body, reply.tag)


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]
