"""The providers' keys: a release names them (`env:NAME`, `file:/path`), this process holds them, nobody logs them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from dataplane.errors import GatewayError

RECHECK_SECONDS: Final = 1.0


class SecretUnavailable(GatewayError):
    """A lane's key cannot be had on this worker. The message names the reference, never a value."""

    code = "secret_unavailable"

    def __init__(self, reference: str, fact: str) -> None:
        super().__init__(f"secret {reference!r} {fact}; set it where this gateway runs")
        self.reference = reference


class Secrets(Protocol):
    """Turns references into keys."""

    def resolve(self, reference: str, *, now: float) -> str:
        """Return the key, or raise SecretUnavailable. `now` is monotonic seconds."""


class SecretStore:
    """Secrets from a snapshot of the environment and from files. A file is read again when it has changed."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        # reference -> (key, when to look again, the file's modification time in ns and size)
        self._known: dict[str, tuple[str, float, tuple[int, int]]] = {}

    def resolve(self, reference: str, *, now: float) -> str:
        """As `Secrets.resolve`; a changed file is noticed within RECHECK_SECONDS."""
        known = self._known.get(reference)
        if known is not None and now < known[1]:
            return known[0]
        kind, _, name = reference.partition(":")
        if kind == "env":
            key = _clean(reference, self._environment.get(name, ""))
            self._known[reference] = (key, float("inf"), (0, 0))
            return key
        if kind != "file":
            raise SecretUnavailable(reference, "is neither env:NAME nor file:/path")
        try:
            status = os.stat(name)
            stamp = (status.st_mtime_ns, status.st_size)
            key = known[0] if known is not None and known[2] == stamp else _clean(reference, Path(name).read_text())
        except (OSError, UnicodeDecodeError) as exc:
            raise SecretUnavailable(reference, f"cannot be read ({type(exc).__name__})") from exc
        self._known[reference] = (key, now + RECHECK_SECONDS, stamp)
        return key


def _clean(reference: str, value: str) -> str:
    value = value.strip()
    if not value:
        raise SecretUnavailable(reference, "is not set or empty")
    if not value.isascii() or not value.isprintable():
        raise SecretUnavailable(reference, "holds characters that an HTTP header cannot carry")
    return value
