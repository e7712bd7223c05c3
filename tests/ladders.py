"""Ladders, the words of their rungs and what people engage, as tests need them. All as JSON."""

from __future__ import annotations

from typing import Any

from tests.dataplane.conftest import copy_document, threshold

PLACES = {"vip": 40, "standard": 0, "free": 0}
SHARES = {"vip": 0.99, "standard": 0.5, "free": 0.1}


def rungs(*, cheaper: str = "cheap", answers: str = "help-answers") -> dict[str, Any]:
    """All six, whose copy is called `rung-1` to `rung-6`."""
    return {
        "1": {"copy": "rung-1", "instruction": "Answer in three sentences.", "max_output_tokens": threshold(200)},
        "2": {"copy": "rung-2", "instruction": "Tools are switched off; answer from what you know."},
        "3": {"copy": "rung-3", "route": cheaper},
        "4": {"copy": "rung-4"},
        "5": {"copy": "rung-5", "answers": answers},
        "6": {"copy": "rung-6"},
    }


def trigger(*, signal: str = "in_flight", enter: float = 100, leave: float = 60, **changes: Any) -> dict[str, Any]:
    """One that presses after 10 s, up to rung 4."""
    return {
        "signal": signal,
        "enter": threshold(enter),
        "exit": threshold(leave),
        "sustain_seconds": threshold(10),
        "highest": 4,
    } | changes


def surface(**changes: Any) -> dict[str, Any]:
    """The surface of the route `chat`."""
    return {
        "title": "Web chat",
        "routes": ["chat"],
        "regulated": False,
        "eta_seconds": threshold(900),
        "emergency_minutes": threshold(60),
        "rungs": rungs(),
        "triggers": {"load": trigger()},
        "pace": {
            "step_seconds": threshold(20),
            "dwell_seconds": threshold(60),
            "calm_seconds": threshold(30),
            "longest_calm_seconds": threshold(240),
        },
        "promises": {
            tier: {"reserved_concurrency": threshold(PLACES[tier]), "served_share": threshold(SHARES[tier])}
            for tier in PLACES
        },
    } | changes


def rung_document(**changes: Any) -> dict[str, Any]:
    """A document of signed copy of the kind `rung`, in English with `changes`, and in German."""
    document = copy_document("rung")
    document["locales"]["en"] |= changes
    return document


def rung_copy(*numbers: int) -> dict[str, Any]:
    """The part of a release's section `copy` that signs these rungs; without numbers, all six."""
    return {
        f"rung-{number}": {"version": 1, "digest": str(number) * 64, "document": rung_document()}
        for number in numbers or range(1, 7)
    }


def activation(**changes: Any) -> dict[str, Any]:
    """Rung 3, engaged by hand for everybody for an hour."""
    return {
        "surface": "web-chat",
        "mode": "engage",
        "rung": 3,
        "regions": [],
        "tiers": [],
        "since": "2026-03-04T05:00:00Z",
        "until": "2026-03-04T06:00:00Z",
        "reason": "Black Friday",
        "by": "oncall",
    } | changes
