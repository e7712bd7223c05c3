"""Reading Prometheus' text format, as far as an engine's counters need it: names, labels, numbers.

Not `prometheus_client.parser`: that builds families of objects out of every line, and an engine shows thousands of
buckets of which a dozen lines are looked at, every two seconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

_LINE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?[ \t]+(\S+)(?:[ \t]+-?\d+)?\s*$")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Series:
    """Which samples are meant: a name, and labels that each must have."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()


@cache
def series(text: str) -> Series:
    """Read `name` or `name{label="value"}`.

    Raises:
        ValueError: it is neither.
    """
    matched = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?", text)
    if matched is None:
        raise ValueError(f"{text!r} names no series")
    return Series(matched[1], tuple(_LABEL.findall(matched[2] or "")))


def read_samples(text: str, names: Iterable[str]) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return the samples of `names` that `text` has. Lines that cannot be read, and NaN, are left out."""
    wanted = set(names)
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for line in text.splitlines():
        if line.startswith("#") or not line:
            continue
        end = line.find("{")
        head = line[:end] if end >= 0 else line.partition(" ")[0]
        if head not in wanted:
            continue
        matched = _LINE.match(line)
        if matched is None:
            continue
        try:
            value = float(matched[3])
        except ValueError:
            continue
        if not math.isnan(value):
            found.setdefault(matched[1], []).append((dict(_LABEL.findall(matched[2] or "")), value))
    return found


def pick(
    samples: Mapping[str, list[tuple[dict[str, str], float]]],
    wanted: Iterable[str],
    *,
    fold: Callable[[Iterable[float]], float] = sum,
) -> float | None:
    """Return the first of the series `wanted` that is there, its samples folded into one; None when none is."""
    for one in map(series, wanted):
        values = [
            value
            for labels, value in samples.get(one.name, ())
            if all(labels.get(key) == text for key, text in one.labels)
        ]
        if values:
            return fold(values)
    return None
