"""Routing tables: the versions that there are, which one is in force, and single numbers that are to be others."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from controlplane.accounts.models import Operator
from controlplane.approvals.kinds import Kind
from controlplane.approvals.models import ChangeRequest
from controlplane.audit import operations as audit
from controlplane.routing.errors import AlteredTable, InvalidRouting, NeverInForce, SameRouting, UnknownPolicy
from controlplane.routing.models import RoutingActivation, RoutingTable
from controlplane.routing.thresholds import with_thresholds
from controlplane.versioned.numbers import NewValue
from controlplane.versioned.operations import Refusals, Versions
from dataplane.routing import RoutingTable as Routing

KIND_NAME: Final = "routing.table"


def _parse(document: Any) -> Routing:
    return Routing.parse(document, path="$")


routing_tables: Final = Versions(
    model=RoutingTable,
    log=RoutingActivation,
    kind=KIND_NAME,
    section="routing",
    empty={"providers": {}, "accounts": {}, "lanes": {}, "routes": {}},
    parse=_parse,
    refusals=Refusals(
        invalid=InvalidRouting,
        same=SameRouting,
        none_in_force=UnknownPolicy,
        never_in_force=NeverInForce,
        altered=AlteredTable,
    ),
)


@audit.operation
def propose_thresholds(
    *, kind: str, slug: str, changes: Mapping[str, NewValue | None], reason: str, actor: Operator | str, now: datetime
) -> ChangeRequest:
    """Propose the table in force with other thresholds of one policy or route.

    Args:
        kind: One of `thresholds.PARTS`.
        changes: By the thresholds' names; None unsets one that `thresholds.is_optional`.
    Raises:
        UnknownPolicy, InvalidThreshold: as `thresholds.with_thresholds`; UnknownPolicy also when no table is in force.
        InvalidRouting, SameRouting, DigestRejected: as `Versions.submit`.
    """
    return routing_tables.propose_numbers(
        lambda document, values: with_thresholds(document, kind, slug, values),
        changes,
        reason=reason,
        actor=actor,
        now=now,
    )


KIND = Kind(
    name=KIND_NAME,
    label="Routing table",
    survey=routing_tables.survey,
    facts=lambda content: {},
    view_permission="routing.view_routingtable",
    sign_off_permission="routing.sign_off_routing",
    break_glass_permission="routing.break_glass_routing",
    review_permission="routing.review_break_glass_routing",
    apply=routing_tables.apply,
    lapse=routing_tables.lapse,
)
