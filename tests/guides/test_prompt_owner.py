"""The prompt owner's guide, followed: each test is one of its tasks, in its order."""

import re
from collections.abc import Callable

import pytest

from tests.end_to_end.stack import Stack
from tests.guides.setting import end_canaries, sign
from tests.guides.walk import Walk


@pytest.fixture(scope="module")
def walk(asked: Stack, follow: Callable[[str], Walk]) -> Walk:
    """A prompt owner whose prompt has no canary now."""
    end_canaries(asked)
    return follow("owner")


def test_version_is_submitted(walk: Walk) -> None:
    walk.page.goto("/")
    walk.open("Prompts")
    walk.press("support-answer")
    walk.press("Submit a version")
    before = walk.page.get_by_label("Text").first.input_value()
    walk.fill("Text", f"{before} Say by which day at the latest.")
    walk.check("Tone")
    walk.fill("Why this version", "Customers ask again because they were given no date")
    walk.press("Preview and compare")
    walk.person.sees("Where is my parcel?")
    walk.picture("preview")
    walk.press("Submit the version")
    walk.is_told("it serves nobody yet")


def test_canary_is_planned(walk: Walk) -> None:
    walk.press("Plan a canary")
    walk.fill("Why now", "Before the holidays, when parcels are late")
    walk.fill("Percent of stage 2", "1")
    for stage in range(1, 7):  # nobody waits for evidence here
        walk.page.get_by_label(f"Without evidence of stage {stage}").select_option("People may go on")
    walk.picture("plan")
    walk.press("Plan the canary")
    walk.is_told("waits in the approvers' inbox")
    walk.press("Edit the plan")
    walk.page.go_back()


def test_canary_is_started_and_its_knob_opened(walk: Walk, asked: Stack) -> None:
    walk.press("Start at Internal only")
    walk.is_told("at Internal only")
    walk.sees("Missing: 2 more from approver")
    walk.picture("locked")
    review = walk.page.get_by_role("main").get_by_role("link", name=re.compile(r"^Review CR-\d+$"))
    change = int(review.inner_text().rpartition("-")[2])
    for username in ("approver-one", "approver-two"):
        sign(asked, change=change, username=username)
    walk.page.reload()

    walk.page.locator(".stop").filter(has=walk.page.get_by_text("1 %", exact=True)).click()
    walk.press("Turn the knob to 1 %")
    walk.is_told("is at 1 %")
    walk.picture("knob")


def test_single_answers_are_compared(walk: Walk) -> None:
    walk.press("Replays, query by query")
    walk.page.wait_for_url("**/replays/")
