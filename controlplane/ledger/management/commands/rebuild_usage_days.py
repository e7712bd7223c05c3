"""Count usage days anew from the record, as after an upgrade during which an older ingest took rows in."""

from datetime import date

from controlplane.day_commands import DaysCommand
from controlplane.ledger.operations import rebuild_usage_days


class Command(DaysCommand):
    help = (
        "Count the usage days from FIRST through LAST (UTC) anew from the usage rows, one transaction a day. "
        "Workers' reports wait in the stream meanwhile; nothing is lost."
    )

    def rebuild(self, day: date) -> int:
        return rebuild_usage_days(day)
