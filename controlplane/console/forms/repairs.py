"""The filters of the pages of answers, and the form that completes one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from django import forms
from django.forms import BoundField

from controlplane.accounts.models import Operator
from controlplane.console.forms.fields import NameField, ReasonForm
from controlplane.console.forms.usage import HOURS, OfTenantsForm
from controlplane.console.names import offered, prompt_named
from controlplane.console.repair_words import wanted_words, wants_text
from controlplane.ledger.completions import Flaw, Standing
from dataplane.messages import Json
from dataplane.repair.completion import Supplied
from dataplane.repair.kept import STATES

DEFAULT_ANSWER_HOURS: Final = 1
# Beside the places that are known to be wrong: what a person knows of besides.
FREE_PLACES: Final = 2
_MAX_CHARACTERS: Final = 1_000_000
_TYPED: Final = {"autocomplete": "off", "spellcheck": "false", "class": "form-control code"}


class AnswersForm(forms.Form):
    """Whose answers, and how far back."""

    # Chosen by links; kept when the rest is filtered anew.
    hours = forms.TypedChoiceField(required=False, coerce=int, choices=list(HOURS.items()), widget=forms.HiddenInput)
    prompt = NameField("prompts", label="Prompt", required=False, placeholder="All")
    lane = forms.ChoiceField(label="Lane", required=False)

    def __init__(self, *args: Any, operator: Operator, lanes: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        prompt = self.fields["prompt"]
        assert isinstance(prompt, NameField)  # noqa: S101 - narrows the type
        prompt.ask(names=offered("prompts", operator), find=lambda slug: prompt_named(operator, slug).slug)
        self.fields["lane"].choices = [("", "All"), *((one, one) for one in lanes)]  # type: ignore[attr-defined]
        self.fields["lane"].widget.attrs["class"] = "form-select"


class ValidatedForm(AnswersForm):
    """The same, and of which rule."""

    rule = forms.ChoiceField(label="Rule", required=False)

    def __init__(self, *args: Any, rules: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["rule"].choices = [("", "All"), *((one, one) for one in rules)]  # type: ignore[attr-defined]
        self.fields["rule"].widget.attrs["class"] = "form-select"


class RepairsForm(OfTenantsForm):
    """Which answers that nothing could repair; everything given must fit."""

    repair = forms.CharField(label="Answer id", required=False, max_length=64)
    tenant = forms.ChoiceField(label="Tenant", required=False)
    status = forms.ChoiceField(label="Status", required=False, choices=[("", "All"), *((s, s) for s in STATES)])


@dataclass(frozen=True, slots=True)
class Place:
    """One place of an answer that a value can be given for. `pointer` None: the person says which."""

    name: str
    pointer: str | None
    wanted: Json | None


class CompleteForm(ReasonForm):
    """Values for places of an answer, or all of it. `given` holds them once the form is valid."""

    whole = forms.CharField(
        label="All of it, as JSON",
        required=False,
        max_length=_MAX_CHARACTERS,
        widget=forms.Textarea(attrs={**_TYPED, "rows": 5}),
    )

    def __init__(self, data: Any = None, *, standing: Standing, **options: Any) -> None:
        super().__init__(data, **options)
        self.given = Supplied({}, None)
        self.is_readable = standing.is_readable
        self._places = _places(standing.flaws) if standing.is_readable else []
        for place in self._places:
            self._add_fields(place)
        self.fields["whole"].help_text = (
            "Instead of single fields; everything of this part of the answer."
            if self._places
            else "Nothing of this part could be read, so all of it is needed."
        )
        self.fields["reason"].label = "Where the values come from"
        self.order_fields([name for name in self.fields if name not in ("whole", "reason")])

    @property
    def known_fields(self) -> list[BoundField]:
        """Of the places that are known to be wrong."""
        return [self[place.name] for place in self._places if place.pointer is not None]

    @property
    def free_fields(self) -> list[tuple[BoundField, BoundField]]:
        """Of places that the person names: the pointer, and its value."""
        return [(self[f"{one.name}-pointer"], self[one.name]) for one in self._places if one.pointer is None]

    def clean(self) -> dict[str, Any]:
        """Gather what was given."""
        cleaned = super().clean() or {}
        fields: dict[str, Any] = {}
        for place in self._places:
            typed = cleaned.get(place.name, "")
            pointer = cleaned.get(f"{place.name}-pointer", "") if place.pointer is None else place.pointer
            if typed.strip() and not pointer:
                self.add_error(f"{place.name}-pointer", "Say where the value belongs, such as /customer/name")
            elif typed.strip():
                fields[pointer] = _value(typed, place.wanted)
        whole = cleaned.get("whole", "").strip()
        if self.errors:
            return cleaned
        if fields and whole:
            self.add_error("whole", "Give single fields or all of it, not both")
        elif not fields and not whole:
            self.add_error(None, "Nothing was given; fill in a field, or all of it")
        elif whole:
            self._read_whole(whole)
        else:
            self.given = Supplied(fields, None)
        return cleaned

    def _read_whole(self, text: str) -> None:
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError as exc:
            self.add_error("whole", f"not JSON: {exc}")
        else:
            self.given = Supplied({}, text)

    def _add_fields(self, place: Place) -> None:
        wanted = wanted_words(place.wanted)
        if place.pointer is None:
            self.fields[f"{place.name}-pointer"] = forms.CharField(
                label="Another place",
                required=False,
                max_length=500,
                widget=forms.TextInput(attrs={**_TYPED, "placeholder": "/customer/name"}),
            )
        self.fields[place.name] = forms.CharField(
            label=place.pointer or "Its value",
            required=False,
            strip=False,
            max_length=_MAX_CHARACTERS,
            widget=forms.TextInput(attrs=_TYPED),
            help_text=f"The schema wants {wanted}." if wanted and place.pointer else "",
        )


def _places(flaws: Sequence[Flaw]) -> list[Place]:
    """One for each flaw that a value mends, and some more. What is wrong with the whole is mended by the whole."""
    known = [flaw for flaw in flaws if flaw.pointer]
    return [
        *(Place(f"field-{number}", flaw.pointer, flaw.wanted) for number, flaw in enumerate(known)),
        *(Place(f"free-{number}", None, None) for number in range(FREE_PLACES)),
    ]


def _value(typed: str, wanted: Mapping[str, Any] | None) -> Any:
    """What was typed, as a value: JSON where it is that, and text otherwise; text alone where the schema wants it."""
    try:
        value = orjson.loads(typed)
    except orjson.JSONDecodeError:
        return typed
    return typed if wants_text(wanted) and not isinstance(value, str) else value
