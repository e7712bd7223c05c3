"""On-call's guide, followed: each test is one of its tasks, in its order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import expect

from tests.browser.caller import Caller
from tests.end_to_end.stack import Stack
from tests.guides.setting import pay_debts
from tests.guides.walk import Walk

JOBS = 4
REFUSED = {"fault": "status:code=400"}
LETTERS = "SELECT count(*) FROM deadletters_deadletter WHERE state = 'open'"
PLANNED = "refund-policy-v2"


@pytest.fixture(scope="module")
def walk(asked: Stack, follow: Callable[[str], Walk]) -> Iterator[Walk]:
    """On-call, on a night in which jobs failed and a canary of legal words has started without its sign-offs."""
    with asked.api("owner") as api:
        api.post(f"/canaries/{PLANNED}/start").raise_for_status()
    _fail(asked)
    yield follow("oncall")
    pay_debts(asked)


def test_overview_says_whether_production_is_fine(walk: Walk) -> None:
    walk.page.goto("/")
    walk.open("Overview")
    expect(walk.page.get_by_role("main").get_by_role("heading", name="Last changes")).to_be_visible()
    walk.picture("overview")


def test_canary_is_rolled_back(walk: Walk) -> None:
    walk.open("Canaries")
    walk.press("support-answer-v4")
    walk.press("Roll back to v2")
    dialog = walk.dialog()
    walk.sees("Everybody is served the control again within a second.")
    walk.fill("Reason", "INC-2041: answers promise refunds that nobody owes", within=dialog)
    walk.picture("roll-back")
    walk.press("Roll back to v2", within=dialog)

    walk.is_told("Rolled back to v2")
    walk.sees("rolled back")


def test_glass_is_broken(walk: Walk) -> None:
    walk.open("Reviews")
    walk.press("CR-…", within=walk.page.get_by_role("row").filter(has_text="refund-policy"))
    walk.press("Break glass")
    dialog = walk.dialog()
    walk.fill("Incident id", "INC-2041", within=dialog)
    walk.fill("Minutes", "30", within=dialog)
    walk.fill("Reason", "The old wording promises too much", within=dialog)
    walk.picture("glass")
    walk.press("Break the glass", within=dialog)

    walk.is_told("somebody else must review it")
    walk.page.goto(f"/canaries/{PLANNED}/")
    walk.page.locator(".stop").filter(has=walk.page.get_by_text("1 %", exact=True)).click()
    walk.person.press("Turn the knob to 1 %")
    walk.person.is_told("is at 1 %")


def test_last_change_is_taken_back(walk: Walk) -> None:
    walk.open("Releases & fleet")
    walk.press("Roll back the last change")
    dialog = walk.dialog()
    walk.sees("What changes now")
    walk.picture("undo")
    walk.press("Roll back to r…", within=dialog)

    walk.sees("every worker serves it")


def test_rung_is_engaged_and_stood_down(walk: Walk) -> None:
    walk.open("Ladder")
    walk.press("Engage… rung 3")
    sheet = walk.dialog()
    expect(sheet).to_contain_text("undo: Stand down")
    walk.picture("rung")
    walk.press("Engage rung 3", within=sheet)

    walk.sees("Engaged on every worker")
    expect(walk.page.get_by_role("main").get_by_text("engaged on 2 of 2 workers")).to_be_visible()
    walk.picture("engaged", top=walk.page.get_by_role("heading", name="Users read now"))
    walk.press("Stand down")
    walk.sees("No rung of Web chat is engaged.")


def test_lane_is_held_open_and_let_go(walk: Walk) -> None:
    walk.open("Routing")
    walk.press("Hold open openai/us-east/main/gpt-4o")
    dialog = walk.dialog()
    expect(dialog).to_contain_text("Route chat is served by azure/eu-west/eu/gpt-4o")
    walk.check("4 h", within=dialog)
    walk.fill("Reason", "INC-2042: us-east times out", within=dialog)
    walk.press("Hold open", within=dialog)

    walk.sees("Held open on 2 of 2 workers")
    walk.picture("held")
    walk.press("Back to automatic for …")
    walk.is_told("openai/us-east/main/gpt-4o is automatic again")


def test_failed_work_is_handed_in_again(walk: Walk) -> None:
    walk.open("Dead letters")
    walk.press("job /v1/chat/completions")
    walk.press("Plan a redrive")
    walk.fill("Reason", "The provider takes requests again")
    walk.press("Plan it and begin the dry run")

    walk.is_told("the dry run has begun, and nothing is handed in")
    walk.sees("4 of 4 would run; nothing is handed in yet.")
    walk.press("Open it for approval")
    walk.is_told("needs no sign-off; start it when you are ready")
    walk.picture("redrive")
    walk.press("Start the redrive")
    walk.press("Start the redrive", within=walk.dialog())

    walk.is_told("Started: the canary hands in 3, one at a time")


def _fail(stack: Stack) -> None:
    """Jobs of a tenant, while every provider answers 400."""
    faults = f"{stack.simulator_url}/admin/faults"
    httpx.post(faults, json=REFUSED).raise_for_status()
    caller = Caller(stack)
    try:
        for number in range(JOBS):
            caller.hand_in(f"Where is parcel {number}?")
        stack.wait_for(lambda: stack.query(LETTERS)[0][0] == JOBS, "every job has its letter")
    finally:
        httpx.delete(faults).raise_for_status()
        caller.close()
