"""Readers of the console's pages."""

import re
from html import unescape
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from controlplane.accounts.models import Operator

AGO = r"(?:just now|\d+ s ago)"  # as a pattern: what was done a moment ago, on a machine that may have paused since


@pytest.fixture
def signed_in(db):
    """`signed_in(crew.owner)`: a browser in which they are signed in."""

    def sign_in(operator: Operator) -> Client:
        client = Client()
        client.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return sign_in


@pytest.fixture
def queries(db):
    """`queries(call)`: how many statements `call()` takes."""

    def count(call: Any) -> int:
        with CaptureQueriesContext(connection) as captured:
            call()
        return len(captured)

    return count


def words(response: Any) -> str:
    """What the main part of a page says, without its tags."""
    main = response.content.decode().partition("<main")[2].partition("</main>")[0].partition(">")[2]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", main)).split())


def said(response: Any) -> list[str]:
    """The messages that a redirect leaves for the next page."""
    return [str(message) for message in response.wsgi_request._messages]
