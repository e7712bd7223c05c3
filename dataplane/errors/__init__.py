"""What can go wrong on the way of one request, one class for each thing that callers or policies tell apart.

Their root is here; they stand in the modules of this package by what they are about, or beside what raises them where
that is a package of its own. Every error carries a stable `code` (what clients and metrics match on), a message that
names the thing, the fact, the number and the remedy, and the typed attributes that decisions need. HTTP status and
Retry-After are not here: they come from one table at the edge.
"""

from __future__ import annotations

from typing import ClassVar


class GatewayError(Exception):
    """Root of everything that the data plane raises on purpose. `str(error)` is fit to be shown to the caller."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
