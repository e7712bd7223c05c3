"""The kinds of change. Each app that owns one registers it at start-up; this app knows none of them by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from django.db import models

    from controlplane.approvals.models import BreakGlass, ChangeRequest


class Apply(Protocol):
    """Carry a change out, inside the transaction that has just checked its sign-offs."""

    def __call__(self, change: "ChangeRequest", *, actor: Any, now: datetime) -> None: ...


class Lapse(Protocol):
    """Undo what a break-glass let through, because its time is over and nobody signed meanwhile."""

    def __call__(self, change: "ChangeRequest", *, debt: "BreakGlass", now: datetime) -> None: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of change is understood.

    Attributes:
        base: From the target's name, the revision of it that a change builds on; any drift of it voids sign-offs.
        facts: From the content, what the policy's conditions look at.
        target: From the target's name, the object that permissions are asked on.
        sign_off_permission, break_glass_permission, review_permission: 'app.codename' asked on that object.
        apply: None where the change is carried out in steps by its own app (a canary's knob), gate by gate.
        lapse: None where a bypass could not be undone; such a kind cannot be broken into.
    """

    name: str
    label: str
    base: Callable[[str], Any]
    facts: Callable[[Mapping[str, Any]], dict[str, Any]]
    target: Callable[[str], "models.Model"]
    view_permission: str
    sign_off_permission: str
    break_glass_permission: str
    review_permission: str
    apply: Apply | None = None
    lapse: Lapse | None = None


_kinds: dict[str, Kind] = {}


def register(kind: Kind) -> None:
    """Make a kind of change known; registering the same name again replaces it."""
    _kinds[kind.name] = kind


def kind_of(name: str) -> Kind:
    """The registered kind; KeyError names what is registered."""
    try:
        return _kinds[name]
    except KeyError:
        raise KeyError(f"no app registered the kind of change {name!r}; known: {sorted(_kinds)}") from None


def all_kinds() -> tuple[Kind, ...]:
    return tuple(_kinds.values())
