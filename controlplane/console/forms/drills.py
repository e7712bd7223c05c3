"""The form that starts a drill."""

from collections.abc import Sequence
from typing import Any, Final

from django import forms

from controlplane.console.forms.fields import ReasonForm

MINUTES: Final = {5: "5 min", 10: "10 min", 15: "15 min", 30: "30 min", 60: "1 h"}
PROVIDER: Final = "provider"
LANE: Final = "lane"


class DrillForm(ReasonForm):
    """What to leave, for how long, and why; and, where tenants have no lane left, that this is accepted."""

    target = forms.ChoiceField(label="Leave", widget=forms.Select(attrs={"class": "form-select"}))
    minutes = forms.TypedChoiceField(
        label="For", choices=list(MINUTES.items()), coerce=int, initial=10, widget=forms.RadioSelect
    )
    accept = forms.BooleanField(label="I accept that these tenants have no lane meanwhile", required=False)
    field_order = ("target", "minutes", "accept", "reason")

    def __init__(self, data: Any = None, *, providers: Sequence[str], lanes: Sequence[str], **options: Any) -> None:
        super().__init__(data, **options)
        self.fields["target"].choices = [  # type: ignore[attr-defined]
            ("A provider", [(f"{PROVIDER}:{slug}", slug) for slug in providers]),
            ("One lane", [(f"{LANE}:{lane}", lane) for lane in lanes]),
        ]

    def subject(self) -> dict[str, str]:
        """What was chosen, as `routing.drills.start_drill` takes it."""
        return subject_of(self.cleaned_data["target"])


def subject_of(target: str) -> dict[str, str]:
    """'provider:openai' as {"provider": "openai"}; the same for a lane."""
    kind, _, name = target.partition(":")
    return {LANE if kind == LANE else PROVIDER: name}
