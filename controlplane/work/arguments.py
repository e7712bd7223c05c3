"""The arguments of work: what JSON says, and comes back from it the same."""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from controlplane.work.errors import ArgumentsTooLarge, UnserialisableArguments

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 50


def write(kind: str, arguments: Mapping[str, Any]) -> bytes:
    """Return the arguments as JSON.

    Raises:
        UnserialisableArguments: something in them is none, or would come back as something else.
        ArgumentsTooLarge: they take over MAX_BYTES.
    """
    if not isinstance(arguments, dict):
        raise UnserialisableArguments(kind, path="$", fact=f"is a {type(arguments).__name__}, not a dict")
    _check(arguments, "$", kind, depth=0)
    try:
        data = json.dumps(arguments, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    except UnicodeEncodeError as exc:
        raise UnserialisableArguments(kind, path="$", fact="holds half of a character") from exc
    if len(data) > MAX_BYTES:
        raise ArgumentsTooLarge(kind, found_bytes=len(data), limit_bytes=MAX_BYTES)
    return data


def read(data: bytes) -> dict[str, Any]:
    """Return what `write` was given."""
    arguments: dict[str, Any] = json.loads(data)
    return arguments


def _check(value: object, path: str, kind: str, *, depth: int) -> None:
    """Only what is of JSON's own types: a subclass, a tuple or a number as a key would come back as something else."""
    if depth > MAX_DEPTH:
        raise UnserialisableArguments(kind, path=path[:80], fact=f"lies over {MAX_DEPTH} deep")
    if value is None or type(value) in (str, int, bool):
        return
    if type(value) is float and math.isfinite(value):
        return
    if type(value) is dict:
        for name, member in value.items():
            if type(name) is not str:
                raise UnserialisableArguments(kind, path=path, fact=f"has the key {name!r}, which is no text")
            _check(member, f"{path}.{name}", kind, depth=depth + 1)
    elif type(value) is list:
        for index, item in enumerate(value):
            _check(item, f"{path}[{index}]", kind, depth=depth + 1)
    else:
        fact = "is no finite number" if type(value) is float else f"is of the type {type(value).__name__}"
        raise UnserialisableArguments(kind, path=path[:80], fact=fact)
