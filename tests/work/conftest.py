"""Work that tests hand in, and who does it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from random import Random
from typing import Any

import pytest
from django.db import connection

from controlplane.work import deaths, handlers, operations, runner
from controlplane.work.handlers import Attempt, Handler
from tests.factories import NOW

KIND = "tests.errand"
URGENT = "tests.alarm"


class World:
    """Handlers that note what they did, do as they are told, and whom deaths are told to."""

    def __init__(self) -> None:
        self.done: list[dict[str, Any]] = []
        self.attempts: list[Attempt] = []
        self.deaths: list[deaths.Death] = []
        self.will: Callable[[dict[str, Any]], object] = lambda arguments: None
        self.rng = Random(5)

    def run(self, arguments: dict[str, Any], attempt: Attempt) -> None:
        """The handler."""
        self.attempts.append(attempt)
        self.will(arguments)
        self.done.append(arguments)

    def bury(self, death: deaths.Death, now: datetime) -> None:
        """Whom deaths are told to."""
        self.deaths.append(death)

    def enqueue(self, **fields: Any) -> Any:
        """Hand in an errand."""
        return operations.enqueue(**{"kind": KIND, "arguments": {}, "now": NOW} | fields)

    def run_next(self, owner: str = "w1", **which: Any) -> bool:
        """Try what is due first."""
        return runner.run_next(owner=owner, rng=self.rng, now=lambda: NOW, **which)


@pytest.fixture
def world(db: None) -> Iterator[World]:
    """A world whose handler, and nobody else's, does errands; everybody who is told of deaths otherwise still is."""
    world = World()
    handlers.register(Handler(KIND, world.run, work="errand", max_attempts=3, is_atomic=True))
    handlers.register(Handler(URGENT, world.run, work="errand", max_attempts=3, is_urgent=True))
    deaths.register(world.bury)
    yield world
    deaths._undertakers.remove(world.bury)
    for kind in (KIND, URGENT):
        del handlers._handlers[kind]


def sql(statement: str, *parameters: Any) -> list[Any]:
    """Run SQL in the test's transaction."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def age(column: str, state: str) -> None:
    """Let a time of all tasks in that state be over."""
    sql(f"UPDATE work_task SET {column} = now() - interval '1 h' WHERE state = %s", state)  # noqa: S608 - ours
