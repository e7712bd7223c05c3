"""Eval runs as people begin, watch and cancel them: one that nobody takes up yet, and one to its end.

The tests run in this order: workers come only with the second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import WIDE
from tests.browser.people import House, Person

SET = "help-centre-golden"
ROWS = 45
HANDS = ("worker", "work")
# A run ends when this machine has asked every row; the deadline only ends a test that failed.
RUN_MS = 180_000


@pytest.fixture(scope="module")
def owner(house: House) -> Iterator[Person]:
    """A prompt owner, signed in."""
    person = house.let_in("owner", size=WIDE)
    yield person
    assert person.leave() == []


@pytest.fixture
def workers(house: House) -> Iterator[None]:
    """Those who take up runs."""
    for name in HANDS:
        house.stack.begin(name)
    yield
    for name in reversed(HANDS):
        house.stack.stop(name)


def begin(owner: Person, subject: str) -> None:
    """From the room over the set to the page of the run."""
    owner.go("/evals/")
    owner.page.get_by_role("region", name="Sets").get_by_role("link", name=SET).click()
    owner.press("Run on…")
    owner.page.get_by_label("Ask", exact=True).fill(subject.replace(" v", "@"))
    owner.press("Begin the run")
    owner.is_told(f"{subject} is being asked {ROWS} rows of {SET} v1")


def test_run_is_cancelled_by_its_name_and_effect(owner):
    """While it waits for a worker; what it says afterwards is who did it."""
    begin(owner, "support-answer v3")
    bar = owner.page.get_by_role("progressbar")
    expect(bar).to_have_attribute("max", str(ROWS))
    owner.sees(f"It waits for a worker; {ROWS} rows are to be asked.")

    owner.press("Cancel the run")
    asked = owner.dialog(re.compile(rf"^Cancel run \d+: support-answer v3 on {SET} v1$"))
    expect(asked).to_contain_text("Nothing more is asked; the answers so far stay, and the run passes nothing.")
    asked.get_by_role("button", name="Cancel the run").click()

    owner.is_told(re.compile(rf"^Run \d+ is cancelled after 0 of {ROWS} rows$"))
    owner.sees(f"Cancelled by owner after 0 of {ROWS} rows.")
    expect(bar).to_have_count(0)


def test_run_goes_on_before_its_readers_eyes(owner, workers):
    """Its bar moves and gives way to the verdict without a reload; every answer can be read."""
    begin(owner, "support-answer v2")
    owner.page.evaluate("() => { globalThis.notReloaded = true; }")

    passed = re.compile(r"^Passed: .*grounded 45 of 45, 95 % have to pass")
    verdict = owner.page.get_by_role("main").get_by_text(passed)
    expect(verdict).to_be_visible(timeout=RUN_MS)

    assert owner.page.evaluate("() => globalThis.notReloaded") is True
    expect(owner.page.get_by_role("progressbar")).to_have_count(0)
    answers = owner.page.get_by_role("region", name="Answers")
    expect(answers.get_by_role("row").nth(1)).to_contain_text("orders-01")
    expect(answers.get_by_role("row").nth(1)).to_contain_text("Account, then Orders")


def test_names_are_offered_while_one_is_typed(owner):
    """The field's own list gets what holds the text so far: of a prompt that is named in full, every version."""
    owner.go(f"/evals/sets/{SET}/run/")
    field = owner.page.get_by_label("Ask", exact=True)
    first = owner.page.locator("#id_subject_names option[value='support-answer@1']")
    expect(first).to_have_count(0)

    field.fill("support-answer@")

    expect(first).to_have_count(1)


def test_name_that_is_proposed_gives_way_to_what_is_typed(owner):
    """Whoever goes to the field and types has what was typed in it, and nothing before that."""
    owner.go(f"/evals/sets/{SET}/run/")
    field = owner.page.get_by_label("Ask", exact=True)
    expect(field).not_to_have_value("")

    field.click()
    owner.page.keyboard.type("refund")

    expect(field).to_have_value("refund")
