"""The console keeps other sites, and our mistakes, from harm; what its views answer: `tests/test_permissions.py`."""

import re

import pytest
from django.http import HttpResponse
from django.test import Client, override_settings

from controlplane.accounts.roles import Role
from tests.factories import make_operator
from tests.security.headers import HEADERS, POLICY, faults_of

pytestmark = pytest.mark.django_db
TOLD = HEADERS | {"Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in POLICY.items())}


@pytest.mark.parametrize(
    ("changed", "page", "fault"),
    [
        ({"Referrer-Policy": "unsafe-url"}, "", "Referrer-Policy is 'unsafe-url'"),
        ({"X-Frame-Options": None}, "", "X-Frame-Options is None"),
        ({"Content-Security-Policy": None}, "", "default-src is None"),
        ({"Content-Security-Policy": TOLD["Content-Security-Policy"] + "; img-src 'unsafe-inline'"}, "", "unsafe: "),
        ({}, "<p><script>let a</script>", "a script in the page: <script"),
        ({}, '<p onclick="go()">', "a script in an attribute: <p onclick="),
        ({}, '<script src="https://elsewhere.example/a.js"></script>', "a file of another host: src="),
    ],
)
def test_fault_of_an_answer_is_found(changed, page, fault):
    """Or the walk through all of them would be in vain."""
    headers = {name: value for name, value in (TOLD | changed).items() if value is not None}

    assert list(faults_of(HttpResponse('<script src="/static/a.js"></script>', headers=TOLD))) == []
    assert next(faults_of(HttpResponse(page, headers=headers))).startswith(fault)


@pytest.mark.parametrize("path", ["/nowhere/", "/api/v1/nowhere", "/static/nowhere.css", "/livez", "/accounts/login/"])
def test_what_is_no_view_of_ours_carries_them_too(path):
    """Errors, probes, the sign-in page."""
    answer = Client().get(path)

    assert list(faults_of(answer)) == []


def test_cookies_are_for_our_pages_alone(settings):
    """No script reads them, no other site sends them along with a form, and outside the demo no plain request carries
    them: see tests/test_settings.py.
    """
    [forged] = Client().get("/accounts/login/").cookies.values()

    assert (forged.key, forged["httponly"], forged["samesite"]) == (settings.CSRF_COOKIE_NAME, True, "Lax")
    assert (settings.SESSION_COOKIE_HTTPONLY, settings.SESSION_COOKIE_SAMESITE) == (True, "Lax")


def test_deployment_behind_https_says_so_for_a_year():
    """And answers no plain request."""
    with override_settings(SECURE_HSTS_SECONDS=31_536_000, SECURE_SSL_REDIRECT=True):
        plain = Client().get("/accounts/login/")
        secure = Client().get("/accounts/login/", secure=True)

    assert (plain.status_code, plain["Location"].startswith("https://")) == (301, True)
    assert secure["Strict-Transport-Security"] == "max-age=31536000"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://testserver.evil.example"])
def test_form_of_another_site_changes_nothing(origin):
    """With our cookie, and even with a token that somebody got hold of."""
    somebody = make_operator("somebody", Role.ADMIN)
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(somebody, backend="django.contrib.auth.backends.ModelBackend")
    page = browser.get("/access/tokens/").content.decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1]
    form = {"csrfmiddlewaretoken": token, "name": "x", "days": "7"}

    answer = browser.post("/access/tokens/issue/", form, headers={"Origin": origin})

    assert answer.status_code == 403
    assert not somebody.tokens.exists()
