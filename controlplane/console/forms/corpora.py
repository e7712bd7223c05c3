"""The form that proposes another corpus policy."""

from controlplane.console.forms.fields import DocumentField, VersionForm
from controlplane.corpora.policies import corpus_policies


class CorpusPolicyForm(VersionForm):
    """Another corpus policy, whole, and why."""

    document = DocumentField(
        corpus_policies,
        label="Corpus policy",
        max_length=200_000,
        help_text="YAML or JSON: corpora by their slug; every number with its origin. Secrets by reference.",
    )
