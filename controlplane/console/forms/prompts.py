"""Forms of the prompt pages: they parse what was typed; whether it may be served is the operations' to say."""

from collections.abc import Mapping
from typing import Any

from django import forms

from controlplane.console.forms.fields import JSONTextField
from controlplane.prompts.models import ChangeClass, PromptVersion

ROLES = [("system", "System"), ("user", "User"), ("assistant", "Assistant")]
EMPTY_SCHEMA: dict[str, Any] = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}


class PromptForm(forms.Form):
    """A new prompt, before it has any version."""

    slug = forms.SlugField(
        label="Slug", max_length=50, help_text="How applications name it; it cannot be changed later."
    )
    title = forms.CharField(label="Title", max_length=120)
    route = forms.ChoiceField(label="Route", help_text="The lanes that its requests take when the caller names none.")
    description = forms.CharField(
        label="What it is for",
        required=False,
        widget=forms.Textarea(attrs={"rows": 3}),
    )

    def __init__(self, *args: Any, routes: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["route"].choices = [(route, route) for route in routes]  # type: ignore[attr-defined]
        for field in self.fields.values():
            field.widget.attrs.setdefault("class", "form-control")


class MessageForm(forms.Form):
    """One chat message of a version."""

    role = forms.ChoiceField(label="Role", choices=ROLES)
    content = forms.CharField(
        label="Text",
        strip=False,
        widget=forms.Textarea(attrs={"rows": 5, "class": "form-control code", "spellcheck": "true"}),
        help_text="Write {{name}} where a variable goes.",
    )


class BaseMessages(forms.BaseFormSet):  # type: ignore[type-arg]  # generic in the stubs only
    """The messages in order; emptied ones are left out."""

    def messages(self) -> list[dict[str, str]]:
        return [
            {"role": form.cleaned_data["role"], "content": form.cleaned_data["content"]}
            for form in self.forms
            if form.cleaned_data.get("content") and not form.cleaned_data.get("DELETE")
        ]


MessageFormSet = forms.formset_factory(
    MessageForm, formset=BaseMessages, extra=0, min_num=1, max_num=40, can_delete=True, absolute_max=40
)


class VersionForm(forms.Form):
    """Everything of a version but its messages."""

    variables_schema = JSONTextField(
        label="Schema of the variables",
        rows=9,
        initial=EMPTY_SCHEMA,
        help_text="JSON Schema of what callers pass in prompt.variables; each {{name}} needs a property here.",
    )
    parameters = JSONTextField(
        label="Model parameters",
        rows=6,
        initial=dict,
        required=False,
        help_text="What this version fixes: temperature, max_tokens, response_format, tools…; callers cannot override.",
    )
    sample_variables = JSONTextField(
        label="Sample variables", rows=4, initial=dict, required=False, help_text="For the preview that reviewers see."
    )
    change_class = forms.ChoiceField(
        label="Change class",
        choices=ChangeClass.choices,
        widget=forms.RadioSelect,
        initial=ChangeClass.MINOR,
        help_text="Decides who must sign. Tone and legal changes stay with internal users until everybody has.",
    )
    rationale = forms.CharField(
        label="Why this version",
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 3, "class": "form-control"}),
        help_text="Reviewers read this first.",
    )

    @staticmethod
    def initial_from(version: PromptVersion | None) -> dict[str, Any]:
        """Start from what is live, so that a change is an edit and not a copy."""
        if version is None:
            return {}
        names = ("variables_schema", "parameters", "sample_variables")
        return {name: getattr(version, name) for name in names}

    @classmethod
    def as_typed(cls, data: Mapping[str, str]) -> "VersionForm":
        """What was typed so far, not judged yet."""
        fields = cls.base_fields.items()
        return cls(initial={name: field.bound_data(data.get(name, ""), None) for name, field in fields})

    def clean_parameters(self) -> Any:
        return self.cleaned_data["parameters"] or {}

    def clean_sample_variables(self) -> Any:
        samples = self.cleaned_data["sample_variables"] or {}
        if not isinstance(samples, dict):
            raise forms.ValidationError('expected an object, such as {"name": "Ada"}', code="invalid")
        return samples
