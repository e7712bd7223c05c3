"""The filter of the audit page."""

from datetime import UTC, datetime, time, timedelta
from typing import Any

from django import forms
from django.db.models import QuerySet

from controlplane.audit.models import AuditEvent


class AuditForm(forms.Form):
    """Who exactly; what and on what, or how they begin; when. Everything given must fit."""

    actor = forms.CharField(label="Who", required=False, max_length=150)
    action = forms.CharField(
        label="What", required=False, max_length=100, widget=forms.TextInput(attrs={"placeholder": "canary"})
    )
    target = forms.CharField(
        label="On what",
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"placeholder": "prompt:support-answer"}),
    )
    since = forms.DateField(label="From day", required=False, widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(label="To day", required=False, widget=forms.DateInput(attrs={"type": "date"}))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for field in self.fields.values():
            field.widget.attrs["class"] = "form-control"

    def narrow(self, events: QuerySet[AuditEvent]) -> QuerySet[AuditEvent]:
        """The events that fit; what does not parse narrows nothing, and the form says so."""
        wanted = self.cleaned_data if self.is_valid() else {}
        if wanted.get("actor"):
            events = events.filter(actor=wanted["actor"].strip())
        if wanted.get("action"):
            events = events.filter(action__startswith=wanted["action"].strip())
        if wanted.get("target"):
            events = events.filter(target__startswith=wanted["target"].strip())
        if wanted.get("since"):
            events = events.filter(at__gte=_midnight(wanted["since"]))
        if wanted.get("until"):
            events = events.filter(at__lt=_midnight(wanted["until"]) + timedelta(days=1))
        return events


def _midnight(day: Any) -> datetime:
    """The start of a day, in UTC: the record's own clock."""
    return datetime.combine(day, time.min, UTC)
