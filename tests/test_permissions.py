"""Every page and API operation x every role x another's object. The expected answers are in `tests/permissions/`.

Whatever is answered is also looked at as a browser would get it: nobody else asks every address as everybody.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
from django.db import transaction
from django.http.response import HttpResponseBase
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from controlplane.accounts.roles import Role
from tests.permissions.api import TABLE as API
from tests.permissions.console import TABLE as CONSOLE
from tests.permissions.table import WHO, Row, Table
from tests.permissions.visitor import Visitor
from tests.permissions.world import World, make_world
from tests.security.headers import faults_of

# A package with views adds its table here.
TABLES: tuple[Table, ...] = (API, CONSOLE)
ROWS = [(table, row) for table in TABLES for row in table.rows]
PER_ROW = pytest.mark.parametrize(
    ("table", "row"), ROWS, ids=lambda value: str(value) if isinstance(value, Row) else ""
)
LETTERS = {401: "0", 403: "-", 404: "."}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is kept of one: its status, and what would let harm be done in a browser that gets it."""

    status: int
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """The world, each of its operators as a visitor, and nobody in particular."""

    world: World
    visitors: dict[tuple[Role | None, str], Visitor]
    nobody: Visitor
    # A list is the same whether one asks for one's own part of it or for another's, so it is asked for once.
    answers: dict[tuple[Visitor, str, str, str], Answer] = field(default_factory=dict)

    def ask(self, row: Row, side: Any, visitor: Visitor) -> Answer:
        """What a visitor gets; the world is then as it was before."""
        asked = (visitor, row.method, _url(row, side), _body(row))
        if asked not in self.answers:
            # What one operator changes the next must not meet; a GET changes nothing that another would see, and the
            # test is rolled back as a whole.
            with nullcontext() if row.method == "GET" else _undone():
                answer: HttpResponseBase = visitor.generic(row.method, *asked[2:], content_type="application/json")
                self.answers[asked] = Answer(answer.status_code, tuple(faults_of(answer)))
        return self.answers[asked]


@pytest.fixture(scope="module")
def built_stage(django_db_setup, django_db_blocker) -> Iterator[Stage]:
    """One world for all rows: what a request changes is undone, and all of it at the end."""
    with django_db_blocker.unblock(), _undone():
        world = make_world()
        # Somebody without a role has it nowhere, so they are one and the same here and there.
        visitors = {operator.pk: Visitor(operator) for operator in world.operators.values()}
        yield Stage(world, {who: visitors[operator.pk] for who, operator in world.operators.items()}, Visitor(None))


@pytest.fixture
def stage(built_stage: Stage) -> Iterator[Stage]:
    """What one test does to the world is undone. Two thousand times, the mark `django_db` would cost more than that."""
    with _undone():
        yield built_stage


@contextmanager
def _undone() -> Iterator[None]:
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


@PER_ROW
@pytest.mark.parametrize("column", ["everywhere", "own", "other"])
def test_each_role_gets_the_answer_of_the_matrix(stage, table, row, column):
    """What the table says is what each operator gets."""
    side = stage.world.theirs if column == "other" else stage.world.mine
    scope = "everywhere" if column == "everywhere" else "own"

    answers = "".join(_letter(stage.ask(row, side, stage.visitors[role, scope]).status) for role in WHO)

    assert answers == getattr(row, column), f"{row}, {column}: {', '.join(str(role) for role in WHO)}"


@PER_ROW
def test_nobody_in_particular_gets_nothing(stage, table, row):
    """Without a session or a token every URL gives the same answer, whether the object exists or not."""
    assert stage.ask(row, stage.world.mine, stage.nobody).status == table.anonymous


@PER_ROW
def test_every_answer_keeps_its_browser_from_harm(stage, table, row):
    """Pages, downloads, JSON, redirects and refusals alike; and no page has a script or a style of its own inside."""
    everybody = [(role, stage.visitors[role, "everywhere"]) for role in WHO] + [("nobody", stage.nobody)]

    faults = {str(who): stage.ask(row, stage.world.mine, visitor).faults for who, visitor in everybody}

    assert faults == dict.fromkeys(faults, ())


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
