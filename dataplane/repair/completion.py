"""Completes an answer that nothing could repair with what somebody supplies. Pure: applications do it at the gateway,
people in the console.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from dataplane.errors.requests import InvalidRequest
from dataplane.json_answers import Mended, Readers, answer_of, note_of, with_parts
from dataplane.messages import ChatRequest, Usage
from dataplane.repair.kept import StillBroken
from dataplane.repair.labels import Edit, Label, Rung
from dataplane.repair.reader import Unrepaired
from dataplane.repair.supplied import SuppliedRefused, supplied
from dataplane.schema_check import SchemaChecker


@dataclass(frozen=True, slots=True)
class Supplied:
    """What somebody supplies: values at JSON pointers, or the whole value of the part, as JSON."""

    fields: Mapping[str, Any]
    whole: str | None

    def put_into(self, text: str | None, *, at: str) -> str:
        """The part with it; `text` is as much of the part as could be read, None for nothing.

        Raises:
            InvalidRequest: it cannot be put there.
        """
        if self.whole is not None:
            return self.whole
        if text is None:
            raise InvalidRequest(f"nothing of {at} can be read, so send all of it, as 'value'", param="fields")
        try:
            return supplied(text, self.fields)
        except SuppliedRefused as exc:
            raise InvalidRequest(str(exc), param="fields") from exc

    def edits(self) -> tuple[Edit, ...]:
        """As what the answer says of it: somebody's words, not the model's."""
        told = [("", self.whole)] if self.whole is not None else list(self.fields.items())
        texts = [(path, value if isinstance(value, str) else orjson.dumps(value).decode()) for path, value in told]
        return tuple(Edit.of("supplied", 0, "", text, Label.INVENTED, path=path) for path, text in texts)


def parse_supplied(body: bytes) -> Supplied:
    """Read the body of a `POST /v1/repairs/{id}`.

    Shape: {"fields": {JSON pointer: value}} or {"value": any}.
    Raises:
        InvalidRequest: naming the field.
    """
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidRequest(f"the request body is not valid JSON: {exc}") from exc
    if not isinstance(given, dict) or len(given) != 1 or not given.keys() <= {"fields", "value"}:
        raise InvalidRequest("send {'fields': {JSON pointer: value}} or {'value': ...}, and nothing else")
    if "value" in given:
        return Supplied({}, orjson.dumps(given["value"]).decode())
    fields = given["fields"]
    if not isinstance(fields, dict) or not fields:
        raise InvalidRequest("'fields' must be an object that names at least one JSON pointer", param="fields")
    return Supplied(fields, None)


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer with what was supplied, as it is kept; `flaw` is what is wrong with another part of it, if anything."""

    payload: Mapping[str, Any]
    flaw: StillBroken | None


def complete(payload: Mapping[str, Any], at: str, given: Supplied, *, schemas: SchemaChecker) -> Completion:
    """Put what was supplied into the part `at` of an answer that is kept.

    Args:
        payload: See `kept.OpenAnswer`.
    Raises:
        InvalidRequest: the part is not right with it, and this says what is missing still.
    """
    response = answer_of(payload["body"])
    asked = ChatRequest(route="", messages=[], parameters=payload["asked"])
    readers = Readers(asked, schemas)
    parts = list(readers.parts_of(response))
    part = next(one for one in parts if one.name == at)
    reading = readers.reader_of(part).read(given.put_into(payload["value"], at=at))
    if isinstance(reading, Unrepaired):
        missing = f"; missing: {', '.join(reading.missing)}" if reading.missing else ""
        raise InvalidRequest(f"{at} is not what was asked for yet: {reading.why}{missing}", param="fields")
    done = Mended(part, reading.text, Rung.FAILED, None, given.edits())
    reason = response.finish_reason
    completed = with_parts(response, [done], spent=Usage(), finish_reason=reason, ballast=note_of([done]))
    now = {**payload, "body": orjson.loads(completed.to_openai())}
    for other in parts[parts.index(part) + 1 :]:
        found = readers.reader_of(other).read(other.text)
        if isinstance(found, Unrepaired):
            best = None if found.best is None else found.best.text
            return Completion({**now, "value": best}, StillBroken(other.name, found.mode, found.why, found.missing))
    return Completion(now, None)
