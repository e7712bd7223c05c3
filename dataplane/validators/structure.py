"""Whether JSON has the shape that it was to have: a JSON Schema, or a model written as data. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import jsonschema_rs
import orjson

from dataplane.documents import Node
from dataplane.prompts import compile_schema
from dataplane.validators.json_paths import locate
from dataplane.validators.kinds import Meter, Problem
from dataplane.validators.patterns import compile_re2
from dataplane.validators.values import Channel, Output

MAX_PROBLEMS: Final = 20
MAX_MODEL_DEPTH: Final = 8
_Validator = Any  # jsonschema_rs names one class per draft and no common base

_TYPES: Final = ("string", "integer", "number", "boolean", "date", "datetime", "email", "url", "uuid", "list", "object")
_FORMATS: Final = {"date": "date", "datetime": "date-time", "email": "email", "url": "uri", "uuid": "uuid"}
_BOUNDS: Final = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
_LENGTHS: Final = {"string": ("minLength", "maxLength"), "list": ("minItems", "maxItems")}


@dataclass(frozen=True, slots=True)
class SchemaParams:
    """JSON has to satisfy a schema: the answer, or the arguments of the calls of `tool`.

    Attributes:
        must_be_json: Whether answers that nobody asked to be JSON are held to it too.
        schema: As it was given, or as the model was compiled to.
    """

    tool: str | None
    must_be_json: bool
    schema: Mapping[str, Any]
    validator: _Validator = field(repr=False, compare=False)

    @classmethod
    def parse(cls, node: Node) -> SchemaParams:
        """Read them, or raise MalformedRelease.

        Shape: {"tool"?: name or null, "must_be_json"?: bool, "schema": JSON Schema}, or, in place of the schema,
               {"fields": {name: field}, "unknown": forbid | allow}; field: {"type": one of string, integer, number,
               boolean, date, datetime, email, url, uuid, list, object, "optional"?: bool, "null"?: bool,
               "enum"?: [...], "gt"?, "ge"?, "lt"?, "le"?: number, "min_length"?, "max_length"?: int, "pattern"?: RE2,
               "items"?: field, "fields"?: {...}, "unknown"?: forbid | allow}.
        """
        members = node.members(optional=("tool", "must_be_json", "schema", "fields", "unknown"))
        if ("schema" in members) == ("fields" in members):
            node.refuse("give either 'schema', a JSON Schema, or 'fields', a model")
        if "schema" in members:
            if "unknown" in members:
                members["unknown"].refuse("belongs to 'fields'; a schema says additionalProperties")
            schema = dict(members["schema"].entries())
            document: Mapping[str, Any] = {name: member.value for name, member in schema.items()}
            where = members["schema"]
        else:
            document = _compile_object(members, node, depth=1)
            where = members["fields"]
        try:
            validator = compile_schema(document)
        except ValueError as exc:
            where.refuse(str(exc))
        tool = members["tool"].optional_text() if "tool" in members else None
        must = members["must_be_json"].flag() if "must_be_json" in members else False
        if tool is not None and must:
            members["must_be_json"].refuse("arguments of a tool are always JSON; leave it out")
        return cls(tool, must, document, validator)

    def problems(self, channel: Channel, output: Output, meter: Meter) -> Iterator[Problem]:
        """As `Judging.problems`."""
        if self.tool is not None and channel.tool != self.tool:
            return
        if channel.tool is not None and self.tool is None:
            return
        if not (channel.is_json or self.must_be_json):
            return
        try:
            value = orjson.loads(channel.text)
        except orjson.JSONDecodeError as exc:
            yield Problem("no JSON", min(exc.pos, len(channel.text)), len(channel.text))
            return
        meter.look()
        for count, error in enumerate(self.validator.iter_errors(value)):
            meter.look()
            place = tuple(error.instance_path)
            start, end = locate(channel.text, place, tick=meter.tick)
            yield Problem(f"does not satisfy {_rule_of(error)}", start, end)
            if count + 1 == MAX_PROBLEMS:
                return


def _rule_of(error: jsonschema_rs.ValidationError) -> str:
    """The part of the schema that a value does not satisfy; the library's own words, and paths, repeat the answer's."""
    return "/".join(map(str, error.schema_path)) or "the schema"


def _compile_object(members: Mapping[str, Node], node: Node, *, depth: int) -> dict[str, Any]:
    if depth > MAX_MODEL_DEPTH:
        node.refuse(f"nested more than {MAX_MODEL_DEPTH} deep; give a JSON Schema instead")
    if "unknown" not in members:
        node.refuse("missing key 'unknown': say whether other fields are to be refused ('forbid') or not ('allow')")
    unknown = members["unknown"].one_of(("forbid", "allow"))
    properties: dict[str, Any] = {}
    required: list[str] = []
    for name, entry in members["fields"].entries():
        schema, is_optional = _compile_field(entry, depth=depth)
        properties[name] = schema
        if not is_optional:
            required.append(name)
    if not properties:
        members["fields"].refuse("a model without fields; name at least one")
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": unknown == "allow",
    }


def _compile_field(node: Node, *, depth: int) -> tuple[dict[str, Any], bool]:
    """The schema of one field, and whether it may be missing."""
    members = node.members(
        "type",
        optional=(
            *("optional", "null", "enum", "gt", "ge", "lt", "le", "min_length", "max_length"),
            *("pattern", "items", "fields", "unknown"),
        ),
    )
    kind = members["type"].one_of(_TYPES)
    _refuse_misplaced(members, kind)
    if kind == "object":
        schema = _compile_object(members, node, depth=depth + 1)
    elif kind == "list":
        schema = {"type": "array", "items": _compile_field(members["items"], depth=depth + 1)[0]}
    elif kind in _FORMATS:
        schema = {"type": "string", "format": _FORMATS[kind]}
    else:
        schema = {"type": kind}
    for name, keyword in _BOUNDS.items():
        if name in members:
            schema[keyword] = members[name].number(above=-1e18, maximum=1e18)
    for name, keyword in zip(("min_length", "max_length"), _LENGTHS.get(kind, ()), strict=False):
        if name in members:
            schema[keyword] = members[name].integer()
    if "pattern" in members:
        text = members["pattern"].text()
        try:
            compile_re2(text)
        except ValueError as exc:
            members["pattern"].refuse(f"RE2 does not take it: {exc}")
        schema["pattern"] = text
    if "enum" in members:
        schema["enum"] = [item.value for item in members["enum"].items(minimum=1)]
    if "null" in members and members["null"].flag():
        schema = {"anyOf": [schema, {"type": "null"}]}
    return schema, "optional" in members and members["optional"].flag()


def _refuse_misplaced(members: Mapping[str, Node], kind: str) -> None:
    """Refuse what says nothing about a field of this type: it would look like a check and be none."""
    fits = {
        **dict.fromkeys(_BOUNDS, ("integer", "number")),
        **dict.fromkeys(("min_length", "max_length"), tuple(_LENGTHS)),
        "pattern": ("string",),
        "items": ("list",),
        "fields": ("object",),
        "unknown": ("object",),
    }
    for name, kinds in fits.items():
        if name in members and kind not in kinds:
            members[name].refuse(f"says nothing about a field of type {kind!r}; leave it out")
    for name, wanted in (("items", "list"), ("fields", "object")):
        if kind == wanted and name not in members:
            members["type"].refuse(f"a field of type {kind!r} needs {name!r}")
