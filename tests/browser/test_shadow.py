"""A shadow as people see it: killed and lifted from its page, and a promotion that two of them sign to its end.

The tests run in this order: what is signed in one is void in the last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.conftest import WIDE
from tests.browser.people import House, Person

FURNISH = """
from datetime import datetime, UTC
from tests.shadows.promotions import furnish
furnish(datetime.now(UTC))
"""
PASS_EVALS = """
from datetime import datetime, UTC
from tests.shadows.promotions import pass_evals_of_demo
pass_evals_of_demo(datetime.now(UTC))
"""
# The policy decides otherwise then; 10 is what it was furnished with.
SHARE = """
from django.utils import timezone
from controlplane.routing.operations import routing_tables
from tests.factories import make_routing
from tests.shadow_rows import shadow_document
make_routing(shadow_document(routing_tables.active().document, percent={percent}), now=timezone.now())
"""
SETTLE = """
from django.utils import timezone
from controlplane.shadows.checklists import settle
settle(now=timezone.now())
"""
SIGNERS = ("approver-one", "approver-two")
# What a lane must have been asked outside of its shadow.
BY_EVALS = ("Safety eval", "Golden eval")
ITEMS = (
    "Enough comparisons",
    "Answers meet their schema",
    "Validators and grounding agree",
    "Tools are called alike",
    "Cost",
    "Latency",
    *BY_EVALS,
    "Residency",
)


@pytest.fixture(scope="module", autouse=True)
def furnished(house: House) -> Iterator[None]:
    """A shadow that has run for days; it is in force again as it was at the end."""
    house.stack.manage("shell", "-c", FURNISH)
    yield
    house.stack.manage("shell", "-c", SHARE.format(percent=10))


@pytest.fixture
def people(house: House) -> Iterator[dict[str, Person]]:
    """Those who keep the pager, and who sign."""
    found = {name: house.let_in(name, size=WIDE) for name in ("oncall", *SIGNERS)}
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


def test_what_is_not_shown_yet_has_no_button(people):
    """Nobody made any evals of the candidate; the page says so, and what can be signed says on which figures."""
    two = people["approver-two"]
    open_checklist(two)

    for item in BY_EVALS:
        expect(row_of(two, item)).to_contain_text("not asked yet")
        expect(row_of(two, item)).to_contain_text("it cannot be signed before it is met")
        expect(two.page.get_by_role("button", name=f"Sign {item}", exact=True)).to_have_count(0)
    expect(row_of(two, "Cost")).to_contain_text("An answer costs 1.10 × [1.10 … 1.10] what control's does")
    two.sees("Not shown yet: safety eval, golden eval.")


def test_two_people_sign_every_item(people, house):
    """Each on evidence that can be looked at; with the last name it is complete, and says what may follow."""
    oncall, one, two = people.values()
    house.stack.manage("shell", "-c", PASS_EVALS)
    open_checklist(one)
    row_of(one, "Golden eval").get_by_role("link", name="Look at it").click()
    one.sees(re.compile(r"^Passed: .*grounded 45 of 45"))

    for person in (one, two):
        open_checklist(person)
        for item in ITEMS:
            expect(row_of(person, item).get_by_role("link", name="Look at it")).to_be_visible()
            if person is one and "approver-one" in row_of(one, item).inner_text():
                continue  # signed before, as it was furnished
            person.page.get_by_role("button", name=f"Sign {item}", exact=True).click()
            person.is_told(re.compile(rf"^Signed '{item.lower()}'"))

    two.is_told("Signed 'residency'; the checklist is complete")
    for item in ITEMS:
        for signer in SIGNERS:
            expect(row_of(two, item)).to_contain_text(signer)
    two.sees("Every item is signed by two people. A change of routing may put the lane on the route.")
    expect(two.page.get_by_role("button", name=re.compile("^Sign "))).to_have_count(0)
    oncall.go("/shadow/")
    expect(oncall.page.get_by_role("region", name="Promotions")).to_contain_text("complete")


def test_signatures_are_void_once_their_subject_is_another(people, house):
    """Who signed stays to be read, marked as void, at once and on record; and nothing rests on it any more."""
    oncall, _, two = people.values()
    house.stack.manage("shell", "-c", SHARE.format(percent=12))

    open_checklist(two)
    two.sees("Void: shadow policy 'trial' decides otherwise now.")
    for item in ITEMS:
        expect(row_of(two, item).get_by_text("void", exact=True)).to_have_count(1 + len(SIGNERS))
    house.stack.manage("shell", "-c", SETTLE)

    oncall.go("/shadow/")
    expect(oncall.page.get_by_role("region", name="Promotions")).to_contain_text("void")
    open_checklist(oncall)
    oncall.sees(re.compile("^Void by ballast: shadow policy 'trial' decides otherwise now"))
    expect(row_of(oncall, "Cost").get_by_text("void", exact=True)).to_have_count(1 + len(SIGNERS))


def open_checklist(person: Person) -> None:
    """By its link in the room of shadows."""
    person.go("/shadow/")
    person.page.get_by_role("link", name=re.compile(r"^Checklist \d+$")).click()
    expect(person.page.get_by_role("heading", level=1, name=re.compile(r"^Checklist \d+$"))).to_be_visible()


def row_of(person: Person, item: str) -> Locator:
    """The row of one item."""
    items = person.page.get_by_role("region", name="Items").get_by_role("row")
    return items.filter(has=person.page.get_by_role("rowheader", name=re.compile(f"^{item} ")))
