"""Whether letters come faster than somebody said they may, by kind of work.

The objective is so many new letters an hour of each kind. It is held against two windows, and burns only where both are
over it: the long one says that it is no blip, the short one that it is still so.

Source: Beyer and others, "The Site Reliability Workbook", 2018, chapter 5, "Multiwindow, Multi-Burn-Rate Alerts".
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings
from django.db.models import Count, Q

from controlplane.deadletters.models import DeadLetter

LONG: Final = timedelta(hours=1)
SHORT: Final = timedelta(minutes=5)
# From so many times the objective on somebody is needed at once; from once on it is to be watched.
AT_ONCE: Final = 6.0


@dataclass(frozen=True, slots=True)
class Burn:
    """How letters of one kind come. `long` and `short` count them in both windows; `objective` is new ones an hour."""

    kind: str
    long: int
    short: int
    objective: int

    @property
    def rate(self) -> float:
        """How many times the objective, in that window in which it is less."""
        if not self.objective:
            return AT_ONCE if self.long and self.short else 0.0
        return min(self.long / self.objective, self.short / self.objective * (LONG / SHORT))

    @property
    def is_over(self) -> bool:
        return self.rate > 1

    @property
    def is_bad(self) -> bool:
        return self.rate >= AT_ONCE


def burns(*, now: datetime, tenants: Iterable[str] | None = None) -> list[Burn]:
    """How letters come, of those kinds of which any came in the last hour, the worst first; one query.

    Args:
        tenants: Slugs that the reader may see; None means all.
    """
    rows = DeadLetter.objects.matching(tenants=tenants).filter(created_at__gt=now - LONG, created_at__lte=now)
    counted = (
        rows.order_by()
        .values_list("kind")
        .annotate(long=Count("pk"), short=Count("pk", filter=Q(created_at__gt=now - SHORT)))
    )
    found = [Burn(kind, long, short, settings.DEAD_LETTERS_PER_HOUR) for kind, long, short in counted]
    return sorted(found, key=lambda one: (-one.rate, -one.long, one.kind))
