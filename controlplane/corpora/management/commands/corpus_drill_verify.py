"""Prove that a drill's report is what was signed. Asks no database."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from controlplane.corpora.drill_reports import ReportRefused, read_report
from controlplane.corpora.dump_checks import trusted_keys
from controlplane.corpora.errors import CorpusError
from dataplane.release import parse_trusted_keys


class Command(BaseCommand):
    help = "Prove that a game day's report, as it was downloaded, is what was signed; exit 1 where it is not."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument(
            "--trusted-keys", type=Path, help="trusted-keys.json, from a place you trust; else this deployment's"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        keys: Path | None = options["trusted_keys"]
        try:
            trusted = trusted_keys() if keys is None else parse_trusted_keys(keys.read_bytes())
            report, digest = read_report(options["file"].read_bytes(), trusted=trusted)
        except (ReportRefused, CorpusError, OSError, ValueError) as exc:
            raise CommandError(f"{options['file']}: {exc}") from exc
        self.stdout.write(
            f"signed, digest {digest}: drill {report['drill']} of {report['corpus']}, {report['scenario']}:"
            f" {report['state']}, by {report['people']['asked_by']}"
        )
