"""Puts into JSON what somebody says is missing there; everything else keeps its text. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from dataplane.repair.values import Path, Place, locate

_MOST_FIELDS: Final = 200


class SuppliedRefused(ValueError):
    """What was supplied cannot be put there; the message says why."""


def supplied(text: str, fields: Mapping[str, Any]) -> str:
    """Return JSON with a value at each pointer (RFC 6901), in the place of what is there, or as a new member. Objects
    that are missing on the way are made.

    Raises:
        SuppliedRefused: a pointer leads through what is neither an object nor a list, or past the end of a list.
    """
    if len(fields) > _MOST_FIELDS:
        raise SuppliedRefused(f"{len(fields)} fields are too many at once; {_MOST_FIELDS} are the most")
    for pointer, value in fields.items():
        if not pointer.startswith("/"):
            raise SuppliedRefused(f"{pointer[:80]!r} is no JSON pointer to a field, such as '/customer/name'")
        steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/")]
        text = _put(text, (), steps, orjson.dumps(value).decode(), pointer)
    return text


def _put(text: str, path: Path, steps: list[str], value: str, pointer: str) -> str:
    """Put `value` where `steps` lead from `path`, which leads to something."""
    here = locate(text, path)
    if here is None or text[here.start] not in "{[":
        raise SuppliedRefused(f"{pointer[:80]!r} leads through a value that is neither an object nor a list")
    step: str | int = steps[0]
    if text[here.start] == "[":
        if not steps[0].isdecimal():
            raise SuppliedRefused(f"{pointer[:80]!r} names {steps[0][:40]!r} in a list, which has only numbers")
        step = int(steps[0])
    found = locate(text, (*path, step))
    if len(steps) > 1:
        if found is None:
            text = _added(text, here, step, "{}", pointer)
        return _put(text, (*path, step), steps[1:], value, pointer)
    if found is None:
        return _added(text, here, step, value, pointer)
    return text[: found.start] + value + text[found.end :]


def _added(text: str, container: Place, step: str | int, value: str, pointer: str) -> str:
    """`text` with one more value at the end of an object or a list."""
    inside = text[container.start + 1 : container.end - 1]
    is_empty = not inside.strip()
    if isinstance(step, int):
        held: list[Any] = orjson.loads(text[container.start : container.end])
        if step != len(held):
            raise SuppliedRefused(f"{pointer[:80]!r} leads past the end of a list of {len(held)}")
        new = value
    else:
        new = f"{orjson.dumps(step).decode()}: {value}"
    kept = "" if is_empty else inside.rstrip()
    return f"{text[: container.start + 1]}{kept}{'' if is_empty else ', '}{new}{text[container.end - 1 :]}"
