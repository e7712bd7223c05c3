"""Which lane a request is asked of again, or why none is. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from dataplane.capabilities import needs_of
from dataplane.json_formats import FORMATS
from dataplane.lane_fit import LaneFit
from dataplane.messages import ChatRequest
from dataplane.routing import Lane, Route

RESIDENCY: Final = "residency"
NO_LANE: Final = "no_lane_can"
HOSTED_TOOLS: Final = "hosted_tools"
# What would have a provider carry something out for the answer: once is enough, and without it the question is another.
_HOSTED: Final = ("web_search_options", "data_sources")
# What is no part of the question: orders to a provider's store and cache, labels, and who asks.
_UNSENT: Final = frozenset(
    {
        "metadata",
        "n",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)


def question_of(request: ChatRequest) -> ChatRequest | None:
    """What is asked again of a request, in one piece, tools declared as they were; None: it cannot be."""
    if any(request.parameters.get(name) is not None for name in _HOSTED):
        return None
    parameters = {name: value for name, value in request.parameters.items() if name not in _UNSENT}
    return replace(request, parameters=parameters, stream=False, include_usage=False, stream_options=None, user=None)


def choose(
    lanes: Sequence[Lane],
    request: ChatRequest,
    route: Route,
    fit: LaneFit,
    *,
    pins: Collection[frozenset[str]],
    model: str | None = None,
) -> Lane | str:
    """The first of `lanes` that may be asked, or why none may: RESIDENCY or NO_LANE.

    Args:
        pins: Where the tenant's bytes may go, as several know it; all of them hold, and an empty one means anywhere.
        model: Of which the lane has to be, for control once more.
    """
    needs = needs_of(request.messages, request.parameters, stream=False)
    # As for callers: where answers are repaired, a lane can be asked for JSON in words.
    wanted = needs if route.repair is None else needs - FORMATS
    why = NO_LANE
    for lane in lanes:
        if model is not None and lane.model != model:
            continue
        # Before anything else about a lane that somebody's bytes might go to.
        if any(pin and lane.residency not in pin for pin in pins):
            why = RESIDENCY
        elif wanted <= lane.capabilities and fit.fits(lane):
            return lane
    return why
