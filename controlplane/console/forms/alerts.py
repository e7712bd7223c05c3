"""Forms of the alert channels."""

from typing import Any, ClassVar

from django import forms

from controlplane.alerts import kinds
from controlplane.alerts.models import Channel
from controlplane.console.forms.canaries import NamesField


class ChannelForm(forms.Form):
    """What of a channel can be changed: where it leads, and what it wants."""

    # By the channel's kind, the one field that says where it leads.
    LEADS: ClassVar = {"webhook": "url", "email": "addresses"}

    url = forms.CharField(
        label="Address",
        max_length=500,
        widget=forms.URLInput(attrs={"class": "form-control", "placeholder": "https://"}),
        help_text="Each alert is POSTed to it, signed. Only its host is shown to others, since paths hold tokens.",
    )
    addresses = NamesField(
        label="Mailboxes", help_text="Between commas. They get one message together, and see each other in it."
    )
    events = forms.MultipleChoiceField(
        label="Alerts that it wants",
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="None chosen: every alert, also of kinds that come later.",
    )

    def __init__(self, *args: Any, kind: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in set(self.LEADS.values()) - {self.LEADS[kind]}:
            del self.fields[name]
        self.fields["events"].choices = [*kinds.known().items()]  # type: ignore[attr-defined]  # of this one it has

    @staticmethod
    def initial_from(channel: Channel) -> dict[str, Any]:
        """The channel as the form shows it."""
        return {name: getattr(channel, name) for name in ("url", "addresses", "events")}


class NewChannelForm(ChannelForm):
    """A new channel."""

    slug = forms.SlugField(label="Slug", max_length=50, help_text="How pages and the record name it, for ever.")
    field_order = ("slug", "url", "addresses", "events")
