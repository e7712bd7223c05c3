"""What each tenant used in a period: whole days as they were counted, the rest from its rows."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from controlplane.ledger.models import UsageDay, UsageRow


def totals_by_tenant(*, tenants: Iterable[str], since: datetime, until: datetime) -> list[dict[str, Any]]:
    """As `UsageQuerySet.totals_by_tenant`, and the same to the last token, without reading the rows of whole UTC days.

    One query for a period within two days, three for every other.

    Raises:
        RangeTooLong: over MAX_TOTALS_RANGE.
    """
    slugs = list(tenants)
    first, end = _whole_days(since, until)
    rows = UsageRow.objects.matching(tenants=slugs)
    whole = rows.totals_by_tenant(since, until)  # refuses a period that is too long; read only where no day is whole
    if first >= end:
        return list(whole)
    days = UsageDay.objects.matching(tenants=slugs).between(first, end)
    summed: dict[str, dict[str, Any]] = {}
    for part in (
        rows.totals_by_tenant(since, _midnight(first)),
        days.totals_by_tenant(),
        rows.totals_by_tenant(_midnight(end), until),
    ):
        for row in part:
            known = summed.setdefault(row["tenant"], {"tenant": row["tenant"]})
            known |= {name: known.get(name, 0) + value for name, value in row.items() if name != "tenant"}
    return sorted(summed.values(), key=lambda row: (-row["cost_micros"], row["tenant"]))


def _whole_days(since: datetime, until: datetime) -> tuple[date, date]:
    """The UTC days that lie in [since, until) entirely, as [first, end)."""
    begins = since.astimezone(UTC)
    first = begins.date() if begins == _midnight(begins.date()) else begins.date() + timedelta(days=1)
    return first, until.astimezone(UTC).date()


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
