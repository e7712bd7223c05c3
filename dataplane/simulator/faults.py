"""Every fault the simulator can play: one table of names and parameters, and the parser of what a request or an
admin call asks for.

Two notations, anywhere a fault is named:
    JSON     {"name": "rate_limit", "dialect": "http_date"}, or a list of such objects
    compact  rate_limit:dialect=http_date,retry_after_seconds=3;latency:ms=200
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson


class BadFault(Exception):
    """A fault that was asked for does not exist or has a bad parameter; the message names it and what would be
    right.
    """


class Phase(Enum):
    """When a fault acts: instead of an answer, on the answer's words and figures, or while it is being delivered."""

    INSTEAD = "instead"
    ANSWER = "answer"
    DELIVERY = "delivery"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a fault: a number within limits, a word out of `choices`, or free text."""

    default: float | str
    minimum: float = 0.0
    maximum: float = 0.0
    choices: tuple[str, ...] = ()
    whole: bool = False

    def check(self, value: Any, *, fault: str, name: str) -> float | str:
        """Return `value` in this parameter's type, or raise BadFault."""
        where = f"parameter {name!r} of fault {fault!r}"
        if isinstance(self.default, str):
            if not isinstance(value, str) or (self.choices and value not in self.choices):
                raise BadFault(
                    f"{where} is {value!r}; expected {'one of ' + ', '.join(self.choices) if self.choices else 'text'}"
                )
            return value
        try:
            number = float(value)
        except (TypeError, ValueError) as exc:
            raise BadFault(f"{where} is {value!r}; expected a number") from exc
        if (
            isinstance(value, bool)
            or not self.minimum <= number <= self.maximum
            or (self.whole and number != int(number))
        ):
            kind = "a whole number" if self.whole else "a number"
            raise BadFault(f"{where} is {value!r}; expected {kind} from {self.minimum:g} to {self.maximum:g}")
        return number


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """One entry of the table."""

    phase: Phase
    summary: str
    parameters: Mapping[str, Parameter]


DIALECTS: tuple[str, ...] = ("vendor", "seconds", "milliseconds", "http_date", "openai", "anthropic", "azure", "none")
MALFORMATIONS: tuple[str, ...] = (
    "fence",
    "trailing_comma",
    "truncated",
    "prose",
    "single_quotes",
    "missing_field",
    "wrong_type",
)
STATUSES: tuple[int, ...] = (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529)


def _milliseconds(default: float) -> Parameter:
    return Parameter(default, 0, 600_000)


def _after(default: int) -> Parameter:
    return Parameter(default, 0, 10_000, whole=True)


FAULTS: dict[str, FaultSpec] = {
    "latency": FaultSpec(
        Phase.DELIVERY,
        "wait this long before the response head, or between the head and the first chunk",
        {"ms": _milliseconds(1000), "before": Parameter("head", choices=("head", "first_chunk"))},
    ),
    "slow_drip": FaultSpec(Phase.DELIVERY, "wait this long before every chunk", {"ms": _milliseconds(200)}),
    "rate_limit": FaultSpec(
        Phase.INSTEAD,
        "429 with the vendor's body, and the wait told in one header dialect",
        {
            "retry_after_seconds": Parameter(2, 0, 86_400),
            "dialect": Parameter("vendor", choices=DIALECTS),
            "scope": Parameter("requests", choices=("requests", "tokens", "quota")),
        },
    ),
    "status": FaultSpec(
        Phase.INSTEAD, "this status with the vendor's body for it", {"code": Parameter(500, 400, 599, whole=True)}
    ),
    "content_filter": FaultSpec(
        Phase.INSTEAD,
        "the prompt is refused with a 400 (at=prompt), or the answer is cut short by the filter (at=answer)",
        {"at": Parameter("prompt", choices=("prompt", "answer"))},
    ),
    "reset": FaultSpec(Phase.INSTEAD, "TCP RST before any byte of the response", {}),
    "silence": FaultSpec(Phase.INSTEAD, "accept the request and never answer", {}),
    "refusal": FaultSpec(Phase.ANSWER, "the model refuses, in the vendor's own form", {}),
    "malformed_answer": FaultSpec(
        Phase.ANSWER,
        "the answer's JSON (content or tool arguments) comes malformed",
        {"kind": Parameter("fence", choices=MALFORMATIONS)},
    ),
    "say": FaultSpec(
        Phase.ANSWER,
        "the model says this, whatever it was asked",
        {"text": Parameter("My card is 4111 1111 1111 1111.")},
    ),
    "wrong_usage": FaultSpec(
        Phase.ANSWER,
        "usage is zero, missing or inflated",
        {"kind": Parameter("zero", choices=("zero", "missing", "inflated")), "factor": Parameter(10, 1, 1000)},
    ),
    "reset_mid_stream": FaultSpec(Phase.DELIVERY, "TCP RST after this many content chunks", {"after": _after(3)}),
    "silence_mid_stream": FaultSpec(
        Phase.DELIVERY, "nothing more after this many content chunks, connection left open", {"after": _after(3)}
    ),
    "truncated_chunk": FaultSpec(
        Phase.DELIVERY,
        "after this many content chunks the next is cut inside its JSON and the connection closed, abruptly or as "
        "if complete",
        {"after": _after(3), "close": Parameter("abrupt", choices=("abrupt", "clean"))},
    ),
    "malformed_chunk": FaultSpec(
        Phase.DELIVERY, "the chunk after this many is not JSON; the stream goes on", {"after": _after(3)}
    ),
    "error_mid_stream": FaultSpec(
        Phase.DELIVERY, "the vendor's error event after this many content chunks, then the end", {"after": _after(3)}
    ),
    "wrong_content_type": FaultSpec(
        Phase.DELIVERY, "a content type that does not fit the body", {"value": Parameter("text/html")}
    ),
    "duplicate_final": FaultSpec(Phase.DELIVERY, "the final events of a stream are sent twice", {}),
    "missing_final": FaultSpec(
        Phase.DELIVERY,
        "a stream ends cleanly without [DONE] or message_stop (drop=terminator), or without its finish reason too "
        "(drop=finish)",
        {"drop": Parameter("terminator", choices=("terminator", "finish"))},
    ),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault to play, its parameters complete and checked."""

    name: str
    values: Mapping[str, float | str]

    def number(self, parameter: str) -> float:
        """Return a numeric parameter."""
        return float(self.values[parameter])

    def word(self, parameter: str) -> str:
        """Return a parameter that is a word."""
        return str(self.values[parameter])

    def to_json(self) -> dict[str, float | str]:
        """Return the JSON notation of this fault, defaults filled in."""
        return {"name": self.name, **self.values}


FaultPlan = Mapping[str, Fault]
"""The faults of one request by name; at most one of each."""

NO_FAULTS: FaultPlan = {}


def make_fault(name: Any, values: Mapping[str, Any]) -> Fault:
    """Return the named fault with defaults filled in.

    Raises:
        BadFault: no such fault, no such parameter, or a value out of its limits.
    """
    spec = FAULTS.get(name) if isinstance(name, str) else None
    if spec is None:
        raise BadFault(f"unknown fault {name!r}; known: {', '.join(FAULTS)}")
    for given in values:
        if given not in spec.parameters:
            raise BadFault(f"fault {name!r} has no parameter {given!r}; known: {', '.join(spec.parameters) or 'none'}")
    checked = {
        key: parameter.check(values.get(key, parameter.default), fault=name, name=key)
        for key, parameter in spec.parameters.items()
    }
    if name == "status" and checked["code"] not in STATUSES:
        raise BadFault(
            f"parameter 'code' of fault 'status' is {values['code']!r}; expected one of {', '.join(map(str, STATUSES))}"
        )
    return Fault(name, checked)


def parse_faults(text: str) -> tuple[Fault, ...]:
    """Return the faults written in `text`, in either notation.

    Raises:
        BadFault: naming the fault or parameter that is wrong.
    """
    text = text.strip()
    if text.startswith(("{", "[")):
        try:
            return read_faults(orjson.loads(text))
        except orjson.JSONDecodeError as exc:
            raise BadFault(f"fault {text[:80]!r} is not JSON: {exc}") from exc
    return tuple(_parse_compact(part) for part in text.split(";") if part.strip())


def read_faults(value: Any) -> tuple[Fault, ...]:
    """Return the faults in a JSON value: compact text, one object with `name` and parameters, or a list of either."""
    if isinstance(value, str):
        return parse_faults(value)
    if isinstance(value, Mapping):
        return (make_fault(value.get("name"), {key: each for key, each in value.items() if key != "name"}),)
    if isinstance(value, list):
        return tuple(fault for each in value for fault in read_faults(each))
    raise BadFault(f"fault {value!r} is neither text, an object with a name, nor a list of them")


def plan_faults(faults: Iterable[Fault]) -> FaultPlan:
    """Return the faults by name; of two with one name the later wins."""
    return {fault.name: fault for fault in faults}


def _parse_compact(part: str) -> Fault:
    name, _, rest = part.strip().partition(":")
    values: dict[str, str] = {}
    for pair in filter(None, (each.strip() for each in rest.split(","))):
        key, equals, value = pair.partition("=")
        if not equals:
            raise BadFault(f"parameter {pair!r} of fault {name!r} has no value; write name=value")
        values[key.strip()] = value.strip()
    return make_fault(name.strip(), values)
