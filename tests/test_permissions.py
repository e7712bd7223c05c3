"""Every page and API operation x every role x another's object. The expected answers are in `tests/permissions/`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from controlplane.accounts.models import Operator
from controlplane.accounts.roles import Role
from tests.permissions.api import TABLE as API
from tests.permissions.console import TABLE as CONSOLE
from tests.permissions.table import WHO, Row, Table
from tests.permissions.world import World, make_world

pytestmark = pytest.mark.django_db

# A package with views adds its table here.
TABLES: tuple[Table, ...] = (API, CONSOLE)
ROWS = [(table, row) for table in TABLES for row in table.rows]
LETTERS = {401: "0", 403: "-", 404: "."}


@dataclass(frozen=True, slots=True)
class Stage:
    """The world, and a signed-in browser for each of its operators."""

    world: World
    clients: dict[tuple[Role | None, str], Client]
    # A list is the same whether one asks for one's own part of it or for another's, so it is asked for once.
    answers: dict[tuple[Client, str, str, str], int] = field(default_factory=dict)

    def ask(self, row: Row, side: Any, who: tuple[Role | None, str]) -> int:
        """The status that an operator gets; the world is then as it was before."""
        client = self.clients[who]
        asked = (client, row.method, _url(row, side), _body(row))
        if asked not in self.answers:
            self.answers[asked] = _ask(row, side, client)
        return self.answers[asked]


@pytest.fixture(scope="module")
def stage(django_db_setup, django_db_blocker) -> Iterator[Stage]:
    """One world for all rows: what a request changes is undone, and all of it at the end."""
    with django_db_blocker.unblock(), _undone():
        world = make_world()
        yield Stage(world, {who: _signed_in(operator) for who, operator in world.operators.items()})


@contextmanager
def _undone() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def _signed_in(operator: Operator) -> Client:
    client = Client()
    client.force_login(operator, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.mark.parametrize(("table", "row"), ROWS, ids=lambda value: str(value) if isinstance(value, Row) else "")
@pytest.mark.parametrize("column", ["everywhere", "own", "other"])
def test_each_role_gets_the_answer_of_the_matrix(stage, table, row, column):
    """What the table says is what each operator gets."""
    side = stage.world.theirs if column == "other" else stage.world.mine
    scope = "everywhere" if column == "everywhere" else "own"

    answers = "".join(_letter(stage.ask(row, side, (role, scope))) for role in WHO)

    assert answers == getattr(row, column), f"{row}, {column}: {', '.join(str(role) for role in WHO)}"


@pytest.mark.parametrize(("table", "row"), ROWS, ids=lambda value: str(value) if isinstance(value, Row) else "")
def test_nobody_in_particular_gets_nothing(stage, table, row):
    """Without a session or a token every URL gives the same answer, whether the object exists or not."""
    assert _ask(row, stage.world.mine, Client()) == table.anonymous


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.package)
def test_every_url_has_a_row(table):
    """A new URL, or a new method of one, fails here until somebody has said who may use it."""
    listed = {(row.name, row.method) for row in table.rows}

    missing = [
        f"{method} {name}"
        for name, callback in _named_views(get_resolver())
        if _module(callback).startswith(table.package) and name not in table.public
        for method in _methods(callback, name, table)
        if (name, method) not in listed
    ]

    assert missing == []


def _ask(row: Row, side: Any, client: Client) -> int:
    # What one operator changes the next must not meet; a GET changes nothing, and the test is rolled back as a whole.
    with nullcontext() if row.method == "GET" else _undone():
        return client.generic(row.method, _url(row, side), _body(row), content_type="application/json").status_code


def _url(row: Row, side: Any) -> str:
    return reverse(row.name, kwargs=row.arguments(side))


def _body(row: Row) -> str:
    return "" if row.method == "GET" else json.dumps(dict(row.body))


def _letter(status: int) -> str:
    return LETTERS.get(status, "+" if status < 500 else "!")


def _named_views(resolver: URLResolver, namespace: str = "") -> Iterator[tuple[str, Any]]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLResolver):
            yield from _named_views(pattern, f"{namespace}{pattern.namespace}:" if pattern.namespace else namespace)
        elif isinstance(pattern, URLPattern):
            yield f"{namespace}{pattern.name}", pattern.callback


def _module(callback: Any) -> str:
    # The schema's views are a library's; they stand in our URLs all the same.
    return str(getattr(callback, "cls", callback).__module__)


def _methods(callback: Any, name: str, table: Table) -> list[str]:
    """The methods that a class answers to; of a function only the rows can tell, so one row will do."""
    view = getattr(callback, "cls", None)
    if view is not None:
        return [method.upper() for method in view.http_method_names if hasattr(view, method) and method != "options"]
    return sorted({row.method for row in table.rows if row.name == name} or {"GET"})
