"""What was asked and what will be answered, free of any vendor's wire format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Wire(Enum):
    """The vendor's wire format that a request came in on; the value is the name used in releases and admin calls."""

    OPENAI = "openai"
    AZURE = "azure-openai"
    ANTHROPIC = "anthropic"


class Stop(Enum):
    """Why the answer ended; each wire has its own word for it."""

    END = "end"
    LENGTH = "length"
    SEQUENCE = "sequence"
    TOOL = "tool"
    REFUSAL = "refusal"
    FILTERED = "filtered"


class Kind(Enum):
    """What the answer's pieces are: words for the reader, a tool call's arguments, or a refusal."""

    TEXT = "text"
    TOOL = "tool"
    REFUSAL = "refusal"


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the caller offers, with the JSON Schema of its arguments."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """One chat request, parsed.

    `tool_choice` is "auto", "none", "required" or "=" and a tool's name. `wants_json` without a `schema` is a free
    JSON object.
    `prefix` is the beginning of the answer, where the caller gives one; it goes on from there.
    `fingerprint` is derived from everything that may change the answer, and from nothing else. `directive` is the fault
    written into the request body, if any.
    """

    wire: Wire
    model: str
    system: str
    question: str
    tool_result: str | None
    prompt_tokens: int
    max_tokens: int | None
    stop_sequences: tuple[str, ...]
    stream: bool
    include_usage: bool
    wants_json: bool
    schema: Mapping[str, Any] | None
    tools: tuple[Tool, ...]
    tool_choice: str
    fingerprint: int
    directive: str | None
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as reported, which a fault may have made untrue."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished answer in token-sized pieces; `usage` is None when a fault withholds it."""

    kind: Kind
    pieces: tuple[str, ...]
    stop: Stop
    stop_sequence: str | None
    tool_name: str | None
    usage: Usage | None

    @property
    def text(self) -> str:
        """The pieces joined."""
        return "".join(self.pieces)


class BadRequest(Exception):
    """The request is not one the vendor would accept; the wire turns it into the vendor's own 4xx body."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status
