"""What a record is where the program is compiled: `launcher.native_records` gives it the rest of a dataclass."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar


class Record:
    """See the module. As a dataclass does, it compares by its fields, and names them."""

    __match_args__: ClassVar[tuple[str, ...]] = ()

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in type(self).__match_args__)

    def __repr__(self) -> str:
        fields: dict[str, dataclasses.Field[Any]] = getattr(self, "__dataclass_fields__", {})
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name, field in fields.items() if field.repr)
        return f"{type(self).__qualname__}({shown})"


def fields_of(names: tuple[str, ...], *, unshown: tuple[str, ...] = ()) -> dict[str, dataclasses.Field[Any]]:
    """What `dataclasses.replace` and its like ask of a dataclass with these fields, in their order."""
    members = [(name, Any, dataclasses.field(repr=name not in unshown)) for name in names]
    made: Any = dataclasses.make_dataclass("Fields", members)
    fields: dict[str, dataclasses.Field[Any]] = made.__dataclass_fields__
    return fields
