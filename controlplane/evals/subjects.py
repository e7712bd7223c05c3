"""What an eval asks: a version of a prompt, or a lane. Values; how a gateway comes to serve one is in `placing`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.db.models import Q

from controlplane.evals.errors import UnknownSubject
from controlplane.evals.rows import Row
from dataplane.release import canonical, digest_of

PROMPT: Final = "prompt"
LANE: Final = "lane"
# The one route of a lane's sandbox.
EVAL_ROUTE: Final = "eval"
# What of a lane has no part in what it answers: how long it may take, what it costs, and what guards it.
_NOT_ANSWERING: Final = frozenset(
    {
        *("input_micros_per_million_tokens", "output_micros_per_million_tokens"),
        *("connect_timeout_seconds", "first_byte_timeout_seconds", "idle_timeout_seconds"),
        *("breaker", "probe", "quota"),
    }
)
_POLICIES: Final = {"breaker": "breakers", "probe": "probes", "quota": "quotas"}

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PromptSubject:
    """A version of a prompt, on whatever lanes its route has. `digest` is the version's."""

    prompt: str
    number: int
    digest: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.prompt} v{self.number}"

    def takes(self) -> Q:
        """Which rows it can be asked."""
        return Q(document__has_key="variables")

    def body(self, row: Row) -> dict[str, Any]:
        """What of a request names it."""
        return {PROMPT: {"id": self.prompt, "version": self.number, "variables": row.variables}}

    def to_json(self) -> dict[str, Any]:
        """What `read_subject` reads."""
        return {"kind": PROMPT, "prompt": self.prompt, "number": self.number, "digest": self.digest}


@dataclass(frozen=True, slots=True)
class LaneSubject:
    """A lane as a routing table has it, whether that is in force or not.

    Attributes:
        routing: The parts of the table that the lane rests on, and nothing else.
        prompt, number: The version of a managed prompt by which it is asked rows that give variables; empty and 0: it
            is not asked those.
    """

    lane: str
    routing: Document
    prompt: str = ""
    number: int = 0

    @property
    def name(self) -> str:
        """For people."""
        return self.lane

    @property
    def digest(self) -> str:
        """Of all that has a part in what the lane answers: provider, account, region, model, what it can do, and which
        prompt it is asked with. Another time-out, price or breaker makes it no other lane, nor does the next version of
        the prompt.
        """
        return digest_of(canonical({"lane": identity_of(self.routing, self.lane), "prompt": self.prompt}))

    def takes(self) -> Q:
        """Which rows it can be asked."""
        given = Q(document__has_key="messages")
        return given | Q(document__has_key="variables") if self.prompt else given

    def body(self, row: Row) -> dict[str, Any]:
        """What of a request names it."""
        if row.variables is None:
            return {"model": EVAL_ROUTE, "messages": [dict(message) for message in row.messages or ()]}
        return {PROMPT: {"id": self.prompt, "version": self.number, "variables": row.variables}}

    def to_json(self) -> dict[str, Any]:
        """What `read_subject` reads."""
        named = {"prompt": self.prompt, "number": self.number}
        return {"kind": LANE, "lane": self.lane, "routing": dict(self.routing), **named}


Subject = PromptSubject | LaneSubject


def read_subject(value: Document) -> Subject:
    """What `to_json` of either wrote."""
    if value["kind"] == PROMPT:
        return PromptSubject(value["prompt"], value["number"], value["digest"])
    return LaneSubject(value["lane"], value["routing"], value["prompt"], value["number"])


def lane_subject(document: Document, lane: str, *, prompt: str = "", number: int = 0) -> LaneSubject:
    """A lane of a routing table, with what it rests on; `prompt` and `number` as of a `LaneSubject`.

    Raises:
        UnknownSubject: the table has no such lane.
    """
    found = document["lanes"].get(lane)
    if found is None:
        raise UnknownSubject(f"the routing table has no lane {lane!r}")
    parts = {
        "providers": {found["provider"]: document["providers"][found["provider"]]},
        "accounts": {found["account"]: document["accounts"][found["account"]]},
        "lanes": {lane: found},
        **{
            part: {found[name]: document[part][found[name]]}
            for name, part in _POLICIES.items()
            if found.get(name) is not None
        },
    }
    return LaneSubject(lane, parts, prompt, number)


def identity_of(document: Document, lane: str) -> dict[str, Any]:
    """What of a routing table has a part in what one of its lanes answers."""
    found = document["lanes"][lane]
    return {
        "lane": {name: value for name, value in found.items() if name not in _NOT_ANSWERING},
        "provider": document["providers"][found["provider"]],
        "account": document["accounts"][found["account"]],
    }
