"""Read a worker's report as it came off the stream; whatever passes here fits the tables."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import orjson

from controlplane.telemetry.models import COUNTS, LANE_STATES, SKETCHES, empty_sketch
from controlplane.telemetry.shadows import SHADOW_SKETCHES
from dataplane.cohorts import GROUPS, Arm
from dataplane.evidence import CANDIDATE, CELL, CONTROL
from dataplane.frames import Ending
from dataplane.policies import QUOTA_LIMITS
from dataplane.shadow.counting import CANDIDATE as SHADOW_CANDIDATE
from dataplane.shadow.counting import COUNTS as SHADOW_COUNTS
from dataplane.shadow.counting import MAX_RULES, MOMENTS, NOISE
from dataplane.sketches import Sketch

Report = dict[str, Any]
Check = Callable[[Any], bool]

MAX_REPORT_BYTES: Final = 16 * 1024 * 1024
_MAX_INTEGER: Final = 2**63 - 1
_MAX_SMALL: Final = 2**31 - 1
_MAX_OPEN_SECONDS: Final = 31 * 86_400
_YEAR_3000: Final = 32_503_680_000
# What workers of an older version do not send yet; during an upgrade both report.
_NEWER_COUNTS: Final = frozenset({"fallbacks", "attempts", "failures", "timeouts", "throttled"})
_NEWER_SKETCHES: Final = frozenset({"drain_tps"})
_NEWER_ROWS: Final = ("streams", "deliveries", "samples", "evidence", "exposures", "shadow", "shadow_samples")
# Of checks of answers: far more keys than modes, rungs and labels there are, or rules with their verdicts.
_MAX_OUTPUTS: Final = 400
_MAX_OUTPUT_KEY: Final = 200
# A rule with its version and two verdicts.
_MAX_RULE_KEY: Final = 300
# Of a sample: of the answer and of its question, and of what it may rest on.
_MAX_SAMPLE_CHARACTERS: Final = 32_000
_MAX_SOURCE_CHARACTERS: Final = 64_000
_UNIT: Final = re.compile(r"[0-9a-f]{16}")
_PARTS_OF_A_CELL: Final = (
    ("answerable", "reached"),
    ("errors", "answerable"),
    ("answered", "answerable"),
    ("timed", "answerable"),
    ("refused", "answered"),
    ("schema_passed", "schema_checked"),
    ("blocked", "validated"),
    ("grounded", "grounding_checked"),
)
# In a payload that a transcript quotes, the backslash is escaped itself, and what was a NUL there is six characters.
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class MalformedReport(ValueError):
    """An entry of the stream that is no report: `path` says where, the message what was expected."""

    code = "malformed_report"

    def __init__(self, path: str, expected: str) -> None:
        super().__init__(f"{path}: expected {expected}")
        self.path = path


def parse_report(raw: bytes) -> Report:
    """Return the report of one stream entry; members that are not known here are kept and ignored.

    Counts, sketches, outputs and rows that an older worker does not know are filled in: 0 and empty.

    Shape: see `dataplane.reports`: {"worker", "boot", "seq", "sent_at", "state", "acks", "rollups", "usage", "events",
    "streams", "deliveries", "samples", "evidence", "exposures", "shadow", "shadow_samples"}.
    Raises:
        MalformedReport: not JSON, a member missing, or a value that no column could hold.
    """
    if len(raw) > MAX_REPORT_BYTES:
        raise MalformedReport("$", f"at most {MAX_REPORT_BYTES} bytes, got {len(raw)}")
    if rb"\u0000" in raw and _NUL.search(raw):
        raise MalformedReport("$", "text without NUL characters")
    try:
        report = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise MalformedReport("$", f"JSON ({exc})") from exc
    _object(report, _REPORT, "$")
    _object(report["state"], _STATE, "$.state")
    for name in _NEWER_ROWS:
        report.setdefault(name, [])
    for name, members in _ROWS_OF.items():
        for position, row in enumerate(report[name]):
            _object(row, members, f"$.{name}[{position}]")
    for position, stream in enumerate(report["streams"]):
        for number, segment in enumerate(stream["segments"]):
            _object(segment, _SEGMENT, f"$.streams[{position}].segments[{number}]")
    for position, sample in enumerate(report["samples"]):
        for number, source in enumerate(sample["sources"]):
            _object(source, _SOURCE, f"$.samples[{position}].sources[{number}]")
    for position, lane in enumerate(report["state"].get("lanes", ())):
        _object(lane, _LANE, f"$.state.lanes[{position}]")
    for position, quota in enumerate(report["state"].get("quotas", ())):
        place = f"$.state.quotas[{position}]"
        _object(quota, _QUOTA, place)
        _object(quota["waiting"], _WAITING, f"{place}.waiting")
        _object(quota["eta_seconds"], _ETAS, f"{place}.eta_seconds")
    for position, rollup in enumerate(report["rollups"]):
        for name in _NEWER_COUNTS:
            rollup.setdefault(name, 0)
        for name in _NEWER_SKETCHES:
            rollup.setdefault(name, empty_sketch())
        rollup.setdefault("outputs", {})
        _sketches(rollup, SKETCHES, f"$.rollups[{position}]")
    for position, counted in enumerate(report["shadow"]):
        _sketches(counted, SHADOW_SKETCHES, f"$.shadow[{position}]")
    for position, sample in enumerate(report["shadow_samples"]):
        if sample["texts"] is not None:
            _object(sample["texts"], _SHADOW_TEXTS, f"$.shadow_samples[{position}].texts")
    parsed: Report = report
    return parsed


def _sketches(row: Mapping[str, Any], names: Iterable[str], path: str) -> None:
    for name in names:
        try:
            Sketch.from_json(row[name])
        except ValueError as exc:
            raise MalformedReport(f"{path}.{name}", f"a sketch ({exc})") from exc


def _object(value: Any, members: Mapping[str, tuple[Check, str]], path: str) -> None:
    if not isinstance(value, dict):
        raise MalformedReport(path, "an object")
    for name, (check, expected) in members.items():
        if name not in value:
            if not check(_ABSENT):
                raise MalformedReport(f"{path}.{name}", f"{expected}, got nothing")
        elif not check(value[name]):
            raise MalformedReport(f"{path}.{name}", f"{expected}, got {type(value[name]).__name__}")


_ABSENT: Final = object()


def _text(length: int, *, minimum: int = 0) -> tuple[Check, str]:
    return (
        lambda value: isinstance(value, str) and minimum <= len(value) <= length,
        f"text of up to {length} characters",
    )


def _integer(maximum: int = _MAX_INTEGER, *, minimum: int = 0) -> tuple[Check, str]:
    return (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum,
        f"an integer from {minimum} to {maximum}",
    )


def _number(maximum: float) -> tuple[Check, str]:
    return (
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= maximum,
        f"a number from 0 to {maximum:g}",
    )


def _one_of(*words: str) -> tuple[Check, str]:
    return lambda value: value in words, f"one of {', '.join(words)}"


def _or_null(member: tuple[Check, str]) -> tuple[Check, str]:
    return lambda value: value is None or member[0](value), f"{member[1]} or null"


def _optional(member: tuple[Check, str]) -> tuple[Check, str]:
    return lambda value: value is _ABSENT or member[0](value), member[1]


def _counts_by_key(most: int, length: int) -> tuple[Check, str]:
    is_key, is_count = _text(length, minimum=1)[0], _integer()[0]
    return (
        lambda value: (
            isinstance(value, dict)
            and len(value) <= most
            and all(is_key(key) and is_count(count) for key, count in value.items())
        ),
        f"at most {most} counts by keys of up to {length} characters",
    )


def _is_moment(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and _COUNT(value[0])
        and all(isinstance(one, int | float) and not isinstance(one, bool) and abs(one) <= 1e15 for one in value[1:])
        and value[2] >= 0
    )


def _is_call(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_text(_MAX_SAMPLE_CHARACTERS)[0], value))


def _are_cells(value: Any) -> bool:
    """Whether it is a list of cells, of one group each."""
    if not isinstance(value, list) or len(value) > GROUPS or not all(map(_is_cell, value)):
        return False
    return len({cell[0] for cell in value}) == len(value)


def _is_cell(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 1 + len(CELL) or not _GROUP(value[0]):
        return False
    sums = dict(zip(CELL, value[1:], strict=True))
    logarithms = sums.pop("log2_ms")
    if not all(map(_COUNT, sums.values())) or not _LIMIT(logarithms):
        return False
    return all(sums[part] <= sums[whole] for part, whole in _PARTS_OF_A_CELL)


_EPOCH = _number(_YEAR_3000)
_LIMIT: Check = _number(1e15)[0]
_COUNT: Check = _integer()[0]
_GROUP: Check = _integer(GROUPS - 1)[0]
_ROWS: tuple[Check, str] = (lambda value: isinstance(value, list), "a list")
_OBJECT: tuple[Check, str] = (lambda value: isinstance(value, dict), "an object")
_TEXTS: tuple[Check, str] = (
    lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "a list of texts",
)
_BOOLEAN: tuple[Check, str] = (lambda value: isinstance(value, bool), "true or false")
_SERIES = {
    "lane": _text(200),
    "prompt": _text(100),
    "version": _integer(_MAX_SMALL),
    "canary": _text(100),
    "cohort": _text(10),
    "tier": _text(10),
}

_REPORT: Final = {
    "worker": _text(120, minimum=1),
    "boot": _text(32, minimum=1),
    "seq": _integer(),
    "sent_at": _EPOCH,
    "acks": _ROWS,
    "rollups": _ROWS,
    "usage": _ROWS,
    "events": _ROWS,
    "state": _OBJECT,
    "streams": _optional(_ROWS),
    "deliveries": _optional(_ROWS),
    "samples": _optional(_ROWS),
    "evidence": _optional(_ROWS),
    "exposures": _optional(_ROWS),
    "shadow": _optional(_ROWS),
    "shadow_samples": _optional(_ROWS),
}
_STATE: Final = {
    "kind": _text(20),
    "host": _text(100),
    "pid": _integer(_MAX_SMALL),
    "status": _text(20),
    "revision": _or_null(_integer()),
    "digest": _or_null(_text(64)),
    "started_at": _EPOCH,
    "in_flight": _integer(_MAX_SMALL),
    "region": _optional(_text(100)),
    "lanes": _optional(_ROWS),
    "quotas": _optional(_ROWS),
}
_LANE: Final = {
    "lane": _text(200, minimum=1),
    "state": _one_of(*LANE_STATES),
    "open_for_seconds": _or_null(_number(_MAX_OPEN_SECONDS)),
    "probes": _integer(_MAX_SMALL),
    "attempts": _integer(),
    "failures": _integer(),
    "cause": _text(200),
    "wait_ms": _optional(_or_null(_number(1e15))),
}
_LIMITS: tuple[Check, str] = (
    lambda value: (
        isinstance(value, dict) and all(name in QUOTA_LIMITS and _LIMIT(limit) for name, limit in value.items())
    ),
    f"an object with numbers for any of {', '.join(QUOTA_LIMITS)}",
)
_QUOTA: Final = {
    "pool": _text(200, minimum=1),
    "account": _text(200, minimum=1),
    "policy": _text(200, minimum=1),
    "limits": _LIMITS,
    "learned": _LIMITS,
    "paused_seconds": _number(_MAX_OPEN_SECONDS),
    "ramp": _number(1),
    "is_alone": _BOOLEAN,
    "waiting": _OBJECT,
    "eta_seconds": _OBJECT,
    "in_flight": _integer(_MAX_SMALL),
    "used_share": _number(1e15),
    "granted": _integer(),
    "throttled": _integer(),
    "waited_ms_p50": _or_null(_number(1e15)),
    "waited_ms_p95": _or_null(_number(1e15)),
}
_WAITING: Final = dict.fromkeys(("interactive", "batch"), _integer())
_ETAS: Final = dict.fromkeys(("interactive", "batch"), _or_null(_number(1e15)))
_ACK: Final = {
    "revision": _or_null(_integer()),
    "digest": _or_null(_text(64)),
    "verdict": _one_of("ack", "nack"),
    "reason": _optional(_text(10_000)),
    "at": _EPOCH,
}
_OUTPUTS: Final = _counts_by_key(_MAX_OUTPUTS, _MAX_OUTPUT_KEY)
_BUCKET: tuple[Check, str] = (
    lambda value: _integer(_YEAR_3000)[0](value) and value % 10 == 0,
    "epoch seconds, a multiple of 10",
)
_ROLLUP: Final = {
    **_SERIES,
    "bucket": _BUCKET,
    **{name: _optional(_integer()) if name in _NEWER_COUNTS else _integer() for name in COUNTS},
    **{name: _optional(_OBJECT) if name in _NEWER_SKETCHES else _OBJECT for name in SKETCHES},
    "outputs": _optional(_OUTPUTS),
}
_USAGE: Final = {
    **_SERIES,
    "attempt_id": _text(36, minimum=1),
    "request_id": _text(64),
    "at": _EPOCH,
    "tenant": _text(50),
    "key_id": _optional(_text(40)),
    "route": _text(100),
    "kind": _text(10),
    "cause": _optional(_text(60)),
    "attempt": _integer(_MAX_SMALL),
    "outcome": _text(60),
    "status": _integer(_MAX_SMALL),
    "input_tokens": _integer(),
    "output_tokens": _integer(),
    "cost_micros": _integer(),
    "latency_ms": _number(1e15),
    "ttft_ms": _or_null(_number(1e15)),
    "stream": _BOOLEAN,
    "user": _text(64),
}
_EVENT: Final = {"at": _EPOCH, "kind": _text(60, minimum=1), "data": _OBJECT}
_SEGMENT: Final = {
    "lane": _text(200),
    "model": _text(200),
    "how": _one_of("first", "prefill", "regenerated"),
    **dict.fromkeys(("first_seq", "last_seq", "billed_tokens", "generated_tokens", "buffered_tokens"), _integer()),
    "partial": _BOOLEAN,
    "estimated": _BOOLEAN,
    "cause": _text(60),
}
_MOVING: Final = dict.fromkeys(("delivered", "acked", "delivered_tokens", "acked_tokens"), _integer())
_STREAM: Final = {
    **{name: member for name, member in _SERIES.items() if name != "lane"},
    **_MOVING,
    **dict.fromkeys(("billed_tokens", "generated_tokens", "buffered_tokens", "frames", "bytes"), _integer()),
    "cost_micros": _integer(),
    "stream_id": _text(32, minimum=1),
    "request_id": _text(64),
    "tenant": _text(50),
    "key_id": _text(40),
    "user": _text(64),
    "route": _text(100),
    "policy": _text(100),
    "on_cut": _text(20),
    "refund": _text(40),
    "started_at": _EPOCH,
    "at": _EPOCH,
    "outcome": _one_of(*Ending),
    "code": _text(60),
    "continues": _text(32),
    "digest": _text(64),
    "text_digest": _text(64),
    "segments": _ROWS,
    "transcript": _or_null(_TEXTS),
    "resumed": _optional(_BOOLEAN),
}
_DELIVERY: Final = {
    **_MOVING,
    "delivery_id": _text(32, minimum=1),
    "stream_id": _text(32, minimum=1),
    "tenant": _text(50),
    "at": _EPOCH,
    "reader": _one_of("caller", "resumed", "ack"),
}
_CALLS: tuple[Check, str] = (
    lambda value: isinstance(value, list) and all(_is_call(call) for call in value),
    "a list of calls, each its name and its arguments as texts",
)
_SOURCE: Final = {"id": _text(_MAX_SOURCE_CHARACTERS), "text": _text(_MAX_SOURCE_CHARACTERS)}
_SAMPLE: Final = {
    "at": _EPOCH,
    "request_id": _text(64, minimum=1),
    "tenant": _text(50, minimum=1),
    "route": _text(100, minimum=1),
    "prompt": _text(100),
    "version": _integer(_MAX_SMALL),
    "lane": _text(200),
    "text": _text(_MAX_SAMPLE_CHARACTERS),
    "tool_calls": _CALLS,
    "sources": _ROWS,
    "question": _text(_MAX_SAMPLE_CHARACTERS),
    "is_json": _BOOLEAN,
}
_ARM: Final = _one_of(Arm.CANARY, Arm.CONTROL)
_EVIDENCE: Final = {
    "canary": _text(100, minimum=1),
    "arm": _ARM,
    "cells": (
        _are_cells,
        f"cells of at most {GROUPS} groups, each its number and {len(CELL)} sums, no part over its whole",
    ),
}
_EXPOSURE: Final = {
    "canary": _text(100, minimum=1),
    "unit": (lambda value: isinstance(value, str) and _UNIT.fullmatch(value) is not None, "16 hex digits"),
    "group": _integer(GROUPS - 1),
    "arm": _ARM,
    "version": _integer(_MAX_SMALL, minimum=1),
    "served": _one_of(CANDIDATE, CONTROL),
}
_SHADOW_SERIES: Final = {
    "policy": _text(100, minimum=1),
    "digest": _text(64, minimum=1),
    "route": _text(100, minimum=1),
    "arm": _one_of(SHADOW_CANDIDATE, NOISE),
    "lane": _text(200),
}
_MOMENTS: tuple[Check, str] = (
    lambda value: isinstance(value, dict) and value.keys() == set(MOMENTS) and all(map(_is_moment, value.values())),
    f"how many, sum and sum of squares for each of {', '.join(MOMENTS)}",
)
_SHADOW: Final = {
    **_SHADOW_SERIES,
    "bucket": _BUCKET,
    **dict.fromkeys(SHADOW_COUNTS, _integer()),
    **dict.fromkeys(("discarded", "failed"), _OUTPUTS),
    "rules": _counts_by_key(MAX_RULES, _MAX_RULE_KEY),
    "moments": _MOMENTS,
    **dict.fromkeys(SHADOW_SKETCHES, _OBJECT),
}
_SHADOW_SAMPLE: Final = {
    **_SHADOW_SERIES,
    "at": _EPOCH,
    "request_id": _text(64, minimum=1),
    "tenant": _text(50, minimum=1),
    "control_lane": _text(200),
    "prompt": _text(100),
    "version": _integer(_MAX_SMALL),
    "diff": _OBJECT,
    "texts": _or_null(_OBJECT),
}
_SHADOW_TEXTS: Final = {
    **dict.fromkeys(("question", "control", "shadow"), _text(_MAX_SAMPLE_CHARACTERS)),
    **dict.fromkeys(("control_tools", "shadow_tools"), _CALLS),
}
_ROWS_OF: Final = {
    "acks": _ACK,
    "rollups": _ROLLUP,
    "usage": _USAGE,
    "events": _EVENT,
    "streams": _STREAM,
    "deliveries": _DELIVERY,
    "samples": _SAMPLE,
    "evidence": _EVIDENCE,
    "exposures": _EXPOSURE,
    "shadow": _SHADOW,
    "shadow_samples": _SHADOW_SAMPLE,
}
