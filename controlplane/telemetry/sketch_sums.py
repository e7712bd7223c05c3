"""Sketches added up where they are: all but their bins, which are counted by key, in a statement of their own."""

from collections.abc import Sequence
from typing import Any, Final

from dataplane.sketches import Sketch

_PARTS: Final = (
    ("SUM", "count", "bigint"),
    ("SUM", "sum", "float8"),
    ("SUM", "zero", "bigint"),
    ("MIN", "min", "float8"),
    ("MAX", "max", "float8"),
)


def sketches_summed(names: Sequence[str]) -> str:
    """The expressions of a SELECT that add up the sketches in these columns; `take_sketches` reads what they give."""
    return ", ".join(f"{function}(({name} ->> '{part}')::{kind})" for name in names for function, part, kind in _PARTS)


def sketch_summed(name: str) -> str:
    """The expression of a SELECT that adds up the sketches in a column, as `Sketch.to_json` writes one without bins."""
    parts = ", ".join(f"'{part}', {function}(({name} ->> '{part}')::{kind})" for function, part, kind in _PARTS)
    return f"jsonb_build_object({parts}) AS {name}"


def keys_summed(value: str, *, rows: str, key: str, name: str) -> str:
    """A subquery that adds up objects of numbers, such as a sketch's bins, key by key, into one column `name`.

    Args:
        value: The expression of such an object.
        key: The columns of `rows` of which there is one object afterwards.
    """
    return f"""(
    SELECT {key}, jsonb_object_agg(bin, number) AS {name} FROM (
        SELECT {key}, e.key AS bin, SUM(e.value::bigint)::bigint AS number
        FROM {rows}, jsonb_each_text({value}) AS e GROUP BY {key}, e.key
    ) b GROUP BY {key}
) {name}_b"""  # noqa: S608 - every name in it is a constant of ours


def take_sketches(tally: object, names: Sequence[str], values: Sequence[Any]) -> None:
    """Take over into the empty sketches of a tally what `sketches_summed` of the same names gave."""
    for place, name in enumerate(names):
        count, total, zero, low, high = values[len(_PARTS) * place :][: len(_PARTS)]
        if count:
            sketch: Sketch = getattr(tally, name)
            sketch.count, sketch.sum, sketch.zero, sketch.min, sketch.max = int(count), total, int(zero), low, high
