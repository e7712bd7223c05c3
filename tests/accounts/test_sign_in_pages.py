"""Every page of signing in: ours, and within the Content-Security-Policy."""

import re

import pytest
from allauth.urls import urlpatterns as all_of_allauth
from django.test import Client
from django.urls import URLPattern, get_resolver, reverse

from controlplane.accounts.urls import urlpatterns
from tests.accounts.door import actions, confirm, enrol, make_person, sign_in

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("doors", "quick_hashes")]

OURS = {pattern.name for pattern in urlpatterns}


def names_of(patterns):
    for pattern in patterns:
        if isinstance(pattern, URLPattern):
            yield pattern.name
        else:
            yield from names_of(pattern.url_patterns)


def assert_ours(answer):
    """In our frame, with nothing inline, nothing from elsewhere, and one heading."""
    text = answer.content.decode()
    assert "css/ballast" in text
    assert text.count("<h1") == 1
    assert not re.search(r"<[^>]+\sstyle=", text)
    assert not re.search(r"<[^>]+\son\w+=", text)
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)
    assert "<style" not in text
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)


def test_pages_that_are_not_used_do_not_exist():
    """No signing up, no e-mail pages, no password by mail, no connections, none of allauth's older addresses."""
    known = set(get_resolver().reverse_dict)
    unused = {name for name in names_of(all_of_allauth) if name} - OURS

    assert unused >= {"account_signup", "account_email", "account_reset_password", "account_set_password"}
    assert unused >= {"socialaccount_signup", "socialaccount_connections"}
    assert not unused & known
    for path in ("signup/", "email/", "password/reset/", "password/set/", "3rdparty/", "social/signup/", ""):
        answer = Client().get(f"/accounts/{path}")
        assert answer.status_code == 404, path
        assert_ours(answer)


def test_every_page_looks_like_ours_whoever_asks():
    """Signed out, signed in, and with a second factor set up and confirmed."""
    person = make_person()
    out, plain, enrolled = Client(), Client(), Client()
    plain.force_login(make_person("grace"))
    sign_in(enrolled)
    enrol(enrolled)
    confirm(enrolled)
    seen = set()

    for browser in (out, plain, enrolled):
        for name in sorted(OURS):
            answer = browser.get(reverse(name))
            assert answer.status_code in (200, 302, 404), name
            if answer.status_code == 200 and answer["Content-Type"].startswith("text/html"):
                assert_ours(answer)
                seen.add(name)

    assert person.username == "ada"
    assert OURS - seen == {
        "mfa_authenticate",  # only between password and code
        "mfa_activate_totp",  # asks who it is first, see below
        "mfa_download_recovery_codes",  # text
        "openid_connect_login",  # only with a provider
        "openid_connect_callback",
    }


def test_pages_on_the_way_look_like_ours_too(browser):
    """Setting up an app, a wrong code, the question for the code, errors of forms."""
    make_person()
    sign_in(browser)
    confirm(browser)
    assert_ours(browser.get(reverse("mfa_activate_totp")))
    assert_ours(browser.post(reverse("mfa_activate_totp"), {"code": "1"}))
    assert_ours(browser.post(reverse("account_reauthenticate"), {"password": "wrong"}))
    enrol(browser)
    other = Client()
    assert_ours(sign_in(other, "ada", "wrong"))
    sign_in(other)
    assert_ours(other.get(reverse("mfa_authenticate")))
    assert_ours(other.post(reverse("mfa_authenticate"), {"code": "1"}))
    for _ in range(8):
        answer = sign_in(Client(), "ada", "wrong")
    assert answer.status_code == 429
    assert_ours(answer)


def test_signed_in_pages_of_the_account_are_never_kept_by_a_browser(browser):
    """Secrets and codes do not come back with the back button."""
    make_person()
    sign_in(browser)
    enrol(browser)
    confirm(browser)

    for name in ("mfa_index", "mfa_view_recovery_codes", "mfa_download_recovery_codes", "account_reauthenticate"):
        assert "no-store" in browser.get(reverse(name))["Cache-Control"], name


def test_looking_at_pages_changes_nothing(browser):
    """A GET of any of them leaves no event."""
    make_person()
    sign_in(browser)

    for name in OURS:
        browser.get(reverse(name))

    assert actions() == ["sign_in.succeeded"]
