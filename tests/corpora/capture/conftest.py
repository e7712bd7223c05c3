"""A database of somebody else's with a table of articles, whose changes are told by the outbox that we print."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import connection
from psycopg.conninfo import make_conninfo

from controlplane.corpora import sources
from controlplane.corpora.outbox import Outbox, outbox_sql
from controlplane.corpora.sources import Address
from tests.corpora_documents import SLUG

VARIABLE = "HELP_CENTRE_DSN"
SOURCE = "articles-db"
ADDRESS = Address(SLUG, SOURCE, VARIABLE)
OUTBOX = Outbox(corpus=SLUG, table="articles", key="id", content=("title", "body"), metadata=("url",))
TABLE = """
DROP SCHEMA public CASCADE;
CREATE SCHEMA public;
CREATE TABLE articles (id bigint PRIMARY KEY, title text NOT NULL, body text, url text, views int NOT NULL DEFAULT 0);
"""


def address(name: str) -> str:
    """Of another database in this run's server."""
    facts = connection.settings_dict
    return make_conninfo(
        host=facts["HOST"], port=facts["PORT"], user=facts["USER"], password=facts["PASSWORD"], dbname=name
    )


@pytest.fixture(scope="module")
def source_database(django_db_setup: None) -> Iterator[str]:
    """Its address, in a database that goes with the module."""
    name = f"{connection.settings_dict['NAME']}_source"
    # Whoever made this run's database may make another.
    with psycopg.connect(address(connection.settings_dict["NAME"]), autocommit=True) as ours:
        ours.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        ours.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        yield address(name)
        ours.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def source_url(source_database: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Its address, which a variable of this process names too; the table is empty, the outbox installed."""
    monkeypatch.setenv(VARIABLE, source_database)
    with psycopg.connect(source_database, autocommit=True) as owner:
        owner.execute(TABLE)
        owner.execute(outbox_sql(OUTBOX))
    return source_database


@pytest.fixture
def writer(source_url: str) -> Iterator[psycopg.Connection[Any]]:
    """The application whose table it is; each statement is a transaction."""
    with psycopg.connect(source_url, autocommit=True) as application:
        yield application


@pytest.fixture
def tap(source_url: str) -> Iterator[sources.Connection]:
    """How we come to it."""
    with sources.connect(ADDRESS) as source:
        yield source


@pytest.fixture
def outbox(writer: psycopg.Connection[Any]) -> Callable[[], list[tuple[Any, ...]]]:
    """What the outbox tells: key, op and content, by revision."""
    return lambda: writer.execute(
        "SELECT source_key, op, content FROM ballast_outbox ORDER BY source_rev, id"
    ).fetchall()
