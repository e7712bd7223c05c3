"""Reduces a JSON Schema to the part that Anthropic's constrained decoding accepts."""

from __future__ import annotations

from typing import Any, Final

import orjson

from dataplane.messages import Json

STRING_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
KEPT: Final = ("type", "enum", "const", "$ref", "title", "required", "default")


def reduce_schema(schema: Any) -> Json:
    """Return `schema` with objects closed and unsupported constraints told in `description` instead of enforced.

    Kept: type, enum, const, $ref, $defs, title, required, default, properties, items, anyOf, allOf; oneOf becomes
    anyOf; a string `format` from STRING_FORMATS; `minItems` of 0 or 1. Everything else (minimum, pattern, maxLength,
    ...) joins the description, where the model may heed it. A schema that is not an object (`true`) becomes one that
    accepts any object.

    Source: Anthropic, "Structured outputs", section "JSON Schema limitations".
    """
    if not isinstance(schema, dict):
        return {"type": "object", "properties": {}, "additionalProperties": False}
    reduced: Json = {name: schema[name] for name in KEPT if name in schema}
    told: Json = {}
    for name, value in schema.items():
        match name:
            case "properties" | "$defs" | "definitions":
                reduced[name] = {key: reduce_schema(inner) for key, inner in value.items()}
            case "items":
                reduced[name] = reduce_schema(value)
            case "anyOf" | "oneOf":
                reduced["anyOf"] = [reduce_schema(inner) for inner in value]
            case "allOf":
                reduced[name] = [reduce_schema(inner) for inner in value]
            case "format" if value in STRING_FORMATS:
                reduced[name] = value
            case "minItems" if value in (0, 1):
                reduced[name] = value
            case "additionalProperties" | "$schema" | "$id" | "description":
                pass
            case _ if name not in KEPT:
                told[name] = value
    if schema.get("type") == "object" or "properties" in schema:
        reduced["additionalProperties"] = False
        reduced.setdefault("properties", {})
    words = [schema["description"]] if schema.get("description") else []
    if told:
        words.append(orjson.dumps(told).decode())
    if words:
        reduced["description"] = "\n\n".join(words)
    return reduced
