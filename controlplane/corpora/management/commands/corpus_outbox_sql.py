"""Print the SQL by which a PostgreSQL table tells of its changes."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from controlplane.corpora.outbox import InvalidOutbox, Outbox, outbox_sql


class Command(BaseCommand):
    help = (
        "Print the SQL that a table's owner runs in its database, once, so that every change of a row is captured into "
        "a corpus. Nothing is connected to. Running it again changes nothing."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--corpus", required=True, help="its name in the corpus policy")
        parser.add_argument("--table", required=True, help="whose rows are documents: table or schema.table")
        parser.add_argument("--key", required=True, help="the column that names a document; unique by itself")
        parser.add_argument("--content", required=True, action="append", help="a column that is indexed; repeat it")
        parser.add_argument("--metadata", default=[], nargs="+", help="columns that are cited beside it, as text")
        parser.add_argument("--prefix", default="", help="before every key, where the corpus has other sources too")
        parser.add_argument("--schema", default="public", help="where the outbox is made")

    def handle(self, *args: Any, **options: Any) -> None:
        names = ("corpus", "table", "key", "content", "metadata", "prefix", "schema")
        try:
            sql = outbox_sql(Outbox(**{name: options[name] for name in names}))
        except InvalidOutbox as exc:
            raise CommandError(str(exc)) from exc
        self.stdout.write(sql)
