"""Signing in as a browser does it, where the Content-Security-Policy holds: through a provider, and with an app."""

import os

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.db import connection
from playwright.sync_api import Page, sync_playwright

from launcher.chromium import find_or_install_chromium
from tests.accounts.door import PASSWORD, code_of, make_person
from tests.accounts.openid_provider import OpenIDProvider
from tests.accounts.test_sign_in_oidc import trust

pytestmark = [
    pytest.mark.browser,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("doors", "quick_hashes"),
]


@pytest.fixture
def provider(settings):
    with OpenIDProvider() as running:
        trust(settings, running.issuer)
        yield running


@pytest.fixture
def short_connections(monkeypatch):
    """The server's threads let go of the test database after every request."""
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 0)


@pytest.fixture
def page(short_connections, live_server, provider):
    """A window that notes what the policy refuses."""
    make_person()
    with sync_playwright() as playwright:
        program = find_or_install_chromium(os.environ)
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        window = browser.new_page(base_url=live_server.url, viewport={"width": 390, "height": 844})
        window.set_default_timeout(60_000)
        refused: list[str] = []
        window.on("console", lambda said: refused.append(said.text) if "Security Policy" in said.text else None)
        yield window
        browser.close()
    assert refused == []


def look(page: Page) -> None:
    """The page as it stands has nothing that axe objects to."""
    violations = Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in violations] == []


def test_provider_is_left_for_and_come_back_from(page):
    """The forms may lead nowhere but to us, and the redirects after them neither."""
    page.goto("/accounts/login/")
    look(page)
    page.get_by_role("button", name="Continue with Acme SSO").click()

    page.get_by_role("heading", name="Overview").wait_for()


def test_person_whom_nobody_knows_comes_back_to_words(page, provider):
    provider.claims["email"] = "eve@ballast.example"

    page.goto("/accounts/login/")
    page.get_by_role("button", name="Continue with Acme SSO").click()

    page.get_by_role("heading", name="No operator has this address").wait_for()
    look(page)


def test_app_is_set_up_and_asked_for(page, settings):
    """Where one is required: from the password through the picture to the codes, and in again with a code."""
    settings.REQUIRE_MFA = True
    page.goto("/accounts/login/")
    sign_in(page)
    page.get_by_role("heading", name="Confirm it is you").wait_for()
    look(page)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Confirm").click()
    page.get_by_role("heading", name="Set up an app").wait_for()
    look(page)
    picture = page.locator("img.qr")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth > 0)")
    secret = page.locator("main code").inner_text()
    page.get_by_label("code", exact=False).fill(code_of(secret))
    page.get_by_role("button", name="Turn on two-factor sign-in").click()
    page.get_by_role("heading", name="Recovery codes").wait_for()
    look(page)
    page.context.clear_cookies()

    page.goto("/accounts/login/")
    sign_in(page)
    page.get_by_role("heading", name="Second factor").wait_for()
    look(page)
    page.get_by_label("Code").fill(code_of(secret))
    page.get_by_role("button", name="Sign in").click()

    page.get_by_role("heading", name="Overview").wait_for()


def sign_in(page: Page) -> None:
    page.get_by_label("Username").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
