"""Count the days of streams anew from the record."""

from datetime import date

from controlplane.day_commands import DaysCommand
from controlplane.ledger.streams import rebuild_stream_days


class Command(DaysCommand):
    help = (
        "Count the days of streams from FIRST through LAST (UTC) anew from their rows, deliveries and credits, one "
        "transaction a day. Workers' reports wait in the stream meanwhile; nothing is lost."
    )

    def rebuild(self, day: date) -> int:
        return rebuild_stream_days(day)
