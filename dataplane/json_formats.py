"""How a lane is asked for JSON: by its own mode where it has one, in words where it has none. Pure.

What is prevented need not be repaired. Only a route with a repair policy asks in words: what comes back is then read
and checked as any other answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import orjson

from dataplane.messages import ChatRequest, Json
from dataplane.routing import Lane

# The capabilities that a lane can do without once its answers are read and checked here.
FORMATS: Final = frozenset({"json_object", "json_schema"})
_INSTRUCTIONS: Final = frozenset({"system", "developer"})
_OBJECT: Final = "Answer with one JSON object and nothing else: no prose, no code fence."
_SCHEMA: Final = (
    "Answer with one JSON value that is valid against this JSON Schema, and nothing else: no prose, no code fence.\n"
)


def native_first(lanes: Iterable[Lane], needs: frozenset[str]) -> tuple[Lane, ...]:
    """`lanes`, those first that have a mode for what is asked for; else in their order."""
    return tuple(sorted(lanes, key=lambda lane: not needs <= lane.capabilities))


def as_lane_takes_it(request: ChatRequest, lane: Lane) -> ChatRequest:
    """The request with its format in words, where `lane` has no mode for it; else the request as it is."""
    wanted = request.parameters.get("response_format")
    if wanted is None or wanted["type"] not in FORMATS or wanted["type"] in lane.capabilities:
        return request
    parameters = {name: value for name, value in request.parameters.items() if name != "response_format"}
    schema = request.response_schema
    if schema is not None and "json_object" in lane.capabilities and not parameters.get("tools"):
        parameters["response_format"] = {"type": "json_object"}
    return replace(request, parameters=parameters, messages=_with_instruction(request.messages, words_for(schema)))


def words_for(schema: Json | None) -> str:
    """What a model is told that is to answer with JSON; None: any object."""
    return _OBJECT if schema is None else _SCHEMA + orjson.dumps(schema).decode()


def _with_instruction(messages: list[Json], words: str) -> list[Json]:
    """`messages` with an instruction behind those that begin it."""
    place = next((at for at, one in enumerate(messages) if one["role"] not in _INSTRUCTIONS), len(messages))
    return [*messages[:place], {"role": "system", "content": words}, *messages[place:]]
