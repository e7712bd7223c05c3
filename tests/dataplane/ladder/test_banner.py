"""The script that apps put into their pages: it shows signed words as text, asks seldom, and stays out of the way."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from playwright._impl._driver import compute_driver_executable

BANNER = Path(__file__).resolve().parents[3] / "dataplane" / "ladder" / "banner.js"
PAGE = Path(__file__).with_name("banner_page.js")
SRC = "https://gateway.example/v1/status/banner.js"


def node(*arguments: str) -> str:
    """Run the JavaScript engine that the browser tests bring along."""
    command = [compute_driver_executable()[0], *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def walk(*steps: dict[str, Any], **scenario: Any) -> Any:
    """What stands after each step, and what was asked."""
    return json.loads(node(str(PAGE), str(BANNER), json.dumps({"src": SRC, "steps": steps, **scenario})))


def reply(rung: int = 3, *, surface: str = "web-chat", banner: str = "Short answers", locale: str = "en") -> Any:
    """A status document with one surface."""
    words = {"banner": banner, "locale": locale} if rung else {"banner": None, "locale": None}
    return {"reply": {"surfaces": [{"surface": surface, "rung": rung, **words}]}}


def test_script_is_well_formed_and_runs_under_a_strict_policy():
    """It evaluates no text, sets no markup and no style attribute, and asks nobody but where it comes from."""
    node("--check", str(BANNER))

    text = BANNER.read_text()
    code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    assert not re.search(r"eval|innerHTML|outerHTML|insertAdjacent|document\.write|new Function", code)
    assert not re.search(r'setAttribute\("style"|https?://', code)


def test_banner_is_shown_as_text_that_is_read_out():
    """In its own language, and with a button to close it; the region is there before its words are."""
    after = walk(reply(banner="<b>Busy</b>", locale="de"), dataset={"surface": "web-chat"})

    [seen] = after["seen"]
    assert (seen["role"], seen["live"]) == ("status", "polite")
    assert (seen["banner"], seen["lang"], seen["close"]) == ("<b>Busy</b>", "de", "Schließen")
    assert after["asked"] == [{"url": "https://gateway.example/v1/status?surface=web-chat", "credentials": "omit"}]


def test_what_the_page_says_of_itself_is_asked_for():
    """Tier and language of the tag; else the language of the page."""
    told = {"surface": "web-chat", "tier": "free", "locale": "fr"}

    assert walk(reply(), dataset=told, lang="de")["asked"][0]["url"].endswith("?surface=web-chat&tier=free&locale=fr")
    assert walk(reply(), lang="de")["asked"][0]["url"].endswith("/v1/status?locale=de")
    assert walk(reply())["asked"][0]["url"].endswith("/v1/status")


def test_nothing_is_shown_while_nothing_is_engaged():
    """And what was shown goes when its rung is let go."""
    first, engaged, after = walk(reply(0), reply(3), reply(0))["seen"]

    assert (first["banner"], engaged["banner"], after["banner"]) == (None, "Short answers", None)


def test_of_several_surfaces_the_highest_rung_is_shown():
    """A page that names none may be of any."""
    one, other = (
        reply(2, banner="two")["reply"]["surfaces"],
        reply(5, banner="five", surface="voice")["reply"]["surfaces"],
    )

    assert walk({"reply": {"surfaces": [*one, *other]}})["seen"][0]["banner"] == "five"
    assert walk({"reply": {"surfaces": []}})["seen"][0]["banner"] is None


def test_closed_banner_stays_closed_until_another_rung_or_event():
    """A reader who has read it is not told again; one who has not, is."""
    steps = walk(reply(3), {"clicks": True}, reply(3), reply(4, banner="Later"), reply(3), reply(0), reply(3))["seen"]

    assert [step["banner"] for step in steps] == [
        "Short answers",
        None,
        None,
        "Later",
        None,
        None,
        "Short answers",
    ]


def test_it_asks_every_half_minute_and_less_often_while_nobody_answers():
    """Up to five minutes; what is shown stays meanwhile, and an answer brings the pace back."""
    fails = [{"fails": True}] * 3 + [{"status": 503}] * 2
    seen = walk(reply(3), *fails, reply(3))["seen"]

    assert [step["waits"] for step in seen] == [30_000, 60_000, 120_000, 240_000, 300_000, 300_000, 30_000]
    assert {step["banner"] for step in seen} == {"Short answers"}


def test_hidden_page_does_not_ask_and_asks_when_it_is_seen_again():
    """But no sooner than its pace allows, however often somebody looks away and back."""
    hides, shows = {"hides": True}, {"shows": True, "after": 10_000, **reply(4, banner="Later")}
    seen = walk(reply(3), hides, reply(3), shows, reply(4, banner="Later"))["seen"]

    assert [step["asked"] for step in seen] == [1, 1, 1, 1, 2]
    assert seen[3]["waits"] == 0
    quick = walk(reply(3), hides, {"shows": True, "after": 5_000})["seen"]
    assert (quick[-1]["asked"], quick[-1]["waits"]) == (1, 25_000)


def test_colours_follow_the_readers_theme():
    """At once, without asking anew."""
    light, dark = walk(reply(3), {"darkens": True})["seen"]

    assert light["background"] != dark["background"]
    assert light["asked"] == dark["asked"]


@pytest.mark.parametrize("told", ["null", "{}", '{"surfaces": 1}'])
def test_answer_of_another_shape_breaks_nothing(told):
    """It counts as none."""
    seen = walk({"reply": json.loads(told)}, reply(3))["seen"]

    assert [(step["banner"], step["waits"]) for step in seen] == [(None, 60_000), ("Short answers", 30_000)]
