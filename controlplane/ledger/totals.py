"""What was used in a period, by whom, where and when: as it was counted in the coarsest steps that tell it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from controlplane.ledger.models import UsageDay, UsageDayQuerySet, UsageRow
from controlplane.ledger.sums import LANE_DAY, TENANT_DAY, TENANT_HOUR, UsageSum, UsageSumQuerySet

_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Counted:
    """The same attempts, counted in the steps that tell most cheaply: by tenant, by day, and by lane and cause."""

    tenants: UsageDayQuerySet | UsageSumQuerySet
    days: UsageDayQuerySet | UsageSumQuerySet
    lanes: UsageDayQuerySet | UsageSumQuerySet


def counted(*, first: date, until: date, tenants: Iterable[str] | None, lane: str = "") -> Counted:
    """The attempts of the UTC days [first, until) at one lane, "" for any.

    What lanes come to is only known of everybody; for a reader who sees some tenants, it is read from these tenants'
    days, and so is what tenants come to at one lane.

    Args:
        tenants: Slugs that the reader may see; None means all.
    """
    slugs = None if tenants is None else list(tenants)
    days = UsageDay.objects.between(first, until).matching(tenants=slugs, lane=lane)
    of_tenants = UsageSum.objects.days(TENANT_DAY, first, until).matching(tenants=slugs)
    of_lanes = UsageSum.objects.days(LANE_DAY, first, until).matching(lane=lane)
    if slugs is None:
        return Counted(tenants=days if lane else of_tenants, days=of_lanes, lanes=of_lanes)
    return Counted(tenants=days if lane else of_tenants, days=days if lane else of_tenants, lanes=days)


def totals_by_tenant(*, tenants: Iterable[str] | None, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """As `UsageQuerySet.totals_by_tenant`, and the same to the last token, without reading the rows of whole UTC hours.

    One query for a period in which no hour is whole, five at most for every other.

    Args:
        tenants: Slugs that the reader may see; None means all.
    Raises:
        RangeTooLong: over MAX_TOTALS_RANGE.
    """
    slugs = None if tenants is None else list(tenants)
    first, end = _from(since, _HOUR), _to(until, _HOUR)
    rows = UsageRow.objects.matching(tenants=slugs)
    whole = rows.totals_by_tenant(since, until)  # refuses a period that is too long; read only where no hour is whole
    if first >= end:
        return list(whole)
    summed: dict[str, dict[str, Any]] = {}
    sums = UsageSum.objects.matching(tenants=slugs)
    for part in (
        rows.totals_by_tenant(since, first),
        # One query each: asked for together, they are found by reading all sums.
        *(sums.filter(of=of).between(*span).totals_by_tenant() for of, *span in _spans(first, end)),
        rows.totals_by_tenant(end, until),
    ):
        for row in part:
            known = summed.setdefault(row["tenant"], {"tenant": row["tenant"]})
            known |= {name: known.get(name, 0) + value for name, value in row.items() if name != "tenant"}
    return sorted(summed.values(), key=lambda row: (-row["cost_micros"], row["tenant"]))


def _spans(since: datetime, until: datetime) -> Iterator[tuple[str, datetime, datetime]]:
    """A range of whole hours as its whole UTC days and the hours before and after these."""
    first, end = _from(since, _DAY), _to(until, _DAY)
    if first >= end:
        yield TENANT_HOUR, since, until
        return
    yield TENANT_HOUR, since, first
    yield TENANT_DAY, first, end
    yield TENANT_HOUR, end, until


def _to(moment: datetime, step: timedelta) -> datetime:
    """When the UTC hour or day begins that a moment lies in."""
    begins = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return begins if step == _HOUR else begins.replace(hour=0)


def _from(moment: datetime, step: timedelta) -> datetime:
    """When the first one begins that is not over by then: the moment itself where one begins with it."""
    begins = _to(moment, step)
    return begins if begins == moment else begins + step
