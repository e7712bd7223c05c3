"""How a page stays true to what it hears: a line of the test's own stands in for the server's."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Request, Route, WebSocketRoute, expect

from tests.browser.people import Person

MARK = "[data-live-mark]"


class Line:
    """The server's end of a page's live line, which says only what the test lets it say."""

    def __init__(self, person: Person) -> None:
        self._socket: WebSocketRoute | None = None
        self.asked_for: list[str] = []
        person.page.route_web_socket("**/ws/live/", self._open)

    def _open(self, socket: WebSocketRoute) -> None:
        self._socket = socket
        socket.on_message(lambda text: self.asked_for.extend(json.loads(text)["subscribe"]))

    def say(self, content: dict[str, Any]) -> None:
        """Send one message to the page."""
        assert self._socket is not None
        self._socket.send(json.dumps(content))


@pytest.fixture
def oncall(enter) -> Person:
    """Somebody who looks at the fleet."""
    return enter("oncall")


def test_page_is_live_only_once_its_topics_are_joined(oncall):
    """What happens between opening the line and joining is not heard, so the page asks for it then."""
    line = Line(oncall)
    oncall.go("/releases/")
    _until(oncall, lambda: "fleet" in line.asked_for, "the page asks for its topics")
    expect(oncall.page.locator(MARK)).not_to_have_attribute("data-state", "live")

    with oncall.page.expect_request("**/releases/fleet.json"):
        line.say({"subscribed": line.asked_for})

    expect(oncall.page.locator(MARK)).to_have_attribute("data-state", "live")


def test_news_that_comes_while_a_part_is_fetched_is_fetched_too(oncall):
    """The answer on its way is of before; the element that asked for it is gone once it has come."""
    line, asked, held = Line(oncall), [], []

    def hold_the_first(route: Route, request: Request) -> None:
        if "hx-request" not in request.headers:
            route.continue_()
            return
        asked.append(request.url)
        if len(asked) == 1:
            held.append(route)
        else:
            route.continue_()

    oncall.page.route("**/releases/", hold_the_first)
    oncall.go("/releases/")
    _until(oncall, lambda: "fleet" in line.asked_for, "the page asks for its topics")
    figures = oncall.page.evaluate("url => fetch(url).then((answer) => answer.json())", "/releases/fleet.json")
    line.say({**figures, "data": {**figures["data"], "picture": "another"}})
    _until(oncall, lambda: len(held) == 1, "the part is asked for")

    line.say({**figures, "data": {**figures["data"], "picture": "and another"}})
    held[0].continue_()

    _until(oncall, lambda: len(asked) == 2, "the part is asked for again")


def test_page_that_wants_a_reload_lets_go_of_who_is_leaving_it(oncall):
    """The answer that asks for it, such as a canary's that ended, comes after the reader has chosen another page. One
    without content stands for that page: the browser leaves for it, and is still here.
    """

    def ask_for_a_reload(route: Route, request: Request) -> None:
        if "hx-request" in request.headers:
            route.fulfill(status=200, headers={"HX-Refresh": "true"}, body="")
        else:
            route.continue_()

    oncall.page.route("**/releases/", ask_for_a_reload)
    oncall.page.route("**/reviews/", lambda route: route.fulfill(status=204))
    oncall.go("/releases/")
    oncall.page.evaluate("() => { globalThis.notReloaded = true; }")

    with oncall.page.expect_request("**/reviews/"):
        oncall.page.evaluate("() => { setTimeout(() => location.assign('/reviews/')); }")
    for _ in range(2):  # the second is asked by the page that was told to reload
        with oncall.page.expect_event("requestfinished", lambda request: "hx-request" in request.headers):
            oncall.page.evaluate("() => htmx.trigger('#release-now', 'ballast:refresh')")

    assert oncall.page.evaluate("() => globalThis.notReloaded") is True


def _until(person: Person, condition: Callable[[], bool], what: str) -> None:
    """`Person.until` for what our own handlers note: they run while the browser is spoken to."""
    person.until(lambda: person.page.evaluate("true") and condition(), what)
