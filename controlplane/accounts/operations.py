"""Give and take access: operators, roles, tenants and their keys, operator tokens."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from allauth.mfa.models import Authenticator
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import ValidationError
from django.db import connection, models, transaction
from guardian.models import UserObjectPermission

from controlplane import live
from controlplane.accounts.errors import (
    AccessError,
    AdminExists,
    AlreadyRevoked,
    AlreadyRotated,
    CredentialEnded,
    LastAdmin,
    NameTaken,
    OverlapOutOfBounds,
    RoleDoesNotFit,
)
from controlplane.accounts.models import ApiKey, Operator, OperatorToken, RoleGrant, Tenant, hash_secret
from controlplane.accounts.roles import Role, permissions_everywhere, permissions_on
from controlplane.audit import operations as audit
from controlplane.audit.models import AuditEvent
from dataplane.access import IDEMPOTENCY_HOURS, OURSELVES
from dataplane.documents import MalformedRelease, Node

# How the record calls what the control plane does on its own; no person may bear the name.
SYSTEM = "ballast"
# For how long a credential that is rotated goes on beside the one that takes its place: at least, and at most.
OVERLAP = (timedelta(minutes=5), timedelta(days=30))
Publish = Callable[..., object]
# The data plane learns of keys and tenants from the release, which is cut above this app; `releases` hands itself in.
_publishers: list[Publish] = []


def on_access_changed(publish: Publish) -> None:
    """Register `publish(reason=, actor=, now=)`: what the same transaction must do when tenants or keys change."""
    if publish not in _publishers:
        _publishers.append(publish)


def _access_changed(*, reason: str, actor: Operator | str, now: datetime) -> None:
    for publish in _publishers:
        publish(reason=reason, actor=actor, now=now)


@dataclass(frozen=True, slots=True)
class Issued:
    """A fresh credential: its row, and the secret that is shown this once and stored nowhere."""

    row: ApiKey | OperatorToken
    secret: str


# --- operators and roles ---------------------------------------------------------------------------------------------
@audit.operation
def create_operator(
    *, username: str, password: str | None, email: str, actor: Operator | str, now: datetime
) -> Operator:
    """Create a person without any role. `password` None: signs in by OIDC only.

    Raises:
        NameTaken: the name is in use, or was, in whatever case; or it is what the record calls the system itself.
    """
    if username.casefold() == SYSTEM or Operator.objects.filter(username__iexact=username).exists():
        raise NameTaken(f"operator {username!r} exists or existed; choose another name")
    operator = Operator.objects.create_user(username=username, email=email, password=password)
    audit.record("operator.created", actor=actor, target=operator, at=now)
    return operator


@audit.operation
def set_operator_active(*, operator: Operator, active: bool, actor: Operator | str, now: datetime) -> None:
    """Let a person in again, or lock them out at once; their name stays theirs in the record."""
    if not active:
        _refuse_losing_last_admin(RoleGrant.objects.exclude(operator=operator))
    Operator.objects.filter(pk=operator.pk).update(is_active=active)
    operator.is_active = active
    _tell_open_pages(operator)
    audit.record("operator.activated" if active else "operator.deactivated", actor=actor, target=operator, at=now)


@audit.operation
def grant_role(
    *, operator: Operator, role: Role, target: models.Model | None, actor: Operator | str, now: datetime
) -> RoleGrant:
    """Grant `role` on `target` (None: on everything); granting it twice is granting it once.

    Raises:
        RoleDoesNotFit: the role says nothing about such objects.
    """
    if target is not None and not permissions_on(role, target._meta.label_lower):
        raise RoleDoesNotFit(
            f"the role {role.value!r} gives nothing on a {target._meta.verbose_name}; grant it elsewhere"
        )
    content_type = ContentType.objects.get_for_model(target) if target is not None else None
    grant, created = RoleGrant.objects.get_or_create(
        operator=operator,
        role=role,
        content_type=content_type,
        object_id=target.pk if target is not None else None,
        defaults={"granted_by": audit.name_of(actor), "granted_at": now},
    )
    if created:
        _write_permissions(operator)
        audit.record("role.granted", actor=actor, target=operator, at=now, data={"role": role, "on": grant.target_name})
    return grant


@audit.operation
def revoke_role(*, grant: RoleGrant, actor: Operator | str, now: datetime) -> None:
    """Take one grant back; one that is gone already is left so.

    Raises:
        LastAdmin: nobody else could give access afterwards.
    """
    _refuse_losing_last_admin(RoleGrant.objects.exclude(pk=grant.pk))
    operator, data = grant.operator, {"role": grant.role, "on": grant.target_name}
    deleted, _ = RoleGrant.objects.filter(pk=grant.pk).delete()
    if not deleted:
        return
    _write_permissions(operator)
    _tell_open_pages(operator)
    audit.record("role.revoked", actor=actor, target=operator, at=now, data=data)


def _refuse_losing_last_admin(remaining: models.QuerySet[RoleGrant]) -> None:
    if _active_admins().exists() and not _active_admins(remaining).exists():
        raise LastAdmin("nobody could give access afterwards; grant 'admin' on everything to somebody else first")


def _active_admins(among: models.QuerySet[RoleGrant] | None = None) -> models.QuerySet[RoleGrant]:
    grants = RoleGrant.objects.all() if among is None else among
    return grants.filter(role=Role.ADMIN, content_type__isnull=True, operator__is_active=True)


def _tell_open_pages(operator: Operator) -> None:
    """Have the operator's live lines ask anew what they may hear, once this is committed."""
    transaction.on_commit(partial(live.notify, live.operator_topic(operator.pk), {}))


@transaction.atomic
def renew_permissions() -> None:
    """Give everybody what their roles give now: what a role may do can change with a version, grants do not."""
    for operator in Operator.objects.filter(pk__in=RoleGrant.objects.values("operator")).order_by("pk"):
        _write_permissions(operator)


def _write_permissions(operator: Operator) -> None:
    """Make Django's and guardian's rows say exactly what the operator's grants say."""
    grants = list(RoleGrant.objects.filter(operator=operator).select_related("content_type"))
    everywhere: set[str] = set()
    on_objects: dict[tuple[ContentType, int], set[str]] = {}
    for grant in grants:
        role = Role(grant.role)
        if grant.content_type is None or grant.object_id is None:
            everywhere |= permissions_everywhere(role)
        else:
            label = f"{grant.content_type.app_label}.{grant.content_type.model}"
            on_objects.setdefault((grant.content_type, grant.object_id), set()).update(permissions_on(role, label))
    given = everywhere.union(*on_objects.values())
    rows = Permission.objects.filter(codename__in={name.partition(".")[2] for name in given})
    known = {
        f"{app}.{codename}": pk for pk, app, codename in rows.values_list("pk", "content_type__app_label", "codename")
    }
    operator.user_permissions.set([known[name] for name in sorted(everywhere)])
    UserObjectPermission.objects.filter(user=operator).delete()
    UserObjectPermission.objects.bulk_create(
        UserObjectPermission(
            user=operator, permission_id=known[name], content_type=content_type, object_pk=str(object_id)
        )
        for (content_type, object_id), names in on_objects.items()
        for name in sorted(names)
    )


# --- signing in ------------------------------------------------------------------------------------------------------
# What strangers can make this write is bounded: failures of names that exist, so many a name, and no others.
MAX_FAILURES_RECORDED = 10
FAILURES_WINDOW = timedelta(minutes=5)


@audit.operation
def create_admin(*, username: str, password: str | None, email: str, force: bool, now: datetime) -> Operator:
    """Create the first operator of a deployment, who may give everybody else access. `password` None: OIDC only.

    Raises:
        AdminExists: there is one already, who can make others at the console; `force` is for when they are gone.
        NameTaken: as `create_operator`.
    """
    admins = _active_admins().values_list("operator__username", flat=True).distinct()
    if not force and (names := ", ".join(repr(name) for name in admins.order_by("operator__username"))):
        raise AdminExists(f"{names} can give access at the console; --force makes another admin all the same")
    operator = create_operator(username=username, password=password, email=email, actor=SYSTEM, now=now)
    grant_role(operator=operator, role=Role.ADMIN, target=None, actor=SYSTEM, now=now)
    return operator


@audit.operation
def change_password(*, operator: Operator, password: str, actor: Operator | str, now: datetime) -> None:
    """Give the operator another password, which ends their other sessions. Whoever calls has validated it."""
    operator.set_password(password)
    operator.save(update_fields=["password"])
    _tell_open_pages(operator)
    audit.record("password.changed", actor=actor, target=operator, at=now)


@audit.operation
def reset_sign_in(*, operator: Operator, password: str | None, actor: Operator | str, now: datetime) -> None:
    """For who lost password or phone: drop every second factor, end every session, set `password` (None: OIDC only)."""
    removed, _ = Authenticator.objects.filter(user=operator).delete()
    operator.set_password(password)
    operator.save(update_fields=["password"])
    _tell_open_pages(operator)
    audit.record(
        "sign_in.reset",
        actor=actor,
        target=operator,
        at=now,
        data={"second_factors_removed": removed, "password": "set" if password else "none"},
    )


@audit.operation
def record_sign_in(*, operator: Operator, methods: Sequence[str], address: str, now: datetime) -> None:
    """Somebody came in. In the request's own time: where the record cannot be written, nobody comes in."""
    data = {"methods": list(methods), "address": address}
    audit.record("sign_in.succeeded", actor=operator, target=operator, at=now, data=data)


@audit.operation
def record_failed_sign_in(
    *, operator: Operator, why: str, address: str, locked_until: datetime | None, now: datetime
) -> None:
    """Somebody failed to come in under the operator's name; `locked_until` if that closed the door to it.

    At most ten failures in five minutes are recorded for one name, whatever counts them elsewhere forgot.
    """
    failures = AuditEvent.objects.filter(action="sign_in.failed", target=operator.audit_name)
    tenth = failures.order_by("-seq").values_list("at", flat=True)[MAX_FAILURES_RECORDED - 1 : MAX_FAILURES_RECORDED]
    if not any(at > now - FAILURES_WINDOW for at in tenth):
        data = {"why": why, "address": address}
        audit.record("sign_in.failed", actor=SYSTEM, target=operator, at=now, data=data)
    if locked_until is not None:
        data = {"why": why, "until": locked_until.isoformat(timespec="seconds")}
        audit.record("sign_in.locked_out", actor=SYSTEM, target=operator, at=now, data=data)


@audit.operation
def record_sign_out(*, operator: Operator, now: datetime) -> None:
    """Somebody left; their other open pages notice."""
    _tell_open_pages(operator)
    audit.record("sign_out", actor=operator, target=operator, at=now)


@audit.operation
def record_factor_added(*, operator: Operator, kind: str, now: datetime) -> None:
    """The operator enrolled a second factor: 'totp' or 'recovery_codes'."""
    audit.record("second_factor.added", actor=operator, target=operator, at=now, data={"kind": kind})


@audit.operation
def record_factor_removed(*, operator: Operator, kind: str, now: datetime) -> None:
    """The operator removed a second factor: 'totp' or 'recovery_codes'."""
    audit.record("second_factor.removed", actor=operator, target=operator, at=now, data={"kind": kind})


# --- tenants and their keys ------------------------------------------------------------------------------------------
@audit.operation
def create_tenant(*, slug: str, name: str, actor: Operator | str, now: datetime, **attributes: Any) -> Tenant:
    """Create a tenant; it can call the gateway once a key is issued. `attributes`: the model's other fields."""
    if slug == OURSELVES.slug:
        raise NameTaken(f"{slug!r} is who pays for what Ballast asks providers by itself; choose another name")
    if Tenant.objects.filter(slug=slug).exists():
        raise NameTaken(f"tenant {slug!r} exists; choose another name")
    tenant = Tenant(slug=slug, name=name)
    _set_attributes(tenant, attributes)
    tenant.save()
    audit.record("tenant.created", actor=actor, target=tenant, at=now, data=_tenant_facts(tenant))
    _access_changed(reason=f"tenant {slug} created", actor=actor, now=now)
    return tenant


@audit.operation
def change_tenant(*, tenant: Tenant, actor: Operator | str, now: datetime, **attributes: Any) -> Tenant:
    """Change a tenant's name, tier, residency, region or policies; takes effect with the release it cuts.

    Raises:
        AccessError: no such attribute, or one that never changes.
        django.core.exceptions.ValidationError: by field.
    """
    # Only what was asked for changes: the caller's copy may be older than a colleague's change of another field.
    tenant = Tenant.objects.get(pk=tenant.pk)
    before = _tenant_facts(tenant)
    _set_attributes(tenant, attributes)
    tenant.save()
    audit.record(
        "tenant.changed", actor=actor, target=tenant, at=now, data={"before": before, "after": _tenant_facts(tenant)}
    )
    _access_changed(reason=f"tenant {tenant.slug} changed", actor=actor, now=now)
    return tenant


_TENANT_ATTRIBUTES = ("name", "tier", "residency", "region", "is_internal", "log_content", "idempotency_hours")


def _set_attributes(tenant: Tenant, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        if name not in _TENANT_ATTRIBUTES:
            raise AccessError(f"{name!r} of a tenant cannot be set; it has {', '.join(_TENANT_ATTRIBUTES)}")
        setattr(tenant, name, value)
    tenant.full_clean()
    try:
        Node(tenant.residency, "residency").texts()
    except MalformedRelease as exc:
        raise ValidationError({"residency": exc.fact}) from exc
    try:
        list(Node({tenant.slug: None}, "slug").slugged_entries())
    except MalformedRelease as exc:
        raise ValidationError({"slug": exc.fact}) from exc


def _tenant_facts(tenant: Tenant) -> dict[str, Any]:
    return {name: getattr(tenant, name) for name in _TENANT_ATTRIBUTES}


@audit.operation
def issue_key(*, tenant: Tenant, name: str, actor: Operator | str, now: datetime, secret: str | None = None) -> Issued:
    """Issue an API key; `secret` is for the demo's published keys, otherwise 256 random bits."""
    secret = secret or f"bk-{secrets.token_urlsafe(32)}"
    key = ApiKey.objects.create(
        tenant=tenant,
        name=name,
        prefix=secret[:12],
        secret_hash=hash_secret(secret),
        created_by=audit.name_of(actor),
        created_at=now,
    )
    audit.record("api_key.issued", actor=actor, target=key, at=now, data={"tenant": tenant.slug, "name": name})
    _access_changed(reason=f"API key {key.prefix}… issued to {tenant.slug}", actor=actor, now=now)
    return Issued(key, secret)


@audit.operation
def revoke_key(*, key: ApiKey, actor: Operator | str, now: datetime) -> None:
    """Revoke an API key: refused by every gateway as soon as it serves the release that this cuts.

    Of one that has ended already, what was handed in with it and waits is refused, too.

    Raises:
        AlreadyRevoked: and nothing was changed.
    """
    if not ApiKey.objects.filter(pk=key.pk, revoked_at__isnull=True).update(revoked_at=now):
        raise AlreadyRevoked(f"API key {key.prefix}… was revoked before")
    audit.record("api_key.revoked", actor=actor, target=key, at=now, data={"tenant": key.tenant.slug})
    _access_changed(reason=f"API key {key.prefix}… of {key.tenant.slug} revoked", actor=actor, now=now)


@audit.operation
def rotate_key(*, key: ApiKey, overlap: timedelta, actor: Operator | str, now: datetime) -> Issued:
    """Issue the key that takes the place of `key`; both are good until `overlap` from now, then only the new one.

    Nothing needs to happen then: gateways have the time from the release that this cuts. What was handed in with the
    old key and waits (jobs, dead letters) is the new one's afterwards.

    Raises:
        AlreadyRevoked, CredentialEnded, AlreadyRotated, OverlapOutOfBounds: and nothing was changed.
    """
    key = ApiKey.objects.select_related("tenant").get(pk=key.pk)
    until = _end_of(key, f"API key {key.prefix}…", overlap=overlap, now=now)
    secret = f"bk-{secrets.token_urlsafe(32)}"
    successor = ApiKey.objects.create(
        tenant=key.tenant,
        name=key.name,
        prefix=secret[:12],
        secret_hash=hash_secret(secret),
        created_by=audit.name_of(actor),
        created_at=now,
        replaces=key,
    )
    ApiKey.objects.filter(pk=key.pk).update(expires_at=until)
    facts = {"tenant": key.tenant.slug, "successor": successor.prefix, "until": _written(until)}
    audit.record("api_key.rotated", actor=actor, target=key, at=now, data=facts)
    _access_changed(reason=f"API key {key.prefix}… of {key.tenant.slug} rotated", actor=actor, now=now)
    return Issued(successor, secret)


@audit.operation
def lapse_keys(*, now: datetime) -> int:
    """Leave keys whose time is over out of releases from now on, and have the record say so; how many there were.

    Nobody waits for it: gateways have refused them since.
    """
    over = list(ApiKey.objects.over(now).select_related("tenant").order_by("pk"))
    for key in over:
        ApiKey.objects.filter(pk=key.pk).update(lapsed_at=now)
        facts = {"tenant": key.tenant.slug, "last_used_at": _written(key.last_used_at) if key.last_used_at else ""}
        audit.record("api_key.lapsed", actor=SYSTEM, target=key, at=now, data=facts)
        _access_changed(reason=f"API key {key.prefix}… of {key.tenant.slug} ended", actor=SYSTEM, now=now)
    return len(over)


def _end_of(credential: ApiKey | OperatorToken, called: str, *, overlap: timedelta, now: datetime) -> datetime:
    """When a credential ends that is rotated now: never later than it would have ended anyway."""
    if not OVERLAP[0] <= overlap <= OVERLAP[1]:
        raise OverlapOutOfBounds(
            f"{called} can go on beside the new one for {OVERLAP[0].seconds // 60} minutes to {OVERLAP[1].days} days; "
            f"revoke it once it is rotated if it must end at once"
        )
    if credential.revoked_at is not None:
        raise AlreadyRevoked(f"{called} was revoked before; issue another")
    if credential.expires_at is not None and credential.expires_at <= now:
        raise CredentialEnded(f"{called} has ended; issue another")
    if type(credential)._default_manager.filter(replaces=credential.pk).exists():
        raise AlreadyRotated(f"{called} was rotated before; rotate the one that took its place")
    until = now + overlap
    return until if credential.expires_at is None else min(until, credential.expires_at)


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def record_key_use(used: Mapping[str, float]) -> None:
    """Note when API keys were last used, at most once a minute for each; one statement.

    Nothing is audited: nobody changed anything.

    Args:
        used: Epoch seconds by key id, as workers report them; ids that are not known are left out.
    """
    latest = {int(key): datetime.fromtimestamp(at, UTC) for key, at in used.items() if _is_row_id(key)}
    if not latest:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE {ApiKey._meta.db_table} k SET last_used_at = u.at"  # noqa: S608 - a constant of ours
            " FROM unnest(%s::bigint[], %s::timestamptz[]) AS u(id, at)"
            " WHERE k.id = u.id AND (k.last_used_at IS NULL OR k.last_used_at < u.at - interval '60 seconds')",
            [list(latest), list(latest.values())],
        )


def _is_row_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


# --- operator tokens -------------------------------------------------------------------------------------------------
@audit.operation
def issue_token(
    *,
    operator: Operator,
    name: str,
    actor: Operator | str,
    now: datetime,
    expires_at: datetime | None = None,
    secret: str | None = None,
) -> Issued:
    """Issue a token for the console API; it may do what its operator may do at the time of each call."""
    secret = secret or f"op-{secrets.token_urlsafe(32)}"
    token = OperatorToken.objects.create(
        operator=operator,
        name=name,
        prefix=secret[:12],
        secret_hash=hash_secret(secret),
        created_at=now,
        expires_at=expires_at,
    )
    audit.record("operator_token.issued", actor=actor, target=token, at=now, data={"operator": operator.username})
    return Issued(token, secret)


@audit.operation
def rotate_token(*, token: OperatorToken, overlap: timedelta, actor: Operator, now: datetime) -> Issued:
    """Issue the token that takes the place of `token`, and lasts as long as that one was to; both are good until
    `overlap` from now.

    Raises:
        AccessError: it is somebody else's; with another's token one could sign off in their name.
        AlreadyRevoked, CredentialEnded, AlreadyRotated, OverlapOutOfBounds: and nothing was changed.
    """
    token = OperatorToken.objects.select_related("operator").get(pk=token.pk)
    if token.operator_id != actor.pk:
        raise AccessError(f"operator token {token.prefix}… is rotated by {token.operator.username} alone; revoke it")
    until = _end_of(token, f"operator token {token.prefix}…", overlap=overlap, now=now)
    lasts = None if token.expires_at is None else token.expires_at - token.created_at
    secret = f"op-{secrets.token_urlsafe(32)}"
    successor = OperatorToken.objects.create(
        operator=token.operator,
        name=token.name,
        prefix=secret[:12],
        secret_hash=hash_secret(secret),
        created_at=now,
        expires_at=None if lasts is None else now + lasts,
        replaces=token,
    )
    OperatorToken.objects.filter(pk=token.pk).update(expires_at=until)
    facts = {"operator": token.operator.username, "successor": successor.prefix, "until": _written(until)}
    audit.record("operator_token.rotated", actor=actor, target=token, at=now, data=facts)
    return Issued(successor, secret)


@audit.operation
def revoke_token(*, token: OperatorToken, actor: Operator | str, now: datetime) -> None:
    """Revoke an operator token; its next call is refused.

    Raises:
        AlreadyRevoked: and nothing was changed.
    """
    if not OperatorToken.objects.filter(pk=token.pk, revoked_at__isnull=True).update(revoked_at=now):
        raise AlreadyRevoked(f"operator token {token.prefix}… was revoked before")
    audit.record("operator_token.revoked", actor=actor, target=token, at=now)


def compile_access() -> dict[str, Any]:
    """The release's section 'access': tenants and the hashes of their active keys; three queries."""
    keys = ApiKey.objects.active().select_related("tenant")
    # What lapsed, as nothing does that was not rotated, has its work done by what took its place.
    lapsed = dict(ApiKey.objects.filter(lapsed_at__isnull=False, revoked_at__isnull=True).values_list("pk", "replaces"))
    return {
        "tenants": {tenant.slug: _compile_tenant(tenant) for tenant in Tenant.objects.all()},
        "keys": {key.secret_hash: _compile_key(key, lapsed) for key in keys},
    }


def _compile_key(key: ApiKey, lapsed: Mapping[int, int | None]) -> dict[str, Any]:
    """`lapsed`: keys that lapsed, and which each of them replaced."""
    compiled: dict[str, Any] = {"tenant": key.tenant.slug, "id": str(key.pk)}
    if key.expires_at is not None:
        compiled["expires_at"] = _written(key.expires_at)
    before, earlier = key.replaces_id, []
    while before is not None and before in lapsed:
        earlier.append(str(before))
        before = lapsed[before]
    if earlier:
        compiled["stands_for"] = sorted(earlier)
    return compiled


def _compile_tenant(tenant: Tenant) -> dict[str, Any]:
    compiled = {
        "tier": tenant.tier,
        "residency": sorted(tenant.residency),
        "region": tenant.region,
        "internal": tenant.is_internal,
        "log_content": tenant.log_content,
    }
    # Left out where it is what workers take for granted: then the section is, byte for byte, what it was without it.
    if tenant.idempotency_hours != IDEMPOTENCY_HOURS[0]:
        compiled["idempotency_hours"] = tenant.idempotency_hours
    return compiled
