"""Add up outcomes of checks of answers anew, as after an upgrade during which an older beat folded minutes."""

from datetime import date

from controlplane.day_commands import DaysCommand
from controlplane.telemetry.outcome_spans import rebuild_outcomes


class Command(DaysCommand):
    help = (
        "Add up what became of checks of answers from FIRST through LAST (UTC) anew from the minutes, one transaction "
        "a day. Compaction waits meanwhile; nothing is lost."
    )

    def rebuild(self, day: date) -> int:
        return rebuild_outcomes(day)
