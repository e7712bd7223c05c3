"""What a member of a report may be: checks whether a column could hold it, each with what it expects, in words."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from dataplane.sketches import Sketch

Check = Callable[[Any], bool]
Member = tuple[Check, str]

MAX_INTEGER: Final = 2**63 - 1
MAX_SMALL: Final = 2**31 - 1
YEAR_3000: Final = 32_503_680_000


class MalformedReport(ValueError):
    """An entry of the stream that is no report: `path` says where, the message what was expected."""

    code = "malformed_report"

    def __init__(self, path: str, expected: str) -> None:
        super().__init__(f"{path}: expected {expected}")
        self.path = path


def check_object(value: Any, members: Mapping[str, Member], path: str) -> None:
    """Return if `value` is an object with these members, and maybe others.

    Raises:
        MalformedReport: naming the JSON path.
    """
    if not isinstance(value, dict):
        raise MalformedReport(path, "an object")
    for name, (check, expected) in members.items():
        if name not in value:
            if not check(_ABSENT):
                raise MalformedReport(f"{path}.{name}", f"{expected}, got nothing")
        elif not check(value[name]):
            raise MalformedReport(f"{path}.{name}", f"{expected}, got {type(value[name]).__name__}")


def check_sketches(row: Mapping[str, Any], names: Iterable[str], path: str) -> None:
    """Return if `row` has a sketch under each of the names.

    Raises:
        MalformedReport: naming the JSON path.
    """
    for name in names:
        try:
            Sketch.from_json(row[name])
        except ValueError as exc:
            raise MalformedReport(f"{path}.{name}", f"a sketch ({exc})") from exc


_ABSENT: Final = object()


def text(length: int, *, minimum: int = 0) -> Member:
    """Text of so many characters."""
    return (
        lambda value: isinstance(value, str) and minimum <= len(value) <= length,
        f"text of up to {length} characters",
    )


def integer(maximum: int = MAX_INTEGER, *, minimum: int = 0) -> Member:
    """A whole number in this range."""
    return (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum,
        f"an integer from {minimum} to {maximum}",
    )


def number(maximum: float) -> Member:
    """A number from 0 on."""
    return (
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= maximum,
        f"a number from 0 to {maximum:g}",
    )


def one_of(*words: str) -> Member:
    """One of these."""
    return lambda value: value in words, f"one of {', '.join(words)}"


def or_null(member: Member) -> Member:
    """What `member` may be, or null."""
    return lambda value: value is None or member[0](value), f"{member[1]} or null"


def optional(member: Member) -> Member:
    """What `member` may be, or nothing at all."""
    return lambda value: value is _ABSENT or member[0](value), member[1]


def counts_by_key(most: int, length: int) -> Member:
    """An object of at most so many counts, whose keys are at most so long."""
    is_key, is_count = text(length, minimum=1)[0], integer()[0]
    return (
        lambda value: (
            isinstance(value, dict)
            and len(value) <= most
            and all(is_key(key) and is_count(count) for key, count in value.items())
        ),
        f"at most {most} counts by keys of up to {length} characters",
    )


EPOCH = number(YEAR_3000)
IS_NUMBER: Check = number(1e15)[0]
IS_COUNT: Check = integer()[0]
ROWS: Member = (lambda value: isinstance(value, list), "a list")
OBJECT: Member = (lambda value: isinstance(value, dict), "an object")
TEXTS: Member = (
    lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "a list of texts",
)
BOOLEAN: Member = (lambda value: isinstance(value, bool), "true or false")
BUCKET: Member = (
    lambda value: integer(YEAR_3000)[0](value) and value % 10 == 0,
    "epoch seconds, a multiple of 10",
)
