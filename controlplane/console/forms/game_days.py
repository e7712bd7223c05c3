"""The forms that begin a game day, and that confirm one on what serves."""

from django import forms

from controlplane.console.forms.fields import ReasonForm
from controlplane.corpora.scenarios import SCENARIOS


class GameDayForm(ReasonForm):
    """What to lose, where, and why; on what serves, the words too."""

    scenario = forms.ChoiceField(
        label="What is lost",
        choices=[(one.slug, one.title) for one in SCENARIOS.values()],
        widget=forms.Select(attrs={"class": "form-select"}),
    )
    targets_live = forms.BooleanField(
        label="Let what comes back serve for a moment; a second person has to confirm it", required=False
    )
    typed = forms.CharField(
        label="Words",
        required=False,
        max_length=80,
        widget=forms.TextInput(attrs={"class": "form-control mono", "autocomplete": "off"}),
    )
    field_order = ("scenario", "targets_live", "typed", "reason")


class ConfirmForm(forms.Form):
    """The words of the second person."""

    typed = forms.CharField(
        label="Words",
        max_length=80,
        widget=forms.TextInput(attrs={"class": "form-control mono", "autocomplete": "off"}),
    )
