"""The auditor's guide, followed: each test is one of its tasks, in its order."""

from collections.abc import Callable

import pytest

from tests.browser.caller import Caller
from tests.end_to_end.stack import Stack
from tests.guides.walk import Walk

KEY = "invoice-77"


@pytest.fixture(scope="module")
def walk(asked: Stack, follow: Callable[[str], Walk]) -> Walk:
    """An auditor, after an application has sent one request twice."""
    caller = Caller(asked)
    for _ in range(2):
        caller.ask("ada", key=KEY)
    caller.close()
    return follow("auditor")


def test_approval_is_proved(walk: Walk) -> None:
    walk.page.goto("/")
    walk.open("Canaries")
    walk.press("support-answer-v4")
    walk.press("Review CR-20")
    walk.sees("Every required sign-off is there")
    walk.picture("approved")


def test_event_is_found(walk: Walk) -> None:
    walk.open("Audit")
    walk.fill("Who", "")
    walk.fill("What", "")
    walk.fill("On what", "change:20")
    walk.press("Filter")
    walk.person.sees("Signed off CR-20 as approver")
    walk.picture("found")


def test_chain_is_verified_and_taken_along(walk: Walk) -> None:
    walk.open("Audit")
    walk.press("Verify the chain")
    walk.sees("The chain is whole")
    walk.picture("chain")
    with walk.page.expect_download() as table:
        walk.press("CSV")
    with walk.page.expect_download() as lines:
        walk.press("JSON lines")
    assert b"support-answer" in table.value.path().read_bytes()
    assert b"support-answer" in lines.value.path().read_bytes()


def test_dispute_is_settled(walk: Walk) -> None:
    walk.open("Streams & billing")
    walk.press("Idempotency")
    walk.fill("Idempotency key", KEY)
    walk.press("Find")
    walk.press("invoice-77")
    walk.sees("Executed once on …; 1 duplicate got the same answer; nothing was billed twice")
    walk.picture("key")
