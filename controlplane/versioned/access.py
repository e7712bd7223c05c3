"""The only way a face gets the versions of a document, and what is in force of it. Permissions on them are held on
everything or not at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from django.db.models import QuerySet
from django.http import Http404

from controlplane.accounts.access import access, may, require
from controlplane.accounts.models import Operator
from controlplane.versioned.models import DocumentVersion
from controlplane.versioned.operations import Versions

V = TypeVar("V", bound=DocumentVersion)
P_co = TypeVar("P_co", covariant=True)
E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class InForce(Generic[V, P_co]):
    """The version in force, and what it says as workers read it; before the first None, and what an empty one says."""

    row: V | None
    parsed: P_co


@dataclass(frozen=True, slots=True)
class VersionAccess(Generic[V, P_co]):
    """Who may see the versions of one document, and propose others.

    Attributes:
        view, propose: The permissions, as 'ladder.propose_ladder'.
    """

    versions: Versions[V, P_co]
    view: str
    propose: str

    def in_force(self, operator: Operator) -> InForce[V, P_co]:
        """What is in force, which may be nothing.

        Raises:
            PermissionDenied: the operator may not look at the document.
        """
        require(operator, self.view)
        row = self.versions.active()
        return InForce(row, self.versions.parse(self.versions.empty if row is None else row.document))

    def entry(self: "VersionAccess[V, Mapping[str, E]]", operator: Operator, slug: str, permission: str) -> E:
        """One entry of what is in force, where that is a document of entries by their slugs.

        Raises:
            Http404, PermissionDenied: as `accounts.access.access`; Http404 also when nothing is in force, or it does
                not have the entry.
        """
        row = access(operator, self.versions.active(), view=self.view, permission=self.view)
        entries = self.versions.parse(row.document)
        if slug not in entries:
            raise Http404(f"the {row.noun} in force does not name {slug!r}")
        access(operator, row, view=self.view, permission=permission)
        return entries[slug]

    def version(self, operator: Operator, number: int) -> V:
        """One version.

        Raises:
            Http404: as `accounts.access.access`.
        """
        return access(operator, self._find(number), view=self.view, permission=self.view)

    def version_to_propose(self, operator: Operator, number: int) -> V:
        """One version, for an operator who may propose it, or return to it.

        Raises:
            Http404, PermissionDenied: as `accounts.access.access`.
        """
        return access(operator, self._find(number), view=self.view, permission=self.propose)

    def _find(self, number: int) -> V | None:
        return self.versions.model._default_manager.filter(number=number).first()

    def visible(self, operator: Operator) -> QuerySet[V]:
        """Every version.

        Raises:
            PermissionDenied: the operator may not look at the document.
        """
        require(operator, self.view)
        return self.versions.model._default_manager.all()

    def may_propose(self, operator: Operator) -> bool:
        """Whether the operator may submit versions: what a page offers buttons for."""
        return may(operator, self.propose)

    def require_proposer(self, operator: Operator) -> None:
        """Return if the operator may submit versions.

        Raises:
            PermissionDenied: naming what is missing.
        """
        require(operator, self.propose)
