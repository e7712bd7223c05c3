"""Addresses that lead nowhere or cannot be read are answered with words, in the API's envelope under /api/."""

import pytest
from django.test import Client
from django.test.client import RequestFactory

from controlplane.api import unrouted
from tests.factories import crew

pytestmark = pytest.mark.django_db
NULS = ("?actor=%00", "?q=a%00b", "?%00=1")


@pytest.fixture
def browser():
    browser = Client(raise_request_exception=False)
    browser.force_login(crew.admin, backend="django.contrib.auth.backends.ModelBackend")
    return browser


@pytest.mark.parametrize("query", NULS)
@pytest.mark.parametrize("path", ["/audit/", "/access/tokens/", "/api/v1/changes", "/api/v1/audit/events"])
def test_nul_in_a_query_is_a_bad_request(browser, path, query):
    """Not an error of the database's."""
    answer = browser.get(f"{path}{query}")

    assert answer.status_code == 400
    if path.startswith("/api/"):
        assert answer.json()["error"]["code"] == "bad_request"


@pytest.mark.parametrize("path", ["/prompts/a%00b/", "/access/people/%00/", "/api/v1/operators/a%00"])
def test_nothing_is_called_by_a_nul(browser, path):
    """As anything else that is not there."""
    assert browser.get(path).status_code == 404


@pytest.mark.parametrize("path", ["/api/v1/nowhere", "/api/v1/prompts/Not a slug", "/api/nowhere", "/api/v1/tenants/é"])
def test_api_address_that_leads_nowhere_is_told_in_the_envelope(browser, path):
    """As what is there and not to be seen is."""
    answer = browser.get(path)

    assert (answer.status_code, answer["Content-Type"]) == (404, "application/json")
    assert answer.json()["error"] == {
        "code": "not_found",
        "message": "there is no such thing here, or you may not see it",
    }


def test_page_that_leads_nowhere_is_a_page(browser):
    """With the way back."""
    answer = browser.get("/nowhere/")

    assert answer.status_code == 404
    assert answer["Content-Type"].startswith("text/html")


@pytest.mark.parametrize(
    ("path", "kind"), [("/api/v1/me", "application/json"), ("/audit/", "text/html; charset=utf-8")]
)
def test_failure_of_ours_tells_nothing_of_itself(path, kind):
    """What it was is in the log."""
    answer = unrouted.server_error(RequestFactory().get(path))

    assert (answer.status_code, answer["Content-Type"]) == (500, kind)
    assert b"Traceback" not in answer.content
