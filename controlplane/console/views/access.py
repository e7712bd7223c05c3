"""The access pages: people and their roles, tenants and their keys, one's own tokens."""

from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.accounts import operations
from controlplane.accounts.access import (
    access_grant,
    access_key,
    access_operator,
    access_tenant,
    access_token,
    may,
    may_somewhere,
    require,
    visible_operators,
    visible_tenants,
    visible_tokens,
)
from controlplane.accounts.models import Operator, Tenant
from controlplane.accounts.operations import Issued
from controlplane.accounts.roles import Role
from controlplane.console.forms.access import (
    EVERYTHING,
    CredentialForm,
    GrantForm,
    NewTenantForm,
    OperatorForm,
    TenantForm,
)
from controlplane.console.requests import actor_of, refused_as_message, refused_into_form
from controlplane.prompts.models import Prompt

MANAGE = "accounts.manage_access"
SEE_PEOPLE = "accounts.view_operator"


@login_required
@require_safe
def people(request: HttpRequest) -> HttpResponse:
    """Who works here and what each may do; those who may not look at it see their own tokens instead."""
    operator = actor_of(request)
    if not may(operator, SEE_PEOPLE):
        return redirect("access-tokens" if not may_somewhere(operator, "accounts.view_tenant") else "access-tenants")
    rows = list(visible_operators(operator).prefetch_related("grants__content_type", "grants__target"))
    manages = may(operator, MANAGE)
    context = {
        "tabs": _tabs(operator, "access"),
        "rows": rows,
        "manages": manages,
        "grant_form": GrantForm(operators=rows, targets=_targets()) if manages else None,
        "operator_form": OperatorForm() if manages else None,
    }
    return render(request, "access/people.html", context)


@login_required
@require_POST
def grant(request: HttpRequest) -> HttpResponse:
    """Grant a role on everything or on one object."""
    now = timezone.now()
    actor = actor_of(request)
    require(actor, MANAGE)
    form = GrantForm(request.POST, operators=list(visible_operators(actor)), targets=_targets())
    if not form.is_valid():
        messages.error(request, "Choose a person, a role and what it is for")
        return redirect("access")
    data = form.cleaned_data
    target = _target_named(data["target"])
    granted = refused_as_message(
        request,
        lambda: operations.grant_role(
            operator=access_operator(actor, data["operator"], "manage_access"),
            role=Role(data["role"]),
            target=target,
            actor=actor,
            now=now,
        ),
    )
    if granted is not None:
        messages.success(request, f"{data['operator']} is {Role(data['role']).label.lower()} on {granted.target_name}")
    return redirect("access")


@login_required
@require_POST
def grant_revoke(request: HttpRequest, pk: int) -> HttpResponse:
    """Take one role back."""
    now = timezone.now()
    actor = actor_of(request)
    row = access_grant(actor, pk)
    words = f"{row.operator.username} is no longer {Role(row.role).label.lower()} on {row.target_name}"

    def revoke() -> bool:
        operations.revoke_role(grant=row, actor=actor, now=now)
        return True

    if refused_as_message(request, revoke):
        messages.success(request, words)
    return redirect("access")


@login_required
@require_POST
def operator_new(request: HttpRequest) -> HttpResponse:
    """Create a person without any role."""
    now = timezone.now()
    actor = actor_of(request)
    require(actor, MANAGE)
    form = OperatorForm(request.POST)
    if not form.is_valid():
        first = next(iter(form.errors.items()))
        messages.error(request, f"Not created: {form.fields[first[0]].label}: {first[1][0]}")
        return redirect("access")
    data = form.cleaned_data
    created = refused_as_message(
        request,
        lambda: operations.create_operator(
            username=data["username"], password=data["password"] or None, email=data["email"], actor=actor, now=now
        ),
    )
    if created is not None:
        messages.success(request, f"Created {created.username}, who may do nothing until a role is granted")
    return redirect("access")


@login_required
@require_POST
def operator_active(request: HttpRequest, username: str) -> HttpResponse:
    """Lock a person out at once, or let them in again."""
    now = timezone.now()
    actor = actor_of(request)
    operator = access_operator(actor, username, "manage_access")
    active = request.POST.get("active") == "yes"

    def set_active() -> bool:
        operations.set_operator_active(operator=operator, active=active, actor=actor, now=now)
        return True

    if refused_as_message(request, set_active):
        messages.success(request, f"{username} may come in again" if active else f"{username} is locked out")
    return redirect("access")


# --- tenants and their keys -------------------------------------------------------------------------------------------
@login_required
@require_safe
def tenant_list(request: HttpRequest) -> HttpResponse:
    """The tenants that the reader may see, with their keys and when each was last used; three queries."""
    operator = actor_of(request)
    rows = [
        {
            "tenant": tenant,
            "keys": [key for key in tenant.api_keys.all() if key.revoked_at is None],
            "revoked": [key for key in tenant.api_keys.all() if key.revoked_at is not None],
            "may_keys": may(operator, "accounts.manage_keys", tenant),
            "may_change": may(operator, "accounts.change_tenant", tenant),
        }
        for tenant in visible_tenants(operator).prefetch_related("api_keys")
    ]
    context = {
        "tabs": _tabs(operator, "access-tenants"),
        "rows": rows,
        "may_add": may(operator, "accounts.add_tenant"),
    }
    return render(request, "access/tenants.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def tenant_new(request: HttpRequest) -> HttpResponse:
    """Create a tenant; it can call the gateway once a key is issued."""
    now = timezone.now()
    operator = actor_of(request)
    require(operator, "accounts.add_tenant")
    form = NewTenantForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        tenant = refused_into_form(form, lambda: operations.create_tenant(**form.cleaned_data, actor=operator, now=now))
        if tenant is not None:
            messages.success(request, f"Created {tenant.slug}; now issue its first key")
            return redirect("access-tenants")
    context = {"form": form, "title": "New tenant", "verb": "Create the tenant"}
    return render(request, "access/tenant.html", context, status=400 if form.errors else 200)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def tenant_edit(request: HttpRequest, slug: str) -> HttpResponse:
    """Change a tenant's tier, pin or policies; workers follow with the release that it cuts."""
    now = timezone.now()
    operator = actor_of(request)
    tenant = access_tenant(operator, slug, "change_tenant")
    names = TenantForm.base_fields
    form = TenantForm(request.POST or None, initial={name: getattr(tenant, name) for name in names})
    if request.method == "POST" and form.is_valid():
        changed = refused_into_form(
            form, lambda: operations.change_tenant(tenant=tenant, actor=operator, now=now, **form.cleaned_data)
        )
        if changed is not None:
            messages.success(request, f"Changed {slug}; the release is on its way to the workers")
            return redirect("access-tenants")
    context = {"form": form, "title": f"Change {tenant.name}", "verb": "Save", "tenant": tenant}
    return render(request, "access/tenant.html", context, status=400 if form.errors else 200)


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def key_new(request: HttpRequest, slug: str) -> HttpResponse:
    """Issue an API key. The secret is in this one answer and nowhere else."""
    now = timezone.now()
    operator = actor_of(request)
    tenant = access_tenant(operator, slug, "manage_keys")
    form = CredentialForm(request.POST or None)
    del form.fields["days"]
    title = f"Issue a key to {tenant.name}"
    if request.method == "POST" and form.is_valid():
        name = form.cleaned_data["name"]
        issued = refused_into_form(
            form, lambda: operations.issue_key(tenant=tenant, name=name, actor=operator, now=now)
        )
        if issued is not None:
            return _show_once(request, issued, title=f"Key of {tenant.name}", back=reverse("access-tenants"))
    return render(
        request,
        "access/credential.html",
        {"form": form, "title": title, "verb": "Issue the key", "back": reverse("access-tenants")},
        status=400 if form.errors else 200,
    )


@login_required
@require_POST
def key_revoke(request: HttpRequest, pk: int) -> HttpResponse:
    """Revoke an API key: refused by every gateway once it serves the release that this cuts."""
    now = timezone.now()
    operator = actor_of(request)
    key = access_key(operator, pk)

    def revoke() -> bool:
        operations.revoke_key(key=key, actor=operator, now=now)
        return True

    if refused_as_message(request, revoke):
        messages.success(request, f"Revoked {key.prefix}… of {key.tenant.slug}")
    return redirect("access-tenants")


# --- operator tokens --------------------------------------------------------------------------------------------------
@login_required
@require_safe
def token_list(request: HttpRequest) -> HttpResponse:
    """The reader's own tokens; everybody's for who manages access."""
    operator = actor_of(request)
    context = {"tabs": _tabs(operator, "access-tokens"), "rows": list(visible_tokens(operator)), "now": timezone.now()}
    return render(request, "access/tokens.html", context)


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def token_new(request: HttpRequest) -> HttpResponse:
    """Issue a token to oneself; nobody issues one for another, since it could sign off in their name."""
    now = timezone.now()
    operator = actor_of(request)
    form = CredentialForm(request.POST or None, initial={"days": 90})
    if request.method == "POST" and form.is_valid():
        days = form.cleaned_data["days"]
        issued = refused_into_form(
            form,
            lambda: operations.issue_token(
                operator=operator,
                name=form.cleaned_data["name"],
                expires_at=now + timedelta(days=days) if days else None,
                actor=operator,
                now=now,
            ),
        )
        if issued is not None:
            return _show_once(request, issued, title="Your operator token", back=reverse("access-tokens"))
    return render(
        request,
        "access/credential.html",
        {
            "form": form,
            "title": "Issue an operator token",
            "verb": "Issue the token",
            "back": reverse("access-tokens"),
        },
        status=400 if form.errors else 200,
    )


@login_required
@require_POST
def token_revoke(request: HttpRequest, pk: int) -> HttpResponse:
    """Revoke an operator token; its next call is refused."""
    now = timezone.now()
    operator = actor_of(request)
    token = access_token(operator, pk)

    def revoke() -> bool:
        operations.revoke_token(token=token, actor=operator, now=now)
        return True

    if refused_as_message(request, revoke):
        messages.success(request, f"Revoked {token.prefix}… of {token.operator.username}")
    return redirect("access-tokens")


# --- what the pages show ----------------------------------------------------------------------------------------------
def _show_once(request: HttpRequest, issued: Issued, *, title: str, back: str) -> HttpResponse:
    """The page that shows a fresh secret. It answers the POST itself, so that no address leads to it again."""
    context = {"issued": issued, "title": title, "back": back}
    return render(request, "access/issued.html", context, status=201)


def _tabs(operator: Operator, active: str) -> list[dict[str, Any]]:
    tabs = [("access-tokens", "Operator tokens")]
    if may_somewhere(operator, "accounts.view_tenant"):
        tabs.insert(0, ("access-tenants", "Tenants & keys"))
    if may(operator, SEE_PEOPLE):
        tabs.insert(0, ("access", "People & roles"))
    return [{"label": label, "url": reverse(name), "active": name == active} for name, label in tabs]


def _targets() -> list[tuple[str, str]]:
    """What a role can be granted on, as (audit name, words)."""
    prompts = [(prompt.audit_name, f"Prompt {prompt.slug}") for prompt in Prompt.objects.only("slug")]
    tenants = [(tenant.audit_name, f"Tenant {tenant.slug}") for tenant in Tenant.objects.only("slug")]
    return prompts + tenants


def _target_named(name: str) -> Model | None:
    """The object of that audit name; None for everything."""
    if name == EVERYTHING:
        return None
    kind, _, slug = name.partition(":")
    model: type[Prompt] | type[Tenant] = Prompt if kind == "prompt" else Tenant
    target = model._default_manager.filter(slug=slug).first()
    if target is None:
        raise Http404("there is no such thing to grant a role on")
    return target
