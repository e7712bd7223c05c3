"""How long an engine's loads took: a file that the sidecar writes and `probe-yaml` reads.

Shape: one JSON object a line, {"engine": str, "model": str, "seconds": float, "ended_at": ISO 8601}.
"""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path


class BadMeasurements(Exception):
    """The file of measured loads cannot be used; the message says why."""


def note_load(path: Path, *, engine: str, model: str, seconds: float, ended_at: datetime) -> None:
    """Append one load.

    Raises:
        OSError: the file cannot be written.
    """
    row = {"engine": engine, "model": model, "seconds": round(seconds, 3), "ended_at": ended_at.isoformat()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_loads(path: Path, *, engine: str) -> list[float]:
    """Return the seconds of the loads of one kind of engine, in the order in which they were measured.

    A last line that was cut off, by a machine that went down say, is left out.

    Raises:
        BadMeasurements: it cannot be read, holds something else, or no load of that engine.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise BadMeasurements(f"{path} cannot be read: {exc.__class__.__name__}") from exc
    seconds: list[float] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            value, kind = float(row["seconds"]), row["engine"]
        except (ValueError, KeyError, TypeError) as exc:
            if number == len(lines):
                break
            raise BadMeasurements(f"{path} line {number} is no measured load") from exc
        if kind == engine and math.isfinite(value) and value >= 0:
            seconds.append(value)
    if not seconds:
        raise BadMeasurements(f"{path} holds no load of engine {engine!r}")
    return seconds


def high_load(seconds: list[float]) -> float:
    """Return the 99th percentile by nearest rank: with fewer than a hundred loads, the longest."""
    ordered = sorted(seconds)
    return ordered[math.ceil(0.99 * len(ordered)) - 1]
