"""Every address of the console answers with the headers that keep other sites, and our own mistakes, from harm."""

import re

import pytest
from django.db import transaction
from django.test import Client, override_settings

from controlplane.accounts.roles import Role
from tests.factories import make_operator
from tests.permissions.api import TABLE as API
from tests.permissions.console import TABLE as CONSOLE
from tests.permissions.visitor import Visitor
from tests.permissions.world import make_world
from tests.test_permissions import _url

pytestmark = pytest.mark.django_db

ROWS = [row for table in (CONSOLE, API) for row in table.rows if row.method == "GET"]
POLICY = {
    "default-src": "'self'",
    "script-src": "'self'",
    "style-src": "'self'",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@pytest.fixture(scope="module")
def visit(django_db_setup, django_db_blocker):
    """`visit(row)`: what everybody with a role everywhere gets, and nobody in particular."""
    with django_db_blocker.unblock(), transaction.atomic():
        world = make_world()
        visitors = [Visitor(operator) for (_, scope), operator in world.operators.items() if scope == "everywhere"]

        def ask(row):
            found = []
            for visitor in (*visitors, Visitor(None)):
                with transaction.atomic():
                    found.append(visitor.generic("GET", _url(row, world.mine)))
                    transaction.set_rollback(True)
            return found

        yield ask
        transaction.set_rollback(True)


def policy_of(answer):
    parts = (part.split() for part in answer["Content-Security-Policy"].split(";"))
    return {name: " ".join(values) for name, *values in parts}


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_answer_carries_them(visit, row):
    """Pages, downloads, JSON, redirects and refusals alike; and no page has a script or a style of its own inside."""
    for answer in visit(row):
        policy = policy_of(answer)
        assert POLICY.items() <= policy.items()
        assert "unsafe" not in answer["Content-Security-Policy"]
        assert {name: answer.get(name) for name in HEADERS} == HEADERS
        if answer.get("Content-Type", "").startswith("text/html") and not answer.streaming:
            page = answer.content.decode()
            assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*type=\"application/json\")", page)
            assert not re.search(r"<[^>]+\son[a-z]+=", page)
            assert not re.search(r"(?:src|href)=\"(?:https?:)?//(?!testserver)[^\"]*\.(?:js|css|woff2)", page)


@pytest.mark.parametrize("path", ["/nowhere/", "/api/v1/nowhere", "/static/nowhere.css", "/livez", "/accounts/login/"])
def test_what_is_no_view_of_ours_carries_them_too(path):
    """Errors, probes, the sign-in page."""
    answer = Client().get(path)

    assert POLICY.items() <= policy_of(answer).items()
    assert {name: answer.get(name) for name in HEADERS} == HEADERS


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
