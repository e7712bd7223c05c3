"""The form that changes thresholds: a number each, and for every changed one where the new number comes from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final, Protocol

from django import forms
from django.forms import BoundField

from controlplane.console.forms.fields import ReasonForm
from controlplane.console.threshold_words import ORIGINS, Words, chart_id, words_of
from controlplane.routing.thresholds import PARTS, is_optional, names_of, path_of, with_thresholds
from controlplane.versioned.numbers import NewValue
from controlplane.versioned.numbers import path_of as entry_path
from controlplane.versioned.operations import Versions
from dataplane.documents import MalformedRelease
from dataplane.routing import RoutingTable
from dataplane.thresholds import GUESS, Threshold

SOURCE: Final = ("origin", "note", "link", "review_by")
# From a document, the slug of an entry, and thresholds to the document with these instead.
Write = Callable[[Mapping[str, Any], str, Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Row:
    """One threshold with its fields. `threshold` None: it is not set. `is_changed`: what is typed differs from what is
    in force.
    """

    name: str
    words: Words
    threshold: Threshold | None
    value: BoundField
    source: tuple[BoundField, ...]
    is_changed: bool
    is_optional: bool
    is_overdue: bool

    @property
    def has_errors(self) -> bool:
        return bool(self.value.errors) or any(field.errors for field in self.source)

    @property
    def shown(self) -> str:
        """The number in force with its unit."""
        return self.words.shown(self.threshold.value) if self.threshold else "not set"

    @property
    def chart_id(self) -> str:
        return chart_id(self.name)

    @property
    def tag(self) -> str:
        """Where it comes from, as `components/_provenance.html` names it."""
        return ORIGINS[self.threshold.provenance.origin][0] if self.threshold else ""


class Numbers(Protocol):
    """Whose thresholds a form changes: what they are called, and the document that they are a part of."""

    def names(self) -> Sequence[str]:
        """All that it may have, in the order in which they are shown."""

    def words(self, name: str) -> Words:
        """What one means, in what unit people type it, and what it is held against."""

    def is_optional(self, name: str) -> bool:
        """Whether it can do without."""

    def changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The whole document in force with these thresholds instead; see `with_thresholds`."""

    def check(self, document: Any) -> None:
        """Return if workers would take the document; MalformedRelease otherwise."""

    def path_of(self, document: Mapping[str, Any], name: str) -> str:
        """Where the threshold stands in it, by which the parser names it."""


@dataclass(frozen=True, slots=True)
class TableNumbers:
    """The thresholds of one policy or route of a routing table."""

    document: Mapping[str, Any]
    kind: str
    slug: str

    def names(self) -> Sequence[str]:
        return names_of(self.kind, self.document[PARTS[self.kind]][self.slug])

    def words(self, name: str) -> Words:
        return words_of(self.kind, name)

    def is_optional(self, name: str) -> bool:
        return is_optional(self.kind, name)

    def changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        return with_thresholds(self.document, self.kind, self.slug, changes)

    def check(self, document: Any) -> None:
        RoutingTable.parse(document, path="$")

    def path_of(self, document: Mapping[str, Any], name: str) -> str:
        return path_of(document, self.kind, self.slug, name)


@dataclass(frozen=True, slots=True)
class EntryNumbers:
    """The thresholds of one entry of a versioned document, such as a surface's ladder or a corpus; it needs them all.

    Attributes:
        document: In force.
        thresholds: Their names.
        read: What one means.
    """

    versions: Versions[Any, Any]
    document: Mapping[str, Any]
    slug: str
    thresholds: Sequence[str]
    read: Callable[[str], Words]
    write: Write

    def names(self) -> Sequence[str]:
        return self.thresholds

    def words(self, name: str) -> Words:
        return self.read(name)

    def is_optional(self, name: str) -> bool:
        return False

    def changed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        return self.write(self.document, self.slug, changes)

    def check(self, document: Any) -> None:
        self.versions.parse(document)

    def path_of(self, document: Mapping[str, Any], name: str) -> str:
        return entry_path(self.slug, name)


class ThresholdsForm(ReasonForm):
    """Thresholds of one policy or route, of one surface's ladder, or of one corpus.

    `changes` holds what differs from what is in force once the form is valid, and `document` all of it with them.
    """

    def __init__(
        self,
        data: Any = None,
        *,
        numbers: Numbers,
        thresholds: Mapping[str, Threshold],
        today: date,
        previewing: bool = False,
        **options: Any,
    ) -> None:
        """Make the fields.

        Args:
            previewing: Nothing will be stored: numbers count, where they come from does not matter yet.
        """
        super().__init__(data, **options)
        self._numbers = numbers
        self._today = today
        self._previewing = previewing
        self.changes: dict[str, NewValue | None] = {}
        self.document: dict[str, Any] = {}
        self._in_order = {name: thresholds.get(name) for name in numbers.names()}
        for name, threshold in self._in_order.items():
            self._add_fields(name, threshold)
        self.fields["reason"].label = "Why these numbers"
        self.fields["reason"].required = not previewing
        self.order_fields([name for name in self.fields if name != "reason"])

    def rows(self) -> list[Row]:
        """The thresholds in their order."""
        return [
            Row(
                name=name,
                words=self._numbers.words(name),
                threshold=threshold,
                value=self[name],
                source=tuple(self[f"{name}-{part}"] for part in SOURCE),
                is_changed=self._is_changed(name),
                is_optional=self._numbers.is_optional(name),
                is_overdue=threshold is not None and threshold.provenance.is_overdue(self._today),
            )
            for name, threshold in self._in_order.items()
        ]

    def clean(self) -> dict[str, Any]:
        """Gather what changed, and let the workers' parser say whether the table is one."""
        cleaned = super().clean() or {}
        for name, threshold in self._in_order.items():
            if name in self.errors:
                continue
            before = threshold.value if threshold else None
            after = None if cleaned[name] is None else self._numbers.words(name).stored(cleaned[name])
            if before == after:
                continue
            if after is None:
                self.changes[name] = None
            elif (source := self._source(name, cleaned)) is not None:
                self.changes[name] = NewValue(value=after, **source)
        if self.errors:
            return cleaned
        if not self.changes:
            self.add_error(None, "Nothing differs from what is in force; type another number first")
            return cleaned
        written = {name: new and new.to_json(author="-", on=self._today) for name, new in self.changes.items()}
        self.document = self._numbers.changed(written)
        try:
            self._numbers.check(self.document)
        except MalformedRelease as exc:
            self._place(exc)
        return cleaned

    def _add_fields(self, name: str, threshold: Threshold | None) -> None:
        words = self._numbers.words(name)
        in_force = words.typed(threshold.value) if threshold else ""
        self.fields[name] = forms.DecimalField(
            label=words.label,
            initial=in_force,
            required=not self._numbers.is_optional(name),
            max_digits=15,
            widget=forms.NumberInput(
                attrs={
                    "class": f"form-control narrow{' is-long' if len(in_force) > 5 else ''}",
                    "step": "any",
                    "data-threshold": name,
                    "data-in-force": in_force,
                }
            ),
        )
        self.fields[f"{name}-origin"] = forms.ChoiceField(
            label="Comes from",
            required=False,
            choices=[("", "Choose"), *((key, label) for key, (_, label) in ORIGINS.items())],
            widget=forms.Select(attrs={"class": "form-select"}),
        )
        self.fields[f"{name}-note"] = forms.CharField(
            label="What was seen", required=False, max_length=500, widget=_text()
        )
        self.fields[f"{name}-link"] = forms.CharField(
            label="Evidence",
            required=False,
            max_length=500,
            widget=_text(placeholder="https://… or /routing/…"),
        )
        self.fields[f"{name}-review_by"] = forms.DateField(
            label="Review by",
            required=False,
            widget=forms.DateInput(attrs={"class": "form-control", "type": "date"}),
        )

    def _is_changed(self, name: str) -> bool:
        if not self.is_bound:
            return False
        typed, threshold = str(self.data.get(name, "")).strip(), self._in_order[name]
        if not typed or threshold is None:
            return bool(typed) != (threshold is not None)
        try:
            return self._numbers.words(name).stored(Decimal(typed)) != threshold.value
        except ArithmeticError:
            return True

    def _source(self, name: str, cleaned: Mapping[str, Any]) -> dict[str, Any] | None:
        """Where the new number comes from; None when something is missing, which then stands beside its field."""
        if self._previewing:
            return {"origin": GUESS, "note": "-", "link": "", "review_by": date.max}  # only numbers are judged
        source = {part: cleaned.get(f"{name}-{part}") for part in SOURCE}
        needed = [part for part in SOURCE if part != "link" or source["origin"] != GUESS]
        missing = [part for part in needed if not source[part] and f"{name}-{part}" not in self.errors]
        for part in missing:
            self.add_error(f"{name}-{part}", "A changed number needs this")
        if source["review_by"] and source["review_by"] <= self._today:
            self.add_error(f"{name}-review_by", "Name a day after today")
            return None
        return None if missing or any(f"{name}-{part}" in self.errors for part in SOURCE) else source

    def _place(self, exc: MalformedRelease) -> None:
        """Put the parser's refusal beside the field that it is about; above them all, if it is about none of them."""
        field = next(filter(None, (self._field_at(exc.path, name) for name in self._in_order)), None)
        self.add_error(field, str(exc) if field is None else exc.fact)

    def _field_at(self, path: str, name: str) -> str | None:
        """The field in which what stands at a path is typed: a threshold's number, or a part of where it comes from."""
        own = self._numbers.path_of(self.document, name)
        if path != own and not path.startswith(f"{own}."):
            return None
        part = path.removeprefix(f"{own}.provenance.")
        return f"{name}-{part}" if part in SOURCE else name


def _text(**attributes: str) -> forms.TextInput:
    return forms.TextInput(attrs={"class": "form-control", **attributes})
