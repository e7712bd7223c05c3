"""No lane enters a route before it has passed the golden and safety sets that are for it: a preparation of changes of
routing.

What has to pass is a lane as the change has it: account, region and model with all that has a part in its answers. A
run counts where it asked exactly that lane the newest rows of the set, by the judges and thresholds of today.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db.models import Count, Q

from controlplane.accounts.models import Operator
from controlplane.approvals.models import ChangeRequest
from controlplane.approvals.preparations import Preparation
from controlplane.audit import operations as audit
from controlplane.evals.errors import NothingToRun
from controlplane.evals.models import EvalSetVersion, Purpose
from controlplane.evals.placing import live_numbers
from controlplane.evals.running import all_uncalibrated, begin_run
from controlplane.evals.runs import EvalRun, EvalStandard, RunState, demand_digest
from controlplane.evals.subjects import Document, LaneSubject, identity_of, lane_subject
from controlplane.routing.models import RoutingTable
from controlplane.routing.operations import KIND_NAME
from dataplane.release import canonical, digest_of
from dataplane.routing import with_implied

GATING: Final = (Purpose.GOLDEN, Purpose.SAFETY)


@dataclass(frozen=True, slots=True)
class Entering:
    """A lane that a change brings to routes, or changes on them. `digest` is its identity's."""

    lane: str
    routes: tuple[str, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Held:
    """A set that gates, as it is now, and what answers are held to."""

    version: EvalSetVersion
    standard: EvalStandard


@dataclass(frozen=True, slots=True)
class Demand:
    """A run that has to have passed before the change is approved. `digest` is that of the runs that count for it."""

    entering: Entering
    held: Held
    subject: LaneSubject
    digest: str

    @property
    def name(self) -> str:
        """For people."""
        return f"lane {self.subject.name!r} on {self.held.version.set.purpose} set {self.held.version.set.slug!r}"


@dataclass(frozen=True, slots=True)
class Unknown:
    """Something that nobody can find out of a lane, in words, and what would let them."""

    said: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Needed:
    """What a change needs: runs, and what nobody can find out of it."""

    demands: tuple[Demand, ...] = ()
    unknown: tuple[Unknown, ...] = ()


# --- what a change needs ---------------------------------------------------------------------------------------------
def entering(before: Document | None, after: Document) -> list[Entering]:
    """The lanes that `after` has on routes and `before` had not, or not so; by their names. Pure.

    Args:
        before, after: Documents of routing tables; None: nothing is in force.
    """
    known = set(_on_routes(before or {}))
    routes: dict[tuple[str, str], list[str]] = {}
    for route, lane, digest in _on_routes(after):
        if (route, lane, digest) not in known:
            routes.setdefault((lane, digest), []).append(route)
    return [Entering(lane, tuple(sorted(names)), digest) for (lane, digest), names in sorted(routes.items())]


def _on_routes(document: Document) -> Iterator[tuple[str, str, str]]:
    digests: dict[str, str] = {}
    for slug, route in document.get("routes", {}).items():
        for lane in route["lanes"]:
            if lane not in digests:
                digests[lane] = digest_of(canonical(identity_of(document, lane)))
            yield slug, lane, digests[lane]


def needed_by(change: ChangeRequest) -> Needed:
    """What has to have passed before the change is approved; six queries at most, one where no set gates."""
    if change.kind != KIND_NAME:
        return Needed()
    held = _held()
    if not held:
        return Needed()
    numbers = [change.content["number"], *([change.base["number"]] if change.base else [])]
    documents = dict(RoutingTable.objects.filter(number__in=numbers).values_list("number", "document"))
    after = documents[numbers[0]]
    lanes = entering(documents.get(numbers[1]) if change.base else None, after)
    if not lanes:
        return Needed()
    prompts = live_numbers(one.standard.prompt for one in held)
    asked = _askable(held)
    demands: list[Demand] = []
    unknown: list[Unknown] = []
    for lane in lanes:
        found, cannot = _demands_of(lane, after, held, prompts=prompts, asked=asked)
        demands += found
        unknown += cannot
        if not any(one.held.version.set.purpose == Purpose.GOLDEN for one in found):
            unknown.append(_uncovered(lane))
    return Needed(tuple(demands), tuple(unknown))


def _uncovered(lane: Entering) -> Unknown:
    routes = _routes(lane.routes)
    return Unknown(
        f"no golden set covers lane {lane.lane!r} on {routes}: nobody asked it anything",
        f"The change would send {routes} to it without a single answer of its having been judged. Set the standard of "
        f"a golden set with rows, for something that the lane can do and for {routes}, and it is asked before anybody "
        "signs; else whoever signs takes it on unasked.",
    )


def _held() -> list[Held]:
    """The sets that gate, by their names: those with a standard and rows; one query, another if there are any."""
    standards = {one.set_id: one for one in EvalStandard.objects.newest().filter(set__purpose__in=GATING)}
    if not standards:
        return []
    versions = EvalSetVersion.objects.newest().filter(set__in=standards).select_related("set").order_by("set__slug")
    return [Held(version, standards[version.set_id]) for version in versions]


def _askable(held: Iterable[Held]) -> Mapping[int, tuple[int, int]]:
    """By version how many rows have messages, and how many variables; one query."""
    counted = EvalSetVersion.objects.filter(pk__in=[one.version.pk for one in held]).annotate(
        messages=Count("rows", filter=Q(rows__document__has_key="messages")),
        variables=Count("rows", filter=Q(rows__document__has_key="variables")),
    )
    return {pk: (messages, variables) for pk, messages, variables in counted.values_list("pk", "messages", "variables")}


def _demands_of(
    lane: Entering,
    document: Document,
    held: Iterable[Held],
    *,
    prompts: Mapping[str, int],
    asked: Mapping[int, tuple[int, int]],
) -> tuple[list[Demand], list[Unknown]]:
    found = document["lanes"][lane.lane]
    can = with_implied(found["capabilities"])
    demands, cannot = [], []
    for one in held:
        rows, standard = one.version.set, one.standard
        if rows.capability not in can or not any(standard.is_for(route) for route in lane.routes):
            continue
        if rows.residency and found["residency"] not in rows.residency:
            cannot.append(
                Unknown(
                    f"set {rows.slug!r} may not leave {' or '.join(rows.residency)}, where {lane.lane!r} is not",
                    f"Its rows are asked nowhere else, so what the lane answers to such rows is not known. Import rows "
                    f"that may go to {found['residency']} into a set of their own, and set its standard.",
                )
            )
            continue
        number = prompts.get(standard.prompt, 0)
        messages, variables = asked[one.version.pk]
        if not messages + (variables if number else 0):
            cannot.append(
                Unknown(
                    f"no row of set {rows.slug!r} can be asked of lane {lane.lane!r}",
                    "Its rows give variables, and its standard names no prompt that is live to fill them into. Name "
                    "one, or import rows that give messages.",
                )
            )
            continue
        subject = lane_subject(document, lane.lane, prompt=standard.prompt if number else "", number=number)
        digest = demand_digest(subject, one.version, judges=standard.judges, thresholds=standard.thresholds)
        demands.append(Demand(lane, one, subject, digest))
    return demands, cannot


def _routes(routes: Sequence[str]) -> str:
    return f"route{'' if len(routes) == 1 else 's'} {', '.join(routes)}"


# --- the runs of a change --------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Met:
    """A demand with the runs that were made for it, by whichever change, newest first."""

    demand: Demand
    runs: tuple[EvalRun, ...]

    @property
    def run(self) -> EvalRun | None:
        """The one that counts: the newest that is done, else the newest."""
        return next((run for run in self.runs if run.is_done), next(iter(self.runs), None))

    @property
    def under_way(self) -> EvalRun | None:
        """The one that is still asking."""
        return next((run for run in self.runs if not run.is_over), None)

    @property
    def is_met(self) -> bool:
        return self.run is not None and self.run.passed is True

    @property
    def failed_before(self) -> list[EvalRun]:
        """Runs of exactly this that were done before the one that counts, and did not pass."""
        return [run for run in self.runs if run.is_done and not run.passed and run != self.run]


def look_into(change: ChangeRequest) -> tuple[list[Met], tuple[Unknown, ...]]:
    """Every run that a change needs, with what was found, and what nobody can find out; as many queries for many."""
    needed = needed_by(change)
    return _with_runs(needed.demands), needed.unknown


def runs_of(change: ChangeRequest) -> list[Met]:
    """Every run that a change needs, with what was found; as many queries for many."""
    return look_into(change)[0]


def runs_of_lane(document: Document, lane: str, *, route: str) -> tuple[list[Met], tuple[str, ...]]:
    """The runs that a lane of a routing table would have to pass to be on the route, whether it is there or not, and
    what nobody can find out of it, in words; six queries at most.
    """
    held = _held()
    if not held:
        return [], ()
    one = Entering(lane, (route,), digest_of(canonical(identity_of(document, lane))))
    prompts = live_numbers(one.standard.prompt for one in held)
    demands, cannot = _demands_of(one, document, held, prompts=prompts, asked=_askable(held))
    return _with_runs(demands), tuple(one.said for one in cannot)


def _with_runs(demands: Sequence[Demand]) -> list[Met]:
    found: dict[str, list[EvalRun]] = {}
    for run in EvalRun.objects.of(one.digest for one in demands).with_set() if demands else ():
        found.setdefault(run.digest, []).append(run)
    return [Met(one, tuple(found.get(one.digest, ()))) for one in demands]


@audit.operation
def run_change(*, change: ChangeRequest, actor: Operator | str, now: datetime) -> list[EvalRun]:
    """Begin every run that the change waits for and nobody is at, also again what did not pass.

    Raises:
        NothingToRun: there is none; or its judges are uncalibrated, which is named.
    """
    waiting = [one for one in runs_of(change) if not one.is_met and one.under_way is None]
    begun = _begin(change, waiting, actor=actor, now=now)
    if not begun:
        loose = sorted({name for names in _loose(waiting).values() for name in names})
        why = f"{', '.join(loose)} must be calibrated first" if loose else "all are done or under way, or it needs none"
        raise NothingToRun(f"no eval run of CR-{change.pk} can be begun: {why}")
    return begun


def _begin(change: ChangeRequest, waiting: Sequence[Met], *, actor: Operator | str, now: datetime) -> list[EvalRun]:
    audit.require_operation()  # its lock keeps two from beginning the same
    loose = _loose(waiting)
    return [
        begin_run(
            subject=one.demand.subject,
            set_version=one.demand.held.version,
            standard=one.demand.held.standard,
            change=change,
            actor=actor,
            now=now,
        )
        for one in waiting
        if not loose[one.demand.digest]
    ]


def _loose(waiting: Sequence[Met]) -> Mapping[str, list[str]]:
    """By the digest of each demand the judges by whose word nothing passes, so that a run would be made for nothing;
    two queries, none for none.
    """
    standards = [one.demand.held.standard for one in waiting]
    names = all_uncalibrated([(standard.judges, standard.thresholds) for standard in standards])
    return {one.demand.digest: loose for one, loose in zip(waiting, names, strict=True)}


# --- what approvals ask ----------------------------------------------------------------------------------------------
def begin(change: ChangeRequest, *, actor: Any, now: datetime) -> None:
    """As `Preparation.begin`: begin the runs that were never made."""
    _begin(change, [one for one in runs_of(change) if not one.runs], actor=actor, now=now)


def unmet(change: ChangeRequest) -> list[str]:
    """As `Preparation.unmet`."""
    found = runs_of(change)
    loose = _loose([one for one in found if not one.runs])
    return [said for one in found if (said := _lacking(one, loose.get(one.demand.digest, [])))]


def _lacking(met: Met, loose: Sequence[str]) -> str:
    """Why a demand is not met; empty: it is. `loose` are the judges that keep it from being asked."""
    run, asking, name = met.run, met.under_way, met.demand.name
    if met.is_met:
        return ""
    if asking is not None:
        return f"{name} is being asked: {asking.asked:,} of {asking.total:,} rows so far (run {asking.pk})"
    if run is None:
        return f"{name} was not asked yet" + (f", since {', '.join(loose)} is uncalibrated" if loose else "")
    if run.state == RunState.DONE:
        return f"{name} did not pass: {run.sentence} (run {run.pk})"
    return f"{name} was not asked to the end (run {run.pk}): {run.sentence}; run it again"


def to_see(change: ChangeRequest) -> list[str]:
    """As `Preparation.to_see`: what no set covers, and what passed only when it was asked again."""
    found, unknown = look_into(change)
    return [*(one.said for one in unknown), *_repeated(found)]


def _repeated(found: Iterable[Met]) -> Iterator[str]:
    for one in found:
        if one.is_met and (failed := one.failed_before):
            before = ", ".join(str(run.pk) for run in reversed(failed))
            yield f"{one.demand.name} passed only when it was asked again; it had failed in run {before}"


def facts(change: ChangeRequest) -> Mapping[str, Any]:
    """As `Preparation.facts`: every run that the approval rests on, and those of the same that failed before."""
    found = [
        {**run.facts(), "set": run.set_version.audit_name, "rows": run.set_version.digest}
        for one in runs_of(change)
        for run in one.runs
        if run.is_over
    ]
    return {"eval_runs": found} if found else {}


PREPARATION: Final = Preparation(begin=begin, unmet=unmet, to_see=to_see, facts=facts)
