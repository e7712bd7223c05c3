"""The application developer's guide, where it leads to the console; its examples are run by `test_api_examples.py`."""

from collections.abc import Callable

from playwright.sync_api import expect

from tests.browser.test_stream_try import DROP
from tests.guides.walk import Walk


def test_dropped_stream_is_read_on(follow: Callable[[str], Walk]) -> None:
    walk = follow("auditor")
    walk.page.goto("/")
    walk.open("Streams & billing")
    walk.press("Try a dropped connection")
    walk.fill("API key", "bk-demo-acme")
    walk.page.evaluate(DROP)  # quicker than any hand, so that the answer is still being written
    walk.press("Ask")
    walk.sees("Connection dropped after frame …")
    walk.press("Connection dropped: tap to continue")

    walk.sees("Complete: every frame is here.")
    expect(walk.page.locator("[data-live-key=try_wrong]")).to_have_text("0")
    walk.picture("stream")
