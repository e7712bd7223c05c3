"""The forms that engage a rung and that propose another ladder policy."""

from collections.abc import Collection, Sequence
from typing import Any, Final

from django import forms

from controlplane.console.forms.fields import DocumentField, VersionForm
from controlplane.ladder.effects import TIER_NAMES
from controlplane.ladder.policies import ladder_policies

# Minutes on offer: long enough to look, to wait a rush out, for a provider, for a shift.
MINUTES: Final = {15: "15 min", 30: "30 min", 60: "1 h", 240: "4 h"}
USUAL_MINUTES: Final = 30
# Why, for somebody who has no hand free to type.
REASONS: Final = ("capacity", "provider incident", "cost")


class EngageForm(forms.Form):
    """For whom, for how long, and why. Everything has a value before anything is typed, so that one tap is enough.

    `regions` and `tiers` of `scope()` are empty where all that there are were chosen: that is everybody, also those who
    come later.
    """

    tiers = forms.MultipleChoiceField(
        label="Tiers",
        choices=list(TIER_NAMES.items()),
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "choose at least one"},
    )
    regions = forms.MultipleChoiceField(
        label="Regions", widget=forms.CheckboxSelectMultiple, error_messages={"required": "choose at least one"}
    )
    minutes = forms.TypedChoiceField(
        label="Ends after", choices=list(MINUTES.items()), coerce=int, widget=forms.RadioSelect
    )
    why = forms.ChoiceField(label="Reason", choices=[(one, one) for one in REASONS], widget=forms.RadioSelect)
    note = forms.CharField(
        label="In your words",
        max_length=500,
        required=False,
        widget=forms.TextInput(attrs={"class": "form-control", "autocomplete": "off"}),
    )

    def __init__(self, data: Any = None, *, regions: Sequence[str], **options: Any) -> None:
        """`regions` are those that there are; without any there is nothing to choose."""
        super().__init__(data, **options)
        self._regions = list(regions)
        self.fields["regions"].choices = [(one, one) for one in regions]  # type: ignore[attr-defined]  # Django's
        if not regions:
            del self.fields["regions"]
        self.order_fields(["minutes", "why", "tiers", "regions", "note"])

    @classmethod
    def usual(cls, *, regions: Sequence[str]) -> dict[str, Any]:
        """What is chosen before anybody chooses."""
        return {
            "tiers": list(TIER_NAMES),
            "regions": list(regions),
            "minutes": USUAL_MINUTES,
            "why": REASONS[0],
            "note": "",
        }

    def scope(self) -> dict[str, list[str]]:
        """The keyword arguments that say for whom; of a valid form."""
        return {
            "regions": _unless_all(self.cleaned_data.get("regions", []), self._regions),
            "tiers": _unless_all(self.cleaned_data["tiers"], TIER_NAMES),
        }

    @property
    def reason(self) -> str:
        """Why, as the record keeps it; of a valid form."""
        note = self.cleaned_data["note"].strip()
        return f"{self.cleaned_data['why']}: {note}" if note else str(self.cleaned_data["why"])


def _unless_all(chosen: Sequence[str], known: Collection[str]) -> list[str]:
    return [] if set(chosen) >= set(known) else list(chosen)


class PolicyForm(VersionForm):
    """Another ladder policy, whole, and why."""

    document = DocumentField(
        ladder_policies,
        label="Ladder policy",
        max_length=200_000,
        help_text="YAML or JSON: surfaces with their rungs, triggers, pace and promises; every number with its origin.",
    )
