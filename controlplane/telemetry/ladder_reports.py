"""The parts of a report that tell of ladders: where they stand, what was served on them, how loaded they were."""

from collections.abc import Mapping
from typing import Any, Final

from controlplane.telemetry.report_checks import (
    BOOLEAN,
    BUCKET,
    EPOCH,
    IS_NUMBER,
    MAX_SMALL,
    OBJECT,
    TEXTS,
    MalformedReport,
    Member,
    check_object,
    check_sketches,
    integer,
    number,
    one_of,
    or_null,
    text,
)
from dataplane.access import TIERS
from dataplane.ladder.counting import COUNTS, OUTCOMES, SKETCHES, VALUES
from dataplane.ladder.emergency import MAX_ID_CHARACTERS, MAX_NAME_CHARACTERS, MAX_REASON_CHARACTERS
from dataplane.ladder.policy import MAINTENANCE, OFF

# Far more triggers than a surface has.
_MAX_TRIGGERS: Final = 200
_MAX_SLUG: Final = 100
_IS_SLUG: Final = text(_MAX_SLUG, minimum=1)[0]
_RUNG: Final = integer(MAINTENANCE, minimum=OFF)


def _is_by_trigger(value: Any, *, may_be_null: bool) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= _MAX_TRIGGERS
        and all(
            _IS_SLUG(trigger) and (IS_NUMBER(reading) or (may_be_null and reading is None))
            for trigger, reading in value.items()
        )
    )


def _by_tier(member: Member) -> Member:
    return (
        lambda value: isinstance(value, dict) and value.keys() <= TIERS and all(map(member[0], value.values())),
        f"an object with {member[1]} for any of {', '.join(sorted(TIERS))}",
    )


_READINGS: Final[Member] = (
    lambda value: _is_by_trigger(value, may_be_null=True),
    "an object with a number or null by trigger",
)
_GAUGES: Final[Member] = (lambda value: _is_by_trigger(value, may_be_null=False), "an object with a number by trigger")
_STANDING: Final = {
    "surface": text(_MAX_SLUG, minimum=1),
    "level": _RUNG,
    "engaged": _by_tier(_RUNG),
    "ids": TEXTS,
    "readings": _READINGS,
    "generation": integer(),
    "is_alone": BOOLEAN,
    "reserved": _by_tier(integer(MAX_SMALL)),
}
SERVED: Final = {
    "bucket": BUCKET,
    "surface": text(_MAX_SLUG, minimum=1),
    "region": text(100),
    "tier": text(10),
    "rung": _RUNG,
    "outcome": one_of(*OUTCOMES),
    **dict.fromkeys(COUNTS, integer()),
    **dict.fromkeys(SKETCHES, OBJECT),
}
LOAD: Final = {
    "bucket": BUCKET,
    "surface": text(_MAX_SLUG, minimum=1),
    "level": _RUNG,
    "generation": integer(),
    "is_alone": BOOLEAN,
    "values": OBJECT,
}
_VALUES: Final = {
    **dict.fromkeys(VALUES, or_null(number(1e15))),
    "gauges": _GAUGES,
    **dict.fromkeys(("attempts", "failures"), integer()),
}


def check(report: Mapping[str, Any]) -> None:
    """Return if what lies deeper in a report's rows of SERVED and LOAD, and in its state, fits the tables too.

    Raises:
        MalformedReport: naming the JSON path.
    """
    for position, ladder in enumerate(report["state"].get("ladders", ())):
        check_object(ladder, _STANDING, f"$.state.ladders[{position}]")
    for position, row in enumerate(report["surfaces"]):
        check_sketches(row, SKETCHES, f"$.surfaces[{position}]")
    for position, load in enumerate(report["surface_readings"]):
        check_object(load["values"], _VALUES, f"$.surface_readings[{position}].values")


# Of events, whose data is free: those of other kinds are kept as they are.
_MOVE: Final = {
    "surface": text(_MAX_SLUG, minimum=1),
    "before": _RUNG,
    "after": _RUNG,
    "cause": text(20, minimum=1),
    "trigger": text(_MAX_SLUG),
    "reading": or_null(number(1e15)),
    "readings": _READINGS,
    "generation": integer(),
}
_ORDER: Final = {
    "id": text(MAX_ID_CHARACTERS, minimum=1),
    "surface": text(_MAX_SLUG, minimum=1),
    "rung": _RUNG,
    "until": EPOCH,
    "reason": text(MAX_REASON_CHARACTERS),
    "by": text(MAX_NAME_CHARACTERS),
}


def is_move(data: Any) -> bool:
    """Whether an event's data is that of a `LadderMoved`."""
    return _has(data, _MOVE)


def is_order(data: Any) -> bool:
    """Whether an event's data is that of a `LadderOrdered`."""
    return _has(data, _ORDER)


def _has(data: Any, members: Mapping[str, Member]) -> bool:
    try:
        check_object(data, members, "$")
    except MalformedReport:
        return False
    return True
