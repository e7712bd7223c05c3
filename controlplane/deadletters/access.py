"""Who may see which dead letters and plans, and do what with them: asked on the letters' tenants.

Letters of our own work are nobody's tenant's; they are seen by whoever sees everybody's. A plan is acted on by whoever
may redrive the letters of all its tenants; its sign-offs are asked for on plans as such.
"""

from collections.abc import Iterable
from typing import Final, Literal
from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404

from controlplane.accounts.access import may, may_somewhere, refusal, require, visible
from controlplane.accounts.models import Operator, Tenant
from controlplane.deadletters.erasures import Erasure
from controlplane.deadletters.models import DeadLetter, Group, GroupTenant, RedrivePlan, RetentionRule
from controlplane.deadletters.plans import PlanQuerySet

VIEW: Final = "accounts.view_deadletter"
REDRIVE: Final = "accounts.redrive_deadletter"
DECIDE: Final = "accounts.decide_deadletter"
HOLD: Final = "accounts.hold_deadletter"
READ: Final = "accounts.read_content"
ERASE: Final = "accounts.erase_subject"
VIEW_PLAN: Final = "deadletters.view_redriveplan"
VIEW_RULES: Final = "deadletters.view_retentionrule"
SET_RULES: Final = "deadletters.set_retention"
_GONE: Final = "there is no such thing here, or you may not see it"

LetterPermission = Literal["", "redrive_deadletter", "decide_deadletter", "hold_deadletter", "read_content"]


def tenants_with(operator: Operator, permission: str = VIEW) -> list[str] | None:
    """The slugs of the tenants on whose letters the operator holds the permission; None: on everybody's, ours too."""
    if may(operator, permission):
        return None
    return sorted(visible(operator, Tenant.objects.all(), permission).values_list("slug", flat=True))


def require_letters(operator: Operator, permission: str = VIEW) -> list[str] | None:
    """As `tenants_with`.

    Raises:
        PermissionDenied: there is none.
    """
    slugs = tenants_with(operator, permission)
    if slugs == []:
        require(operator, permission)
    return slugs


def access_letter(operator: Operator, letter: UUID, permission: LetterPermission = "") -> DeadLetter:
    """One letter, without its words.

    Raises:
        Http404: there is none, or it is not for the operator to see.
        PermissionDenied: theirs to see, but not to do this with.
    """
    row: DeadLetter | None = DeadLetter.objects.without_words().filter(pk=letter).first()
    tenant = None if row is None else Tenant.objects.filter(slug=row.tenant).first()
    if row is None or not may(operator, VIEW, tenant):
        raise Http404(_GONE)
    if permission:
        require(operator, f"accounts.{permission}", tenant)
    return row


def access_letters(operator: Operator, letters: Iterable[UUID], permission: str) -> list[UUID]:
    """Those letters, all of which the operator may see and holds `permission` on; as many queries for many as for few.

    Raises:
        Http404, PermissionDenied: as `access_letter`, of any of them.
    """
    names = set(letters)
    rows = DeadLetter.objects.matching(tenants=tenants_with(operator)).filter(pk__in=names)
    found = dict(rows.order_by().values_list("pk", "tenant"))
    if len(found) < len(names):
        raise Http404(_GONE)
    if not _holds(operator, permission, found.values()):
        raise PermissionDenied(refusal(permission))
    return sorted(found)


def may_on(operator: Operator, permission: str, tenant: str) -> bool:
    """Whether the operator holds a permission on the letters of a tenant: what a page offers buttons for."""
    return may(operator, permission) or may(operator, permission, Tenant.objects.filter(slug=tenant).first())


def access_group(operator: Operator, fingerprint: str) -> tuple[Group, list[GroupTenant]]:
    """A group, and the parts of it that the operator may see.

    Raises:
        Http404: there is none, or nothing of it is for the operator to see.
    """
    group = Group.objects.filter(pk=fingerprint).first()
    slugs = tenants_with(operator)
    parts = GroupTenant.objects.filter(fingerprint=fingerprint).order_by("-open", "tenant")
    seen = list(parts if slugs is None else parts.filter(tenant__in=slugs))
    if group is None or not seen:
        raise Http404(_GONE)
    return group, seen


def visible_plans(operator: Operator) -> QuerySet[RedrivePlan]:
    """The plans that the operator may look at, without their edits.

    Raises:
        PermissionDenied: there could be none.
    """
    rows = RedrivePlan.objects.defer("edit")
    return rows if may(operator, VIEW_PLAN) else rows.of_tenants(require_letters(operator))


def names_of_plans(operator: Operator) -> QuerySet[RedrivePlan, str]:
    """How change requests name the plans that the operator may look at: whoever sees a plan may read its review."""
    return _seen_plans(operator).names()


def _seen_plans(operator: Operator) -> PlanQuerySet:
    rows = RedrivePlan.objects.all()
    return rows if may(operator, VIEW_PLAN) else rows.of_tenants(tenants_with(operator))


def access_plan(operator: Operator, plan: UUID, *, to_redrive: bool = False) -> RedrivePlan:
    """One plan.

    Raises:
        Http404: there is none, or it is not for the operator to see.
        PermissionDenied: theirs to see, but not to act on.
    """
    row = _seen_plans(operator).filter(pk=plan).first()
    if row is None:
        raise Http404(_GONE)
    if to_redrive and not _holds(operator, REDRIVE, row.tenants):
        raise PermissionDenied(refusal(REDRIVE))
    return row


def may_redrive(operator: Operator, plan: RedrivePlan) -> bool:
    """Whether the operator may act on a plan that they may see."""
    return _holds(operator, REDRIVE, plan.tenants)


def _holds(operator: Operator, permission: str, tenants: Iterable[str]) -> bool:
    slugs = tenants_with(operator, permission)
    return slugs is None or set(tenants) <= set(slugs)


def visible_rules(operator: Operator) -> QuerySet[RetentionRule]:
    """Every rule of retention; there is no narrower object than the deployment.

    Raises:
        PermissionDenied: the operator may not look at them.
    """
    require(operator, VIEW_RULES)
    return RetentionRule.objects.all()


def visible_erasures(operator: Operator) -> QuerySet[Erasure]:
    """The erasures of the tenants whose data subjects the operator may erase.

    Raises:
        PermissionDenied: there could be none.
    """
    if not may_somewhere(operator, ERASE):
        raise PermissionDenied(refusal(ERASE))
    if may(operator, ERASE):
        return Erasure.objects.all()
    return Erasure.objects.filter(tenant__in=visible(operator, Tenant.objects.all(), ERASE).values("slug"))


def access_tenant_to_erase(operator: Operator, slug: str) -> Tenant:
    """A tenant of which the operator may erase data subjects.

    Raises:
        Http404: there is none, or the operator may not see it.
        PermissionDenied: they may not erase there.
    """
    tenant = Tenant.objects.filter(slug=slug).first()
    if tenant is None or not (may(operator, "accounts.view_tenant", tenant) or may(operator, ERASE, tenant)):
        raise Http404(_GONE)
    require(operator, ERASE, tenant)
    return tenant
