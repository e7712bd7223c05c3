"""What the pages of dead letters show: groups with what happened at the time, depth, age, and how fast they come.

What happened at the time is said as that: a release that went out before, or a lane that was open, need not be why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db.models import Max, Min, Q, Sum

from controlplane.console.charts import Figure, Moment, Series, line_chart
from controlplane.console.deadletter_words import category_words, tenant_words
from controlplane.console.templatetags.ballast import in_words
from controlplane.deadletters.burn import Burn
from controlplane.deadletters.models import DeadLetter, Group, GroupTenant
from controlplane.releases.models import Release
from controlplane.telemetry.models import WorkerEvent

# A release, or a lane that opened, so long before a group's first letter is named beside it.
NEAR: Final = timedelta(minutes=30)
DEPTH_POINTS: Final = 96
_MOST_MOMENTS: Final = 8
_MOST_EVENTS: Final = 500
_NAMED_TENANTS: Final = 3


@dataclass(frozen=True, slots=True)
class Sees:
    """What a reader may know of beside letters."""

    releases: bool
    lanes: bool


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A group as a reader may see it: counted over their tenants."""

    group: Group
    open: int
    total: int
    first_at: datetime
    last_at: datetime
    tenants: tuple[str, ...]
    beside: tuple[str, ...] = ()

    @property
    def category(self) -> str:
        return category_words(self.group.category)

    @property
    def whose(self) -> str:
        """'acme, globex and 2 more'."""
        named = [tenant_words(tenant) for tenant in self.tenants[:_NAMED_TENANTS]]
        more = len(self.tenants) - len(named)
        return ", ".join(named) + (f" and {more} more" if more else "")


def group_rows(
    *,
    tenants: Sequence[str] | None,
    kind: str = "",
    only_open: bool = True,
    skip: int = 0,
    most: int,
    sees: Sees,
) -> list[GroupRow]:
    """Groups, those with the latest letters first; at most four queries, however many there are.

    Args:
        tenants: Slugs that the reader may see; None means all.
    """
    parts = GroupTenant.objects.all() if tenants is None else GroupTenant.objects.filter(tenant__in=tenants)
    if kind:
        parts = parts.filter(fingerprint__in=Group.objects.filter(kind=kind).order_by().values("pk"))
    sums = (
        parts.order_by()
        .values("fingerprint")
        .annotate(all=Sum("total"), standing=Sum("open"), first=Min("first_at"), last=Max("last_at"))
    )
    if only_open:
        sums = sums.filter(standing__gt=0)
    shown = list(sums.order_by("-last", "fingerprint")[skip : skip + most])
    names = [row["fingerprint"] for row in shown]
    groups = Group.objects.in_bulk(names)
    whose: dict[str, list[str]] = {}
    touched = parts.filter(fingerprint__in=names).order_by("-total", "tenant")
    for fingerprint, tenant in touched.values_list("fingerprint", "tenant"):
        whose.setdefault(fingerprint, []).append(tenant)
    rows = [
        GroupRow(
            groups[row["fingerprint"]],
            row["standing"],
            row["all"],
            row["first"],
            row["last"],
            tuple(whose[row["fingerprint"]]),
        )
        for row in shown
        if row["fingerprint"] in groups
    ]
    return with_beside(rows, sees)


def row_of(group: Group, parts: Sequence[GroupTenant], sees: Sees) -> GroupRow:
    """One group over the parts that the reader may see; as many queries as `with_beside`."""
    row = GroupRow(
        group,
        sum(part.open for part in parts),
        sum(part.total for part in parts),
        min(part.first_at for part in parts),
        max(part.last_at for part in parts),
        tuple(part.tenant for part in parts),
    )
    return with_beside([row], sees)[0]


# --- what happened at the time ---------------------------------------------------------------------------------------
def with_beside(rows: Sequence[GroupRow], sees: Sees) -> list[GroupRow]:
    """Groups with what happened shortly before their first letter; at most three queries."""
    if not rows:
        return []
    windows = {row.group.pk: (row.first_at - NEAR, row.first_at) for row in rows}
    spans = Q()
    for since, until in windows.values():
        spans |= Q(clicked_at__gt=since, clicked_at__lte=until)
    went_out = (
        Release.objects.filter(spans).order_by("clicked_at", "revision").values_list("revision", "clicked_at", "reason")
    )
    releases = list(went_out) if sees.releases else []
    opened = _opened(windows) if sees.lanes else {}
    found = []
    for row in rows:
        since, until = windows[row.group.pk]
        said = []
        before = [one for one in releases if since < one[1] <= until]
        if before:
            revision, at, reason = before[-1]
            said.append(f"r{revision} went out {_apart(until - at)} before the first ({reason})")
        if row.group.pk in opened:
            lane, at = opened[row.group.pk]
            said.append(f"lane {lane} opened at {at:%H:%M} UTC")
        found.append(
            GroupRow(row.group, row.open, row.total, row.first_at, row.last_at, row.tenants, tuple(said))
            if said
            else row
        )
    return found


def _opened(windows: Mapping[str, tuple[datetime, datetime]]) -> dict[str, tuple[str, datetime]]:
    """By group: which lane that a letter of it tried last opened first in the window, and when; two queries at most."""
    late = timedelta(minutes=5)
    spans = Q()
    for since, until in windows.values():
        spans |= Q(at__gt=since, at__lte=until + late)
    events = WorkerEvent.objects.filter(spans, kind="breaker.changed", data__after="open").order_by("at")
    by_time = list(events.values_list("data__lane", "at")[:_MOST_EVENTS])
    near = [
        (group, lane, at)
        for group, (since, until) in windows.items()
        for lane, at in by_time
        if since < at <= until + late
    ]
    if not near:
        return {}
    # Those that opened are asked for, group by group: which lanes letters tried at all is not read.
    tried = Q()
    for group, lane in {(group, lane) for group, lane, _ in near}:
        tried |= Q(fingerprint=group, lane=lane)
    pairs = set(DeadLetter.objects.filter(tried).order_by().values_list("fingerprint", "lane").distinct())
    found: dict[str, tuple[str, datetime]] = {}
    for group, lane, at in near:
        if (group, lane) in pairs:
            found.setdefault(group, (lane, at))
    return found


def _apart(distance: timedelta) -> str:
    minutes = int(distance.total_seconds() // 60)
    return f"{minutes} min" if minutes else "less than a minute"


# --- how much there is -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Sentence:
    """How things stand, in a line, as `components/_status_sentence.html` takes it."""

    tone: str
    text: str


def sentence_of(
    *, open_letters: int, groups: int, oldest: datetime | None, burning: Sequence[Burn], now: datetime
) -> Sentence:
    """What an operator has to know first."""
    if not open_letters or oldest is None:
        return Sentence("good", "No letter is open: whatever failed for good was redriven, resolved or discarded.")
    letters = f"{open_letters:,} letter{' is' if open_letters == 1 else 's are'} open"
    where = f"in {groups:,} group{'' if groups == 1 else 's'}"
    text = f"{letters} {where}; the oldest failed {in_words(oldest - now)}."
    over = [one for one in burning if one.is_over]
    if over:
        worst = over[0]
        text += f" {burn_words(worst)}."
        return Sentence("bad" if worst.is_bad else "watch", text)
    return Sentence("watch", text)


def burn_words(burn: Burn) -> str:
    """'Letters of kind job come 4 times as fast as they may: 40 in the last hour and 5 in …'."""
    times = f"{burn.rate:.1f}".removesuffix(".0")
    return (
        f"Letters of kind {burn.kind} come {times} times as fast as they may: {burn.long:,} in the last hour and"
        f" {burn.short:,} in the last 5 min, where {burn.objective:,} an hour is the objective"
    )


def depth_chart(*, tenants: Sequence[str] | None, since: datetime, until: datetime, releases: bool) -> Figure:
    """How many letters stood open over time, with the releases that went out."""
    step = (until - since) / DEPTH_POINTS
    depths = DeadLetter.objects.depths(since=since, until=until, step_seconds=step.total_seconds(), tenants=tenants)
    series = [Series("open letters", "other", [at for at, _ in depths], [depth for _, depth in depths])]
    moments = []
    if releases:
        went_out = Release.objects.filter(clicked_at__gt=since, clicked_at__lte=until).order_by(
            "-clicked_at", "-revision"
        )
        rows = went_out.values_list("revision", "clicked_at")[:_MOST_MOMENTS]
        moments = [Moment(at, f"r{revision}") for revision, at in rows]
    return line_chart("Open letters", "letters", series, moments=moments, span=(since, until))
