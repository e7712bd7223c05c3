"""Every page, in both themes, at a desk and on a phone: usable by everybody, quiet, small and from one host."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from playwright.sync_api import Page as Tab

from tests.browser.caller import Caller
from tests.browser.conftest import PHONE, WIDE
from tests.browser.pages import KEY, PAGES, Page, names_without_sample
from tests.browser.people import House, Person
from tests.end_to_end.stack import Stack
from tests.worker_reports import FRAMES, delivery, quota_state, report, rollup, segment, stream_row

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
RECORD = """
import json
from datetime import datetime, timedelta, UTC
from controlplane.ledger.streams import record_streams
from controlplane.telemetry.operations import merge_rollups, record_events, record_quota_states
from tests.alerts.channels import furnish as furnish_alerts
from tests.corpora.game_days import furnish as furnish_game_days
from tests.deadletters.redrives import furnish as furnish_letters
from tests.repair_rows import make_repair
from tests.shadows.promotions import furnish as furnish_shadows
from tests.validator_tables import furnish
record_streams(**json.loads({streams!r}))
record_quota_states(json.loads({reports!r}), now=datetime.now(UTC) + timedelta(hours=1))
record_events(json.loads({reports!r}))
now = datetime.now(UTC)
merge_rollups(json.loads({answers!r}), now=now)
make_repair(at=now, state="completed", completed_by="operator:oncall")
furnish_shadows(now)  # first, since what is proposed then is of the table in force
furnish(now)
furnish_letters(now)
furnish_alerts(now)
furnish_game_days(now)
make_repair(at=now, tenant="globex", why='/topic: "' + "x" * 200 + '" is not one of "orders" or "refunds"')
"""
COLOURS = ["color-contrast"]
STANDARD = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
MOST_BYTES = 150_000
PHONE_TARGET_PX = 40
# What the page cost: bodies as they came over the wire, compressed, without Plotly, which loads only where a chart is,
# and without what a live page has asked for since it was drawn: how often it does depends on how long it is looked at.
TRANSFERRED = """(drawn) => [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .filter((entry) => !entry.name.includes("/vendor/plotly"))
    .filter((entry) => entry.startTime <= drawn || !["fetch", "xmlhttprequest"].includes(entry.initiatorType))
    .reduce((sum, entry) => sum + entry.encodedBodySize, 0)"""
SIDEWAYS = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Which parts of a page's own are to be seen, in their order; what a chart is drawn of depends on its width.
SHOWN = """() => [...document.querySelectorAll("main :not(svg, svg *)")]
    .map((part) => (part.checkVisibility({ visibilityProperty: true }) ? "x" : "-")).join("")"""
DRAWN = """() => [...document.querySelectorAll("[data-chart]")].every((chart) => chart.querySelector(".main-svg"))"""
SMALL = f"""() => [...document.querySelectorAll("button, select, summary.btn, a.btn, .bottombar a, input[type=submit]")]
    .filter((target) => target.checkVisibility({{ visibilityProperty: true }}))
    .map((target) => [target.getBoundingClientRect(), target])
    .filter(([box]) => box.width && box.height && box.height < {PHONE_TARGET_PX})
    .map(([box, target]) => `${{Math.round(box.height)}} px: ${{target.outerHTML.slice(0, 120)}}`)"""


def streams() -> dict[str, Any]:
    """What a worker would report: a stream of two lanes that broke off and was read later, and one out of order."""
    now = datetime.now(UTC)
    cut = stream_row(
        "c" * 32,
        at=now,
        outcome="interrupted",
        code="upstream_interrupted",
        delivered=20,
        delivered_tokens=50,
        transcript=FRAMES,
        segments=[
            segment(last_seq=15, partial=True, estimated=True),
            segment("anthropic/eu-west/main/claude-sonnet-4-5", how="prefill", cause="upstream_timeout", first_seq=16),
        ],
    )
    odd = stream_row("d" * 32, at=now - timedelta(days=2), generated_tokens=120, continues="c" * 32)
    return {
        "streams": [cut, odd],
        "deliveries": [delivery("1" * 32, "c" * 32, at=now, delivered_tokens=90, acked_tokens=60)],
    }


def reports() -> list[dict[str, Any]]:
    """What two workers would report of a quota: paused, with callers waiting, and one of them alone. They are heard of
    for an hour, so that they are not silent before somebody looks.
    """
    now = datetime.now(UTC)
    waits = {"waiting": {"interactive": 31, "batch": 120}, "eta_seconds": {"interactive": 14.0, "batch": None}}
    learned = {"limits": {"requests": 8000, "concurrency": 200}, "learned": {"requests": 8000}, "waited_ms_p95": 900.5}
    known = quota_state("anthropic-main", **waits, **learned, used_share=0.96, paused_seconds=12)
    lone = quota_state("anthropic-main", is_alone=True, ramp=0.4)
    paused = {"pool": known["pool"], "account": "anthropic-main", "lane": "anthropic/eu-west/main/claude-sonnet-4-5"}
    events = (
        {"at": now.timestamp(), "kind": "quota.paused", "data": {**paused, "seconds": 12, "reason": "answered 429"}},
        {"at": now.timestamp() - 60, "kind": "quota.alone", "data": {**paused, "reason": "redis does not answer"}},
    )
    later = now + timedelta(hours=1)
    return [
        report(worker="walker/gateway-0", sent_at=later, quotas=(known,), events=events),
        report(worker="walker/gateway-1", sent_at=later, quotas=(lone,)),
    ]


def answers() -> list[dict[str, Any]]:
    """What a worker would report of JSON answers of the last hours: most right, some repaired, a few failed; and what
    validators said of them.
    """
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    wrong = {
        "repair:fenced:r1_extract:lossless": 6,
        "repair:extra_prose:r1_extract:lossless": 3,
        "repair:commas:r2_syntax:lossless": 2,
        "repair:quotes:r2_syntax:lossless": 1,
        "repair:wrong_type:r3_coerce:lossless": 4,
        "repair:literals:r2_syntax:lossy": 1,
        "repair:truncated:r4_continue:lossless": 2,
        "repair:missing_field:r6_ask_again:lossless": 2,
        "repair:missing_field:r7_failed:": 1,
    }
    looked_at = {
        "validator:no-secrets@1:pass:": 400,
        "validator:no-payment-data@1:pass:": 396,
        "validator:no-payment-data@1:block:": 3,
        "validator:no-payment-data@1:abstain:block": 1,
        "validator:no-addresses@2:repair:": 5,
        "validator:sane-amounts@1:warn:": 4,
        "validator:answer:pass:": 388,
        "validator:answer:block:": 3,
        "validator:answer:block:abstained": 1,
        "validator:answer:repair:": 5,
        "validator:answer:warn:": 3,
    }
    lanes = ("openai/us-east/main/gpt-4o", "anthropic/eu-west/main/claude-sonnet-4-5")
    rollups = [
        rollup(
            now - timedelta(minutes=10 * (step + 1)),
            lane=lane,
            version=3,
            canary="",
            outputs={"repair:none:r0_strict:lossless": 400 + 20 * step}
            | {key: count for place, (key, count) in enumerate(wrong.items()) if (place + step) % 3}
            | {key: count * (1 + (step % 4 == 0)) for key, count in looked_at.items()},
        )
        for step in range(12)
        for lane in lanes
    ]
    return [report(*rollups, worker="walker/gateway-2")]


@pytest.fixture(scope="module")
def furnished(house: House) -> Stack:
    """The demo, with a planned canary beside the running one, a drill, and on record attempts, a key, a job, streams, a
    quota that callers wait for, JSON answers, of which two were beyond repair, what validators withheld, a change of
    those that was tried on stored answers, and dead letters with redrives.
    """
    stack = house.stack
    caller = Caller(stack)
    for _ in range(2):
        caller.ask("walker", key="order-8e03978e-40d5-43e8-bc93-6894a57f9324")
    caller.hand_in()
    caller.close()
    stack.wait_for(lambda: stack.query("SELECT 1 FROM ledger_usagerow LIMIT 1") != [], "the attempt is recorded")
    stack.wait_for(lambda: stack.query(KEY) != [], "the repeated answer is on record")
    stack.wait_for(lambda: stack.query("SELECT 1 FROM ledger_job WHERE state = 'completed'") != [], "the job is done")
    told = {"streams": streams(), "reports": reports(), "answers": answers()}
    stack.manage("shell", "-c", RECORD.format(**{name: json.dumps(rows) for name, rows in told.items()}))
    with stack.api("owner") as api:
        planned = api.get("/canaries", params={"state": "planned"}).json()["results"]
        if not planned:
            api.post(
                "/prompts/support-answer/versions/1/canaries", json={"unit": "user", "reason": "To look at it"}
            ).raise_for_status()
    with stack.api("oncall") as api:
        if not api.get("/drills").json()["results"]:
            asked = {"lane": "anthropic/eu-west/main/claude-sonnet-4-5", "minutes": 5, "reason": "To look at it"}
            drill = api.post("/drills", json=asked).raise_for_status().json()
            api.post(f"/drills/{drill['id']}/end", json={"reason": "Seen"}).raise_for_status()
        if not api.get("/ladder/activations").json()["results"]:
            until = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
            asked = {"surface": "web-chat", "rung": 1, "until": until, "reason": "To look at it"}
            api.post("/ladder/activations", json=asked).raise_for_status()
            over = {"reason": "Seen", "is_held_up": False}
            api.post("/ladder/surfaces/web-chat/stand-down", json=over).raise_for_status()
    return stack


@pytest.fixture(scope="module")
def readers(house: House) -> Iterator[dict[str, Person]]:
    """Who reads pages here, each in one browser for all of theirs: a window costs more than most pages in it."""
    readers: dict[str, Person] = {}
    yield readers
    assert [complaint for person in readers.values() for complaint in person.leave()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_is_usable_quiet_and_small(furnished, house, readers, page):
    """Axe finds nothing, nothing overflows, nothing is logged, nothing comes from elsewhere, little is transferred.

    All rules are tried at both widths, once light and once dark. A theme changes colours only, and a width none of
    them, so the other two pairs are looked at, for colours, where a width shows something that the other does not; and
    on one page for what is around all of them.
    """
    person = _open(house, page, furnished, readers)
    tab = person.page
    drawn = tab.evaluate("() => performance.now()")

    found = _look(tab, WIDE, "light")
    shown = tab.evaluate(SHOWN)
    found += _look(tab, PHONE, "dark")
    found += [f"phone: target of {line}" for line in tab.evaluate(SMALL)]
    if page.name == "overview" or tab.evaluate(SHOWN) != shown:
        found += _look(tab, PHONE, "light", rules=COLOURS) + _look(tab, WIDE, "dark", rules=COLOURS)
    weight = tab.evaluate(TRANSFERRED, drawn)
    found += [f"{weight} bytes"] if weight >= MOST_BYTES else []
    print(f"{page.name}: {weight / 1000:.0f} kB")

    found += person.say()
    assert not found, "\n".join(found)


def test_every_page_has_a_sample(furnished, house):
    """A new page fails here until it is looked at like the others."""
    session = house.stack.sign_in("admin")

    assert names_without_sample(session.client) == []

    session.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_styleguide_is_photographed(house, theme):
    """Each part in every state renders in both themes; the pictures are kept for people to look at."""
    person = house.let_in("owner", size=WIDE, theme=theme)

    person.go("/styleguide/")
    person.page.wait_for_function(DRAWN)
    picture = person.photograph(f"styleguide-{theme}")

    assert picture.stat().st_size > 50_000
    assert person.page.locator("html").get_attribute("data-bs-theme") == theme
    assert person.leave() == []


def _open(house: House, page: Page, stack: Stack, readers: dict[str, Person]) -> Person:
    if page.who not in readers:
        readers[page.who] = house.let_in(page.who, size=WIDE) if page.who else house.open_door(size=WIDE)
    person = readers[page.who]
    person.page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    person.page.emulate_media(color_scheme="light")
    person.go(page.path(stack))
    person.page.wait_for_function(DRAWN)
    person.page.evaluate(AXE)
    return person


def _look(tab: Tab, size: tuple[int, int], theme: str, *, rules: list[str] | None = None) -> list[str]:
    """What is wrong with a page of that width in that theme; `rules` as `_violations`."""
    width, height = size
    tab.set_viewport_size({"width": width, "height": height})
    _turn(tab, theme)
    found = [f"{width}, {theme}: {line}" for line in _violations(tab, rules=rules)]
    sideways = tab.evaluate(SIDEWAYS)  # after axe: a chart follows the window's width a moment later
    return found + ([f"{width}, {theme}: scrolls sideways by {sideways} px"] if sideways > 0 else [])


def _turn(tab: Tab, theme: str) -> None:
    """Change the theme as the system would, and wait until no colour is on its way any more."""
    tab.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    tab.wait_for_function(
        "(theme) => document.documentElement.dataset.bsTheme === theme && document.getAnimations().length === 0",
        arg=theme,
    )


def _violations(tab: Tab, *, rules: list[str] | None) -> list[str]:
    """What axe objects to, a line per element. `rules` None: all of the standard's, and best practice."""
    kind, values = ("rule", rules) if rules else ("tag", STANDARD)
    options: dict[str, Any] = {
        "resultTypes": ["violations"],
        "runOnly": {"type": kind, "values": values},
        "preload": {"assets": ["media"]},  # and no style sheets: the rule that reads them is an experiment, and off
    }
    if not rules:
        options["rules"] = {"target-size": {"enabled": True}}
    answer = tab.evaluate(f"axe.run({json.dumps(options)})")
    return [
        f"{violation['id']}: {node['html'][:160]} {' '.join(node['failureSummary'].split())[:200]}"
        for violation in answer["violations"]
        for node in violation["nodes"]
    ]
