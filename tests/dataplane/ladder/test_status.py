"""What is told of a surface, to apps and to readers of its page: signed words, in their language, at little cost."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from dataplane.access import TIERS
from dataplane.envelope import MethodNotAllowed, UnknownPath
from dataplane.errors.admission import NoRelease
from dataplane.errors.requests import InvalidRequest
from dataplane.ladder.desk import LadderDesk
from dataplane.ladder.page import WORDS
from dataplane.ladder.status_desk import BANNER, PAGES, STATUS, StatusCall, StatusDesk
from dataplane.release import parse_document
from tests.dataplane.conftest import copy_document
from tests.ladders import activation, rung_copy, rung_document, rungs, surface

SECOND = 1_760_000_000.0  # 2025-10-09T08:53:20Z


class StubFleet:
    """Stands where a test puts it, and counts how often it is asked."""

    def __init__(self) -> None:
        self.levels: dict[str, int] = {}
        self.asked = 0

    def level(self, surface: str) -> int:
        self.asked += 1
        return self.levels.get(surface, 0)

    def allowance(self, surface: str, tier: str) -> int:
        return 0


class World:
    """One status desk, whose release, fleet and clock a test turns."""

    def __init__(self, make_document: Any, clock: Any) -> None:
        self.clock = clock
        self.fleet = StubFleet()
        self.release: Any = None
        self._make_document = make_document
        self._ladder = LadderDesk(fleet=self.fleet, region="eu-west", wall=clock.now)
        self.moved_at: float | None = None
        self.desk = StatusDesk(
            desk=self._ladder,
            release=lambda: self.release,
            tenant_of=lambda authorization: SimpleNamespace(tier=authorization),
            moved_at=lambda surface: self.moved_at,
            wall=clock.now,
            fairness_url="https://console.example/fairness/?a&b",
        )

    def serve(self, revision: int = 1, *, copy: Any = None, activations: Any = None, **surfaces: Any) -> None:
        """Adopt a release that has these surfaces; without any, web-chat."""
        signed = rung_copy() if copy is None else copy
        answers = {"version": 1, "digest": "a" * 64, "document": copy_document("answers")}
        document = self._make_document(
            revision,
            ladder={slug.replace("_", "-"): one for slug, one in surfaces.items()}
            or {"web-chat": surface(rungs=rungs(cheaper="chat"))},
            copy={**signed, "help-answers": answers},
            activations=activations or {},
        )
        self.release = parse_document(document, digest=str(revision) * 64)
        self._ladder.adopt(self.release)

    def engage(self, level: int, *, moved_at: float | None = None) -> None:
        """As triggers do."""
        self.fleet.levels["web-chat"], self.moved_at = level, moved_at
        self.clock.advance(1)

    def ask(self, query: str = "", **headers: str) -> Any:
        """The first surface of the document."""
        return self.document(query, **headers)["surfaces"][0]

    def document(self, query: str = "", **headers: str) -> Any:
        """The whole document."""
        return json.loads(self.reply(query, **headers).body)

    def reply(self, query: str = "", *, path: str = STATUS, method: str = "GET", **headers: str) -> Any:
        """The reply as the edge sends it."""
        return self.desk.answer(StatusCall(method, path, query, **headers))

    def page(self, name: str = "web-chat", query: str = "", **headers: str) -> str:
        """The page of a surface."""
        return self.reply(query, path=f"{PAGES}/{name}", **headers).body.decode()


@pytest.fixture
def world(make_document, clock):
    world = World(make_document, clock)
    world.serve()
    return world


def headers_of(reply):
    return {name.decode(): value.decode() for name, value in reply.headers}


def test_nothing_engaged_is_ok_and_has_no_words(world):
    """No word is told that nobody needs to read now."""
    told = world.ask()

    assert told == {
        "surface": "web-chat",
        "title": "Web chat",
        "status": "ok",
        "rung": 0,
        "tiers": {"free": 0, "standard": 0, "vip": 0},
        "since": None,
        "until": None,
        **dict.fromkeys(("name", "banner", "detail", "html", "locale", "eta_seconds", "copy")),
    }
    assert world.document()["release"] == 1
    assert datetime.fromisoformat(world.document()["at"]).timestamp() == SECOND


def test_what_triggers_engaged_is_told_in_signed_words(world):
    """With the rung's name, when it began, and what the policy says about the wait."""
    world.engage(3, moved_at=SECOND - 60)

    told = world.ask()

    assert (told["status"], told["rung"], told["name"], told["copy"]) == ("degraded", 3, "Cheaper model", "rung-3@1")
    assert told["banner"] == "Web chat answers more briefly; back to normal in about 15 min."
    assert told["detail"] == told["banner"]  # its own speaks of one request
    assert "very busy" in told["html"]
    assert '<a href="/status/web-chat">' in told["html"]
    assert (told["locale"], told["eta_seconds"], told["until"]) == ("en", 900, None)
    assert datetime.fromisoformat(told["since"]).timestamp() == SECOND - 60


def test_what_a_person_engaged_ends_when_they_said(world):
    """The wait is until then, and counts down."""
    now = datetime.fromtimestamp(SECOND, UTC)
    until = datetime.fromtimestamp(SECOND + 600, UTC)
    by_hand = activation(rung=6, since=now.isoformat(), until=until.isoformat())
    world.serve(2, activations={"r-1": by_hand})

    told = world.ask()

    assert (told["status"], told["rung"], told["eta_seconds"]) == ("maintenance", 6, 600)
    assert datetime.fromisoformat(told["since"]) == now
    assert datetime.fromisoformat(told["until"]) == until
    world.clock.advance(590)
    assert world.ask()["eta_seconds"] == 10
    world.clock.advance(11)
    assert world.ask()["status"] == "ok"


def test_whoever_shows_no_key_reads_the_highest_rung_of_any_tier(world):
    """Nobody knows who reads a public page; what each tier has stands beside it."""
    all_year = {"since": "2025-01-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}
    for_free = activation(rung=4, tiers=["free"], **all_year)
    world.serve(2, activations={"r-1": activation(rung=2, **all_year), "r-2": for_free})

    told = world.ask()

    assert (told["rung"], told["tiers"]) == (4, {"free": 4, "standard": 2, "vip": 2})
    assert world.ask("tier=vip")["tiers"] == {"vip": 2}
    assert world.ask("tier=free&surface=web-chat")["rung"] == 4
    assert WORDS["en"]["tiers"].format(tiers="free") in world.page()


def test_key_asks_for_its_own_tier_whatever_else_is_asked(world):
    """And no cache keeps that for others."""
    for_free = activation(tiers=["free"], since="2025-01-01T00:00:00Z", until="2026-01-01T00:00:00Z")
    world.serve(2, activations={"r-1": for_free})

    reply = world.reply("tier=free", authorization="vip")

    assert json.loads(reply.body)["surfaces"][0]["tiers"] == {"vip": 0}
    assert headers_of(reply)["cache-control"] == "private, no-cache"
    assert world.ask("tier=vip", authorization="free")["rung"] == 3


def test_language_is_the_one_asked_for_then_the_browsers_then_the_copys(world):
    """And the document says which it became."""
    world.engage(1)

    german = world.ask(accept_language="de-AT,de;q=0.9,en;q=0.5")
    assert (german["locale"], german["banner"]) == ("de", "Web chat antwortet kürzer.")
    assert world.ask("locale=de", accept_language="en")["locale"] == "de"
    assert world.ask("locale=xx", accept_language="de")["locale"] == "en"


def test_words_that_nobody_signed_are_never_told(world):
    """The ladder stands on the nearest rung below that is signed; without one, nothing is engaged."""
    world.serve(2, copy=rung_copy(1, 2))
    world.engage(4)

    told = world.document()

    assert told["surfaces"][0]["copy"] == "rung-2@1"
    world.serve(3, copy={})
    world.engage(4)
    assert world.ask()["rung"] == 0
    assert WORDS["en"]["ok"] in world.page()


def test_tag_is_of_what_is_told_and_not_of_the_second(world):
    """Whoever polls reads nothing anew while nothing is new."""
    world.engage(3)
    first = world.reply()
    tag = headers_of(first)["etag"]
    world.clock.advance(7)

    again = world.reply(if_none_match=f'"other", {tag}')

    assert (again.status, again.body, headers_of(again)["etag"]) == (304, b"", tag)
    assert "content-type" not in headers_of(again)
    world.engage(2)
    assert world.reply(if_none_match=tag).status == 200


def test_document_may_be_read_from_any_page_and_is_kept_by_none(world):
    """No key is needed for it, so no origin is kept out."""
    headers = headers_of(world.reply())

    assert headers["content-type"] == "application/json"
    assert headers["access-control-allow-origin"] == "*"
    assert headers["cache-control"] == "no-cache"
    assert headers["vary"] == "accept-language, authorization"
    assert headers["x-content-type-options"] == "nosniff"


def test_same_question_within_a_second_costs_one_answer(world):
    """However many ask, the ladders are looked at once; another second, or another release, looks again."""
    world.ask()
    asked = world.fleet.asked
    for _ in range(50):
        world.ask()

    assert world.fleet.asked == asked == len(TIERS)
    world.serve(2)
    assert world.document()["release"] == 2
    world.clock.advance(1)
    world.ask()
    assert world.fleet.asked == 3 * asked


def test_ways_of_asking_without_number_are_not_kept_without_number(world):
    """Headers that somebody makes up cost no memory."""
    for number in range(2_000):
        world.ask(accept_language=f"x{number}")

    assert len(world.desk._kept) <= 500


@pytest.mark.parametrize(
    ("query", "error", "words"),
    [
        ("surface=nowhere", UnknownPath, "'nowhere' is not a surface"),
        ("tier=gold", InvalidRequest, "'gold' is no tier; there are free, standard, vip"),
        ("locale=" + "x" * 2_000, InvalidRequest, "at most 1000"),
    ],
)
def test_question_about_what_does_not_exist_is_refused_in_words(world, query, error, words):
    """The error names it."""
    with pytest.raises(error, match=words):
        world.reply(query)


def test_only_reading_is_offered(world):
    """And only at the addresses that exist."""
    with pytest.raises(MethodNotAllowed):
        world.reply(method="POST")
    with pytest.raises(UnknownPath):
        world.reply(path="/v1/status/web-chat")
    assert not world.desk.serves("/v1/statuses")


def test_before_the_first_release_nothing_is_known(world):
    """Which is no reason to say that all is well."""
    world.release = None

    with pytest.raises(NoRelease):
        world.reply()
    page = world.reply(path="/status/web-chat")
    assert page.status == 503
    assert WORDS["en"]["unknown"] in page.body.decode()


# --- the page --------------------------------------------------------------------------------------------------------
def test_page_says_that_all_is_as_usual_in_the_readers_language(world):
    """In words of ours, and marked as what they are."""
    assert WORDS["en"]["ok"] in world.page()
    german = world.page(accept_language="de-CH")
    assert '<html lang="de">' in german
    assert WORDS["de"]["ok"] in german
    assert '<html lang="en">' in world.page(accept_language="fr")


def test_page_has_the_signed_words_with_their_own_language(world):
    """Banner and signed HTML, when it began, and the wait; the words around them in the reader's."""
    world.engage(4, moved_at=SECOND)

    page = world.page(accept_language="en")

    assert '<div lang="en" dir="auto"><p class="banner">Web chat answers more briefly' in page
    assert "<strong>very busy</strong>" in page
    assert '<time datetime="2025-10-09T08:53:20Z">2025-10-09 08:53 UTC</time>' in page
    assert "about 15 min" in page
    assert '<meta http-equiv="refresh" content="30">' in page
    assert "<script" not in page
    french = rung_copy() | {"rung-4": {"version": 2, "digest": "f" * 64, "document": rung_document()}}
    french["rung-4"]["document"]["default_locale"] = "de"
    world.serve(2, copy=french)
    assert '<div lang="de" dir="auto">' in world.page(accept_language="fr")


@pytest.mark.parametrize("name", ["", "web-chat", "gone"])
def test_page_links_to_who_is_promised_what(world, name):
    """In its reader's language, wherever that is said."""
    page = world.page(name, accept_language="de")

    assert '<a href="https://console.example/fairness/?a&amp;b">Wer bedient wird, wenn es eng wird</a>' in page


def test_page_is_there_under_maintenance_too(world):
    """It is what people are sent to then."""
    world.engage(6)

    reply = world.reply(path="/status/web-chat")

    assert reply.status == 200
    assert WORDS["en"]["maintenance"] in reply.body.decode()


def test_page_looks_again_by_itself_unless_its_reader_asks_it_not_to(world):
    """Whoever has it read out need not begin anew; the language and tier that were asked for stay."""
    page = world.page(query="locale=de&tier=vip")

    assert 'http-equiv="refresh"' in page
    assert '<a href="?tier=vip&amp;locale=de&amp;refresh=off">' in page
    still = world.page(query="tier=vip&locale=de&refresh=off")
    assert "refresh" not in still
    assert WORDS["de"]["stopped"] in still


def test_policy_of_the_page_allows_its_own_style_and_nothing_else(world):
    """The hash is of what stands in the page."""
    reply = world.reply(path="/status/web-chat")

    policy = headers_of(reply)["content-security-policy"]
    style = re.search(r"<style>(.*?)</style>", reply.body.decode(), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"unsafe|https?:|\*", policy)
    assert not re.search(r'style="|onclick|src=', reply.body.decode())
    assert headers_of(reply)["content-type"] == "text/html; charset=utf-8"


def test_no_title_becomes_a_part_of_the_page(make_document, clock):
    """Whatever somebody called a surface, it is shown as text, also inside signed HTML."""
    world = World(make_document, clock)
    title = '<script>alert("1")</script>'
    document = rung_document(html="<p>{{surface}} is slow</p>")
    world.serve(
        copy={"rung-1": {"version": 1, "digest": "1" * 64, "document": document}},
        web_chat=surface(title=title, rungs={"1": rungs()["1"]}, triggers={}),
    )
    world.engage(1)

    for page in (world.page(), world.reply(path=PAGES).body.decode()):
        assert "<script" not in page
        assert "&lt;script&gt;" in page
    assert world.ask()["html"] == "<p>&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; is slow</p>"


def test_list_of_surfaces_leads_to_each(make_document, clock):
    """With how it stands in a word."""
    world = World(make_document, clock)
    one = surface(title="Web chat", rungs=rungs(cheaper="chat"))
    world.serve(web_chat=one)
    world.engage(1)

    listed = world.reply(path=PAGES).body.decode()

    assert '<a href="/status/web-chat">Web chat</a>' in listed
    assert WORDS["en"]["degraded"] in listed
    world.serve(2, voice=surface(rungs={"1": rungs()["1"]}, triggers={}))
    assert [one["surface"] for one in world.document()["surfaces"]] == ["voice"]


def test_page_of_no_surface_is_not_found_in_plain_words(world):
    """And does not repeat the address."""
    reply = world.reply(path="/status/<b>", accept_language="de")

    assert reply.status == 404
    assert WORDS["de"]["no_page"] in reply.body.decode()
    assert "<b>" not in reply.body.decode()


def test_both_languages_have_the_same_words():
    """None is missing in one."""
    assert WORDS["en"].keys() == WORDS["de"].keys()


def test_script_is_small_kept_for_a_day_and_told_by_its_tag(world):
    """Any page may load it."""
    reply = world.reply(path=BANNER)

    headers = headers_of(reply)
    assert len(reply.body) < 3_000
    assert headers["content-type"] == "text/javascript; charset=utf-8"
    assert headers["cache-control"] == "public, max-age=86400"
    assert headers["access-control-allow-origin"] == "*"
    assert world.reply(path=BANNER, if_none_match=headers["etag"]).status == 304
