"""The platform engineer's guide, followed: each test is one of its tasks, in its order."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.guides.walk import Walk


@pytest.fixture(scope="module")
def walk(follow: Callable[[str], Walk]) -> Walk:
    return follow("admin")


def test_application_gets_its_key(walk: Walk) -> None:
    walk.page.goto("/")
    walk.open("Access")
    walk.press("Tenants & keys")
    walk.press("globex")
    walk.fill("What it is for", "Checkout service")
    walk.press("Issue the key")
    walk.sees("Only its hash is stored.")
    expect(walk.page.get_by_role("banner")).to_contain_text("on 2 of 2 workers")
    walk.picture("key")


def test_script_gets_its_token(walk: Walk) -> None:
    walk.open("Access")
    walk.press("Operator tokens")
    walk.fill("What it is for", "Nightly export")
    walk.choose("Valid for", "30 days")
    walk.press("Issue the token")
    walk.person.sees("op-")


def test_fleet_is_seen_to_follow(walk: Walk) -> None:
    walk.open("Releases & fleet")
    walk.sees("every worker serves it")
    walk.picture("fleet")


def test_table_is_proposed(walk: Walk) -> None:
    walk.open("Routing")
    walk.press("Propose another table")
    walk.page.wait_for_url("**/routing/new/")


def test_webhook_is_begun(walk: Walk) -> None:
    walk.open("Access")
    walk.press("Alerts")
    walk.press("New webhook")
    walk.page.wait_for_url("**/access/new-alert-channel/webhook/")
