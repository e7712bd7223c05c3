"""The kinds of change. Each app that owns one registers it at start-up; this app knows none of them by name."""

from collections.abc import Callable, Iterable, Mapping
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
class Surveyed:
    """A target as it is now.

    Attributes:
        base: JSON; the revision of it that a change builds on. Any drift of it voids sign-offs.
        target: The object that permissions are asked on.
    """

    base: Any
    target: "models.Model"


@dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of change is understood.

    Attributes:
        survey: From the names of targets, each as it is now; as many queries for a hundred as for one.
        facts: From the content, what the policy's conditions look at.
        sign_off_permission, break_glass_permission, review_permission: 'app.codename' asked on that object.
        apply: None where the change is carried out in steps by its own app (a canary's knob), gate by gate.
        lapse: None where a bypass could not be undone; such a kind cannot be broken into.
    """

    name: str
    label: str
    survey: Callable[[Iterable[str]], "Mapping[str, Surveyed]"]
    facts: Callable[[Mapping[str, Any]], dict[str, Any]]
    view_permission: str
    sign_off_permission: str
    break_glass_permission: str
    review_permission: str
    apply: Apply | None = None
    lapse: Lapse | None = None

    def base(self, target: str) -> Any:
        """The revision of `target` that a change would build on now."""
        return self.survey([target])[target].base

    def target(self, target: str) -> "models.Model":
        """The object on which permissions for a change of `target` are asked."""
        return self.survey([target])[target].target


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
