"""Say which migrations would trip up the version that still runs while they are applied."""

import sys
from typing import Any

from django.core.management.base import BaseCommand
from django.db.migrations.loader import MigrationLoader

from controlplane.console.schema_changes import problems_of


class Command(BaseCommand):
    help = "Exit 1 and name each migration that old code could not go on beside; it connects to nothing."

    def handle(self, *args: Any, **options: Any) -> None:
        loader = MigrationLoader(None)
        ours = [one for one in loader.disk_migrations.values() if one.__module__.startswith("controlplane.")]
        problems = [problem for migration in ours for problem in problems_of(migration)]
        for problem in problems:
            self.stderr.write(problem)
        if problems:
            sys.exit(1)
        self.stdout.write(f"{len(ours)} migrations: old code goes on beside each that came since there is any")
