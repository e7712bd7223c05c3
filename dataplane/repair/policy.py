"""What a route lets a repair do: which edits may be handed over, and what may be spent on asking a model. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dataplane.documents import Node
from dataplane.repair.labels import Label
from dataplane.thresholds import Threshold

# What a schema may be read into a value with. Each only where the schema refuses the value as it is.
COERCIONS: Final = (
    "string_to_number",
    "number_to_string",
    "string_to_boolean",
    "scalar_to_list",
    "list_to_scalar",
    "json_string",
    "null_to_absent",
    "enum_case",
    "drop_unknown",
    "fill_default",
)
# How a stream of JSON reaches its caller: as far as it is certain, or once all of it is right.
INCREMENTAL: Final = "incremental"
WHOLE: Final = "whole"
STREAMS: Final = frozenset({INCREMENTAL, WHOLE})
MAX_CALLS: Final = 5
MAX_OUTPUT_TOKENS: Final = 100_000
MAX_COST_MICROS: Final = 10**9
MAX_OPEN_SECONDS: Final = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class RepairPolicy:
    """How answers of a route that are to be JSON, and are not, are repaired.

    Attributes:
        labels: Which edits may be handed over; what needs another goes on to the next rung.
        coercions: Names of COERCIONS that are declared.
        continue_cut: Whether an answer that its length limit cut off is continued.
        surgeon_route: A route of small models that is given the broken text alone, and the schema; None: none is.
        ask_again: Whether the lane that answered is asked once more, with what is wrong.
        streams: Member of STREAMS.
        max_calls: Calls of models, in all, for one answer; 0: none.
        max_output_tokens: What those may generate, in all.
        max_cost_micros: What those may cost, in all, in micro-units of money; whatever is under way is not cut off.
        open_seconds: How long a failed answer is kept for somebody to complete.
    """

    slug: str
    labels: frozenset[Label]
    coercions: frozenset[str]
    continue_cut: bool
    surgeon_route: str | None
    ask_again: bool
    streams: str
    max_calls: Threshold
    max_output_tokens: Threshold
    max_cost_micros: Threshold
    open_seconds: Threshold

    @classmethod
    def parse(cls, slug: str, node: Node) -> RepairPolicy:
        """Read one policy, or raise MalformedRelease. Whether `surgeon_route` exists is for the table to say.

        Shape: {"labels": [lossless | lossy | invented], "coercions": [name of COERCIONS], "continue_cut": bool,
                "surgeon_route": slug or null, "ask_again": bool, "streams": incremental | whole,
                name of REPAIR_THRESHOLDS: see `Threshold.parse`}.
        """
        members = node.members(
            "labels", "coercions", "continue_cut", "surgeon_route", "ask_again", "streams", *REPAIR_THRESHOLDS
        )
        for item in members["labels"].items(minimum=1):
            item.one_of(frozenset(Label))
        for item in members["coercions"].items():
            item.one_of(frozenset(COERCIONS))
        labels = frozenset(map(Label, members["labels"].texts()))
        if Label.LOSSLESS not in labels:
            members["labels"].refuse("without 'lossless', which is never worse than another label")
        policy = cls(
            slug=slug,
            labels=labels,
            coercions=frozenset(members["coercions"].texts()),
            continue_cut=members["continue_cut"].flag(),
            surgeon_route=members["surgeon_route"].optional_text(),
            ask_again=members["ask_again"].flag(),
            streams=members["streams"].one_of(STREAMS),
            max_calls=Threshold.parse_whole(members["max_calls"], minimum=0, maximum=MAX_CALLS),
            max_output_tokens=Threshold.parse_whole(members["max_output_tokens"], minimum=0, maximum=MAX_OUTPUT_TOKENS),
            max_cost_micros=Threshold.parse_whole(members["max_cost_micros"], minimum=0, maximum=MAX_COST_MICROS),
            open_seconds=Threshold.parse(members["open_seconds"], above=0, maximum=MAX_OPEN_SECONDS),
        )
        if policy.surgeon_route is not None and Label.INVENTED not in labels:
            members["surgeon_route"].refuse(
                "a surgeon's text counts as invented; allow that label, or set this to null"
            )
        if not policy.max_calls.value and policy.asks_models:
            members["max_calls"].refuse("0, so that no model is ever asked; switch off what would ask one")
        return policy

    @property
    def asks_models(self) -> bool:
        """Whether any rung of it calls a model."""
        return self.continue_cut or self.ask_again or self.surgeon_route is not None

    def thresholds(self) -> Mapping[str, Threshold]:
        """Every number of the policy by its name, in the order of the class."""
        return {name: getattr(self, name) for name in REPAIR_THRESHOLDS}


REPAIR_THRESHOLDS: Final = ("max_calls", "max_output_tokens", "max_cost_micros", "open_seconds")
