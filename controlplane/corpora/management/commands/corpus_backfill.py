"""Have a source of a corpus tell of every row that it has."""

from typing import Any

import psycopg
from django.core.management.base import BaseCommand, CommandError, CommandParser

from controlplane.corpora import backfilling
from controlplane.corpora.errors import CorpusError
from controlplane.corpora.sources import SourceUnavailable, address_of, connect


class Command(BaseCommand):
    help = (
        "Write every row of a source into its outbox, from where `capture` takes it. Writers go on meanwhile: a live "
        "change always wins. It may be stopped and begun again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--corpus", required=True)
        parser.add_argument("--source", required=True, help="its name in the corpus policy")
        parser.add_argument("--parallel", type=int, default=3, help="over so many connections; 3 unless told")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["parallel"] <= 32:
            raise CommandError(f"--parallel {options['parallel']}: name 1 to 32")
        last = -1

        def told(done: int, of: int) -> None:
            nonlocal last
            percent = done * 100 // max(of, 1)
            if percent != last:
                last = percent
                self.stdout.write(f"{percent} %: {done} of {of} rows written into the outbox")

        try:
            address = address_of(options["corpus"], options["source"])
            done = backfilling.backfill(
                lambda: connect(address), options["corpus"], parallel=options["parallel"], progress=told
            )
        except (CorpusError, SourceUnavailable, psycopg.Error) as exc:
            raise CommandError(str(exc)) from exc
        self.stdout.write(f"done: {done} rows are in the outbox; `manage.py capture` takes them from there")
