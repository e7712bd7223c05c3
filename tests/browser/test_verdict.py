"""A canary's verdict as people read it: what is missing, what the evidence says as it comes, and why it went back.

The tests run in this order, each on what the ones before it told; the last leaves the canary rolled back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.conftest import WIDE
from tests.browser.people import House, Person
from tests.end_to_end.stack import Stack

FURNISH = """
from datetime import UTC, datetime
from tests.verdicts.evidence import furnish
print(furnish(datetime.now(UTC)).slug)
"""
TELL = """
from datetime import UTC, datetime, timedelta
from tests.verdicts.evidence import look, tell
now = datetime.now(UTC)
for ago, requests in {told}.items():
    at = now - timedelta(seconds=ago)
    tell({slug!r}, now=at, requests=requests, seq=requests, dearer={dearer})
    look({slug!r}, now=at)
"""
REPLAY = """
from controlplane.rollouts.models import Canary
from controlplane.verdicts.replay import run_pairs
run_pairs(Canary.objects.get(slug={slug!r}).pk, range(1, 4))
"""
CLEAN_UP = """
from django.utils import timezone
from controlplane.rollouts.models import Canary
from controlplane.rollouts.operations import roll_back_canary
for canary in Canary.objects.running().filter(slug={slug!r}).with_parts():
    roll_back_canary(canary=canary, reason="The walk is over", actor="walk", now=timezone.now())
"""
RAILS = {"error_rate": "Error rate", "cost": "Cost per request", "grounding": "Grounding"}
GATEWAYS = 2
# What Plotly was handed: the points of each line, whether there are bounds, and the words in the picture.
DRAWN = """(chart) => {
    const { data = [], layout = {} } = chart.querySelector("[data-chart-plot]");
    const bands = data.filter((trace) => trace.meta?.role === "band" && trace.x.length);
    const lines = data.filter((trace) => trace.meta?.role !== "band").map((trace) => [trace.name, trace.y.length]);
    const words = (layout.annotations ?? []).map((note) => note.text);
    return { lines: Object.fromEntries(lines), bands: bands.length, words };
}"""


@dataclass(frozen=True, slots=True)
class Watched:
    """The canary, and its owner, whose page stays open from one test to the next."""

    stack: Stack
    slug: str
    owner: Person

    @property
    def path(self) -> str:
        return f"/canaries/{self.slug}/"

    @property
    def verdict(self) -> Locator:
        return self.owner.page.locator("#verdict")

    def rail(self, key: str) -> Locator:
        """The words of one guardrail."""
        return self.owner.page.locator(f"#rail-{key}-words")

    def chart(self, key: str) -> Locator:
        return self.owner.page.locator(f"#rail-{key}")

    def told(self, requests: dict[int, int], *, dearer: float = 1.0) -> None:
        """Report, so many seconds ago, so many requests per group, and look at the canary each time.

        Looks that are to have a point in the charts lie 10 s apart, see `watching.POINT_EVERY`.
        """
        self.stack.manage("shell", "-c", TELL.format(slug=self.slug, told=requests, dearer=dearer))


@pytest.fixture(scope="module")
def watched(house: House) -> Iterator[Watched]:
    """A canary that waits for evidence at its first stage, served by every gateway; its owner looks at its page."""
    stack = house.stack
    slug = stack.manage("shell", "-c", FURNISH).split()[-1]
    owner = house.let_in("owner", size=WIDE)
    yield Watched(stack, slug, owner)
    stack.manage("shell", "-c", CLEAN_UP.format(slug=slug))
    assert owner.leave() == []


def test_page_says_that_evidence_is_missing_and_keeps_the_knob(watched):
    """Nobody has looked yet: each guardrail has its tile, and the stops ahead are locked and say why."""
    owner = watched.owner
    owner.go(watched.path)

    expect(watched.verdict.get_by_role("heading")).to_have_text("Verdict: not enough evidence")
    expect(watched.verdict).to_contain_text("Nobody has looked at it yet.")
    for key, title in RAILS.items():
        expect(watched.rail(key).get_by_role("heading")).to_have_text(title)
        expect(watched.rail(key)).to_contain_text("not enough evidence")
    expect(watched.rail("cost")).to_contain_text("at most 5 % above control")
    locked = owner.page.locator(".stop.is-locked")
    expect(locked).to_have_count(3)
    for stop in locked.all():
        expect(stop).to_contain_text("Waits for evidence; the verdict says of what")
        expect(stop.locator("input")).to_be_disabled()


def test_evidence_comes_to_an_open_page(watched):
    """First how much is missing, then the difference, its interval and the margin; nobody loads anything anew."""
    owner = watched.owner
    expect(owner.page.locator("[data-live-mark]")).to_have_attribute("data-state", "live")
    owner.page.evaluate("() => { globalThis.notReloaded = true; }")

    watched.told({90: 1})

    expect(watched.verdict).to_contain_text("Not enough evidence: 0 of 3 guardrails are clear")
    expect(watched.verdict).to_contain_text("The next stage waits until there is enough.")
    expect(watched.rail("cost")).to_contain_text("64 on canary, 64 on control · cannot conclude below 200")
    expect(watched.chart("cost")).to_contain_text("1 of 2 points so far: 1 more to draw a line")

    watched.told({30: 1000, 15: 2000, 0: 3000})

    expect(watched.verdict.get_by_role("heading")).to_have_text("Verdict: not regressed")
    expect(watched.verdict).to_contain_text("Not regressed: all 3 guardrails are within the margin")
    cost = watched.rail("cost")
    expect(cost).to_contain_text("not regressed")
    expect(cost).to_contain_text("192,000 on canary, 192,000 on control")
    expect(cost).to_contain_text(re.compile(r"between [\d.]+ % below control and [\d.]+ % above control"))
    expect(watched.rail("grounding")).to_contain_text("Replays")
    owner.until(lambda: _drawn(watched, "cost")["lines"].get("live traffic") == 4, "the chart has a point of each look")
    drawn = _drawn(watched, "cost")
    assert drawn["bands"] == 2
    assert drawn["words"] == ["margin 5 %"]
    assert owner.page.evaluate("() => globalThis.notReloaded") is True


def test_evidence_opens_the_knob(watched):
    """On the page that is open: the stops ahead are free once the verdict is."""
    expect(watched.owner.page.locator(".stop.is-locked")).to_have_count(0)
    expect(watched.owner.page.locator(".stop").nth(1)).to_contain_text("signed off")


def test_chart_has_its_table(watched):
    """Behind the button, with the unit, the newest first."""
    chart = watched.chart("cost")
    plot = chart.locator("[data-chart-plot]")

    chart.get_by_role("button", name="Table").click()

    rows = chart.get_by_role("row")
    expect(rows).to_have_count(5)
    expect(rows.first).to_contain_text("live traffic, % of control")
    expect(plot).to_be_hidden()
    chart.get_by_role("button", name="Table").click()
    expect(plot).to_be_visible()


def test_replays_are_read_query_by_query(watched):
    """Every pair with how the candidate did; one of them with the question, both answers and how these differ."""
    owner = watched.owner
    owner.until(lambda: _is_served(watched.stack), "every gateway serves the canary")
    watched.stack.manage("shell", "-c", REPLAY.format(slug=watched.slug))
    owner.press("Replays, query by query")

    pairs = owner.page.get_by_role("region", name="Replayed pairs")
    expect(pairs.get_by_role("rowheader")).to_have_text(["#3", "#2", "#1"])
    expect(pairs.get_by_role("columnheader")).to_have_text(["Pair", "Query", "When", "Cost per request", "Grounding"])
    pairs.get_by_role("link", name="#1").click()

    scores = owner.page.get_by_role("region", name="Scores")
    cost = scores.get_by_role("row").filter(has_text="Cost per request")
    expect(cost).to_contain_text(re.compile(r"\d+ µ\$"))
    expect(cost).to_contain_text("above control")
    expect(scores.get_by_role("row").filter(has_text="Grounding")).to_contain_text("100 points below control")
    owner.sees("Question")
    difference = owner.page.get_by_role("region", name="Answers")
    expect(difference.locator("ins").first).to_be_visible()
    expect(difference.locator("del").first).to_be_visible()


def test_canary_that_regressed_goes_back_before_its_readers_eyes(watched):
    """Its page, which was only left open, says what failed with its number, and offers nothing to turn any more."""
    owner = watched.owner
    owner.go(watched.path)
    expect(owner.page.locator("[data-live-mark]")).to_have_attribute("data-state", "live")

    watched.told({0: 9000}, dearer=1.12)

    notice = owner.page.get_by_role("main").locator(".notice").filter(has_text="Rolled back by itself")
    failed = r"Regressed: cost per request is 12 % above control, at least [\d.]+ % with all looks counted; margin 5 %"
    expect(notice).to_contain_text(re.compile(f"at 5 %: {failed}"))
    expect(notice).to_contain_text("Everybody is served v1 again")
    expect(watched.verdict.get_by_role("heading")).to_have_text("Verdict: regressed")
    expect(watched.rail("cost")).to_contain_text("regressed")
    expect(owner.act(re.compile("Turn the knob"))).to_have_count(0)
    expect(owner.act(re.compile("^Roll back to"))).to_have_count(0)


def _drawn(watched: Watched, key: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = watched.chart(key).evaluate(DRAWN)
    return found


def _is_served(stack: Stack) -> bool:
    """Whether every gateway process serves the newest release."""
    [[newest]] = stack.query("SELECT max(revision) FROM releases_release")
    rows = stack.query("SELECT revision FROM releases_worker WHERE kind = 'gateway' AND status = 'serving'")
    return len(rows) == GATEWAYS and all(int(str(row[0])) >= int(str(newest)) for row in rows)
