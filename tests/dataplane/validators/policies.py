"""Policies, streams in pieces, and the planted secrets that the tests of validators are built from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dataplane.documents import Node
from dataplane.validators import personal, secrets
from dataplane.validators.checksums import LOOKALIKES
from dataplane.validators.policy import Rule, ValidatorPolicy
from dataplane.validators.window import Blocked, Outcome, StreamWindow
from tests.dataplane.conftest import threshold

FIXTURES = Path(__file__).parents[3] / "fixtures" / "streams"
ORDINARY = (FIXTURES / "ordinary_answers.txt").read_text().rstrip("\n").split("\n---\n")
ALL_SECRETS = {"classes": list(secrets.CLASSES)}
ALL_PII = {"classes": list(personal.CLASSES)}
ALL_CHECKSUMS = {"kinds": list(LOOKALIKES)}


def rule(name: str, kind: str, params: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A rule as a release carries it: it blocks, and has a second."""
    return {
        "id": name,
        "version": 1,
        "kind": kind,
        "on_failure": "block",
        "on_error": "closed",
        "budget_ms": threshold(1000),
        "params": params,
    } | changes


def document(*rules: dict[str, Any], window: int = 1000, **changes: Any) -> dict[str, Any]:
    """A policy as a release carries it."""
    return {
        "rules": list(rules),
        "streams": "window",
        "window_characters": threshold(window),
        "escalation": None,
        "regulated": False,
    } | changes


def policy(*rules: dict[str, Any], **changes: Any) -> ValidatorPolicy:
    return ValidatorPolicy.parse("standard", Node(document(*rules, **changes), "$"))


def one(kind: str, params: dict[str, Any], **changes: Any) -> Rule:
    """A single rule, read."""
    return policy(rule("r", kind, params, **changes), streams="hold").rules[0]


def no_time() -> float:
    """A clock that stands still."""
    return 0.0


@dataclass(frozen=True, slots=True)
class Streamed:
    """What left a window, how it ended, and the window."""

    text: str
    end: Outcome
    window: StreamWindow

    @property
    def is_blocked(self) -> bool:
        return isinstance(self.end, Blocked)


def stream(rules: ValidatorPolicy, pieces: Iterable[str], **arguments: Any) -> Streamed:
    """Feed the pieces to a new window, until it blocks or they end."""
    window = StreamWindow(rules, cpu_clock=no_time, **arguments)
    out = []
    for piece in pieces:
        outcome = window.feed(piece)
        if isinstance(outcome, Blocked):
            return Streamed("".join(out), outcome, window)
        out.append(outcome.text)
    outcome = window.finish()
    if not isinstance(outcome, Blocked):
        out.append(outcome.text)
    return Streamed("".join(out), outcome, window)


def cut(text: str, *places: int) -> list[str]:
    """The text in pieces, cut at these characters."""
    edges = [0, *places, len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


@dataclass(frozen=True, slots=True)
class Planted:
    """A text with a secret in it, which begins at character `start`; `shown` is the secret as it stands there."""

    name: str
    what: str
    text: str
    shown: str
    is_json: bool

    @property
    def start(self) -> int:
        return self.text.index(self.shown)


def planted_secrets() -> list[Planted]:
    """Every planted secret, in prose and in JSON."""
    found = []
    for number, entry in enumerate(json.loads((FIXTURES / "planted_secrets.json").read_text())["planted"]):
        secret = "".join(entry["secret"])
        prose = entry["prose"].replace("@@", secret, 1)
        in_json = json.dumps({"id": 7, "answer": prose, "done": True})
        name = f"{number}-{entry['class']}"
        found.append(Planted(f"{name}-prose", entry["what"], prose, secret, is_json=False))
        found.append(Planted(f"{name}-json", entry["what"], in_json, json.dumps(secret)[1:-1], is_json=True))
    return found
