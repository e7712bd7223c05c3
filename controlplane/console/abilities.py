"""What a lane says that it can do beside what the capability matrix says of its model."""

from dataclasses import dataclass
from datetime import date

from dataplane.capabilities import Model
from dataplane.routing import Lane


@dataclass(frozen=True, slots=True)
class Abilities:
    """Capabilities by name, and limits in tokens.

    Attributes:
        claimed: What the lane is used for.
        wrong: Of these, what its model lacks by the matrix.
        unused: What the model could do, and the lane does not claim.
        not_sent: Fields that the lane leaves out, because its model refuses them.
        source: Where the matrix has it from; empty when it does not know the model.
    """

    claimed: list[str]
    wrong: list[str]
    unused: list[str]
    not_sent: list[str]
    context_tokens: int | None
    max_output_tokens: int | None
    source: str
    checked: date | None


def abilities(lane: Lane, model: Model | None) -> Abilities:
    """What to show of `lane`; `model` None: the matrix does not know it, so it is taken at its word."""
    known = lane.capabilities if model is None else model.capabilities
    return Abilities(
        claimed=sorted(lane.capabilities),
        wrong=sorted(lane.capabilities - known),
        unused=sorted(known - lane.capabilities),
        not_sent=sorted(lane.unsupported_fields),
        context_tokens=lane.context_tokens,
        max_output_tokens=lane.max_output_tokens,
        source="" if model is None else model.source,
        checked=None if model is None else model.checked,
    )
