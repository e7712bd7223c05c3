"""The forms of the pages of dead letters: which groups, a plan, a hold, a rule of retention, an erasure."""

from collections.abc import Sequence
from typing import Any, Final

from django import forms
from django.db.models import QuerySet

from controlplane.accounts.models import Tenant
from controlplane.console.forms.fields import JSONTextField, NameField, ReasonForm
from controlplane.console.names import offered_slugs, tenant_named
from controlplane.deadletters.models import CATEGORIES
from controlplane.deadletters.plans import (
    CANARY_LETTERS,
    FAILURE_PERCENT,
    MAX_LETTERS,
    MOST_PER_MINUTE,
    PER_MINUTE,
)
from controlplane.deadletters.redrive import Settings
from controlplane.deadletters.retention import MAX_DAYS

_NUMBER: Final = {"class": "form-control", "inputmode": "numeric"}
_MOMENT: Final = {"class": "form-control", "type": "datetime-local"}


class GroupsForm(forms.Form):
    """Which groups."""

    kind = forms.ChoiceField(label="Kind of work", required=False)
    show = forms.ChoiceField(label="Show", required=False, choices=[("", "With open letters"), ("all", "All")])

    def __init__(self, *args: Any, kinds: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["kind"].choices = [("", "All"), *((kind, kind) for kind in kinds)]  # type: ignore[attr-defined]
        for field in self.fields.values():
            field.widget.attrs["class"] = "form-select"


def _number(label: str, initial: int, least: int, most: int, help_text: str = "") -> forms.IntegerField:
    return forms.IntegerField(
        label=label,
        initial=initial,
        min_value=least,
        max_value=most,
        help_text=help_text,
        widget=forms.NumberInput(attrs=_NUMBER),
    )


class PatchField(JSONTextField):
    """A JSON merge patch, or nothing, which is shown as nothing."""

    def prepare_value(self, value: Any) -> Any:
        return "" if value is None else super().prepare_value(value)


class PlanForm(ReasonForm):
    """A plan to redrive the letters of a group, or one letter."""

    most = _number("Letters at most", MAX_LETTERS, 1, MAX_LETTERS, "The oldest first.")
    since = forms.DateTimeField(label="Failed since", required=False, widget=forms.DateTimeInput(attrs=_MOMENT))
    until = forms.DateTimeField(label="Failed before", required=False, widget=forms.DateTimeInput(attrs=_MOMENT))
    edit = PatchField(
        label="Edit",
        required=False,
        rows=5,
        help_text="A JSON merge patch of each request: what stands here replaces what was there, null removes it.",
    )
    canary_letters = _number("Canary", CANARY_LETTERS, 1, 100, "So many first, one at a time; all must succeed.")
    per_minute = _number("Letters a minute", PER_MINUTE, 1, 6000, "Doubled every minute …")
    most_per_minute = _number("And at most", MOST_PER_MINUTE, 1, 6000, "… up to so many.")
    failure_percent = _number("Stops itself above", FAILURE_PERCENT, 0, 100, "% of the last 20 that failed again.")

    def __init__(self, *args: Any, size: int | None = None, **kwargs: Any) -> None:
        """`size` None: one letter, of which there is nothing to choose."""
        super().__init__(*args, **kwargs)
        if size is None:
            for name in ("most", "since", "until"):
                del self.fields[name]
            self.fields["edit"].label = "Edit, as a merge patch"
        else:
            self.fields["most"].initial = min(size, MAX_LETTERS)
        self.order_fields([name for name in self.fields if name != "reason"])

    def clean(self) -> dict[str, Any]:
        """Hold the pace's two ends against each other."""
        cleaned = super().clean() or {}
        least, most = cleaned.get("per_minute"), cleaned.get("most_per_minute")
        if least is not None and most is not None and least > most:
            self.add_error("most_per_minute", "A ramp does not end below where it begins")
        return cleaned

    @property
    def settings(self) -> Settings:
        """How it is to be carried out."""
        names = ("canary_letters", "per_minute", "most_per_minute", "failure_percent")
        return Settings(**{name: self.cleaned_data[name] for name in names})

    @property
    def patch(self) -> dict[str, Any] | None:
        """The edit as a plan takes it."""
        edit = self.cleaned_data.get("edit")
        return {"merge": edit} if edit else None


class HoldForm(ReasonForm):
    """Until when, and why, a payload is kept from being purged."""

    until = forms.DateTimeField(label="Until", required=False, widget=forms.DateTimeInput(attrs=_MOMENT))


def _ask_for_tenant(form: forms.Form, tenants: QuerySet[Tenant]) -> None:
    field = form.fields["tenant"]
    assert isinstance(field, NameField)  # noqa: S101 - for the type checker
    field.ask(names=offered_slugs(tenants), find=lambda slug: tenant_named(tenants, slug).slug)


class RuleForm(ReasonForm):
    """For how long payloads are kept."""

    tenant = NameField("tenants", label="Tenant", required=False, placeholder="every tenant")
    category = forms.ChoiceField(
        label="Category",
        required=False,
        choices=[("", "Every category"), *((one, one.replace("_", " ")) for one in CATEGORIES)],
        widget=forms.Select(attrs={"class": "form-select"}),
    )
    days = _number("Days", 30, 0, MAX_DAYS, "After the work failed; 0 purges within the hour.")

    def __init__(self, *args: Any, tenants: QuerySet[Tenant], **kwargs: Any) -> None:
        """`tenants`: those that a rule may be set for."""
        super().__init__(*args, **kwargs)
        _ask_for_tenant(self, tenants)
        self.order_fields(["tenant", "category", "days", "reason"])


class ErasureForm(ReasonForm):
    """Whose data goes. The id itself is hashed here and kept nowhere."""

    tenant = NameField("tenants", label="Tenant")
    user = forms.CharField(
        label="User's id, or its SHA-256",
        max_length=500,
        strip=False,
        widget=forms.TextInput(attrs={"class": "form-control", "autocomplete": "off", "spellcheck": "false"}),
        help_text="As the application names the user. It is hashed at once and kept nowhere.",
    )
    confirm = forms.CharField(
        label="Type the tenant's name to confirm",
        widget=forms.TextInput(attrs={"class": "form-control", "autocomplete": "off"}),
    )

    def __init__(self, *args: Any, tenants: QuerySet[Tenant], **kwargs: Any) -> None:
        """`tenants`: those of whose users something may be erased."""
        super().__init__(*args, **kwargs)
        _ask_for_tenant(self, tenants)
        self.order_fields(["tenant", "user", "reason", "confirm"])

    def clean(self) -> dict[str, Any]:
        """What cannot be undone is typed, not clicked."""
        cleaned = super().clean() or {}
        if cleaned.get("tenant") and cleaned.get("confirm") != cleaned["tenant"]:
            self.add_error("confirm", f"Type {cleaned['tenant']!r}, exactly so")
        return cleaned
