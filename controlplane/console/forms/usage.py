"""The filter of the usage page."""

from typing import Any

from django import forms

HOURS = {1: "Last hour", 24: "Last 24 hours", 168: "Last 7 days", 744: "Last 31 days"}
DEFAULT_HOURS = 1


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
        self.fields["tenant"].choices = [("", "All"), *((slug, slug) for slug in tenants)]  # type: ignore[attr-defined]
        for field in self.fields.values():
            field.widget.attrs["class"] = "form-select" if isinstance(field, forms.ChoiceField) else "form-control"
