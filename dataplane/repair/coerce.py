"""Makes a value meet its schema by the coercions that a policy declares, each only where the schema refuses it. Pure.

It goes by the errors of the schema's validator, pass by pass, and edits the text at the places that they point to: what
is not coerced stays as it was written, to the character. No coercion is made twice at one place, so it always ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dataplane.messages import Json
from dataplane.repair.labels import Edit, Label
from dataplane.repair.modes import Problem, problem_of
from dataplane.repair.values import WHITE, NotJson, Path, Reading, locate, parse, pointer

MAX_COERCIONS: Final = 100
MAX_PASSES: Final = 10
# The validator names every error at ten microseconds each, so a longer text is told its first one only.
MAX_CHARACTERS: Final = 65_536

LABELS: Final[Mapping[str, Label]] = {
    "string_to_number": Label.LOSSLESS,
    "number_to_string": Label.LOSSLESS,
    "string_to_boolean": Label.LOSSLESS,
    "scalar_to_list": Label.LOSSLESS,
    "list_to_scalar": Label.LOSSLESS,
    "json_string": Label.LOSSLESS,
    "null_to_absent": Label.LOSSY,
    "enum_case": Label.LOSSY,
    "drop_unknown": Label.LOSSY,
    "fill_default": Label.INVENTED,
}
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NUMBERS: Final = frozenset({"number", "integer"})
_ABSENT: Final = object()


@dataclass(frozen=True, slots=True)
class Fix:
    """One coercion: at `path`, the value's text becomes `text`; None: the member goes. For `fill_default` the path is
    that of the member that is absent.
    """

    kind: str
    path: Path
    text: str | None


def errors_of(validator: Any, value: Any, *, characters: int) -> list[Any]:
    """What a validator refuses of a value that came of so many characters: of a long one, the first thing."""
    if characters <= MAX_CHARACTERS:
        return list(validator.iter_errors(value))
    try:
        validator.validate(value)
    except ValueError as error:
        return [error]
    return []


class Coercer:
    """Coerces to one schema. `validator` is the compiled schema."""

    __slots__ = ("_coercions", "_schema", "_validator")

    def __init__(self, schema: Json, validator: Any, *, coercions: frozenset[str]) -> None:
        self._schema = schema
        self._validator = validator
        self._coercions = coercions

    def coerce(self, reading: Reading) -> tuple[Reading | None, list[Problem]]:
        """Return the reading with the edits that make it meet the schema, or None; and what the schema refuses of it as
        it was.
        """
        text, edits = reading.text, list(reading.edits)
        errors = errors_of(self._validator, parse(text), characters=len(text))
        problems = [problem_of(error) for error in errors]
        done: set[tuple[str, Path]] = set()
        for _ in range(MAX_PASSES):
            if not errors:
                return Reading(text, tuple(edits)), problems
            if len(errors) > MAX_COERCIONS or not self._coercions or len(text) > MAX_CHARACTERS:
                return None, problems
            before = len(done)
            for fix in _apart(fix for error in errors for fix in self._fixes(error) or ()):
                if (fix.kind, fix.path) in done or len(done) >= MAX_COERCIONS:
                    continue
                changed = _changed(text, fix)
                if changed is not None:
                    text, edit = changed
                    edits.append(edit)
                    done.add((fix.kind, fix.path))
            if len(done) == before:
                return None, problems
            try:
                errors = errors_of(self._validator, parse(text), characters=len(text))
            except NotJson:  # what was unpacked is too deep in here
                return None, problems
        return None, problems

    def _fixes(self, error: Any) -> tuple[Fix, ...] | None:
        """The coercions that answer an error; None where none does."""
        kind, path, value = error.kind, tuple(error.instance_path), error.instance
        fixes: list[Fix] = []
        match type(kind).__name__:
            case "Type":
                fixes += self._to_type(path, value, frozenset(kind.types))
            case "Enum":
                fixes += self._to_option(path, value, kind.options)
            case "Constant":
                fixes += self._to_option(path, value, [kind.expected_value])
            case "AdditionalProperties" | "UnevaluatedProperties":
                if "drop_unknown" in self._coercions:
                    fixes += [Fix("drop_unknown", (*path, name), None) for name in kind.unexpected]
            case "Required":
                default = self._default(error.schema_path, kind.property)
                if "fill_default" in self._coercions and default is not _ABSENT:
                    fixes.append(Fix("fill_default", (*path, kind.property), json.dumps(default, ensure_ascii=False)))
            case "AnyOf" | "OneOfNotValid":
                fixes += self._to_one_of(kind.context)
        if not fixes and value is None and path and isinstance(path[-1], str) and "null_to_absent" in self._coercions:
            fixes.append(Fix("null_to_absent", path, None))
        return tuple(fixes) or None

    def _to_one_of(self, branches: list[list[Any]]) -> tuple[Fix, ...]:
        """The coercions for the only alternative that can be reached by any."""
        ways = set()
        for branch in branches:
            fixes = [self._fixes(error) for error in branch]
            if all(fixes):
                ways.add(tuple(dict.fromkeys(fix for one in fixes for fix in one or ())))
        return ways.pop() if len(ways) == 1 else ()

    def _to_type(self, path: Path, value: Any, types: frozenset[str]) -> Iterator[Fix]:
        """The coercion of a value to one of `types`; where several would do, the first of this order."""
        for kind, text in self._texts(value, types):
            if kind in self._coercions:
                yield Fix(kind, path, text)
                return

    def _texts(self, value: Any, types: frozenset[str]) -> Iterator[tuple[str, str]]:
        if isinstance(value, str):
            if types & {"object", "array"} and (inner := _inner_json(value, types)) is not None:
                yield "json_string", inner
            if types & _NUMBERS and _NUMBER.fullmatch(value):
                yield "string_to_number", value
            if "boolean" in types and value.lower() in ("true", "false"):
                yield "string_to_boolean", value.lower()
        if "string" in types and isinstance(value, int | float) and not isinstance(value, bool):
            yield "number_to_string", '"{}"'
        if isinstance(value, list):
            if len(value) == 1 and "array" not in types:
                yield "list_to_scalar", "[0]"
        elif value is not None and "array" in types:
            yield "scalar_to_list", "[{}]"

    def _to_option(self, path: Path, value: Any, options: list[Any]) -> Iterator[Fix]:
        if not isinstance(value, str) or "enum_case" not in self._coercions:
            return
        fitting = [one for one in options if isinstance(one, str) and one.casefold() == value.casefold()]
        if len(fitting) == 1:
            yield Fix("enum_case", path, json.dumps(fitting[0], ensure_ascii=False))

    def _default(self, schema_path: list[str | int], name: str) -> Any:
        """The default that the schema has for a property, which stands beside the `required` that names it."""
        schema: Any = self._schema
        for step in (*schema_path[:-1], "properties", name):
            try:
                schema = self._resolved(schema)[step]
            except (KeyError, IndexError, TypeError):
                return _ABSENT
        schema = self._resolved(schema)
        return schema.get("default", _ABSENT) if isinstance(schema, dict) else _ABSENT

    def _resolved(self, schema: Any) -> Any:
        """What a reference within the schema refers to, if it is one and has nothing of its own to say here."""
        if not isinstance(schema, dict) or "default" in schema or not isinstance(schema.get("$ref"), str):
            return schema
        reference = schema["$ref"]
        if not reference.startswith("#"):
            return schema
        found: Any = self._schema
        for step in reference[1:].split("/")[1:]:
            if not isinstance(found, dict):
                return schema
            found = found.get(step.replace("~1", "/").replace("~0", "~"))
        return found if isinstance(found, dict) else schema


def _apart(fixes: Iterator[Fix]) -> list[Fix]:
    """The fixes of one pass that touch nothing that another touches, those further out first."""
    kept: list[Fix] = []
    for fix in sorted(dict.fromkeys(fixes), key=lambda one: len(one.path)):
        if not any(fix.path[: len(other.path)] == other.path for other in kept):
            kept.append(fix)
    return kept


def _changed(text: str, fix: Fix) -> tuple[str, Edit] | None:
    """The text with one fix made, and its edit; None where the place is not found, or is there twice."""
    told = pointer(fix.path)
    if fix.kind == "fill_default":
        parent = locate(text, fix.path[:-1])
        if parent is None or fix.text is None or text[parent.start] != "{":
            return None
        colon, comma = (": ", ", ") if '": ' in text else (":", ",")
        member = json.dumps(fix.path[-1], ensure_ascii=False) + colon + fix.text
        held = text[parent.start + 1 : parent.end - 1].rstrip(WHITE)
        at = parent.start + 1 + len(held)
        member = comma + member if held else member
        return text[:at] + member + text[at:], _edit(fix, "", fix.text, told)
    place = locate(text, fix.path)
    if place is None:
        return None
    before = text[place.start : place.end]
    if fix.text is None:
        if place.member is None:
            return None
        start, end = place.member
        return text[:start] + text[end:], _edit(fix, before, "", told)
    if fix.kind == "list_to_scalar":
        after = before[1:-1].strip(WHITE)
    elif fix.kind in ("number_to_string", "scalar_to_list"):
        after = fix.text.format(before)
    else:
        after = fix.text
    return text[: place.start] + after + text[place.end :], _edit(fix, before, after, told)


def _edit(fix: Fix, before: str, after: str, told: str) -> Edit:
    """A coercion's edit tells its place by the pointer: in the model's text it may have stood elsewhere."""
    return Edit.of(fix.kind, 0, before, after, LABELS[fix.kind], path=told)


def _inner_json(text: str, types: frozenset[str]) -> str | None:
    """JSON of one of `types` that a string holds."""
    inner = text.strip(WHITE)
    if inner[:1] not in ("{", "[") or ("object" if inner[0] == "{" else "array") not in types:
        return None
    try:
        parse(inner)
    except NotJson:
        return None
    return inner
