"""What on-call decided about single lanes: hold the breaker open, or hold it closed, until a stated time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from dataplane.documents import Node

FORCED_OPEN: Final = "open"
FORCED_CLOSED: Final = "closed"
MODES: Final = frozenset({FORCED_OPEN, FORCED_CLOSED})


@dataclass(frozen=True, slots=True)
class LaneOverride:
    """One lane held `open` (nothing goes there) or `closed` (nothing is held back from it) up to `until`."""

    lane: str
    mode: str
    until: datetime
    reason: str
    by: str


def parse_overrides(section: object, *, path: str = "$.sections.lane_overrides") -> dict[str, LaneOverride]:
    """Read the section `lane_overrides`, or raise MalformedRelease.

    A lane that the routing table does not have is no mistake: the table may have changed since somebody held it.
    Shape: {lane id: {"mode": "open" | "closed", "until": ISO-8601, "reason": str, "by": str}}.
    """
    overrides = {}
    for lane, node in Node(section, path).entries():
        members = node.members("mode", "until", "reason", "by")
        overrides[lane] = LaneOverride(
            lane,
            members["mode"].one_of(MODES),
            members["until"].moment(),
            members["reason"].text(),
            members["by"].text(),
        )
    return overrides
