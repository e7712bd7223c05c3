"""One whole Ballast for all guides, that somebody has asked questions; and readers who follow them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser.caller import Caller
from tests.browser.conftest import (  # noqa: F401 - fixtures, and a hook of theirs
    WIDE,
    chromium,
    house,
    pytest_runtest_teardown,
    stack,
    wallet,
)
from tests.browser.people import House, Person
from tests.end_to_end.stack import Stack
from tests.guides.guide import read_guide
from tests.guides.walk import Walk

# `make guides` names where its pictures go; otherwise none are taken.
ALBUM_VARIABLE = "GUIDE_PICTURES"
SETTLE_SECONDS = 600
SERVED = "SELECT count(*) FROM corpora_corpus WHERE slug = 'help-centre' AND live_namespace_id IS NOT NULL"
EXPORTED = "SELECT count(*) FROM archive_auditsegment"
# So few at a time that no trigger of the ladder takes them for a rush.
# Redrives are durable work, whose later steps the beat looks for.
HANDS = ("worker", "work", "beat")
CALLERS = {"bk-demo-acme": 12, "bk-demo-globex": 24, "bk-demo-initech": 8}


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a whole Ballast, and what `make guides` alone does: to follow a guide in a browser."""
    here = Path(__file__).parent
    for item in items:
        if here not in item.path.parents:
            continue
        needs = getattr(item, "fixturenames", ())
        if "follow" in needs:
            item.add_marker(pytest.mark.guide)
        if "stack" in needs:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def asked(stack: Stack) -> Stack:  # noqa: F811 - the fixture
    """The stack with whoever does durable work, at which every tenant's users have asked a question, so that no page is
    empty. For pictures it is also as well as a Ballast that has run for a while.
    """
    for name in HANDS:
        stack.begin(name)
    for key, users in CALLERS.items():
        caller = Caller(stack, key)
        caller.ask_as_each([f"reader-{number:02d}" for number in range(users)])
        caller.close()
    if ALBUM_VARIABLE in os.environ:
        _settle(stack)
    return stack


def _settle(stack: Stack) -> None:  # noqa: F811 - the fixture
    """Wait until its corpus serves and its audit record is exported, which the overview and the auditor look for."""
    stack.begin("indexer")
    stack.wait_for(lambda: stack.query(SERVED)[0][0] == 1, "the corpus serves", needs="indexer", seconds=SETTLE_SECONDS)
    stack.wait_for(lambda: stack.query(EXPORTED)[0][0] > 0, "the audit record is exported", seconds=SETTLE_SECONDS)


@pytest.fixture(scope="module")
def follow(asked: Stack, house: House, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Walk]]:  # noqa: F811
    """`follow("oncall")`: that operator reads the guide that the module is named after."""
    role = request.module.__name__.rpartition("test_")[2].replace("_", "-")
    guide, album = read_guide(role), os.environ.get(ALBUM_VARIABLE)
    people: dict[str, Person] = {}

    def let_in(username: str) -> Walk:
        people.setdefault(username, house.let_in(username, size=WIDE))
        return Walk(guide, people[username], Path(album) if album else None)

    yield let_in
    complaints = [complaint for person in people.values() for complaint in person.leave()]
    assert complaints == []
