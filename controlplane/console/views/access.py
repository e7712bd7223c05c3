"""The access pages of people: who has which role on what, and one's own tokens."""

from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.accounts import operations
from controlplane.accounts.access import (
    access_grant,
    access_operator,
    access_own_token,
    access_token,
    in_words,
    may,
    may_somewhere,
    require,
    visible_operators,
    visible_tokens,
)
from controlplane.accounts.models import Operator, RoleGrant
from controlplane.accounts.roles import ROLES, Role, permissions_everywhere, permissions_on
from controlplane.audit.models import AuditEvent
from controlplane.console.forms.access import GrantForm, OperatorForm, RotationForm, TokenForm
from controlplane.console.requests import actor_of, refused_as_message, refused_into_form, went_through
from controlplane.console.timeline import timeline

MANAGE = "accounts.manage_access"


@login_required
@require_safe
def people(request: HttpRequest) -> HttpResponse:
    """People × roles × objects; who may not look at others sees themselves."""
    operator = actor_of(request)
    sees_others = may(operator, "accounts.view_operator")
    shown = visible_operators(operator) if sees_others else Operator.objects.filter(pk=operator.pk)
    context = {
        "rows": [_person(person) for person in shown.prefetch_related("grants__target")],
        "roles": [{"role": role, "summary": ROLES[role].summary} for role in Role],
        "sees_others": sees_others,
        "may_manage": may(operator, MANAGE),
        "tabs": access_tabs(operator, "access"),
    }
    return render(request, "access/people.html", context)


@login_required
@require_safe
def person(request: HttpRequest, username: str) -> HttpResponse:
    """One person: their roles and what each lets them do, their tokens, what was done to and by them."""
    operator = actor_of(request)
    shown = access_operator(operator, username)
    return render(request, "access/person.html", _person_context(operator, shown))


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_post_parameters("password")
def operator_new(request: HttpRequest) -> HttpResponse:
    """Create a person without any role."""
    operator = actor_of(request)
    require(operator, MANAGE)
    form = OperatorForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        created = refused_into_form(
            form, lambda: operations.create_operator(**form.cleaned_data, actor=operator, now=timezone.now())
        )
        if created is not None:
            messages.success(request, f"Created {created.username}; they may do nothing until you grant a role")
            return redirect("operator", username=created.username)
    context = {"form": form, "title": "New operator", "lead": "Somebody who works at this console.", "verb": "Create"}
    return render(request, "access/form.html", context, status=400 if form.errors else 200)


@login_required
@require_POST
def grant(request: HttpRequest, username: str) -> HttpResponse:
    """Grant a role on everything or on one object."""
    now = timezone.now()
    operator = actor_of(request)
    granted_to = access_operator(operator, username, "manage_access")
    form = GrantForm(request.POST, operator=operator)
    if not form.is_valid():
        unknown = [str(said.message) for said in form.errors.as_data().get("on", []) if said.code == "unknown"]
        messages.error(request, "; ".join(unknown) or "Choose a role, and what it is granted on")
        return redirect("operator", username=username)
    role = Role(form.cleaned_data["role"])
    granted = refused_as_message(
        request,
        lambda: operations.grant_role(operator=granted_to, role=role, target=form.target, actor=operator, now=now),
    )
    if granted is not None:
        messages.success(request, f"{username} is {role.label.lower()} on {granted.target_name}")
    return redirect("operator", username=username)


@login_required
@require_POST
def grant_revoke(request: HttpRequest, pk: int) -> HttpResponse:
    """Take a role back; it stops counting with the next request and the next look at a sign-off."""
    now = timezone.now()
    operator = actor_of(request)
    revoked = access_grant(operator, pk)

    name, words = revoked.operator.username, f"{Role(revoked.role).label.lower()} on {revoked.target_name}"
    if went_through(request, lambda: operations.revoke_role(grant=revoked, actor=operator, now=now)):
        messages.success(request, f"{name} is no longer {words}")
    return redirect("operator", username=name)


@login_required
@require_POST
def operator_lock(request: HttpRequest, username: str) -> HttpResponse:
    """Lock a person out at once."""
    return _set_active(request, username, active=False)


@login_required
@require_POST
def operator_unlock(request: HttpRequest, username: str) -> HttpResponse:
    """Let a person in again."""
    return _set_active(request, username, active=True)


def _set_active(request: HttpRequest, username: str, *, active: bool) -> HttpResponse:
    now = timezone.now()
    operator = actor_of(request)
    changed = access_operator(operator, username, "manage_access")
    if went_through(
        request, lambda: operations.set_operator_active(operator=changed, active=active, actor=operator, now=now)
    ):
        messages.success(request, f"{username} may come in again" if active else f"{username} is locked out")
    return redirect("operator", username=username)


# --- operator tokens --------------------------------------------------------------------------------------------------
@login_required
@require_safe
def tokens(request: HttpRequest) -> HttpResponse:
    """One's own tokens for the console API; everybody's for who manages access."""
    operator = actor_of(request)
    now = timezone.now()
    context = {
        "rows": [
            {
                "token": token,
                "standing": token.standing(now).value,
                "successor": getattr(token, "successor", None),
                "is_own": token.operator_id == operator.pk,
                "dialog": f"rotate-{token.pk}",
                "rotation": RotationForm(auto_id=f"rotate-{token.pk}-%s"),
                "title": f"Rotate token {token.prefix}…",
            }
            for token in visible_tokens(operator).select_related("successor")
        ],
        "form": TokenForm(),
        "sees_others": may(operator, MANAGE),
        "tabs": access_tabs(operator, "access-tokens"),
    }
    return render(request, "access/tokens.html", context)


@login_required
@never_cache
@require_POST
def token_issue(request: HttpRequest) -> HttpResponse:
    """Issue a token for oneself. Its secret is in this answer and nowhere else, so this page is not redirected to."""
    now = timezone.now()
    operator = actor_of(request)
    form = TokenForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Say what the token is for, and how long it is valid")
        return redirect("access-tokens")
    data = form.cleaned_data
    issued = operations.issue_token(
        operator=operator,
        name=data["name"],
        expires_at=now + timedelta(days=data["days"]),
        actor=operator,
        now=now,
    )
    context = {
        "title": f"Token {issued.row.prefix}… is issued",
        "secret": issued.secret,
        "what": "It may do at the console API what you may do, at the time of each call.",
        "usage": f"Authorization: Bearer {issued.secret}",
        "back_url_name": "access-tokens",
        "back_text": "I have stored it",
    }
    return shown_once(request, context)


@login_required
@never_cache
@require_POST
def token_rotate(request: HttpRequest, pk: int) -> HttpResponse:
    """Issue the token that takes the place of one's own. Its secret is in this answer and nowhere else."""
    now = timezone.now()
    operator = actor_of(request)
    token = access_own_token(operator, pk)
    form = RotationForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Say for how long the old token stays good")
        return redirect("access-tokens")
    issued = refused_as_message(
        request, lambda: operations.rotate_token(token=token, overlap=form.overlap, actor=operator, now=now)
    )
    if issued is None:
        return redirect("access-tokens")
    token.refresh_from_db()
    context = {
        "title": f"Token {issued.row.prefix}… takes the place of {token.prefix}…",
        "secret": issued.secret,
        "what": "Change your scripts to it.",
        "usage": f"Authorization: Bearer {issued.secret}",
        "back_url_name": "access-tokens",
        "back_text": "I have stored it",
        "good_until": token.expires_at,
    }
    return shown_once(request, context)


@login_required
@require_POST
def token_revoke(request: HttpRequest, pk: int) -> HttpResponse:
    """Revoke a token: one's own, or anybody's for who manages access."""
    now = timezone.now()
    operator = actor_of(request)
    token = access_token(operator, pk)
    if went_through(request, lambda: operations.revoke_token(token=token, actor=operator, now=now)):
        messages.success(request, f"Token {token.prefix}… is revoked; its next call is refused")
    return redirect("access-tokens")


# --- what the pages show ----------------------------------------------------------------------------------------------
def access_tabs(operator: Operator, active: str) -> list[dict[str, Any]]:
    """The tabs of the access pages that have something for this operator."""
    tabs = [
        ("People", "access", True),
        ("Tenants & keys", "access-tenants", may_somewhere(operator, "accounts.view_tenant")),
        ("Operator tokens", "access-tokens", True),
        ("Alerts", "alert-channels", may(operator, "alerts.view_channel")),
    ]
    return [{"label": label, "url_name": name, "active": name == active} for label, name, is_open in tabs if is_open]


def shown_once(request: HttpRequest, context: dict[str, Any], *, template: str = "access/secret.html") -> HttpResponse:
    """A page with a secret: kept by nothing between here and the reader, nor by the browser's history."""
    answer = render(request, template, context)
    answer["Cache-Control"] = "no-store, private, max-age=0"
    return answer


def _person(person: Operator) -> dict[str, Any]:
    """A row of people × roles: per role where it is held, 'everything' before single objects."""
    held: dict[str, list[str]] = {}
    for one in person.grants.all():
        held.setdefault(one.role, []).append(one.target_name)
    cells = [sorted(held.get(role.value, []), key=lambda name: name != "everything") for role in Role]
    return {"person": person, "cells": cells, "is_empty": not held}


def _person_context(operator: Operator, shown: Operator) -> dict[str, Any]:
    shown = Operator.objects.prefetch_related("grants__target").get(pk=shown.pk)
    manages = may(operator, MANAGE)
    grants = [
        {
            "grant": one,
            "label": Role(one.role).label,
            "does": _does(one),
            "dialog": f"revoke-{one.pk}",
            "title": f"Take {Role(one.role).label.lower()} on {one.target_name} from {shown.username}",
        }
        for one in shown.grants.all()
    ]
    context: dict[str, Any] = {
        "person": shown,
        "grants": grants,
        "is_self": shown.pk == operator.pk,
        "may_manage": manages,
        "lock_title": f"Lock {shown.username} out",
        "tokens": shown.tokens.filter(revoked_at__isnull=True) if manages or shown.pk == operator.pk else [],
    }
    if manages:
        context["grant_form"] = GrantForm(operator=operator)
    if may(operator, "audit.view_auditevent"):
        concerning = AuditEvent.objects.filter(Q(target=shown.audit_name) | Q(actor=shown.audit_name))
        context["events"] = timeline(concerning[:15])
    return context


def _does(one: RoleGrant) -> str:
    """What the grant lets its holder do, in words."""
    role = Role(one.role)
    if one.content_type_id is None:
        permissions = permissions_everywhere(role)
    else:
        content_type = one.target.__class__._meta.label_lower if one.target else ""
        permissions = permissions_on(role, content_type)
    acts = sorted({in_words(name) for name in permissions if not name.split(".")[1].startswith("view_")})
    return "; ".join(acts) or "look, and change nothing"
