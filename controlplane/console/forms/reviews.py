"""Forms of the review page."""

from typing import Any

from django import forms

from controlplane.accounts.roles import Role
from controlplane.approvals.models import Decision


class SignOffForm(forms.Form):
    """One word on one digest. The digest travels in the form: it is what the reviewer was shown."""

    decision = forms.ChoiceField(choices=Decision.choices, widget=forms.HiddenInput)
    digest = forms.CharField(max_length=64, widget=forms.HiddenInput)
    role = forms.ChoiceField(label="Sign as", choices=())
    has_seen = forms.BooleanField(label="I have seen this, and approve all the same", required=False)
    comment = forms.CharField(
        label="Comment",
        required=False,
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 2, "class": "form-control"}),
    )

    def __init__(self, *args: Any, roles: list[Role], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["role"].choices = [(role.value, role.label) for role in roles]  # type: ignore[attr-defined]
        self.fields["role"].widget.attrs["class"] = "form-select"

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("decision") == Decision.REQUEST_CHANGES and not data.get("comment", "").strip():
            self.add_error("comment", "say what should change")
        return data


class BreakGlassForm(forms.Form):
    """A bypass: why, for which incident, for how long, of what was shown."""

    digest = forms.CharField(max_length=64)
    reason = forms.CharField(max_length=2000)
    incident = forms.CharField(label="Incident", max_length=100)
    minutes = forms.IntegerField(label="Minutes", min_value=1, max_value=240, initial=60)
