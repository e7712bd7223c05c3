"""The capability matrix of this installation, and what it has against a routing table or the prompts on it."""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import yaml
from django.conf import settings

from controlplane.accounts.models import Tenant
from controlplane.releases.models import newest_release
from controlplane.remembered import Remembered
from controlplane.routing.operations import routing_tables
from dataplane.capabilities import Matrix, Model, PromptUse, check_table, uses_of
from dataplane.prompts import Problem, PromptSet
from dataplane.release import MalformedRelease, Release
from dataplane.routing import Lane, RoutingTable

# Of the newest release and the one before, while they follow each other.
_USES: Final = Remembered[list[PromptUse]](2)
MATRIX_FILE = settings.BASE_DIR / "fixtures" / "capabilities.yaml"


@cache
def matrix() -> Matrix:
    """The matrix, read once per process."""
    return Matrix.parse(yaml.safe_load(MATRIX_FILE.read_text()))


def release_problems(release: Release) -> list[Problem]:
    """What a release would ask of lanes that lack it, with every version it carries and every tenant's pin."""
    pins = [tenant.residency for tenant in release.access.tenants.values()]
    return check_table(matrix(), release.routing, uses=uses_of(release.prompts), pins=pins)


def release_errors(release: Release) -> list[str]:
    """The errors among `release_problems`, each as one line; releases are not cut with a new one."""
    return [f"{problem.path}: {problem.message}" for problem in release_problems(release) if problem.is_error]


def table_problems(document: Mapping[str, Any]) -> list[Problem]:
    """What putting this table in force would ask of lanes that lack it, by the prompts of the newest release."""
    try:
        table = RoutingTable.parse(document)
    except MalformedRelease as exc:  # stored once, and written to by hand since
        return [Problem(exc.path, exc.fact)]
    return check_table(matrix(), table, uses=_uses(), pins=_pins())


def _uses() -> list[PromptUse]:
    """Every version of a prompt that the newest release carries; its document is only read if it was not lately."""
    newest = newest_release()
    if newest is None:
        return []
    return _USES.get(newest.digest, lambda: uses_of(PromptSet.parse(newest.content["sections"]["prompts"])))


def known_of(table: RoutingTable, lane: Lane) -> Model | None:
    """What the matrix says of a lane's model."""
    return matrix().find(lane, wire=table.providers[lane.provider].wire)


def version_problems(*, route: str, name: str, parameters: Mapping[str, Any]) -> list[Problem]:
    """What one version of a prompt would ask of the lanes of its route in the table in force; two queries.

    Args:
        name: What the version is called in the words.
    """
    active = routing_tables.active()
    if active is None:
        return []
    table = active.parsed()
    use = PromptUse(name, route, parameters, "$.parameters")
    return [one for one in check_table(matrix(), table, uses=[use], pins=_pins()) if one.path == use.path]


def _pins() -> list[frozenset[str]]:
    return [frozenset(residency) for residency in Tenant.objects.values_list("residency", flat=True)]
