"""The form that proposes another routing table: YAML or JSON in, one document out, every mistake with its place."""

from typing import Any, Final

import yaml
from django import forms

from controlplane.console.forms.fields import ReasonForm, YAMLField
from dataplane.routing import RoutingTable

MAX_CHARACTERS: Final = 400_000


class DocumentField(YAMLField):
    """A routing table, checked by the parser that every worker runs."""

    def check(self, document: Any) -> None:
        RoutingTable.parse(document, path="$")


class TableForm(ReasonForm):
    """Another routing table, whole, and why."""

    document = DocumentField(
        label="Routing table",
        max_length=MAX_CHARACTERS,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 28, "class": "form-control code", "spellcheck": "false"}),
        help_text="YAML or JSON: providers, accounts, lanes, routes. Secrets by reference: env:NAME or file:/path.",
    )
    field_order = ("document", "reason")


def as_yaml(document: Any) -> str:
    """A document as the editor shows it: YAML, in the order in which it is stored."""
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
