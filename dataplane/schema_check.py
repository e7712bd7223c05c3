"""Whether an answer meets the JSON Schema that was asked for: measured, never changed."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

import orjson

from dataplane.messages import Json
from dataplane.prompts import compile_schema

MAX_COMPILED: Final = 256


class SchemaChecker:
    """Keeps compiled validators by the schema's content; the least recently used one makes room."""

    def __init__(self, *, limit: int = MAX_COMPILED) -> None:
        self._limit = limit
        self._compiled: OrderedDict[bytes, Any] = OrderedDict()

    def check(self, schema: Json, text: str) -> bool | None:
        """Return whether `text` is JSON that satisfies `schema`; None when the schema itself cannot be compiled."""
        validator = self.validator(schema)
        if validator is None:
            return None
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return False
        passed: bool = validator.is_valid(value)
        return passed

    def validator(self, schema: Json) -> Any:
        """The compiled validator of a schema; None when it cannot be compiled."""
        key = orjson.dumps(schema)
        if key in self._compiled:
            self._compiled.move_to_end(key)
            return self._compiled[key]
        try:
            validator = compile_schema(schema)
        except ValueError:
            validator = None
        self._compiled[key] = validator
        if len(self._compiled) > self._limit:
            self._compiled.popitem(last=False)
        return validator
