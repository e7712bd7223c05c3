"""The form that holds a lane."""

from typing import Final

from django import forms

# Minutes on offer: long enough to look, to wait for a provider, for a shift, for a night.
MINUTES: Final = {15: "15 min", 60: "1 h", 240: "4 h", 1440: "24 h"}


class HoldForm(forms.Form):
    """Which lane, which way, for how long, and why. A hold at night must not fail for want of words."""

    lane = forms.CharField(max_length=200)
    mode = forms.ChoiceField(choices=[("open", "Open"), ("closed", "Closed")])
    minutes = forms.TypedChoiceField(choices=list(MINUTES.items()), coerce=int)
    reason = forms.CharField(max_length=2000, required=False)


class LetGoForm(forms.Form):
    """Which lane; a click needs no words."""

    lane = forms.CharField(max_length=200)
    reason = forms.CharField(max_length=2000, required=False)
