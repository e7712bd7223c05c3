"""Forms of the canary pages."""

from typing import Any

from django import forms

from controlplane.rollouts.guardrails import MAX_MINUTES, Advance, StageEvidence, Unproven
from controlplane.rollouts.models import DEFAULT_STAGES

UNITS = [("user", "User"), ("tenant", "Tenant"), ("region", "Region")]
AUDIENCES = [("internal", "Internal"), ("all", "Everybody")]
UNPROVEN = [
    (Unproven.WAIT.value, "Wait for it"),
    (Unproven.ALLOW.value, "People may go on"),
    (Unproven.ROLL_BACK.value, "Roll back"),
]
_EVIDENCE = ("unproven", "after_minutes", "advance")
ADVANCE = [(Advance.BY_HAND.value, "By hand"), (Advance.BY_ITSELF.value, "By itself")]


class PlanForm(forms.Form):
    """What a canary compares by, and why."""

    unit = forms.ChoiceField(
        label="Unit",
        choices=UNITS,
        widget=forms.RadioSelect,
        initial="user",
        help_text="What sticks to one arm: with user, nobody ever switches between the versions as the knob opens.",
    )
    reason = forms.CharField(
        label="Why now",
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 2, "class": "form-control"}),
        help_text="Reviewers read this first.",
    )


class NamesField(forms.CharField):
    """Names between commas."""

    def to_python(self, value: Any) -> Any:
        return [name.strip() for name in (value or "").split(",") if name.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(initial or [], data)

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value

    def validate(self, value: Any) -> None:
        return


class StageForm(forms.Form):
    """One stage: who may be in it, and how many of their buckets are."""

    name = forms.CharField(label="Name", max_length=40, widget=forms.TextInput(attrs={"class": "form-control"}))
    audience = forms.ChoiceField(
        label="Audience", choices=AUDIENCES, widget=forms.Select(attrs={"class": "form-select"}), initial="all"
    )
    percent = forms.DecimalField(
        label="Percent",
        min_value=0,
        max_value=100,
        decimal_places=2,
        widget=forms.NumberInput(attrs={"class": "form-control narrow", "step": "0.01"}),
    )
    tenants = NamesField(
        label="Only tenants",
        required=False,
        widget=forms.TextInput(attrs={"class": "form-control", "placeholder": "any"}),
    )
    regions = NamesField(
        label="Only regions",
        required=False,
        widget=forms.TextInput(attrs={"class": "form-control", "placeholder": "any"}),
    )
    unproven = forms.ChoiceField(
        label="Without evidence",
        choices=UNPROVEN,
        widget=forms.Select(attrs={"class": "form-select"}),
        initial=Unproven.WAIT.value,
    )
    after_minutes = forms.IntegerField(
        label="Minutes before that",
        min_value=0,
        max_value=MAX_MINUTES,
        widget=forms.NumberInput(attrs={"class": "form-control narrow"}),
        initial=0,
    )
    advance = forms.ChoiceField(
        label="Goes on",
        choices=ADVANCE,
        widget=forms.Select(attrs={"class": "form-select"}),
        initial=Advance.BY_HAND.value,
    )


class BaseStages(forms.BaseFormSet):  # type: ignore[type-arg]  # generic in the stubs only
    """The stages in order; deleted ones are left out."""

    def stages(self) -> list[dict[str, Any]]:
        """As the operations take them; a weight counts buckets of 10,000."""
        return [
            {
                "name": form.cleaned_data["name"],
                "audience": form.cleaned_data["audience"],
                "tenants": form.cleaned_data["tenants"],
                "regions": form.cleaned_data["regions"],
                "weight": int(form.cleaned_data["percent"] * 100),
                "evidence": {name: form.cleaned_data[name] for name in _EVIDENCE},
            }
            for form in self.forms
            if form.cleaned_data.get("name") and not form.cleaned_data.get("DELETE")
        ]


StageFormSet: type[BaseStages] = forms.formset_factory(  # type: ignore[assignment]  # the stubs forget `formset`
    StageForm, formset=BaseStages, extra=0, min_num=1, max_num=20, can_delete=True, absolute_max=20
)


def stage_initial(stages: Any = DEFAULT_STAGES) -> list[dict[str, Any]]:
    """Stages as the formset shows them, in percent."""
    return [
        {
            **{key: stage[key] for key in ("name", "audience", "tenants", "regions")},
            "percent": f"{stage['weight'] / 100:g}",
            **StageEvidence.of(stage).to_json(),
        }
        for stage in stages
    ]
