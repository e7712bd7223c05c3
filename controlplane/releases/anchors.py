"""The audit heads that releases carry: what shows a truncated record to somebody who only holds a signed release."""

from collections.abc import Iterator

from controlplane.audit.operations import Anchor
from controlplane.releases.models import Release


def anchors_of_releases() -> Iterator[Anchor]:
    """One anchor per release, oldest first; a sequential read in constant memory."""
    for release in Release.objects.order_by("revision").iterator(chunk_size=100):
        head = release.content["audit_head"]
        yield Anchor(head["seq"], head["hash"], f"release r{release.revision}")
