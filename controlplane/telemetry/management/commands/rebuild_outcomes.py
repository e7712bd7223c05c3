"""Add up outcomes of checks of answers anew, as after an upgrade during which an older beat folded minutes."""

from datetime import date
from typing import Any

from django.utils import timezone

from controlplane.day_commands import DaysCommand
from controlplane.telemetry.outcome_spans import rebuild_outcomes
from controlplane.telemetry.outcome_windows import rebuild_windows


class Command(DaysCommand):
    help = (
        "Add up what became of checks of answers from FIRST through LAST (UTC) anew from the minutes, one transaction "
        "a day, and then what pages show of the last hour, day, week and month. Compaction waits meanwhile; nothing is "
        "lost."
    )

    def rebuild(self, day: date) -> int:
        return rebuild_outcomes(day)

    def handle(self, *args: Any, **options: Any) -> None:
        super().handle(*args, **options)
        rebuild_windows(now=timezone.now())
