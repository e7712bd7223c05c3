"""Who may see and do what. A face gets an object through an app's `access.py` and in no other way.

Two answers, always in this order. What the operator may not see does not exist for them: Http404. What they may see but
not do is refused with a sentence that names the permission and the roles that give it: PermissionDenied.
"""

from typing import Any, Literal, TypeVar, cast

from django.apps import apps
from django.contrib.auth import get_permission_codename
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404
from guardian.shortcuts import get_objects_for_user

from controlplane.accounts.models import ApiKey, Operator, OperatorToken, RoleGrant, Tenant
from controlplane.accounts.roles import ROLES, Role, permissions_everywhere, permissions_on
from controlplane.audit.models import AuditEvent

M = TypeVar("M", bound=Model)
Rows = TypeVar("Rows", bound=QuerySet[Any])

TenantPermission = Literal[
    "view_tenant",
    "change_tenant",
    "manage_keys",
    "view_usage",
    "read_content",
    "complete_repair",
    "view_deadletter",
    "redrive_deadletter",
    "decide_deadletter",
    "hold_deadletter",
    "erase_subject",
]


# --- what every app's access.py is made of ---------------------------------------------------------------------------
def may(operator: Operator, permission: str, target: Model | None = None) -> bool:
    """Whether the operator holds `permission` ('app.codename') on everything or on `target`.

    One query for an operator's first question, one more for the first on a target, none for the next.
    """
    if operator.has_perm(permission):
        return True
    return (
        target is not None
        and target._meta.app_label == permission.split(".")[0]
        and operator.has_perm(permission, target)
    )


def may_somewhere(operator: Operator, permission: str) -> bool:
    """Whether the operator holds `permission` on everything or on on one object: whether a page has anything for them.

    One query for an operator's first question beside those of `may`, none for the next.
    """
    return may(operator, permission) or any(
        permission in permissions_on(Role(grant.role), label)
        for grant in operator.role_grants
        if grant.content_type_id is not None
        for label in ROLES[Role(grant.role)].on_object
    )


def require(operator: Operator, permission: str, target: Model | None = None) -> None:
    """Return if the operator holds `permission` on everything or on `target`.

    Raises:
        PermissionDenied: naming the permission, the target and the roles that give it.
    """
    if not may(operator, permission, target):
        raise PermissionDenied(refusal(permission, target))


def access(operator: Operator, found: M | None, *, view: str, permission: str, target: Model | None = None) -> M:
    """Return what was found, if the operator may see it and holds `permission` on it.

    Args:
        target: The object that permissions are asked on, where it is not `found` itself: a canary's prompt.
    Raises:
        Http404: nothing was found, or the operator may not see it; the two cannot be told apart.
        PermissionDenied: visible, but not theirs to do this with.
    """
    target = target or found
    if found is None or not may(operator, view, target):
        raise Http404("there is no such thing here, or you may not see it")
    if permission != view:
        require(operator, permission, target)
    return found


def visible(operator: Operator, rows: Rows, permission: str) -> Rows:
    """The rows on which the operator holds `permission`, or all of them when it holds everywhere; no query per row."""
    if may(operator, permission):
        return rows
    if not may_somewhere(operator, permission):
        return rows.none()
    return cast(Rows, get_objects_for_user(operator, permission, klass=rows, accept_global_perms=False))


def refusal(permission: str, target: Model | None = None) -> str:
    """The sentence of a refusal: the permission in words, on what, and which roles give it."""
    on = (
        f" on {getattr(target, 'audit_name', target)}" if target is not None and is_given_on_objects(permission) else ""
    )
    return f"you lack the permission to {in_words(permission)}{on}; {_givers(permission)}"


def is_given_on_objects(permission: str) -> bool:
    """Whether any role gives the permission on a single object; the others are held on everything or not at all."""
    app, codename = permission.split(".")
    return any(
        label.split(".")[0] == app and codename in codenames
        for definition in ROLES.values()
        for label, codenames in definition.on_object.items()
    )


def roles_giving(permission: str) -> tuple[Role, ...]:
    """The roles that come with `permission`, in the order of `Role`."""
    return tuple(role for role in Role if permission in permissions_everywhere(role))


def in_words(permission: str) -> str:
    """What the permission allows, as its model says it: 'turn a canary's knob'."""
    app, codename = permission.split(".")
    for model in apps.get_app_config(app).get_models():
        for own, name in model._meta.permissions:
            if own == codename:
                return str(name).removeprefix("Can ")
        for action in model._meta.default_permissions:
            if codename == get_permission_codename(action, model._meta):
                return f"{action} {model._meta.verbose_name_plural}"
    return permission


def _givers(permission: str) -> str:
    labels = [role.label for role in roles_giving(permission)]
    if not labels:
        return "no role gives it"
    return f"it comes with the role {' or '.join(labels)}"


# --- this app's own objects ------------------------------------------------------------------------------------------
def access_tenant(operator: Operator, slug: str, permission: TenantPermission = "view_tenant") -> Tenant:
    """The tenant, if the operator may see it and holds the permission on it."""
    tenant = Tenant.objects.filter(slug=slug).first()
    return access(operator, tenant, view="accounts.view_tenant", permission=f"accounts.{permission}")


def visible_tenants(operator: Operator) -> QuerySet[Tenant]:
    return visible(operator, Tenant.objects.all(), "accounts.view_tenant")


def access_key(operator: Operator, pk: int, permission: TenantPermission = "manage_keys") -> ApiKey:
    """An API key; asked on its tenant."""
    key = ApiKey.objects.select_related("tenant", "successor").filter(pk=pk).first()
    tenant = key.tenant if key else None
    return access(operator, key, view="accounts.view_tenant", permission=f"accounts.{permission}", target=tenant)


def access_operator(
    operator: Operator, username: str, permission: Literal["view_operator", "manage_access"] = "view_operator"
) -> Operator:
    """Somebody who works here; everybody may look at themselves."""
    found = Operator.objects.filter(username=username).first()
    if found is not None and found.pk == operator.pk and permission == "view_operator":
        return found
    return access(operator, found, view="accounts.view_operator", permission=f"accounts.{permission}")


def visible_operators(operator: Operator) -> QuerySet[Operator]:
    """Everybody.

    Raises:
        PermissionDenied: the operator may not look at who works here.
    """
    require(operator, "accounts.view_operator")
    return Operator.objects.all()


def access_grant(operator: Operator, pk: int) -> RoleGrant:
    """A grant, to take it back."""
    grant = RoleGrant.objects.select_related("operator", "content_type").filter(pk=pk).first()
    return access(operator, grant, view="accounts.view_operator", permission="accounts.manage_access")


def access_token(operator: Operator, pk: int) -> OperatorToken:
    """An operator token, to revoke it: one's own, or anybody's for who manages access.

    Issuing has no such rule, because nobody issues a token for another: it could sign off in their name.
    """
    token = OperatorToken.objects.select_related("operator", "successor").filter(pk=pk).first()
    if token is not None and token.operator_id == operator.pk:
        return token
    return access(operator, token, view="accounts.view_operator", permission="accounts.manage_access")


def access_own_token(operator: Operator, pk: int) -> OperatorToken:
    """An operator token, to rotate it: one's own. Another's secret would let one sign off in their name.

    Raises:
        Http404, PermissionDenied: as `access`.
    """
    token = access_token(operator, pk)
    if token.operator_id != operator.pk:
        raise PermissionDenied(f"only {token.operator.username} rotates their tokens; you may revoke this one")
    return token


def visible_tokens(operator: Operator) -> QuerySet[OperatorToken]:
    """One's own tokens; everybody's for who manages access."""
    tokens = OperatorToken.objects.select_related("operator")
    return tokens if may(operator, "accounts.manage_access") else tokens.filter(operator=operator)


def visible_events(operator: Operator) -> QuerySet[AuditEvent]:
    """The audit record. It lives here because `audit`, the lowest app, knows no operators.

    Raises:
        PermissionDenied: the operator may not read it.
    """
    require(operator, "audit.view_auditevent")
    return AuditEvent.objects.all()


def access_event(operator: Operator, seq: int) -> AuditEvent:
    """One event of the audit record."""
    event = AuditEvent.objects.filter(seq=seq).first()
    return access(operator, event, view="audit.view_auditevent", permission="audit.view_auditevent")
