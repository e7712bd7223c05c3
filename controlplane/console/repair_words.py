"""What was wrong with answers that were to be JSON, and what mended them, as people read it. Pure."""

from collections.abc import Mapping
from typing import Any, Final

from controlplane.console.policy_words import listed
from dataplane.repair.labels import Label, Mode, Rung

MODES: Final[Mapping[str, str]] = {
    Mode.EMPTY: "empty",
    Mode.TRUNCATED: "cut off",
    Mode.EXTRA_PROSE: "prose around it",
    Mode.FENCED: "in a code fence",
    Mode.REPEATED: "said twice",
    Mode.SYNTAX: "no JSON syntax",
    Mode.ILLEGAL_ESCAPE: "illegal escape",
    Mode.QUOTES: "wrong quotes",
    Mode.COMMAS: "wrong commas",
    Mode.COMMENTS: "comments",
    Mode.LITERALS: "literals of another language",
    Mode.CONTROL_CHARACTER: "bare control character",
    Mode.MISSING_MARK: "a mark is missing",
    Mode.TOO_DEEP: "nested too deep",
    Mode.TOO_LARGE: "too large",
    Mode.WRONG_TYPE: "value of another type",
    Mode.MISSING_FIELD: "field missing",
    Mode.UNKNOWN_FIELD: "unknown field",
    Mode.NOT_IN_ENUM: "none of the choices",
    Mode.SCHEMA: "against the schema",
}
RUNGS: Final[Mapping[str, str]] = {
    Rung.STRICT: "right as it came",
    Rung.EXTRACT: "unwrapped",
    Rung.SYNTAX: "syntax repaired",
    Rung.COERCE: "coerced to the schema",
    Rung.CONTINUE: "continued by its lane",
    Rung.SURGEON: "mended by another model",
    Rung.ASK_AGAIN: "asked for again",
    Rung.FAILED: "failed",
}
BY_MODEL: Final = frozenset({Rung.CONTINUE, Rung.SURGEON, Rung.ASK_AGAIN})
_KINDS: Final = {
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_MOST_CHOICES: Final = 8


def mode_words(mode: str) -> str:
    """A failure mode; one of a newer worker by its own name."""
    return MODES.get(mode, mode.replace("_", " "))


def rung_words(rung: str) -> str:
    """A rung, likewise."""
    return RUNGS.get(rung, rung.replace("_", " "))


def group_of(outcome: str, label: str) -> str:
    """Which of GROUPS an answer that ended so belongs to."""
    if outcome == Rung.FAILED:
        return "failed"
    if outcome in BY_MODEL:
        return "model"
    if label not in (Label.LOSSLESS, ""):
        return "changed"
    return "right" if outcome == Rung.STRICT else "lossless"


def wanted_words(schema: Mapping[str, Any] | None) -> str:
    """What a schema wants at one place: 'text', 'a number', 'one of orders, refunds'; empty where it does not say."""
    if schema is None:
        return ""
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        shown = [str(choice) for choice in choices[:_MOST_CHOICES]]
        more = ", …" if len(choices) > _MOST_CHOICES else ""
        return f"one of {', '.join(shown)}{more}"
    kinds = schema.get("type")
    known = [_KINDS[one] for one in (kinds if isinstance(kinds, list) else [kinds]) if one in _KINDS]
    return f"{listed(known)}".replace(" and ", " or ") if known else ""


def wants_text(schema: Mapping[str, Any] | None) -> bool:
    """Whether a schema takes nothing but text at one place, so that what is typed there needs no quotes."""
    if schema is None:
        return False
    choices = schema.get("enum")
    return schema.get("type") == "string" or (
        isinstance(choices, list) and bool(choices) and all(isinstance(choice, str) for choice in choices)
    )
