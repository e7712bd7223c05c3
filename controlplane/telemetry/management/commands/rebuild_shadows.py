"""Add up what shadows counted anew, as after an upgrade during which an older beat folded minutes."""

from datetime import date

from controlplane.day_commands import DaysCommand
from controlplane.telemetry.shadow_hours import rebuild_shadow_hours


class Command(DaysCommand):
    help = (
        "Add up what shadows counted from FIRST through LAST (UTC) anew from the minutes, one transaction a day. "
        "Compaction waits meanwhile; nothing is lost."
    )

    def rebuild(self, day: date) -> int:
        return rebuild_shadow_hours(day)
