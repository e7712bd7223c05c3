"""The page of alerts: whom they go to, what there was to tell, and whether it arrived."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from controlplane.accounts.access import may, require
from controlplane.accounts.models import Operator
from controlplane.alerts import operations
from controlplane.alerts.access import MANAGE, access_channel, visible_alerts, visible_channels
from controlplane.alerts.models import Channel, ChannelKind, Delivery, DeliveryState, Severity
from controlplane.console.forms.alerts import ChannelForm, NewChannelForm
from controlplane.console.requests import actor_of, refused_as_message, refused_into_form, went_through
from controlplane.console.views.access import access_tabs, shown_once

SHOWN = 30
DELIVERY_TONES = {DeliveryState.PENDING: "watch", DeliveryState.DELIVERED: "good", DeliveryState.FAILED: "bad"}
SEVERITY_TONES = {Severity.PAGE: "bad", Severity.WARN: "watch", Severity.INFO: "info"}


@login_required
@require_safe
def alerts(request: HttpRequest) -> HttpResponse:
    """The channels with what became of their last delivery, and the newest alerts with all of theirs."""
    operator = actor_of(request)
    channels = visible_channels(operator)
    last = {row.channel_id: _told(row) for row in Delivery.objects.newest_of_each(channels)}
    told = Prefetch("deliveries", Delivery.objects.select_related("channel").order_by("channel__slug"))
    found = list(visible_alerts(operator).prefetch_related(told)[: SHOWN + 1])
    context = {
        "channels": [{"channel": channel, "last": last.get(channel.pk)} for channel in channels],
        "alerts": [
            {
                "alert": alert,
                "tone": SEVERITY_TONES[Severity(alert.severity)],
                "told": [_told(one) for one in alert.deliveries.all()],
            }
            for alert in found[:SHOWN]
        ],
        "has_more": len(found) > SHOWN,
        "shown": SHOWN,
        "may_manage": may(operator, MANAGE),
        "tabs": access_tabs(operator, "alert-channels"),
    }
    return render(request, "alerts/alerts.html", context)


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def channel_new(request: HttpRequest, kind: str) -> HttpResponse:
    """Add a channel. A webhook's secret is in this answer and nowhere else, so it is not redirected to."""
    operator = actor_of(request)
    require(operator, MANAGE)
    if kind not in ChannelKind.values:
        raise Http404(f"there are no channels of the kind {kind!r}")
    form = NewChannelForm(request.POST or None, kind=kind)
    if request.method == "POST" and form.is_valid():
        issued = refused_into_form(
            form,
            lambda: operations.create_channel(
                **form.cleaned_data, kind=ChannelKind(kind), actor=operator, now=timezone.now()
            ),
        )
        if issued is not None and issued.secret:
            return _secret(request, issued, f"Channel {issued.channel.slug} is there")
        if issued is not None:
            messages.success(request, f"Channel {issued.channel.slug} is there; send a test alert to see it arrive")
            return redirect(issued.channel)
    leads = {"webhook": "A program that is told by a signed POST.", "email": "Mailboxes that are written to."}
    title = {"webhook": "New webhook", "email": "New e-mail channel"}[kind]
    context = {"form": form, "title": title, "lead": leads[kind], "verb": "Add the channel"}
    return render(request, "alerts/new.html", context, status=400 if form.errors else 200)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def channel(request: HttpRequest, slug: str) -> HttpResponse:
    """One channel: what was sent to it; for who manages channels, where it leads and everything to do with it."""
    now = timezone.now()
    operator = actor_of(request)
    if request.method != "POST":
        shown = access_channel(operator, slug)
        form = ChannelForm(kind=shown.kind, initial=ChannelForm.initial_from(shown))
        return render(request, "alerts/channel.html", _context(operator, shown, form))
    changed = access_channel(operator, slug, "manage_channels")
    form = ChannelForm(request.POST, kind=changed.kind)
    if form.is_valid():
        saved = refused_into_form(
            form,
            lambda: operations.change_channel(channel=changed, **form.cleaned_data, actor=operator, now=now),
        )
        if saved is not None:
            messages.success(request, f"Changed {slug}; what is still on its way goes to {saved.place} too")
            return redirect(saved)
    return render(request, "alerts/channel.html", _context(operator, changed, form), status=400)


@login_required
@never_cache
@require_POST
def channel_rotate(request: HttpRequest, slug: str) -> HttpResponse:
    """Give a webhook another secret; it is in this answer and nowhere else."""
    now = timezone.now()
    operator = actor_of(request)
    rotated = access_channel(operator, slug, "manage_channels")
    issued = refused_as_message(request, lambda: operations.rotate_secret(channel=rotated, actor=operator, now=now))
    if issued is None:
        return redirect(rotated)
    return _secret(request, issued, f"Channel {slug} has another secret")


@login_required
@require_POST
def channel_enable(request: HttpRequest, slug: str) -> HttpResponse:
    """Send alerts to a channel again."""
    return _set_enabled(request, slug, enabled=True)


@login_required
@require_POST
def channel_disable(request: HttpRequest, slug: str) -> HttpResponse:
    """Send nothing to a channel any more."""
    return _set_enabled(request, slug, enabled=False)


def _set_enabled(request: HttpRequest, slug: str, *, enabled: bool) -> HttpResponse:
    now = timezone.now()
    operator = actor_of(request)
    changed = access_channel(operator, slug, "manage_channels")
    if went_through(request, lambda: operations.set_enabled(channel=changed, enabled=enabled, actor=operator, now=now)):
        messages.success(request, f"Alerts go to {slug} again" if enabled else f"Nothing goes to {slug} any more")
    return redirect(changed)


@login_required
@require_POST
def channel_test(request: HttpRequest, slug: str) -> HttpResponse:
    """Send a test alert to one channel."""
    now = timezone.now()
    operator = actor_of(request)
    tested = access_channel(operator, slug, "manage_channels")
    if went_through(request, lambda: operations.send_test(channel=tested, actor=operator, now=now)):
        messages.success(request, f"A test alert is on its way to {tested.place}; look below whether it arrives")
    return redirect(tested)


# --- what the pages show ---------------------------------------------------------------------------------------------
def _secret(request: HttpRequest, issued: operations.Issued, title: str) -> HttpResponse:
    context: dict[str, Any] = {"title": title, "secret": issued.secret, "channel": issued.channel}
    return shown_once(request, context, template="alerts/secret.html")


def _told(delivery: Delivery) -> dict[str, Any]:
    state = DeliveryState(delivery.state)
    return {"delivery": delivery, "tone": DELIVERY_TONES[state], "text": state.label.lower()}


def _context(operator: Operator, shown: Channel, form: ChannelForm) -> dict[str, Any]:
    newest = shown.deliveries.select_related("alert").order_by("-created_at", "-id")[:SHOWN]
    is_overlapping = shown.old_secret_until is not None and timezone.now() < shown.old_secret_until
    return {
        "channel": shown,
        "form": form,
        "told": [_told(one) for one in newest],
        "is_overlapping": is_overlapping,
        "may_manage": may(operator, MANAGE),
        "test_title": f"Send a test alert to {shown.place}",
        "rotate_title": f"Give {shown.slug} another secret",
        "disable_title": f"Send nothing to {shown.slug} any more",
    }
