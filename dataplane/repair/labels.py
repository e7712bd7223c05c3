"""What a repair did to the words of a model: the rung it took, the edits, and how far they may be trusted. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

_SHOWN_CHARACTERS: Final = 60


class Label(StrEnum):
    """How far an edit may be trusted; the members stand in the order of trust."""

    LOSSLESS = "lossless"  # one value can have been meant, and this is it
    LOSSY = "lossy"  # something that the model wrote is not in the value
    INVENTED = "invented"  # the value holds what the model did not write, or is one of several that it may have meant


class Rung(StrEnum):
    """The rungs of the ladder, in the order in which they are tried."""

    STRICT = "r0_strict"
    EXTRACT = "r1_extract"
    SYNTAX = "r2_syntax"
    COERCE = "r3_coerce"
    CONTINUE = "r4_continue"
    SURGEON = "r5_surgeon"
    ASK_AGAIN = "r6_ask_again"
    FAILED = "r7_failed"


class Mode(StrEnum):
    """What was wrong with an answer, by the first thing that would have had to be right."""

    EMPTY = "empty"
    TRUNCATED = "truncated"
    EXTRA_PROSE = "extra_prose"
    FENCED = "fenced"
    REPEATED = "repeated"
    SYNTAX = "syntax"
    ILLEGAL_ESCAPE = "illegal_escape"
    QUOTES = "quotes"
    COMMAS = "commas"
    COMMENTS = "comments"
    LITERALS = "literals"
    CONTROL_CHARACTER = "control_character"
    MISSING_MARK = "missing_mark"
    TOO_DEEP = "too_deep"
    TOO_LARGE = "too_large"
    WRONG_TYPE = "wrong_type"
    MISSING_FIELD = "missing_field"
    UNKNOWN_FIELD = "unknown_field"
    NOT_IN_ENUM = "not_in_enum"
    SCHEMA = "schema"


_LABELS: Final = {label: place for place, label in enumerate(Label)}
RUNGS: Final = {rung: place for place, rung in enumerate(Rung)}


@dataclass(frozen=True, slots=True)
class Edit:
    """One change: `before`, found at character `at` of the model's text, became `after`; both shortened for people.

    `path` is a JSON pointer into the value, for what changes a value and not its text.
    """

    kind: str
    at: int
    before: str
    after: str
    label: Label
    path: str = ""

    @classmethod
    def of(cls, kind: str, at: int, before: str, after: str, label: Label, *, path: str = "") -> Edit:
        """Make one of text of any length."""
        return cls(kind, at, shortened(before), shortened(after), label, path)

    def to_json(self) -> dict[str, Any]:
        """Shape: {"kind", "at", "before", "after", "label"} and, where there is one, {"path"}."""
        told = {"kind": self.kind, "at": self.at, "before": self.before, "after": self.after, "label": self.label}
        return told | {"path": self.path} if self.path else told


def shortened(text: str) -> str:
    """The beginning of a long text, with an ellipsis."""
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def worst(labels: Iterable[Label]) -> Label:
    """The label that can be trusted least; lossless where there is none."""
    return max(labels, key=_LABELS.__getitem__, default=Label.LOSSLESS)
