"""Breakers as people handle them: a lane held from a phone, and a threshold whose line follows what is typed."""

import re

from playwright.sync_api import expect

from tests.browser.caller import Caller
from tests.browser.conftest import PHONE

LANE = "azure/eu-west/eu/text-embedding-3-small"
MEASURED = "SELECT count(*) FROM telemetry_rollup WHERE lane ~ 'gpt-4o$' AND bucket_at > now() - interval '1 hour'"
# What Plotly has drawn as threshold lines of one chart: their values and their words.
LINES = """() => {
    const plot = document.querySelector("#chart-failure-rate [data-chart-plot]");
    return (plot.layout?.annotations ?? []).map((words, at) => [words.text, plot.layout.shapes[at].y0]);
}"""


def test_lane_is_held_in_two_taps_and_let_go_in_one(house, enter):
    """From the routing page on a phone; every worker holds it, and the page says so by itself."""
    oncall = enter("oncall", size=PHONE)
    oncall.go("/routing/")

    oncall.press(f"Hold open {LANE}")
    dialog = oncall.dialog("Hold this lane open")
    expect(dialog).to_contain_text("Route embed is served by openai/us-east/main/text-embedding-3-small")
    dialog.get_by_role("button", name="Hold open").click()

    oncall.is_told("Held open for 1 h")
    expect(oncall.page.locator("#standing .breaker")).to_contain_text("Held open on 2 of 2 workers")
    expect(oncall.page.locator("#standing")).to_contain_text("no reason given")
    oncall.go("/routing/")
    oncall.press(f"Back to automatic for {LANE}")
    oncall.is_told(f"{LANE} is automatic again")
    expect(oncall.page.get_by_role("main").get_by_text("Held open")).to_have_count(0)


def test_a_press_finds_what_it_was_aimed_at(enter):
    """Fresh figures that arrive while the button is down wait until it is up: the link under it is not replaced."""
    oncall, holds, held = enter("oncall"), [], []
    page = oncall.page

    def is_held() -> bool:
        page.title()  # a browser is heard only while it is asked for something
        return len(held) == 1

    # Before the page is there: a page that is hears of a route a little later, and what it asks for until then passes.
    page.route("**/routing/", lambda route: held.append(route) if holds and not held else route.continue_())
    oncall.go("/routing/")
    holds.append(True)
    page.evaluate("() => htmx.trigger('#lanes', 'ballast:refresh')")
    oncall.until(is_held, "fresh figures are asked for")
    # Aimed only now: one answer at a time is on its way, so nothing moves the link any more.
    oncall.act(f"Hold open {LANE}").hover()
    page.mouse.down()
    with page.expect_response("**/routing/"):
        held[0].continue_()

    page.mouse.up()

    oncall.dialog("Hold this lane open")


def test_line_follows_the_threshold_as_it_is_typed(house, enter):
    """Over what the lanes did, beside the number in force; a changed number asks where it comes from."""
    caller = Caller(house.stack)
    caller.ask("ada")
    caller.close()
    house.stack.wait_for(lambda: house.stack.query(MEASURED)[0][0] > 0, "the attempt is measured")
    oncall = enter("oncall")
    oncall.go("/routing/breakers/hosted-chat/")
    source = oncall.page.locator("[data-threshold-source=failure_rate]")
    expect(source.get_by_label("Comes from")).to_be_hidden()

    oncall.page.get_by_label("Failure rate").fill("35")

    expect(source.get_by_label("Comes from")).to_be_visible()
    oncall.page.wait_for_function(f"() => ({LINES})().some(([text]) => text.startsWith('typed'))")
    assert dict(oncall.page.evaluate(LINES)) == {"in force: 50 %": 50, "typed: 35 %": 35}
    oncall.page.get_by_label("Failure rate").fill("50")
    oncall.page.wait_for_function(f"() => ({LINES})().length === 1")

    oncall.page.get_by_label("Failure rate").fill("35")
    oncall.press(re.compile("^Try on the last 30 days$"))
    oncall.sees("What these numbers would have done")
    expect(oncall.page.get_by_label("Failure rate")).to_have_value("35")
