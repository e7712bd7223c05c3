"""The filters of the usage pages."""

from typing import Any

from django import forms

HOURS = {1: "Last hour", 24: "Last 24 hours", 168: "Last 7 days", 744: "Last 31 days"}
DEFAULT_HOURS = 1
DAYS = {7: "7 days", 30: "30 days", 90: "90 days"}
DEFAULT_DAYS = 30


class UsageForm(forms.Form):
    """What to look for; everything given must fit."""

    request = forms.CharField(label="Request id", required=False, max_length=64)
    tenant = forms.ChoiceField(label="Tenant", required=False)
    key = forms.CharField(label="Key starts with", required=False, max_length=16)
    prompt = forms.CharField(label="Prompt", required=False, max_length=100)
    lane = forms.CharField(label="Lane", required=False, max_length=200)
    hours = forms.TypedChoiceField(label="Period", required=False, coerce=int, choices=list(HOURS.items()))

    def __init__(self, *args: Any, tenants: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _dress(self, tenants)


class RetriesForm(forms.Form):
    """Which days, whose attempts, and where; everything given must fit."""

    # Chosen by links above the chart; kept when the rest is filtered anew.
    days = forms.TypedChoiceField(required=False, coerce=int, choices=list(DAYS.items()), widget=forms.HiddenInput)
    tenant = forms.ChoiceField(label="Tenant", required=False)
    lane = forms.CharField(label="Lane", required=False, max_length=200)

    def __init__(self, *args: Any, tenants: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _dress(self, tenants)


def _dress(form: forms.Form, tenants: list[str]) -> None:
    form.fields["tenant"].choices = [("", "All"), *((slug, slug) for slug in tenants)]  # type: ignore[attr-defined]
    for field in form.fields.values():
        field.widget.attrs["class"] = "form-select" if isinstance(field, forms.ChoiceField) else "form-control"
