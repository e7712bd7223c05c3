"""What both planes know of traces. Pure, and nothing of OpenTelemetry: that is `dataplane/otel`, which only processes
load that are told where traces go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final, Protocol, TypeAlias

# What a span or one of its events is told of: names, numbers and words of ours. Never a prompt, an answer or a key.
Fact: TypeAlias = str | int | float | bool
Facts: TypeAlias = Mapping[str, Fact]

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")

# Of version 00, which is what we write.
TRACEPARENT_LENGTH: Final = 55


class SpanCounts(Protocol):
    """What became of a process' spans."""

    @property
    def exported(self) -> int:
        """How many were delivered."""

    @property
    def failed(self) -> int:
        """How many whoever collects did not take."""

    @property
    def dropped(self) -> int:
        """How many were let go, because too many waited or the process ended."""

    @property
    def waiting(self) -> int:
        """How many wait."""


class Tracing(Protocol):
    """Traces what a process does that is no request of a gateway's."""

    @property
    def current(self) -> str:
        """The traceparent of what is done now, by this thread or task; empty where that is not traced."""

    def span(
        self, name: str, *, parent: str = "", facts: Facts | None = None, is_entry: bool = False
    ) -> AbstractContextManager[None]:
        """What is done inside is part of a trace: of `parent`'s, a traceparent, else of what is done now, else of a new
        one. `is_entry`: what came by a message, and not by a call.
        """


def read_traceparent(text: str | None) -> str:
    """A traceparent as W3C writes them; empty for anything else."""
    return text if text is not None and _TRACEPARENT.fullmatch(text) else ""
