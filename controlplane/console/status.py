"""The state of the house in one line of plain words, the same on every page."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from django.db.models import QuerySet

from controlplane.accounts.access import may
from controlplane.accounts.models import Operator
from controlplane.approvals.access import count_unpaid
from controlplane.compiled import compiled
from controlplane.console.ladder_house import engaged_ladders, ladder_sentence
from controlplane.ladder.access import VIEW_LADDER
from controlplane.prompts.access import VIEW as VIEW_PROMPT
from controlplane.releases.fleet import picture_of
from controlplane.releases.models import Convergence, newest_release, worker_counts
from controlplane.rollouts.access import visible_canaries
from controlplane.rollouts.models import Canary, CanaryQuerySet
from controlplane.routing.holds import active_holds
from controlplane.routing.models import Mode
from controlplane.telemetry.lanes import open_now
from controlplane.verdicts.models import CanaryWatch
from controlplane.verdicts.values import Ruling

Tone = Literal["good", "watch", "bad", "off"]
# More canaries than this are counted, not named: the sentence stays one line.
NAMED_CANARIES = 2


@dataclass(frozen=True, slots=True)
class RunningCanary:
    """A canary as the sentence names it. `where`: '5 %' or 'internal only', as its stage says; `ruling`: what
    statistics say of it, None: nothing, since people judge it alone.
    """

    prompt: str
    version: int
    where: str
    ruling: Ruling | None = Ruling.UNPROVEN


@dataclass(frozen=True, slots=True)
class House:
    """What the sentence is made of. `revision` None: nothing was released; workers are gateways that count now.

    `sees_fleet` False: the reader may not look at releases, so the sentence does not speak of them. `ladder`: where
    every surface's ladder stands, in words; empty: there is none, or the reader may not look. `is_degraded`: some rung
    is engaged for somebody.
    """

    sees_fleet: bool = True
    revision: int | None = None
    workers: int = 0
    in_sync: int = 0
    refused: int = 0
    silent: int = 0
    canaries: tuple[RunningCanary, ...] = ()
    unpaid_debts: int = 0
    open_lanes: tuple[str, ...] = ()
    ladder: str = ""
    is_degraded: bool = False

    @property
    def behind(self) -> int:
        """Workers on their way: heard of, on another release, and without a refusal of this one."""
        return self.workers - self.in_sync - self.refused - self.silent

    @property
    def fleet_picture(self) -> str:
        """What the fleet looks like, for the page to compare with what it hears; empty: it will hear nothing."""
        if not self.sees_fleet:
            return ""
        return picture_of(
            self.revision,
            expected=self.workers,
            in_sync=self.in_sync,
            behind=self.behind,
            refused=self.refused,
            silent=self.silent,
        )


@dataclass(frozen=True, slots=True)
class Status:
    """The sentence and its tone. `text` empty: there is nothing that the reader may know."""

    text: str
    tone: Tone


def status_of(house: House) -> Status:
    """Say the state of the house; pure."""
    fleet, tone = _fleet(house) if house.sees_fleet else ("", "off")
    parts = [fleet, house.ladder, _lanes(house.open_lanes), _canaries(house.canaries), _debts(house.unpaid_debts)]
    if (house.unpaid_debts or house.open_lanes or house.is_degraded) and tone in {"good", "off"}:
        tone = "watch"
    return Status(" ".join(part for part in parts if part), tone)


def _fleet(house: House) -> tuple[str, Tone]:
    if house.revision is None:
        return "Nothing is released yet.", "off"
    if not house.workers:
        return f"r{house.revision} is released, but no worker reports.", "bad"
    counts = f"{house.in_sync} of {house.workers} worker{'' if house.workers == 1 else 's'}"
    lagging = [
        f"{count} {word}"
        for count, word in ((house.refused, "refused"), (house.behind, "behind"), (house.silent, "silent"))
        if count
    ]
    if not lagging:
        return f"Serving r{house.revision} on {counts}.", "good"
    bad = house.refused or house.in_sync == 0
    return f"Serving r{house.revision} on {counts}: {', '.join(lagging)}.", "bad" if bad else "watch"


def _lanes(lanes: tuple[str, ...]) -> str:
    if not lanes:
        return ""
    return f"Lane {lanes[0]} is open." if len(lanes) == 1 else f"{len(lanes)} lanes are open."


def _canaries(canaries: tuple[RunningCanary, ...]) -> str:
    if not canaries:
        return ""
    rulings = {one.ruling for one in canaries}
    if len(canaries) > NAMED_CANARIES:
        counts = Counter(one.ruling for one in canaries)
        said = ", ".join(f"{counts[ruling]} {words}" for ruling, words in _RULINGS.items() if counts[ruling])
        return f"{len(canaries)} canaries run: {said}."
    if len(rulings) == 1:
        names = " and ".join(_named(one) for one in canaries)
        return f"{'Canary' if len(canaries) == 1 else 'Canaries'} {names}, {_RULINGS[canaries[0].ruling]}."
    return " ".join(f"Canary {_named(one)}, {_RULINGS[one.ruling]}." for one in canaries)


_RULINGS: Final[Mapping[Ruling | None, str]] = {
    Ruling.REGRESSED: "regressed, on its way back",
    Ruling.UNPROVEN: "not enough evidence yet",
    Ruling.CLEAR: "not regressed",
    None: "judged by people alone",
}


def _named(canary: RunningCanary) -> str:
    return f"{canary.prompt} v{canary.version} at {canary.where}"


def _debts(count: int) -> str:
    if not count:
        return ""
    return "1 break-glass debt is unpaid." if count == 1 else f"{count} break-glass debts are unpaid."


def read_house(operator: Operator, *, now: datetime) -> House:
    """What this reader may know of the house; ten queries beside those of permissions, however large it is."""
    engaged = engaged_ladders(now=now) if may(operator, VIEW_LADDER) else None
    facts = House(
        sees_fleet=may(operator, "releases.view_release"),
        canaries=tuple(
            RunningCanary(canary.prompt.slug, canary.candidate.number, _where(canary.stage), _ruling(canary))
            for canary in _running(operator)
        ),
        unpaid_debts=count_unpaid(operator),
        open_lanes=_open_lanes(now) if may(operator, "routing.view_routingtable") else (),
        ladder="" if engaged is None else ladder_sentence(engaged),
        is_degraded=bool(engaged),
    )
    if not facts.sees_fleet:
        return facts
    current = newest_release()
    counts = Counter(worker_counts(current, now=now))
    return replace(
        facts,
        revision=current.revision if current else None,
        workers=counts.total(),
        in_sync=counts[Convergence.IN_SYNC],
        refused=counts[Convergence.REFUSED],
        silent=counts[Convergence.SILENT],
    )


def _running(operator: Operator) -> list[Canary]:
    return _running_everywhere() if may(operator, VIEW_PROMPT) else list(_as_named(visible_canaries(operator)))


@compiled()
def _running_everywhere() -> QuerySet[Canary]:
    return _as_named(Canary.objects.all())


def _as_named(canaries: CanaryQuerySet) -> CanaryQuerySet:
    """Those that run, with what the sentence says of them and no more: a plan of stages is long."""
    running = canaries.running().select_related(None).select_related("prompt", "candidate", "watch")
    said = ("prompt__slug", "candidate__number", "stages", "position", "guardrails", "watch__ruling")
    return running.only(*said).order_by("prompt__slug")


def _open_lanes(now: datetime) -> tuple[str, ...]:
    holds = active_holds(now)
    held = {lane for lane, hold in holds.items() if hold.mode == Mode.OPEN}
    return tuple(sorted(held.union(lane for lane in open_now(now) if lane not in holds)))


def _ruling(canary: Canary) -> Ruling | None:
    if canary.guardrails is None:
        return None
    watch: CanaryWatch | None = getattr(canary, "watch", None)
    return Ruling.UNPROVEN if watch is None else Ruling(watch.ruling)


def _where(stage: dict[str, object] | None) -> str:
    name = str(stage["name"]) if stage else "its first stage"
    return name[:1].lower() + name[1:]
