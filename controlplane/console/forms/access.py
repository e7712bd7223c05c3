"""Forms of the access pages."""

from typing import Any

from django import forms

from controlplane.accounts.models import Operator, Tier
from controlplane.accounts.roles import ROLES, Role
from controlplane.console.forms.canaries import NamesField

EVERYTHING = "everything"


def _styled(form: forms.Form) -> None:
    for field in form.fields.values():
        widget = field.widget
        if isinstance(widget, forms.Select):
            widget.attrs.setdefault("class", "form-select")
        elif not isinstance(widget, forms.CheckboxInput):
            widget.attrs.setdefault("class", "form-control")


class GrantForm(forms.Form):
    """One role, to one person, on everything or on one object."""

    operator = forms.ChoiceField(label="Person")
    role = forms.ChoiceField(label="Role", choices=[(role.value, role.label) for role in Role])
    target = forms.ChoiceField(label="On")

    def __init__(self, *args: Any, operators: list[Operator], targets: list[tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["operator"].choices = [(o.username, o.display_name) for o in operators]  # type: ignore[attr-defined]
        self.fields["target"].choices = [(EVERYTHING, "Everything"), *targets]  # type: ignore[attr-defined]
        self.fields["role"].help_text = "; ".join(f"{role.label}: {ROLES[role].summary.lower()}" for role in Role)
        _styled(self)


class OperatorForm(forms.Form):
    """A new person, without any role yet."""

    username = forms.SlugField(label="Name", max_length=150, help_text="How the record knows them, for ever.")
    email = forms.EmailField(label="E-mail", help_text="By which single sign-on knows them.")
    password = forms.CharField(
        label="First password",
        required=False,
        min_length=12,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text="At least 12 characters; leave it empty for somebody who signs in by single sign-on only.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _styled(self)


class TenantForm(forms.Form):
    """Everything of a tenant but its slug."""

    name = forms.CharField(label="Name", max_length=100)
    tier = forms.ChoiceField(label="Tier", choices=Tier.choices, initial=Tier.STANDARD)
    residency = NamesField(
        label="Residency pin",
        required=False,
        help_text="Zones that its bytes may reach, such as: eu. Empty: anywhere. No fallback ever leaves the pin.",
    )
    region = forms.CharField(
        label="Home region", required=False, max_length=40, help_text="Empty: the region of the gateway it calls."
    )
    is_internal = forms.BooleanField(
        label="Internal tenant", required=False, help_text="Internal tenants see a canary before anybody else."
    )
    log_content = forms.BooleanField(
        label="Prompts and answers may be logged", required=False, help_text="Off unless the tenant agreed to it."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _styled(self)


class NewTenantForm(TenantForm):
    """A new tenant."""

    slug = forms.SlugField(label="Slug", max_length=50, help_text="It cannot be changed later.")
    field_order = ("slug", "name")


class CredentialForm(forms.Form):
    """A name by which people will know what a credential is for."""

    name = forms.CharField(label="What it is for", max_length=100)
    days = forms.IntegerField(
        label="Expires after days", required=False, min_value=1, max_value=3650, help_text="Empty: never."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _styled(self)
