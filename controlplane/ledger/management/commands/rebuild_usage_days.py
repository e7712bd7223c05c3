"""Count usage days anew from the record, as after an upgrade during which an older ingest took rows in."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from controlplane.ledger.operations import rebuild_usage_days


class Command(BaseCommand):
    help = (
        "Count the usage days from FIRST through LAST (UTC) anew from the usage rows, one transaction a day. "
        "Workers' reports wait in the stream meanwhile; nothing is lost."
    )

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
            self.stdout.write(f"{day}: {rebuild_usage_days(day)} rows")
            day += timedelta(days=1)
