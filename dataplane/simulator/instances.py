"""Building a value that satisfies a JSON Schema, for structured output and tool arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import jsonschema_rs

_DEEPEST = 8

# What a string is likely to hold, by its property name; anything else gets help-centre prose when it sounds like prose.
_BY_NAME: dict[str, str] = {
    "email": "sam.jones@example.com",
    "name": "Sam Jones",
    "order_id": "ORD-10482",
    "order_number": "ORD-10482",
    "id": "10482",
    "city": "Utrecht",
    "location": "Utrecht",
    "country": "NL",
    "language": "en",
    "currency": "EUR",
    "date": "2026-03-14",
    "url": "https://help.example.com/articles/10482",
    "category": "orders",
    "topic": "orders",
    "title": "About your order",
    "query": "order status",
}
_PROSE_NAMES = frozenset(
    {"answer", "message", "summary", "text", "reply", "content", "description", "body", "explanation", "reason"}
)
_BY_FORMAT: dict[str, str] = {
    "date": "2026-03-14",
    "time": "09:30:00Z",
    "date-time": "2026-03-14T09:30:00Z",
    "email": "sam.jones@example.com",
    "uri": "https://help.example.com/articles/10482",
    "uuid": "3f0c7a52-6f7d-4f0b-9a8e-2f1b7c9d4e10",
    "hostname": "help.example.com",
    "ipv4": "192.0.2.17",
    "ipv6": "2001:db8::17",
    "duration": "P3D",
}
# Tried in turn against `pattern`; a schema with a stranger one is refused.
_PATTERN_CANDIDATES: tuple[str, ...] = (
    "ORD-10482",
    "ORD-1048",
    "ORD-104821",
    "10482",
    "7",
    "42",
    "104",
    "1048",
    "104821",
    "10482173",
    "A",
    "AB",
    "ABC",
    "a",
    "ab",
    "abc",
    "order",
    "order-status",
    "order_status",
    "A-1",
    "AB-104",
    "AB-1048",
    "ABC-104",
    "ABC-1048",
    "AB1048",
    "2026-03-14",
    "09:30",
    "09:30:00",
    "+31201234567",
    "3.14",
    "12.50",
    "sam.jones@example.com",
    "https://help.example.com",
    "#1a2b3c",
)


class UnsatisfiableSchema(Exception):
    """No instance of the schema could be built; the message says at which path."""


def build_instance(schema: Mapping[str, Any], *, rng: Random, prose: Callable[[], str], topic: str = "") -> Any:
    """Return a value that satisfies `schema`, the same one for the same random state. Where there are words to choose
    from and one of them is `topic`, in either number, it is that one.

    Raises:
        UnsatisfiableSchema: the schema is invalid, or uses what the simulator cannot satisfy (a strange `pattern`,
        `not`, ...).
    """
    try:
        validator = jsonschema_rs.validator_for(dict(schema))
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as exc:
        raise UnsatisfiableSchema(f"not a JSON Schema: {str(exc).splitlines()[0]}") from exc
    instance = _Builder(schema, rng, prose, topic).build(schema, name="", depth=0)
    error = next(iter(validator.iter_errors(instance)), None)
    if error is not None:
        raise UnsatisfiableSchema(
            f"no instance found at {'/'.join(map(str, error.instance_path)) or '/'}: {error.message[:200]}"
        )
    return instance


class _Builder:
    """Walks one schema, resolving local references against its root."""

    def __init__(self, root: Mapping[str, Any], rng: Random, prose: Callable[[], str], topic: str) -> None:
        self._root = root
        self._rng = rng
        self._prose = prose
        self._topics = {topic, topic.removesuffix("s")} if topic else set()

    def build(self, schema: Any, *, name: str, depth: int) -> Any:
        """Return one value for `schema`; `name` is the property it goes under, for a likely string."""
        if not isinstance(schema, Mapping):
            return None
        schema = self._resolve(schema, depth)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            drawn = self._rng.choice(schema["enum"])
            return next((one for one in schema["enum"] if isinstance(one, str) and one in self._topics), drawn)
        for chooser in ("anyOf", "oneOf"):
            if schema.get(chooser):
                options = schema[chooser]
                # Past the depth limit a nullable or simple branch ends the recursion.
                branch = self._rng.choice(options) if depth < _DEEPEST // 2 else min(options, key=_weight)
                rest = {key: value for key, value in schema.items() if key != chooser}
                return self.build(_merge(rest, self._resolve(branch, depth)), name=name, depth=depth + 1)
        return self._build_type(schema, _type_of(schema, depth), name=name, depth=depth)

    def _build_type(self, schema: Mapping[str, Any], kind: str, *, name: str, depth: int) -> Any:
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "string":
                return self._string(schema, name)
            case "integer":
                return int(self._number(schema, whole=True))
            case "number":
                return self._number(schema, whole=False)
            case "boolean":
                return self._rng.random() < 0.5
            case _:
                return None

    def _resolve(self, schema: Mapping[str, Any], depth: int) -> Mapping[str, Any]:
        if depth > 4 * _DEEPEST:
            raise UnsatisfiableSchema("the schema requires endless nesting")
        if isinstance(schema.get("$ref"), str):
            target: Any = self._root
            for part in schema["$ref"].lstrip("#").strip("/").split("/"):
                if part:
                    target = target[part.replace("~1", "/").replace("~0", "~")]
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            return self._resolve(_merge(target, rest), depth + 1)
        if schema.get("allOf"):
            merged: Mapping[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
            for part in schema["allOf"]:
                merged = _merge(merged, self._resolve(part, depth + 1))
            return merged
        return schema

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        required = set(schema.get("required", ()))
        properties: Mapping[str, Any] = schema.get("properties", {})
        wanted = [key for key in properties if key in required or depth < _DEEPEST // 2]
        built = {key: self.build(properties[key], name=key, depth=depth + 1) for key in wanted}
        for key in required - set(properties):
            built[key] = self.build(_additional(schema), name=key, depth=depth + 1)
        while len(built) < schema.get("minProperties", 0):
            built[f"field_{len(built) + 1}"] = self.build(_additional(schema), name="", depth=depth + 1)
        return built

    def _array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        fewest = int(schema.get("minItems", 0))
        most = int(schema.get("maxItems", max(fewest, 3)))
        length = (
            fewest
            if depth >= _DEEPEST // 2
            else self._rng.randint(max(fewest, min(1, most)), max(fewest, min(most, 3)))
        )
        prefix = schema.get("prefixItems", [])
        items = schema.get("items", {"type": "string"})
        return [
            self.build(prefix[at] if at < len(prefix) else items, name=name.removesuffix("s"), depth=depth + 1)
            for at in range(length)
        ]

    def _string(self, schema: Mapping[str, Any], name: str) -> str:
        if "pattern" in schema:
            checker = jsonschema_rs.validator_for(
                {key: schema[key] for key in ("pattern", "minLength", "maxLength") if key in schema}
            )
            for candidate in _PATTERN_CANDIDATES:
                if checker.is_valid(candidate):
                    return candidate
            raise UnsatisfiableSchema(f"no string at hand matches the pattern {schema['pattern']!r}")
        if schema.get("format") in _BY_FORMAT:
            return _BY_FORMAT[schema["format"]]
        lowered = name.lower()
        text = self._prose() if lowered in _PROSE_NAMES else _BY_NAME.get(lowered, "order status")
        fewest, most = int(schema.get("minLength", 0)), schema.get("maxLength")
        while len(text) < fewest:
            text = f"{text} {text}"
        return text if most is None else text[: int(most)]

    def _number(self, schema: Mapping[str, Any], *, whole: bool) -> float:
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        span = 100.0
        low = float(low) if low is not None else (min(0.0, float(high) - span) if high is not None else 0.0)
        high = float(high) if high is not None else low + span
        step = float(schema.get("multipleOf", 1.0 if whole else 0.0))
        if step:
            first, last = math.ceil(low / step), math.floor(high / step)
            if first * step == schema.get("exclusiveMinimum"):
                first += 1
            if last * step == schema.get("exclusiveMaximum"):
                last -= 1
            return self._rng.randint(first, max(first, last)) * step
        # A quarter to three quarters of the way stays clear of exclusive ends.
        return round(low + (high - low) * self._rng.uniform(0.25, 0.75), 4)


def _type_of(schema: Mapping[str, Any], depth: int) -> str:
    """Return the type to build; deep down a nullable value becomes null."""
    kind = schema.get("type")
    if isinstance(kind, list):
        if depth >= _DEEPEST // 2 and "null" in kind:
            return "null"
        kind = next((each for each in kind if each != "null"), "null")
    if isinstance(kind, str):
        return kind
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema else "string"


def _additional(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    additional = schema.get("additionalProperties")
    return additional if isinstance(additional, Mapping) else {"type": "string"}


def _merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return both schemas as one: properties and required are united, anything else is taken from `other` where it
    has it.
    """
    merged = {**one, **other}
    if "properties" in one and "properties" in other:
        merged["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        merged["required"] = [*one["required"], *(key for key in other["required"] if key not in one["required"])]
    return merged


def _weight(schema: Any) -> int:
    """Order the branches of a choice by how much nesting they bring: null first, references last."""
    if not isinstance(schema, Mapping) or schema.get("type") == "null":
        return 0
    if "$ref" in schema or schema.get("type") in ("object", "array"):
        return 2
    return 1
