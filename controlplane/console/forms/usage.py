"""The filters of the usage pages."""

from collections.abc import Sequence
from typing import Any

from django import forms

from controlplane.console.idempotency_content import STEPS
from controlplane.ledger.jobs import STATES
from controlplane.ledger.stream_rows import OUTCOMES
from dataplane.destinations import DeliveryState
from dataplane.idempotency import MAX_KEY_CHARACTERS, Event, full_user_hash

HOURS = {1: "Last hour", 24: "Last 24 hours", 168: "Last 7 days", 744: "Last 31 days"}
DEFAULT_HOURS = 1
DEFAULT_STREAM_HOURS = 24
DEFAULT_KEY_HOURS = 24
DAYS = {7: "7 days", 30: "30 days", 90: "90 days"}
DEFAULT_DAYS = 30


class OfTenantsForm(forms.Form):
    """A filter of what belongs to tenants. Each has its field `tenant`, at its own place among the others."""

    def __init__(self, *args: Any, tenants: Sequence[str], everybody: bool = False, **kwargs: Any) -> None:
        """`tenants` are the slugs that the reader may see; `everybody`: these are all, and those that are gone too."""
        super().__init__(*args, **kwargs)
        self._tenants = None if everybody else list(tenants)
        self.fields["tenant"].choices = [("", "All"), *((slug, slug) for slug in tenants)]  # type: ignore[attr-defined]
        for field in self.fields.values():
            field.widget.attrs["class"] = "form-select" if isinstance(field, forms.ChoiceField) else "form-control"

    @property
    def wanted(self) -> list[str] | None:
        """The tenants to look at: the one that was chosen, else all that the reader may see; None: everybody."""
        chosen = self.cleaned_data["tenant"] if self.is_valid() else ""
        return [chosen] if chosen else self._tenants


class UsageForm(OfTenantsForm):
    """What to look for; everything given must fit."""

    request = forms.CharField(label="Request id", required=False, max_length=64)
    tenant = forms.ChoiceField(label="Tenant", required=False)
    key = forms.CharField(label="Key starts with", required=False, max_length=16)
    prompt = forms.CharField(label="Prompt", required=False, max_length=100)
    lane = forms.CharField(label="Lane", required=False, max_length=200)
    hours = forms.TypedChoiceField(label="Period", required=False, coerce=int, choices=list(HOURS.items()))


class RetriesForm(OfTenantsForm):
    """Which days, whose attempts, and where; everything given must fit."""

    # Chosen by links above the chart; kept when the rest is filtered anew.
    days = forms.TypedChoiceField(required=False, coerce=int, choices=list(DAYS.items()), widget=forms.HiddenInput)
    tenant = forms.ChoiceField(label="Tenant", required=False)
    lane = forms.CharField(label="Lane", required=False, max_length=200)


class TryStreamForm(forms.Form):
    """What to ask the gateway, and as whom."""

    key = forms.CharField(
        label="API key",
        max_length=100,
        strip=True,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text="Of the tenant that asks. It goes to the gateway with the question and is not kept.",
    )
    route = forms.CharField(label="Route", max_length=100, initial="chat")
    question = forms.CharField(
        label="Question", max_length=500, initial="Explain in detail how I return a pair of shoes, step by step."
    )


class StreamsForm(OfTenantsForm):
    """Which streams; everything given must fit."""

    stream = forms.CharField(label="Stream or request id", required=False, max_length=64)
    tenant = forms.ChoiceField(label="Tenant", required=False)
    key = forms.CharField(label="Key starts with", required=False, max_length=16)
    outcome = forms.ChoiceField(label="Outcome", required=False, choices=[("", "All"), *((o, o) for o in OUTCOMES)])
    figures = forms.ChoiceField(label="Figures", required=False, choices=[("", "All"), ("broken", "Out of order")])
    hours = forms.TypedChoiceField(label="Period", required=False, coerce=int, choices=list(HOURS.items()))


class KeysForm(OfTenantsForm):
    """Which idempotency keys; everything given must fit. A user's id is asked for, and only its hash is kept."""

    key = forms.CharField(label="Idempotency key", required=False, max_length=MAX_KEY_CHARACTERS)
    request = forms.CharField(label="Request id", required=False, max_length=64)
    tenant = forms.ChoiceField(label="Tenant", required=False)
    user = forms.CharField(
        label="User id", required=False, widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"})
    )
    user_hash = forms.RegexField(r"^[0-9a-f]{64}\Z", required=False, widget=forms.HiddenInput)
    event = forms.ChoiceField(
        label="Step", required=False, choices=[("", "First requests"), *((e.value, STEPS[e][0]) for e in Event)]
    )
    hours = forms.TypedChoiceField(label="Period", required=False, coerce=int, choices=list(HOURS.items()))

    @property
    def query(self) -> dict[str, Any]:
        """What was asked for, as an address may hold it. The form must be valid."""
        asked = {**self.cleaned_data, "user": ""}
        if user := self.cleaned_data["user"]:
            asked["user_hash"] = full_user_hash(user)
        return {name: value for name, value in asked.items() if value}


class JobsForm(OfTenantsForm):
    """Which jobs; everything given must fit."""

    job = forms.CharField(label="Job id", required=False, max_length=64)
    tenant = forms.ChoiceField(label="Tenant", required=False)
    status = forms.ChoiceField(label="Status", required=False, choices=[("", "All"), *((s, s) for s in STATES)])
    answer = forms.ChoiceField(
        label="Answer sent",
        required=False,
        choices=[("", "All"), *((state.value, state.replace("_", " ")) for state in DeliveryState)],
    )


class DriftForm(OfTenantsForm):
    """Which days, and whose streams; everything given must fit."""

    # Chosen by links above the chart; kept when the rest is filtered anew.
    days = forms.TypedChoiceField(required=False, coerce=int, choices=list(DAYS.items()), widget=forms.HiddenInput)
    tenant = forms.ChoiceField(label="Tenant", required=False)
    route = forms.CharField(label="Route", required=False, max_length=100)
