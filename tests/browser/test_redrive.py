"""A redrive as people do it: on-call and an approver, each in a browser of their own, while what failed drains.

The tests run in this order; each does what its name says, and hands on to the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.caller import Caller
from tests.browser.conftest import WIDE
from tests.browser.people import House, Person
from tests.end_to_end.stack import Stack

TENANT = "globex"
JOBS = 4
REFUSED = "status:code=400"
OPEN = "SELECT count(*) FROM deadletters_deadletter WHERE state = 'open' AND work_id = ANY(%s::uuid[])"
# Steps of a redrive are durable work, and those that are due later are looked for by the beat.
HANDS = ("worker", "work", "beat")


@dataclass
class Story:
    """What one test hands on to the next. `jobs`: ids of what was handed in first, as callers know them."""

    stack: Stack
    caller: Caller
    people: dict[str, Person]
    jobs: list[str] = field(default_factory=list)
    plan: str = ""
    change: str = ""

    def __getitem__(self, username: str) -> Person:
        return self.people[username]

    def open_letters(self) -> int:
        """How many of those jobs' letters nobody has decided about."""
        ids = [name.removeprefix("job_") for name in self.jobs]
        return int(str(self.stack.query(OPEN, [ids])[0][0]))


@pytest.fixture(scope="module")
def story(house: House) -> Iterator[Story]:
    """On-call and an approver, signed in, and whoever takes a redrive's steps."""
    stack = house.stack
    for name in HANDS:
        stack.begin(name)
    people = {name: house.let_in(name, size=WIDE) for name in ("oncall", "approver-one")}
    story = Story(stack, Caller(stack, f"bk-demo-{TENANT}"), people)
    yield story
    story.caller.close()
    complaints = [complaint for person in people.values() for complaint in person.leave()]
    for name in reversed(HANDS):
        stack.stop(name)
    assert complaints == []


def test_work_that_its_provider_refuses_leaves_letters(story):
    """Jobs of a tenant, while every provider answers 400: each fails for good, and has a letter in one group."""
    faults = f"{story.stack.simulator_url}/admin/faults"
    httpx.post(faults, json={"fault": REFUSED}).raise_for_status()
    try:
        story.jobs = [story.caller.hand_in(f"Where is parcel {number}?") for number in range(JOBS)]
        story.stack.wait_for(lambda: story.open_letters() == JOBS, "every job has its letter")
    finally:
        httpx.delete(faults).raise_for_status()

    assert {story.caller.look(job)["status"] for job in story.jobs} == {"failed"}


def test_oncall_opens_the_group_and_plans_a_redrive(story):
    """What failed alike is one line; its page says what it was and whom it touches."""
    oncall = story["oncall"]
    oncall.go("/dead-letters/")
    groups = oncall.page.get_by_role("region", name="Groups of dead letters")
    line = groups.get_by_role("row").filter(has_text=TENANT).filter(has_text="job /v1/chat/completions").first
    expect(line).to_contain_text("validation")
    line.get_by_role("link").first.click()
    oncall.sees(f"{JOBS} of")
    oncall.press("Plan a redrive")
    oncall.page.get_by_label("Canary", exact=True).fill("1")
    oncall.page.get_by_label("Letters a minute", exact=True).fill("240")
    oncall.page.get_by_label("Edit").fill('{"temperature": 0}')
    oncall.page.get_by_label("Reason").fill("The provider takes requests again")

    oncall.press("Plan it and begin the dry run")

    oncall.is_told(re.compile("the dry run has begun, and nothing is handed in"))
    story.plan = oncall.page.url


def test_dry_run_ends_before_oncalls_eyes(story):
    """Without a reload; nothing is handed in by it."""
    oncall = story["oncall"]
    oncall.page.evaluate("() => { globalThis.notReloaded = true; }")

    oncall.sees(f"{JOBS} of {JOBS} would run; nothing is handed in yet.")

    assert oncall.page.evaluate("() => globalThis.notReloaded") is True
    assert story.open_letters() == JOBS
    oncall.sees("What the edit changes")
    oncall.press("Open it for approval")
    oncall.is_told(re.compile(r"^CR-\d+ waits in the approvers' inbox$"))
    oncall.sees("Missing: 1 more from approver")
    expect(oncall.act("Start: sign-offs are missing")).to_be_disabled()
    found = re.search(r"CR-(\d+)", oncall.act(re.compile(r"^Review CR-\d+$")).inner_text())
    assert found is not None
    story.change = found[1]


def test_who_planned_it_cannot_sign_it(story):
    oncall = story["oncall"]

    oncall.go(f"/reviews/{story.change}/")

    oncall.sees("You wrote part of this change, so you cannot sign it.")


def test_second_person_reads_what_is_handed_in_and_signs(story):
    """In the inbox, as waiting for them; the review shows the dry run, and what the edit changes."""
    approver = story["approver-one"]
    approver.go("/reviews/")
    expect(approver.page.get_by_role("row").filter(has_text=f"CR-{story.change}")).to_contain_text("waits for you")
    approver.go(f"/reviews/{story.change}/")
    approver.sees(re.compile(rf"lets {JOBS} of {JOBS} run"))
    expect(approver.page.get_by_role("main").locator("pre").first).to_contain_text('+  "temperature": 0')

    approver.press("Sign off")
    approver.dialog(re.compile("^Redrive")).get_by_role("button", name="Sign off").click()

    approver.is_told(f"You signed CR-{story.change}")


def test_oncall_starts_it_and_watches_it_drain(story):
    """The canary, the ramp and the report, by themselves; the work is done once, and the old jobs name the new ones."""
    oncall = story["oncall"]
    oncall.go(story.plan)
    oncall.press("Start the redrive")
    asked = oncall.dialog("Start this redrive")
    expect(asked).to_contain_text(f"The canary hands in 1 of {JOBS}, one at a time")
    asked.get_by_role("button", name="Start the redrive").click()
    oncall.is_told("Started: the canary hands in 1, one at a time")
    oncall.page.evaluate("() => { globalThis.notReloaded = true; }")

    oncall.sees(f"Every letter has been dealt with: {JOBS} done, 0 failed again, 0 skipped.")

    assert oncall.page.evaluate("() => globalThis.notReloaded") is True
    assert story.open_letters() == 0
    old = [story.caller.look(job) for job in story.jobs]
    new = [story.caller.look(job["redriven_as"]) for job in old]
    assert {job["status"] for job in new} == {"completed"}
    assert len({job["id"] for job in new}) == JOBS
    oncall.press("Group")
    oncall.sees("No letter of this group is open.")
