"""What was wrong with an answer, in one word for charts: from what was edited, and from what a schema refused. Pure.

One answer may have several things wrong with it. The word is that of the edit that can be trusted least, and among
equals that of the mode that stands first in `Mode`; of what a schema refuses, that of the mode that stands first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from dataplane.repair.labels import Edit, Mode, worst
from dataplane.repair.values import Path, pointer

MAX_TOLD: Final = 5
_MAX_MESSAGE_CHARACTERS: Final = 200
_ORDER: Final = {mode: place for place, mode in enumerate(Mode)}
_OF_EDIT: Final = {
    "byte_order_mark": Mode.EXTRA_PROSE,
    "prose": Mode.EXTRA_PROSE,
    "fence": Mode.FENCED,
    "repeated": Mode.REPEATED,
    "other_value": Mode.REPEATED,
    "not_looked_at": Mode.REPEATED,
    "stray_mark": Mode.SYNTAX,
    "white_space": Mode.SYNTAX,
    "library": Mode.SYNTAX,
    "added": Mode.SYNTAX,
    "left_out": Mode.SYNTAX,
    "illegal_escape": Mode.ILLEGAL_ESCAPE,
    "quotes": Mode.QUOTES,
    "bare_key": Mode.QUOTES,
    "trailing_comma": Mode.COMMAS,
    "comment": Mode.COMMENTS,
    "literal": Mode.LITERALS,
    "not_a_number": Mode.LITERALS,
    "number_form": Mode.LITERALS,
    "control_character": Mode.CONTROL_CHARACTER,
    "surrogate": Mode.CONTROL_CHARACTER,
    "missing_mark": Mode.MISSING_MARK,
    "truncated": Mode.TRUNCATED,
    "string_to_number": Mode.WRONG_TYPE,
    "number_to_string": Mode.WRONG_TYPE,
    "string_to_boolean": Mode.WRONG_TYPE,
    "scalar_to_list": Mode.WRONG_TYPE,
    "list_to_scalar": Mode.WRONG_TYPE,
    "json_string": Mode.WRONG_TYPE,
    "null_to_absent": Mode.WRONG_TYPE,
    "enum_case": Mode.NOT_IN_ENUM,
    "drop_unknown": Mode.UNKNOWN_FIELD,
    "fill_default": Mode.MISSING_FIELD,
}
_OF_ERROR: Final = {
    "Type": Mode.WRONG_TYPE,
    "Required": Mode.MISSING_FIELD,
    "AdditionalProperties": Mode.UNKNOWN_FIELD,
    "UnevaluatedProperties": Mode.UNKNOWN_FIELD,
    "Enum": Mode.NOT_IN_ENUM,
    "Constant": Mode.NOT_IN_ENUM,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that a schema refuses: where, as a JSON pointer, what, and which required fields are absent."""

    pointer: str
    mode: Mode
    fact: str
    missing: tuple[str, ...] = ()


def mode_of_edits(edits: Iterable[Edit]) -> Mode | None:
    """The mode of a reading; None where nothing was edited."""
    edits = tuple(edits)
    least = worst(edit.label for edit in edits)
    modes = [_OF_EDIT.get(edit.kind, Mode.SYNTAX) for edit in edits if edit.label is least]
    return min(modes, key=_ORDER.__getitem__, default=None)


def mode_of_problems(problems: Iterable[Problem]) -> Mode:
    """The mode of a value that a schema refuses."""
    return min((problem.mode for problem in problems), key=_ORDER.__getitem__, default=Mode.SCHEMA)


def problem_of(error: Any) -> Problem:
    """What an error of jsonschema-rs says; of alternatives, what its nearest says, if one is nearest."""
    nearest = nearest_branch(error)
    if nearest is not None:
        inner = [problem_of(one) for one in nearest]
        missing = tuple(name for problem in inner for name in problem.missing)
        return Problem(inner[0].pointer, mode_of_problems(inner), inner[0].fact, missing)
    path: Path = tuple(error.instance_path)
    kind = type(error.kind).__name__
    missing = (pointer((*path, error.kind.property)),) if kind == "Required" else ()
    fact = error.message
    if len(fact) > _MAX_MESSAGE_CHARACTERS:
        fact = fact[: _MAX_MESSAGE_CHARACTERS - 1] + "…"
    return Problem(pointer(path), _OF_ERROR.get(kind, Mode.SCHEMA), fact, missing)


def nearest_branch(error: Any) -> list[Any] | None:
    """Of the alternatives that a value meets none of, the one that it is meant for: the only one of its own type."""
    branches = getattr(error.kind, "context", None)
    if not branches:
        return None
    path = error.instance_path
    near = [
        branch
        for branch in branches
        if not any(type(one.kind).__name__ == "Type" and one.instance_path == path for one in branch)
    ]
    return near[0] if len(near) == 1 else None


def why(problems: Iterable[Problem]) -> str:
    """What is wrong with a value in words, for people and for a model that is asked again."""
    found = sorted({(problem.pointer, problem.fact) for problem in problems})
    told = [f"{place or 'the value'}: {fact}" for place, fact in found]
    more = len(told) - MAX_TOLD
    return "; ".join(told[:MAX_TOLD]) + (f"; and {more} more" if more > 0 else "")
