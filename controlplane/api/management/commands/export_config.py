"""Write the configuration in force as YAML."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from controlplane.api.gitops.document import write_configuration
from controlplane.api.gitops.plan import read_deployment


class Command(BaseCommand):
    help = (
        "Write tenants, copy, routing, ladder, approval policy and live prompts as YAML: the same state gives the same "
        "bytes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--output", type=Path, metavar="FILE", help="instead of standard output")

    def handle(self, *args: Any, output: Path | None, **options: Any) -> None:
        text = write_configuration(read_deployment())
        if output is None:
            self.stdout.write(text, ending="")
            return
        try:
            output.write_text(text)
        except OSError as exc:
            raise CommandError(f"{output}: {exc.strerror}") from exc
