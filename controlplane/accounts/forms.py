"""allauth's forms in our words: labels in sentence case, and no placeholder that says the label again."""

from typing import Any

from allauth.account.forms import ChangePasswordForm, LoginForm
from django import forms


def speak_plainly(form: forms.Form, labels: dict[str, str]) -> None:
    """Give the fields these labels and take their placeholders away."""
    for name, field in form.fields.items():
        field.label = labels.get(name, field.label)
        field.widget.attrs.pop("placeholder", None)


class SignInForm(LoginForm):  # type: ignore[misc]  # allauth ships no types
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        speak_plainly(self, {"login": "Username", "password": "Password"})


class NewPasswordForm(ChangePasswordForm):  # type: ignore[misc]  # allauth ships no types
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        labels = {"oldpassword": "Current password", "password1": "New password", "password2": "New password, again"}
        speak_plainly(self, labels)
