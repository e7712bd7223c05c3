"""How the database is emptied after a test that commits.

Django's flush truncates every table and makes content types and permissions anew: files of some hundred tables and
their indexes are exchanged for what a test has left in ten of them. Here rows are deleted instead, and what `migrate`
has made once stays.
"""

from pathlib import Path

import psycopg
from django.core.management import call_command
from django.db import connection
from psycopg import sql

from launcher.postgres import SUPERUSER

# Filled by `migrate`, for every test.
KEPT = ("django_content_type", "auth_permission")
# A test that leaves a transaction open is told so, instead of being waited for until its end.
LOCK_TIMEOUT = "60s"


class Emptier:
    """Empties this process's database, on a server of the run's own.

    Args:
        password: The file with the superuser's, who may leave out triggers: tables that only ever grow refuse DELETE,
            and whether a row is still pointed to need not be asked when all of them go.
    """

    def __init__(self, password: Path) -> None:
        self._password = password.read_text().strip()
        self._statement: sql.Composed | None = None
        self._kept: list[tuple[object, ...]] = []

    def remember(self) -> None:
        """Look at what is to stay; before the first test."""
        with self._connect() as other:
            self._kept = self._read_kept(other)
        tables = [
            sql.Identifier(name)
            for name in connection.introspection.django_table_names(only_existing=True, include_views=False)
            if name not in KEPT
        ]
        self._statement = sql.SQL(
            # Whoever is still writing is waited for, as TRUNCATE would.
            "SET LOCAL session_replication_role = replica; SET LOCAL lock_timeout = {timeout};"
            "LOCK TABLE {all} IN EXCLUSIVE MODE; {deletes}"
        ).format(
            timeout=sql.Literal(LOCK_TIMEOUT),
            all=sql.SQL(", ").join(tables),
            deletes=sql.SQL("; ").join(sql.SQL("DELETE FROM {}").format(table) for table in tables),
        )

    def empty(self) -> None:
        """Delete every row but those that `migrate` made; where a test has changed these, do as Django does."""
        assert self._statement is not None
        with self._connect() as other:
            other.execute(self._statement)
            is_as_before = self._read_kept(other) == self._kept
        if not is_as_before:
            call_command("flush", verbosity=0, interactive=False, allow_cascade=False)
            self.remember()

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        facts = connection.settings_dict
        return psycopg.connect(
            host=facts["HOST"], port=facts["PORT"], dbname=facts["NAME"], user=SUPERUSER, password=self._password
        )

    @staticmethod
    def _read_kept(other: psycopg.Connection[tuple[object, ...]]) -> list[tuple[object, ...]]:
        """All that is in the tables that stay, as one digest each."""
        return [
            other.execute(
                sql.SQL("SELECT md5(string_agg(kept::text, ',' ORDER BY id)) FROM {} kept").format(sql.Identifier(name))
            ).fetchall()[0]
            for name in KEPT
        ]
