"""A shadow as people see it: killed and lifted from its page, and a promotion that two of them sign.

The tests run in this order: the first puts the shadow in force.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import WIDE
from tests.browser.people import House, Person

FURNISH = """
from datetime import datetime, UTC
from tests.shadows.promotions import furnish
furnish(datetime.now(UTC))
"""
# All that a candidate shows without evals, of which nobody made any here.
SHOWN = ("Enough comparisons", "Validators and grounding agree", "Cost", "Latency", "Residency")


@pytest.fixture(scope="module", autouse=True)
def furnished(house: House) -> None:
    """A shadow that has run for days."""
    house.stack.manage("shell", "-c", FURNISH)


@pytest.fixture
def people(house: House) -> Iterator[dict[str, Person]]:
    """Those who keep the pager, and who sign."""
    found = {name: house.let_in(name, size=WIDE) for name in ("oncall", "approver-one", "approver-two")}
    yield found
    for person in found.values():
        assert person.leave() == []


def test_shadow_is_killed_and_lifted(people):
    """Two clicks and a reason; the page then says who did it and why, and the fleet asks nothing until it is lifted."""
    oncall = people["oncall"]
    oncall.go("/shadow/")
    oncall.page.get_by_role("region", name="Shadow policies").get_by_role("link", name="trial").click()

    oncall.press("Kill…")
    asked = oncall.dialog("Kill shadow trial")
    expect(asked).to_contain_text("Nothing more is asked of its candidates, on any host, within a second.")
    asked.get_by_label("Reason").fill("dearer than agreed")
    asked.get_by_role("button", name="Kill").click()

    oncall.is_told("trial is killed; shadow processes obey within a second")
    oncall.sees(re.compile(r"^Dearer than agreed \(oncall"))
    oncall.press("Lift…")
    again = oncall.dialog("Lift the kill of trial")
    again.get_by_label("Reason").fill("agreed since")
    again.get_by_role("button", name="Lift").click()
    oncall.is_told("trial goes on; requests are asked again from now")


def test_two_people_sign_a_promotion(people):
    """Each item with the figures of the moment; what is not shown has no button, and nobody signs for two."""
    oncall, one, two = people.values()
    for person in (one, two):
        person.go("/shadow/")
        person.page.get_by_role("link", name=re.compile(r"^Checklist \d+$")).click()
        for item in SHOWN:
            button = person.page.get_by_role("button", name=f"Sign {item}", exact=True)
            if button.count():
                button.click()
                person.is_told(re.compile(rf"^Signed '{item.lower()}'"))

    items = two.page.get_by_role("region", name="Items").get_by_role("row")
    for item in SHOWN:
        row = items.filter(has=two.page.get_by_role("rowheader", name=re.compile(f"^{item} ")))
        expect(row).to_contain_text("approver-one")
        expect(row).to_contain_text("approver-two")
        expect(row).to_contain_text("signed by two")
    expect(two.page.get_by_role("button", name="Sign Golden eval")).to_have_count(0)
    oncall.go("/shadow/")
    expect(oncall.page.get_by_role("region", name="Promotions")).to_contain_text("open")
