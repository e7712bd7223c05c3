"""What a caller is told who gets no answer because of a rung. What users are to read of it is in signed words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dataplane.errors import GatewayError


class _Withheld(GatewayError):
    """Root. `members` are what the error says beside: see `words.Spoken.to_json`; `retry_after_seconds` is when to ask
    again, which an SDK must not do by itself before.
    """

    is_repeatable = False

    def __init__(self, message: str, *, retry_after_seconds: float, members: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.members = dict(members)


class Shed(_Withheld):
    """The rung that is engaged has no answer to this request, though it has to others."""

    code = "shed"


class UnderMaintenance(_Withheld):
    """Nothing of the surface is answered: its highest rung is engaged."""

    code = "maintenance"


class CommandRefused(GatewayError):
    """What somebody asked for on a host with a command is not to be had, and nothing was changed; the message says
    why.
    """

    code = "command_refused"
