"""What has to have been looked into before anybody approves a change.

An app that can look into changes of a kind, such as one that tries them on stored answers, registers itself here at
start-up, also for a kind that another app owns: this app knows none of them by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from controlplane.approvals.errors import NotPrepared, NotSeen

if TYPE_CHECKING:
    from controlplane.approvals.models import ChangeRequest


class Begin(Protocol):
    """Start looking into an open change, inside the operation that opened it or gave it other content. Cheap: what
    takes long is handed to workers. What was looked into before is left alone.
    """

    def __call__(self, change: "ChangeRequest", *, actor: Any, now: datetime) -> None: ...


class Asked(Protocol):
    """Look at how far it is, a sentence for each thing; cheap, since every review and sign-off asks."""

    def __call__(self, change: "ChangeRequest") -> list[str]: ...


class Facts(Protocol):
    """What was found, as JSON without anybody's words."""

    def __call__(self, change: "ChangeRequest") -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Preparation:
    """One way of looking into changes of a kind.

    Attributes:
        unmet: Why nobody may approve the change yet; none: it may be approved.
        to_see: What whoever approves has to say that they have seen: what could not be found out.
        facts: What the audit record of an approval keeps of it; JSON.
    """

    begin: Begin
    unmet: Asked
    to_see: Asked
    facts: Facts


_preparations: dict[str, list[Preparation]] = {}


def register(kind: str, preparation: Preparation) -> None:
    """Have changes of a kind looked into; doing so twice is doing so once."""
    known = _preparations.setdefault(kind, [])
    if preparation not in known:
        known.append(preparation)


def begin(change: "ChangeRequest", *, actor: Any, now: datetime) -> None:
    """Start whatever there is for changes of its kind; for the operations that open and alter changes."""
    for preparation in _preparations.get(change.kind, ()):
        preparation.begin(change, actor=actor, now=now)


def unmet(change: "ChangeRequest") -> list[str]:
    """Why nobody may approve the change yet, at whatever gate; none: it may be approved."""
    return [said for preparation in _preparations.get(change.kind, ()) for said in preparation.unmet(change)]


def to_see(change: "ChangeRequest") -> list[str]:
    """What whoever approves the change has to say that they have seen."""
    return [said for preparation in _preparations.get(change.kind, ()) for said in preparation.to_see(change)]


def require(change: "ChangeRequest", *, has_seen: bool) -> dict[str, Any]:
    """Return what was found out about the change, for the record of its approval.

    Raises:
        NotPrepared: something was not looked into yet.
        NotSeen: something could not be found out, and whoever approves did not say that they have seen it.
    """
    if missing := unmet(change):
        raise NotPrepared(f"CR-{change.pk} cannot be approved yet: {'; '.join(missing)}", tuple(missing))
    if (unknown := to_see(change)) and not has_seen:
        raise NotSeen(f"say that you have seen this before you approve CR-{change.pk}: {'; '.join(unknown)}")
    found: dict[str, Any] = {}
    for preparation in _preparations.get(change.kind, ()):
        found |= preparation.facts(change)
    if unknown:
        found["seen"] = unknown
    return found
