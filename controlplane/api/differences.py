"""What differs between two JSON documents, as a list of paths. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Difference:
    """One place. `op` is 'added', 'removed' or 'changed'; the side that lacks it is None."""

    path: str
    op: str
    before: Any
    after: Any


def differences(before: Any, after: Any, path: str = "$") -> list[Difference]:
    """Every deepest place where the two differ, in the order of its path; equal documents give none.

    Lists of the same length are compared item by item, others as one value: an item that moved is not a difference in
    each of its neighbours.
    """
    return list(_walk(before, after, path))


def _walk(before: Any, after: Any, path: str) -> Iterator[Difference]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted(before.keys() | after.keys()):
            where = f"{path}.{key}"
            if key not in before:
                yield Difference(where, "added", None, after[key])
            elif key not in after:
                yield Difference(where, "removed", before[key], None)
            else:
                yield from _walk(before[key], after[key], where)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _walk(old, new, f"{path}[{index}]")
    elif before != after or type(before) is not type(after):
        yield Difference(path, "changed", before, after)
