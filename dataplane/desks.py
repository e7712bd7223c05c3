"""Addresses under which callers find things that are kept for them, such as jobs: what the edge must know of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from dataplane.journey import Inbound, Reply


@dataclass(frozen=True, slots=True)
class DeskCall:
    """A request to a desk, as the edge read it: `/path/{name}/{action}`. Both are empty at the path itself.

    `inbound` has a body where the desk reads one.
    """

    inbound: Inbound
    operation: str
    name: str
    action: str


class Desk(Protocol):
    """Answers requests about things of one kind.

    Attributes:
        path: Under which they are.
        operations: By whether a thing is named, and what is to be done with it: each method and what it is called.
        reading: The operations that have a body.
    """

    @property
    def path(self) -> str: ...

    @property
    def operations(self) -> Mapping[tuple[bool, str], Mapping[str, str]]: ...

    @property
    def reading(self) -> frozenset[str]: ...

    async def start(self) -> None:
        """Begin to connect to where they are kept; never waits for it."""

    async def stop(self) -> None:
        """Let go of it."""

    async def serve(self, call: DeskCall, reply: Reply) -> None:
        """Answer one request, or raise the GatewayError that does."""
