"""What of a change of routing has to be tried: validator policies that are new, different or for other routes. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dataplane.release import canonical, digest_of

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """One validator policy with the routes that would use it.

    Attributes:
        document: The policy, as the routing table has it.
        digest: Of all of it: a trial is of exactly this.
    """

    policy: str
    routes: tuple[str, ...]
    document: Document
    digest: str

    @classmethod
    def of(cls, policy: str, routes: tuple[str, ...], document: Document) -> "Subject":
        """Take the digest."""
        said = {"policy": policy, "routes": list(routes), "document": document}
        return cls(policy, routes, document, digest_of(canonical(said)))


def subjects_of(before: Document | None, after: Document) -> list[Subject]:
    """What is to be tried before `after` takes the place of `before`, by the policies' names.

    A policy that no route names looks at nothing, so it blocks nothing.

    Args:
        before, after: Documents of routing tables; None: nothing is in force.
    """
    known = {subject.digest for subject in _used(before or {})}
    return [subject for subject in _used(after) if subject.digest not in known]


def _used(document: Document) -> Iterator[Subject]:
    named: dict[str, list[str]] = {}
    for slug, route in document.get("routes", {}).items():
        if (policy := route.get("validators")) is not None:
            named.setdefault(policy, []).append(slug)
    for policy, routes in sorted(named.items()):
        yield Subject.of(policy, tuple(sorted(routes)), document["validators"][policy])
