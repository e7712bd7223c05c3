"""The approver's guide, followed: each test is one of its tasks, in its order."""

from collections.abc import Callable

import pytest

from tests.end_to_end.stack import Stack
from tests.guides.setting import break_glass, plan_canary, submit_version
from tests.guides.walk import Walk


@pytest.fixture(scope="module")
def change(asked: Stack) -> int:
    """The change of a canary that waits for two approvers."""
    number = submit_version(asked, words="End with the name of who can help.")
    return int(plan_canary(asked, number=number)["change"])


@pytest.fixture(scope="module")
def walk(change: int, follow: Callable[[str], Walk]) -> Walk:
    return follow("approver-one")


def test_what_waits_is_found(walk: Walk, change: int) -> None:
    walk.page.goto("/")
    walk.open("Reviews")
    row = walk.page.get_by_role("row").filter(has_text=f"CR-{change}")
    walk.sees("waits for you")
    walk.press("CR-…", within=row)
    walk.picture("review")


def test_change_is_signed_and_the_signature_taken_back(walk: Walk) -> None:
    walk.press("Sign off")
    dialog = walk.dialog()
    walk.sees("Your sign-off counts for exactly this digest.")
    walk.press("Sign off", within=dialog)
    walk.is_told("You signed CR-…")

    walk.press("Take my sign-off back")
    walk.sees("Waiting")


def test_changes_are_requested(walk: Walk) -> None:
    walk.press("Request changes")
    dialog = walk.dialog()
    walk.fill("What should change", "Name the team, not a person", within=dialog)
    walk.press("Request changes", within=dialog)
    walk.person.sees("Name the team, not a person")


def test_bypass_is_reviewed(walk: Walk, change: int, asked: Stack) -> None:
    break_glass(asked, change=change)
    walk.page.goto(f"/reviews/{change}/")
    walk.picture("debt")
    walk.press("Review the bypass")
    dialog = walk.dialog()
    walk.fill("Reason", "Right call; the new words are better than the old ones", within=dialog)
    walk.press("Record the review", within=dialog)
    walk.is_told("The bypass of CR-… is reviewed")
