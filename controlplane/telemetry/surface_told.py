"""In which minutes anybody told of a surface, by the hour: of weeks, that is some hundred numbers.

What was told is written when it is taken in, whether it says what was served or how loaded the surface was. Nothing is
ever taken back; an hour is forgotten with its minutes.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final

import orjson
from django.db import connection, models

Range = tuple[datetime, datetime]

_HOUR: Final = timedelta(hours=1)
_MINUTE: Final = timedelta(minutes=1)
_ALL: Final = (1 << 60) - 1


class SurfaceTold(models.Model):
    """The minutes of one hour of UTC in which anybody told of a surface."""

    surface = models.CharField(max_length=100)
    bucket_at = models.DateTimeField()
    minutes = models.BigIntegerField(help_text="Bit n stands for minute n of the hour")

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["surface", "bucket_at"], name="one_surface_told")]
        indexes: ClassVar = [models.Index(fields=["bucket_at"], name="surface_told_by_age")]

    def __str__(self) -> str:
        return f"{self.bucket_at:%Y-%m-%d %H} {self.surface} {self.minutes.bit_count()} min"


_TABLE: Final = SurfaceTold._meta.db_table
# What is known already is not written again: a row is locked once a minute, and not by every batch. Sorted, so that two
# processes never wait for each other in a circle.
_KEEP: Final = f"""
INSERT INTO {_TABLE} AS s (surface, bucket_at, minutes)
SELECT r.surface, r.bucket_at, r.minutes
FROM json_to_recordset(%s::json) AS r(surface text, bucket_at timestamptz, minutes bigint)
WHERE NOT EXISTS (
    SELECT FROM {_TABLE} t
    WHERE t.surface = r.surface AND t.bucket_at = r.bucket_at AND t.minutes & r.minutes = r.minutes
)
ORDER BY r.surface, r.bucket_at
ON CONFLICT (surface, bucket_at) DO UPDATE SET minutes = s.minutes | excluded.minutes
"""  # noqa: S608 - every name in it is a constant of ours; the values are parameters


def keep_told(told: Iterable[tuple[str, datetime]]) -> None:
    """Note that somebody told of these surfaces in the minutes that these moments lie in; one statement, or none."""
    hours: dict[tuple[str, datetime], int] = {}
    for surface, at in told:
        hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        hours[surface, hour] = hours.get((surface, hour), 0) | 1 << at.astimezone(UTC).minute
    if hours:
        rows: list[dict[str, Any]] = [
            {"surface": surface, "bucket_at": hour, "minutes": minutes} for (surface, hour), minutes in hours.items()
        ]
        with connection.cursor() as cursor:
            cursor.execute(_KEEP, [orjson.dumps(rows).decode()])


def told_stretches(surface: str, *, since: datetime, until: datetime) -> list[Range]:
    """The stretches of minutes in which anybody told of a surface: what it served, or how loaded it was; one query.

    Oldest first; between two of them lies a minute at least. Minutes count that begin in [since, until).
    """
    hours = SurfaceTold.objects.filter(surface=surface, bucket_at__gt=since - _HOUR, bucket_at__lt=until)
    found: list[Range] = []
    for hour, minutes in hours.order_by("bucket_at").values_list("bucket_at", "minutes"):
        for begun, ended in _runs(hour, minutes & _between(hour, since, until)):
            if found and found[-1][1] == begun:
                begun = found.pop()[0]
            found.append((begun, ended))
    return found


def _between(hour: datetime, since: datetime, until: datetime) -> int:
    """The bits of those minutes of an hour that begin in [since, until)."""
    first = max(-((hour - since) // _MINUTE), 0)
    end = min(-((hour - until) // _MINUTE), 60)
    return _ALL >> 60 - end & ~((1 << first) - 1) if first < end else 0


def _runs(hour: datetime, minutes: int) -> Iterator[Range]:
    """The stretches of minutes of an hour, oldest first."""
    begun = 0
    while minutes >> begun:
        rest = minutes >> begun
        begun += (rest & -rest).bit_length() - 1
        rest = minutes >> begun
        ended = begun + (rest + 1 & ~rest).bit_length() - 1
        yield hour + begun * _MINUTE, hour + ended * _MINUTE
        begun = ended
