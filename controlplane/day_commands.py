"""What commands that count days anew have in common."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser


class DaysCommand(BaseCommand):
    """Calls `rebuild` for each UTC day from FIRST through LAST."""

    def rebuild(self, day: date) -> int:
        """Count one day anew; returns how many rows it has now."""
        raise NotImplementedError

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("first", type=date.fromisoformat, metavar="FIRST", help="such as 2026-03-01")
        parser.add_argument("last", type=date.fromisoformat, metavar="LAST", nargs="?", help="FIRST unless told")

    def handle(self, *args: Any, **options: Any) -> None:
        day, last = options["first"], options["last"] or options["first"]
        if day > last:
            raise CommandError(f"the last day, {last}, is before the first, {day}")
        if last > datetime.now(UTC).date() + timedelta(days=1):
            raise CommandError(f"{last} has not begun anywhere; name days that have usage")
        while day <= last:
            self.stdout.write(f"{day}: {self.rebuild(day)} rows")
            day += timedelta(days=1)
