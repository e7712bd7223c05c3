"""The guide of those who sign words, followed: each test is one of its tasks, in its order."""

from collections.abc import Callable

import pytest

from tests.end_to_end.stack import Stack
from tests.guides.setting import propose_words
from tests.guides.walk import Walk


@pytest.fixture(scope="module")
def change(asked: Stack) -> int:
    """The change of words that wait for exec."""
    return propose_words(asked, piece="help-centre-template", said="Our assistant", instead="Our digital assistant")


@pytest.fixture(scope="module")
def walk(change: int, follow: Callable[[str], Walk]) -> Walk:
    return follow("exec")


def test_words_are_signed_and_the_signature_taken_back(walk: Walk, change: int) -> None:
    walk.page.goto("/")
    walk.open("Reviews")
    row = walk.page.get_by_role("row").filter(has_text=f"CR-{change}")
    walk.sees("waits for you")
    walk.press("CR-…", within=row)
    walk.picture("review")
    walk.press("Sign off")
    dialog = walk.dialog()
    walk.sees("Your sign-off counts for exactly this digest.")
    walk.press("Sign off", within=dialog)
    walk.is_told("You signed CR-…")
    walk.press("Take my sign-off back")
    walk.person.sees("not signed")


def test_other_words_are_asked_for(walk: Walk) -> None:
    walk.press("Request changes")
    walk.dialog().get_by_role("button", name="Cancel").click()


def test_words_are_read_as_users_read_them(walk: Walk) -> None:
    walk.open("Ladder")
    walk.press("Copy")
    walk.press("web-chat-later")
    walk.person.sees("We have your question, and answer it in full")
    walk.picture("words")


def test_capacity_is_told_and_taken_along(walk: Walk) -> None:
    walk.open("Ladder")
    walk.press("Capacity")
    walk.person.sees("Of the time")
    with walk.page.expect_download() as taken:
        walk.press("CSV")
    assert taken.value.path().stat().st_size > 0
