"""Callers of the console API."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from controlplane.accounts import operations as accounts
from controlplane.accounts.models import Operator
from tests.factories import NOW


@dataclass
class Answer:
    status: int
    body: Any
    headers: Any


class Caller:
    """Whoever calls `/api/v1`: with an operator's token, another token, or none."""

    def __init__(self, token: str | None = None) -> None:
        self.client = Client(enforce_csrf_checks=True)
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, body: Any = None) -> Answer:
        return self.send("POST", path, body if body is not None else {})

    def patch(self, path: str, body: Any) -> Answer:
        return self.send("PATCH", path, body)

    def send(self, method: str, path: str, body: Any = None, headers: Any = None) -> Answer:
        response = self.client.generic(
            method,
            f"/api/v1/{path}",
            "" if body is None else json.dumps(body),
            content_type="application/json",
            headers={**self.headers, **(headers or {})},
        )
        is_json = response.headers.get("Content-Type", "").startswith("application/json") and response.content
        return Answer(response.status_code, response.json() if is_json else None, response.headers)


@pytest.fixture
def as_operator(db):
    """`as_operator(crew.owner)`: calls with a token of theirs."""

    def call_as(operator: Operator) -> Caller:
        return Caller(accounts.issue_token(operator=operator, name="test", actor="setup", now=NOW).secret)

    return call_as


@pytest.fixture
def queries(db):
    """`queries(call)`: how many statements `call()` takes."""

    def count(call: Any) -> int:
        with CaptureQueriesContext(connection) as captured:
            call()
        return len(captured)

    return count
