"""The form that proposes another routing table."""

from controlplane.console.forms.fields import DocumentField, VersionForm
from controlplane.routing.operations import routing_tables


class TableForm(VersionForm):
    """Another routing table, whole, and why."""

    document = DocumentField(
        routing_tables,
        label="Routing table",
        max_length=400_000,
        help_text="YAML or JSON: providers, accounts, lanes, routes. Secrets by reference: env:NAME or file:/path.",
    )
