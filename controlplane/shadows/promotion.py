"""No lane that was tried in shadow enters its route before its checklist is complete: a preparation of changes.

Of a lane that nobody tried in shadow nothing is asked here; the eval gate asks of every lane.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from controlplane.approvals.models import ChangeRequest
from controlplane.approvals.preparations import Preparation
from controlplane.routing.models import RoutingTable
from controlplane.routing.operations import KIND_NAME
from controlplane.shadows.checklists import InForce
from controlplane.shadows.models import ChecklistState, PromotionChecklist
from controlplane.shadows.subjects import Document, kind_of, serving_kinds, twin_digest
from controlplane.telemetry.shadows import ShadowRun


@dataclass(frozen=True, slots=True)
class Promoted:
    """A lane that a change adds to a route where its kind was tried in shadow, as the lanes `tried`.

    Attributes:
        checklist: The one that allows it; None: none does.
        lacking: Why none does.
    """

    route: str
    lane: str
    tried: tuple[str, ...]
    checklist: PromotionChecklist | None
    lacking: str = ""


def promoted_by(change: ChangeRequest) -> list[Promoted]:
    """What a change promotes; two queries where it adds no kind of lane to any route, a few more where it does."""
    if change.kind != KIND_NAME:
        return []
    numbers = [change.content["number"], *([change.base["number"]] if change.base else [])]
    documents = dict(RoutingTable.objects.filter(number__in=numbers).values_list("number", "document"))
    after, before = documents[numbers[0]], documents.get(numbers[1], {"routes": {}}) if change.base else {"routes": {}}
    added = [(route, lane) for route in after["routes"] for lane in _added(before, after, route)]
    if not added:
        return []
    tried = _tried({route for route, _ in added}, (after, before))
    current = InForce.now()
    found = []
    for route, lane in added:
        lanes = tuple(sorted(tried.get((route, kind_of(after, lane)), ())))
        if lanes:
            found.append(_promoted(after, current, route=route, lane=lane, tried=lanes))
    return found


def _added(before: Document, after: Document, route: str) -> Iterator[str]:
    """Lanes of the route whose kind did not serve it before: another account of what serves promotes nothing."""
    known = serving_kinds(before, route)
    for lane in after["routes"][route]["lanes"]:
        if kind_of(after, lane) not in known:
            yield lane


def _tried(routes: set[str], documents: tuple[Document, ...]) -> Mapping[tuple[str, tuple[str, str, str]], set[str]]:
    """Which lanes were ever tried on these routes, by route and kind."""
    runs = set(ShadowRun.objects.filter(route__in=routes).values_list("route", "lane"))
    kinds: dict[str, tuple[str, str, str] | None] = {}
    for _, lane in runs:
        if lane not in kinds:
            kinds[lane] = _kind_of_tried(lane, documents)
    found: dict[tuple[str, tuple[str, str, str]], set[str]] = {}
    for route, lane in runs:
        kind = kinds[lane]
        if kind is not None:
            found.setdefault((route, kind), set()).add(lane)
    return found


def _kind_of_tried(lane: str, documents: tuple[Document, ...]) -> tuple[str, str, str] | None:
    """As one of the tables at hand has the lane, else the last that was in force with it: taking a candidate out of the
    table first does not make it untried.
    """
    for document in documents:
        if lane in document.get("lanes", {}):
            return kind_of(document, lane)
    was = (
        RoutingTable.objects.filter(document__lanes__has_key=lane, activations__isnull=False)
        .order_by("-number")
        .first()
    )
    return None if was is None else kind_of(was.document, lane)


def _promoted(after: Document, current: InForce | None, *, route: str, lane: str, tried: tuple[str, ...]) -> Promoted:
    checklists = list(PromotionChecklist.objects.standing().filter(route=route, lane__in=tried))
    name = f"{lane!r} was tried in shadow on route {route!r}"
    if not checklists:
        return Promoted(route, lane, tried, None, f"{name}, and no promotion checklist is open for it; open one")
    lacking = ""
    for one in checklists:
        changed = "no routing table is in force" if current is None else current.changed(one)
        if changed:
            lacking = f"{name}, but checklist {one.pk} is void: {changed}"
        elif one.state != ChecklistState.COMPLETE:
            lacking = f"{name}, and checklist {one.pk} is not signed by two people on every item yet"
        elif twin_digest(after, lane) != one.twin_digest:
            lacking = f"{name} as checklist {one.pk} has it, but the change defines it otherwise than {one.lane!r}"
        else:
            return Promoted(route, lane, tried, one)
    return Promoted(route, lane, tried, None, lacking)


# --- what approvals ask ----------------------------------------------------------------------------------------------
def begin(change: ChangeRequest, *, actor: Any, now: datetime) -> None:
    """As `Preparation.begin`: a checklist is opened by people, so nothing begins by itself."""


def unmet(change: ChangeRequest) -> list[str]:
    """As `Preparation.unmet`."""
    return [one.lacking for one in promoted_by(change) if one.lacking]


def to_see(change: ChangeRequest) -> list[str]:
    """As `Preparation.to_see`: nothing here is left to be seen; it is signed, or it is not."""
    return []


def facts(change: ChangeRequest) -> Mapping[str, Any]:
    """As `Preparation.facts`: the checklists that the approval rests on, with who signed what."""
    found = []
    for one in promoted_by(change):
        if one.checklist is not None:
            signed = {
                item: [{"by": signature.signer, "digest": signature.digest} for signature in signatures]
                for item, signatures in one.checklist.signed().items()
            }
            found.append({**one.checklist.facts(), "promotes": one.lane, "signed": signed})
    return {"promotion_checklists": found} if found else {}


PREPARATION: Final = Preparation(begin=begin, unmet=unmet, to_see=to_see, facts=facts)
