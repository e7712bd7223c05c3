"""Lengths of time in words, for whoever says how long something takes, took or may take. Pure."""

from typing import Final

_DAY: Final = 86_400


def duration(seconds: float) -> str:
    """Seconds for reading, in its two largest units: '45 s', '10 min 30 s', '3 h 20 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min" if whole % 3600 >= 60 else f"{whole // 3600} h"


def span(seconds: float) -> str:
    """The same of anything between moments and weeks: '0.8 s', '45 s', '10 min 30 s', '3 h 20 min', '2 d 4 h'."""
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    if seconds < 2 * _DAY:
        return duration(seconds)
    days, rest = divmod(round(seconds), _DAY)
    return f"{days} d {rest // 3600} h" if rest >= 3600 else f"{days} d"
