"""What a judge is given, what it says, and whom it may ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer as a gateway gave it.

    Attributes:
        tool_calls: (name, arguments as the model wrote them).
        is_json: Whether the caller, or the managed prompt, asked for JSON.
        refused: Whether the provider itself said that this is a refusal.
    """

    text: str
    tool_calls: tuple[tuple[str, str], ...] = ()
    is_json: bool = False
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """What a judge says of one answer.

    Attributes:
        passed: None: it can say nothing, and `why` says why not.
        value: 0..1; 0 where it can say nothing.
        why: Without words of the row or of the answer, but for what a model wrote.
        applies: False: the row is none that the judge is for. Otherwise one that says nothing could not make up its
            mind, which no run counts as a pass.
    """

    passed: bool | None
    value: float
    why: str = ""
    applies: bool = True


class Asker(Protocol):
    """Asks the gateway's routes in the name of an eval, within its residency. Whoever runs evals gives one.

    Raises:
        NoAnswer: of either, whatever the gateway said instead.
    """

    def embed(self, route: str, texts: Sequence[str]) -> list[list[float]]:
        """The embedding of each text, in their order."""
        ...

    def ask(self, route: str, messages: Sequence[Mapping[str, Any]], response_format: Mapping[str, Any]) -> str:
        """The text of the answer."""
        ...
