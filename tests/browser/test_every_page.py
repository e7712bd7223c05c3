"""Every page, in both themes, at a desk and on a phone: usable by everybody, quiet, small and from one host."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from playwright.sync_api import Page as Tab

from tests.browser.conftest import PHONE, WIDE
from tests.browser.furnishing import furnish
from tests.browser.pages import PAGES, Page, names_without_sample
from tests.browser.people import House, Person, turn
from tests.end_to_end.stack import Stack

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
COLOURS = ["color-contrast"]
# What a rule says depends on which elements are to be seen; these look at colours and boxes, too.
LOOKS = [*COLOURS, "link-in-text-block", "target-size", "scrollable-region-focusable"]
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


@pytest.fixture(scope="module")
def furnished(house: House) -> Stack:
    """The demo with something to look at on every page, see `furnish`."""
    furnish(house.stack)
    return house.stack


@pytest.fixture(scope="module")
def readers(house: House) -> Iterator[dict[str, Person]]:
    """Who reads pages here, each in one browser for all of theirs: a window costs more than most pages in it."""
    readers: dict[str, Person] = {}
    yield readers
    assert [complaint for person in readers.values() for complaint in person.leave()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_is_usable_quiet_and_small(furnished, house, readers, page):
    """Axe finds nothing, nothing overflows, nothing is logged, nothing comes from elsewhere, little is transferred.

    Looks are tried at both widths, once light and once dark. A theme changes colours only, and a width none of them. So
    where a width shows something that the other does not, all other rules are tried at both, and the other two pairs
    are looked at for colours; and on one page for what is around all of them.
    """
    person = _open(house, page, furnished, readers)
    tab = person.page
    drawn = tab.evaluate("() => performance.now()")

    found = _look(tab, WIDE, "light")
    shown = tab.evaluate(SHOWN)
    turn(tab, PHONE, "dark")
    differs = page.name == "overview" or tab.evaluate(SHOWN) != shown
    found += _look(tab, PHONE, "dark", rules=None if differs else LOOKS)
    found += [f"phone: target of {line}" for line in tab.evaluate(SMALL)]
    if differs:
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
    width = size[0]
    turn(tab, size, theme)
    found = [f"{width}, {theme}: {line}" for line in _violations(tab, rules=rules)]
    sideways = tab.evaluate(SIDEWAYS)  # after axe: a chart follows the window's width a moment later
    return found + ([f"{width}, {theme}: scrolls sideways by {sideways} px"] if sideways > 0 else [])


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
