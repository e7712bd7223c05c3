"""Forms of the access pages."""

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib.auth.password_validation import validate_password

from controlplane.accounts.models import Operator, Tenant, Tier
from controlplane.accounts.roles import ROLES, Role
from controlplane.console.forms.canaries import NamesField
from controlplane.console.forms.fields import NameField
from controlplane.console.names import offered, target_named
from controlplane.prompts.models import Prompt
from dataplane.access import IDEMPOTENCY_HOURS


class OperatorForm(forms.Form):
    """A new person, without any role."""

    username = forms.RegexField(
        r"^[\w.@+-]{1,150}$", label="Name", help_text="How the record knows them, for ever; it is never given again."
    )
    email = forms.EmailField(label="E-mail", help_text="Single sign-on meets them by it.")
    password = forms.CharField(
        label="First password",
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text="Left empty: they come in by single sign-on only.",
    )

    def clean_password(self) -> str | None:
        password: str = self.cleaned_data["password"]
        if not password:
            return None
        validate_password(password)
        return password


class GrantForm(forms.Form):
    """One role, on everything or on one object that the granter may see."""

    role = forms.ChoiceField(
        label="Role",
        choices=[(role.value, f"{role.label}: {ROLES[role].summary.lower()}") for role in Role],
        widget=forms.Select(attrs={"class": "form-select"}),
    )
    on = NameField(
        "targets",
        label="On",
        placeholder="everything",
        help_text="Say everything, or one prompt or tenant, such as prompt:support-answer. Typing finds them.",
    )

    def __init__(self, data: Any = None, *, operator: Operator) -> None:
        super().__init__(data)
        on = self.fields["on"]
        assert isinstance(on, NameField)  # noqa: S101 - narrows the type
        on.ask(names=offered("targets", operator), find=lambda name: target_named(operator, name))

    @property
    def target(self) -> Prompt | Tenant | None:
        """The object chosen; None is everything."""
        chosen: Prompt | Tenant | None = self.cleaned_data["on"]
        return chosen


class TenantForm(forms.Form):
    """Everything of a tenant but its slug."""

    name = forms.CharField(label="Name", max_length=100)
    tier = forms.ChoiceField(
        label="Tier", choices=Tier.choices, initial=Tier.STANDARD, widget=forms.Select(attrs={"class": "form-select"})
    )
    residency = NamesField(
        label="Residency pin",
        required=False,
        help_text="Zones its bytes may reach, between commas: eu. Empty: anywhere. No fallback ever leaves it.",
    )
    region = forms.CharField(
        label="Home region", max_length=40, required=False, help_text="Empty: the region of the gateway it calls."
    )
    is_internal = forms.BooleanField(
        label="Internal: the audience of internal-only stages", required=False, widget=forms.CheckboxInput
    )
    log_content = forms.BooleanField(
        label="Prompts and answers may be logged", required=False, widget=forms.CheckboxInput
    )
    idempotency_hours = forms.IntegerField(
        label="Idempotency keys are remembered for",
        min_value=IDEMPOTENCY_HOURS[0],
        max_value=IDEMPOTENCY_HOURS[1],
        initial=IDEMPOTENCY_HOURS[0],
        help_text="Hours, 24 to 72. So long, a request that comes again with its key gets the same answer.",
    )

    @staticmethod
    def initial_from(tenant: Tenant) -> dict[str, Any]:
        """The tenant as the form shows it."""
        names = ("name", "tier", "residency", "region", "is_internal", "log_content", "idempotency_hours")
        return {name: getattr(tenant, name) for name in names}


class NewTenantForm(TenantForm):
    """A new tenant."""

    slug = forms.SlugField(label="Slug", max_length=50, help_text="How keys, routes and the record name it, for ever.")
    field_order = ("slug", "name")


class CredentialForm(forms.Form):
    """What a key or token is for."""

    name = forms.CharField(label="What it is for", max_length=100)


class RotationForm(forms.Form):
    """For how long what is rotated goes on beside what takes its place."""

    hours = forms.TypedChoiceField(
        label="The old one stays good for",
        choices=[("1", "1 hour"), ("24", "1 day"), ("168", "7 days"), ("720", "30 days")],
        coerce=int,
        initial="168",
        widget=forms.Select(attrs={"class": "form-select"}),
    )

    @property
    def overlap(self) -> timedelta:
        """What was chosen."""
        return timedelta(hours=self.cleaned_data["hours"])


class TokenForm(CredentialForm):
    """An operator token, with an end."""

    days = forms.TypedChoiceField(
        label="Valid for",
        choices=[("7", "7 days"), ("30", "30 days"), ("90", "90 days"), ("365", "1 year")],
        coerce=int,
        initial="30",
        widget=forms.Select(attrs={"class": "form-select"}),
    )
