"""The form of a plan's guardrails: margins as people say them, in points and percent."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from django import forms

from controlplane.rollouts.guardrails import (
    DEFAULT_CLEAR_BUDGET,
    JUDGED,
    MAX_REPLAYS_PER_MINUTE,
    RAILS,
    Rail,
    Scale,
)

_NARROW: Final = {"class": "form-control narrow"}
_UNITS: Final = {Scale.POINTS: "percentage points", Scale.RELATIVE: "% of control"}


NOBODY: Final[Mapping[str, Iterable[str]]] = {}
_HELD_OUT: Final = (
    "Asked of both versions again and again, all the while. Without one, grounding shows only where validators look at "
    "it, and safety does not."
)


def unit_of(rail: Rail) -> str:
    """What its margin is said in."""
    return _UNITS[rail.scale]


class GuardrailForm(forms.Form):
    """What the candidate must not make worse, by how much, and how sure one has to be."""

    rollback_budget = forms.DecimalField(
        label="False roll-backs accepted",
        min_value=Decimal("0.01"),
        max_value=20,
        decimal_places=2,
        widget=forms.NumberInput(attrs={**_NARROW, "step": "0.01"}),
        help_text="Percent of canaries without any regression, over their whole life and all guardrails together.",
    )
    requests = forms.IntegerField(
        label="Requests per arm, at least",
        min_value=1,
        max_value=10_000_000,
        widget=forms.NumberInput(attrs=_NARROW),
        help_text="Nothing is concluded from live traffic below.",
    )
    groups = forms.IntegerField(
        label="Groups of users per arm, at least",
        min_value=5,
        max_value=64,
        widget=forms.NumberInput(attrs=_NARROW),
        help_text="Users fall into 64 groups; with too few of them a single user could decide.",
    )
    pairs = forms.IntegerField(
        label="Replayed pairs, at least",
        min_value=1,
        max_value=1_000_000,
        widget=forms.NumberInput(attrs=_NARROW),
        help_text="Nothing is concluded from replays below.",
    )
    replays_per_minute = forms.IntegerField(
        label="Replayed pairs per minute",
        min_value=0,
        max_value=MAX_REPLAYS_PER_MINUTE,
        widget=forms.NumberInput(attrs=_NARROW),
        help_text="Each is two requests, of class batch, that we pay for.",
    )

    def __init__(
        self, *args: Any, held_out: Iterable[str] = (), judges: Mapping[str, Iterable[str]] = NOBODY, **kwargs: Any
    ) -> None:
        """`held_out` are the sets that there are, `judges` by guardrail who can judge it; each as 'slug@version'."""
        super().__init__(*args, **kwargs)
        self.fields["held_out"] = _choice("Held-out set", held_out, help_text=_HELD_OUT)
        for key in sorted(JUDGED):
            self.fields[_judge(key)] = _choice(f"Judge of {RAILS[key].label}", judges.get(key, ()))
        for rail in RAILS.values():
            self.fields[_margin(rail)] = forms.DecimalField(
                label=f"{rail.label.capitalize()}, {unit_of(rail)} {rail.worse} control",
                required=False,
                min_value=Decimal("0.01"),
                max_value=100,
                decimal_places=2,
                widget=forms.NumberInput(attrs={**_NARROW, "step": "0.01"}),
            )

    @property
    def margins(self) -> list[forms.BoundField]:
        """The fields of the margins, in the order of the guardrails."""
        return [self[_margin(rail)] for rail in RAILS.values()]

    @property
    def rest(self) -> list[forms.BoundField]:
        """All other fields."""
        own = {_margin(rail) for rail in RAILS.values()}
        return [field for field in self if field.name not in own]

    def clean(self) -> dict[str, Any]:
        """Refuse a plan that nothing judges."""
        cleaned: dict[str, Any] = super().clean() or {}
        if not self.errors and not any(cleaned.get(_margin(rail)) for rail in RAILS.values()):
            raise forms.ValidationError("Give at least one guardrail a margin: a canary that nothing judges is none")
        return cleaned

    def guardrails(self) -> dict[str, Any]:
        """As the operations take them; only of a valid form."""
        typed = self.cleaned_data
        return {
            "budget": {"rollback": float(typed["rollback_budget"] / 100), "clear": DEFAULT_CLEAR_BUDGET},
            "minimum": {name: typed[name] for name in ("requests", "groups", "pairs")},
            "margins": {
                rail.key: float(typed[_margin(rail)] / 100) for rail in RAILS.values() if typed.get(_margin(rail))
            },
            "held_out": typed["held_out"] or None,
            "judges": {key: typed[_judge(key)] for key in sorted(JUDGED) if typed.get(_judge(key))},
            "replays_per_minute": typed["replays_per_minute"],
        }


def guardrail_initial(guardrails: Mapping[str, Any]) -> dict[str, Any]:
    """Guardrails as the form shows them."""
    return {
        "rollback_budget": _percent(guardrails["budget"]["rollback"]),
        **guardrails["minimum"],
        "held_out": guardrails["held_out"] or "",
        **{_judge(key): judge for key, judge in guardrails["judges"].items()},
        "replays_per_minute": guardrails["replays_per_minute"],
        **{_margin(RAILS[key]): _percent(margin) for key, margin in guardrails["margins"].items()},
    }


def _choice(label: str, names: Iterable[str], *, help_text: str = "") -> forms.ChoiceField:
    return forms.ChoiceField(
        label=label,
        required=False,
        choices=[("", "None"), *((name, name) for name in names)],
        widget=forms.Select(attrs={"class": "form-select"}),
        help_text=help_text,
    )


def _judge(key: str) -> str:
    return f"judge_{key}"


def _margin(rail: Rail) -> str:
    return f"margin_{rail.key}"


def _percent(share: float) -> str:
    return f"{share * 100:g}"
