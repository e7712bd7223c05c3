"""What became of an answer that was there: no JSON, or withheld."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataplane.errors import GatewayError


class RepairFailed(GatewayError):
    """An answer that was to be JSON is none, whatever the route's policy allows was tried.

    Attributes:
        at: Which part of the answer: "text", or "tool_calls[i]".
        mode: Member of `repair.labels.Mode`.
        missing: JSON pointers of required fields that it lacks.
        best: As much of the part as could be read, as JSON; None for nothing.
        repair: Under which name the answer is kept for somebody to complete; None: it is not kept.
    """

    code = "repair_failed"

    def __init__(
        self,
        *,
        at: str,
        mode: str,
        why: str,
        missing: tuple[str, ...],
        rungs: tuple[str, ...],
        stopped_by: str,
        best: str | None,
    ) -> None:
        super().__init__(f"{at} of the answer is not the JSON that was asked for: {why} ({stopped_by})")
        self.at = at
        self.mode = mode
        self.why = why
        self.missing = missing
        self.best = best
        self.rungs = rungs
        self.repair: str | None = None
        self.expires_at: int | None = None

    @property
    def members(self) -> dict[str, Any]:
        """What the envelope says beside. Shape: {"at", "mode", "missing_fields": [pointer], "rungs": [str], "repair":
        {"id", "expires_at": epoch seconds, "complete": "POST /v1/repairs/{id}"} or null}.
        """
        kept = None
        if self.repair is not None:
            kept = {
                "id": self.repair,
                "expires_at": self.expires_at,
                "complete": f"POST /v1/repairs/{self.repair}",
            }
        return {
            "at": self.at,
            "mode": self.mode,
            "missing_fields": list(self.missing),
            "rungs": list(self.rungs),
            "repair": kept,
        }


class RepairNotFound(GatewayError):
    """The tenant has no answer of that name that waits to be completed: it never had, or it is over."""

    code = "repair_not_found"

    def __init__(self, repair: str) -> None:
        super().__init__(f"repair {repair[:64]!r} is not open; it was completed, has expired, or never was")
        self.repair = repair


class RepairsUnavailable(GatewayError):
    """Where answers are kept for somebody to complete cannot be asked now; the message says why."""

    code = "repairs_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__(f"repairs cannot be looked up now: {reason}; retry in a moment")
        self.reason = reason


class ValidationFailed(GatewayError):
    """An answer was there, and must not be given: a validator of the route blocks it.

    Attributes:
        rules: The rules that block it, each with its version and what became of it; none of the answer's words.
        escalation: The signed words that stand in its place; None where none are set.
    """

    code = "validation_failed"

    def __init__(self, *, rules: tuple[Mapping[str, Any], ...], escalation: Mapping[str, Any] | None = None) -> None:
        names = ", ".join(f"{rule['rule']}@{rule['version']}" for rule in rules) or "its validators"
        super().__init__(f"the answer is withheld by {names}; asking the same again is likely to end in the same way")
        self.rules = rules
        self.escalation = escalation

    @property
    def members(self) -> dict[str, Any]:
        """What the envelope says beside. Shape: {"rules": [{"rule", "version", "verdict", "why"}], "escalation":
        {"message", "copy", "locale"} or null}.
        """
        return {"rules": list(self.rules), "escalation": self.escalation}
