"""Decide the credits of streams that could not be decided when these ended."""

from typing import Any

from django.core.management.base import BaseCommand

from controlplane.ledger.stream_rows import StreamStanding
from controlplane.ledger.streams import decide_credits


class Command(BaseCommand):
    help = "Decide the credits of streams whose refund rule was not registered or failed when they ended."

    def handle(self, *args: Any, **options: Any) -> None:
        before, last = StreamStanding.objects.undecided().count(), decide_credits()
        while last:
            last = decide_credits(after=last)
        still = StreamStanding.objects.undecided().count()
        self.stdout.write(f"decided {before - still}; {still} still open")
