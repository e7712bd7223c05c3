"""The access pages of tenants: who they are, where their bytes may go, and the keys their applications call with."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Count, Max, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.accounts import operations
from controlplane.accounts.access import access_key, access_tenant, may, require, visible_tenants
from controlplane.accounts.models import Operator, Standing, Tenant
from controlplane.audit.models import AuditEvent
from controlplane.console.forms.access import CredentialForm, NewTenantForm, RotationForm, TenantForm
from controlplane.console.requests import actor_of, refused_as_message, refused_into_form, went_through
from controlplane.console.routing_content import reaches
from controlplane.console.timeline import timeline
from controlplane.console.views.access import access_tabs, shown_once
from controlplane.deliveries import operations as deliveries
from controlplane.deliveries.models import WebhookSecret
from controlplane.routing.operations import routing_tables

ADD = "accounts.add_tenant"


@login_required
@require_safe
def tenant_list(request: HttpRequest) -> HttpResponse:
    """The tenants that the reader may see, with how many keys call for them and when one last did."""
    operator = actor_of(request)
    tenants = visible_tenants(operator).annotate(
        active_keys=Count("api_keys", filter=Q(api_keys__revoked_at__isnull=True, api_keys__lapsed_at__isnull=True)),
        last_used_at=Max("api_keys__last_used_at"),
    )
    context = {"rows": tenants, "may_add": may(operator, ADD), "tabs": access_tabs(operator, "access-tenants")}
    return render(request, "access/tenants.html", context)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def tenant_new(request: HttpRequest) -> HttpResponse:
    """Create a tenant; it can call the gateway once a key is issued."""
    operator = actor_of(request)
    require(operator, ADD)
    form = NewTenantForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        created = refused_into_form(
            form, lambda: operations.create_tenant(**form.cleaned_data, actor=operator, now=timezone.now())
        )
        if created is not None:
            messages.success(request, f"Created {created.slug}; issue a key so that its applications can call")
            return redirect("tenant", slug=created.slug)
    lead = "A customer whose applications call the gateway."
    context = {"form": form, "title": "New tenant", "lead": lead, "verb": "Create the tenant"}
    return render(request, "access/form.html", context, status=400 if form.errors else 200)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def tenant_page(request: HttpRequest, slug: str) -> HttpResponse:
    """One tenant: its facts, the lanes that its bytes may reach, its keys with their last use."""
    now = timezone.now()
    operator = actor_of(request)
    if request.method != "POST":
        tenant = access_tenant(operator, slug)
        return render(request, "access/tenant.html", _context(operator, tenant, TenantForm.initial_from(tenant)))
    tenant = access_tenant(operator, slug, "change_tenant")
    form = TenantForm(request.POST)
    if form.is_valid():
        changed = refused_into_form(
            form,
            lambda: operations.change_tenant(tenant=tenant, **form.cleaned_data, actor=operator, now=now),
        )
        if changed is not None:
            messages.success(request, f"Changed {slug}; workers know it with the release that is on its way")
            return redirect("tenant", slug=slug)
    return render(request, "access/tenant.html", {**_context(operator, tenant, {}), "form": form}, status=400)


@login_required
@never_cache
@require_POST
def key_issue(request: HttpRequest, slug: str) -> HttpResponse:
    """Issue an API key. Its secret is in this answer and nowhere else, so this page is not redirected to."""
    operator = actor_of(request)
    tenant = access_tenant(operator, slug, "manage_keys")
    form = CredentialForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Say what the key is for")
        return redirect("tenant", slug=slug)
    name = form.cleaned_data["name"]
    issued = refused_as_message(
        request, lambda: operations.issue_key(tenant=tenant, name=name, actor=operator, now=timezone.now())
    )
    if issued is None:
        return redirect("tenant", slug=slug)
    context = {
        "title": f"Key {issued.row.prefix}… of {slug} is issued",
        "secret": issued.secret,
        "what": f"Applications of {tenant.name} call the gateway with it, as soon as workers serve the new release.",
        "usage": f'OpenAI(base_url="<gateway>/v1", api_key="{issued.secret}")',
        "back_url_name": "tenant",
        "back_slug": slug,
        "back_text": "I have stored it",
    }
    return shown_once(request, context)


@login_required
@never_cache
@require_POST
def webhook_secret(request: HttpRequest, slug: str) -> HttpResponse:
    """Give the tenant's webhooks a secret, the first or another. It is in this answer and nowhere else."""
    operator = actor_of(request)
    tenant = access_tenant(operator, slug, "manage_keys")
    secret = refused_as_message(
        request, lambda: deliveries.rotate_secret(tenant=tenant, actor=operator, now=timezone.now())
    )
    if secret is None:
        return redirect("tenant", slug=slug)
    known = WebhookSecret.objects.get(tenant=tenant)
    context = {
        "title": f"Webhook secret of {slug}",
        "secret": secret,
        "what": "With it the tenant's applications tell our answers to its jobs from anybody else's.",
        "kept": "It is kept sealed and shown to nobody again. Copy it now to the receiver; who loses it rotates it.",
        "usage": "payload = verify(body, headers, secret)  # docs/jobs.md has the lines",
        "back_url_name": "tenant",
        "back_slug": slug,
        "back_text": "I have stored it",
        "until": known.old_secret_until,
    }
    return shown_once(request, context)


@login_required
@never_cache
@require_POST
def key_rotate(request: HttpRequest, pk: int) -> HttpResponse:
    """Issue the key that takes the place of another. Its secret is in this answer and nowhere else."""
    now = timezone.now()
    operator = actor_of(request)
    key = access_key(operator, pk)
    form = RotationForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Say for how long the old key stays good")
        return redirect("tenant", slug=key.tenant.slug)
    issued = refused_as_message(
        request, lambda: operations.rotate_key(key=key, overlap=form.overlap, actor=operator, now=now)
    )
    if issued is None:
        return redirect("tenant", slug=key.tenant.slug)
    key.refresh_from_db()
    context = {
        "title": f"Key {issued.row.prefix}… takes the place of {key.prefix}…",
        "secret": issued.secret,
        "what": f"Change the applications of {key.tenant.name} to it.",
        "usage": f'OpenAI(base_url="<gateway>/v1", api_key="{issued.secret}")',
        "back_url_name": "tenant",
        "back_slug": key.tenant.slug,
        "back_text": "I have stored it",
        "good_until": key.expires_at,
    }
    return shown_once(request, context)


@login_required
@require_POST
def key_revoke(request: HttpRequest, pk: int) -> HttpResponse:
    """Revoke an API key: every gateway refuses it as soon as it serves the release that this cuts."""
    now = timezone.now()
    operator = actor_of(request)
    key = access_key(operator, pk)
    if went_through(request, lambda: operations.revoke_key(key=key, actor=operator, now=now)):
        messages.success(request, f"Key {key.prefix}… is revoked; gateways refuse it within a second")
    return redirect("tenant", slug=key.tenant.slug)


# --- what the pages show ----------------------------------------------------------------------------------------------
def _context(operator: Operator, tenant: Tenant, initial: dict[str, Any]) -> dict[str, Any]:
    now = timezone.now()
    table = routing_tables.active()
    manages_keys = may(operator, "accounts.manage_keys", tenant)
    keys = [
        {
            "key": key,
            "standing": key.standing(now).value,
            "successor": getattr(key, "successor", None),
            "dialog": f"revoke-{key.pk}",
            "title": f"Revoke key {key.prefix}… of {tenant.slug}",
            "rotate_dialog": f"rotate-{key.pk}",
            "rotation": RotationForm(auto_id=f"rotate-{key.pk}-%s"),
            "rotate_title": f"Rotate key {key.prefix}… of {tenant.slug}",
        }
        for key in (tenant.api_keys.select_related("successor").order_by("-created_at") if manages_keys else ())
    ]
    return {
        "tenant": tenant,
        "form": TenantForm(initial=initial),
        "may_change": may(operator, "accounts.change_tenant", tenant),
        "manages_keys": manages_keys,
        "keys": sorted(keys, key=lambda row: row["standing"] in {Standing.REVOKED, Standing.ENDED}),
        "key_form": CredentialForm(),
        "webhook_secret": WebhookSecret.objects.filter(tenant=tenant).first() if manages_keys else None,
        "rotate_title": f"Rotate the webhook secret of {tenant.slug}",
        "reaches": reaches(table.parsed(), tenant) if table else [],
        "events": timeline(AuditEvent.objects.filter(target=tenant.audit_name)[:12]),
    }
