"""The form that opens a promotion's checklist."""

from collections.abc import Iterable
from typing import Any

from django import forms

from controlplane.shadows.thresholds import BOUNDS


class ChecklistForm(forms.Form):
    """Which candidate for which route, why, and what its evidence is held to."""

    route = forms.ChoiceField()
    lane = forms.ChoiceField(label="Candidate")
    reason = forms.CharField(
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text="The first thing that signers read; kept in the audit record",
    )

    def __init__(self, *args: Any, routes: Iterable[str], lanes: Iterable[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._choose("route", routes)
        self._choose("lane", lanes)
        for name, bound in BOUNDS.items():
            self.fields[name] = forms.FloatField(
                label=f"{bound.label}, {bound.unit}",
                help_text=bound.help,
                initial=f"{bound.default:g}",
                min_value=bound.least,
                max_value=bound.most,
                step_size=1 if bound.is_whole else None,
            )

    @property
    def thresholds(self) -> dict[str, float]:
        """What was typed, by name."""
        return {name: self.cleaned_data[name] for name in BOUNDS}

    def _choose(self, name: str, values: Iterable[str]) -> None:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101 - narrows the type
        field.choices = [(value, value) for value in values]
