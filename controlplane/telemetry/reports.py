"""Read a worker's report as it came off the stream; whatever passes here fits the tables."""

import re
from typing import Any, Final

import orjson

from controlplane.telemetry import ladder_reports
from controlplane.telemetry.models import COUNTS, LANE_STATES, SKETCHES, empty_sketch
from controlplane.telemetry.report_checks import (
    BOOLEAN,
    BUCKET,
    EPOCH,
    IS_COUNT,
    IS_NUMBER,
    MAX_SMALL,
    OBJECT,
    ROWS,
    TEXTS,
    Check,
    Member,
    check_object,
    check_sketches,
    counts_by_key,
    integer,
    number,
    one_of,
    optional,
    or_null,
    text,
)
from controlplane.telemetry.report_checks import MalformedReport as MalformedReport  # what reading one raises
from controlplane.telemetry.shadows import SHADOW_SKETCHES
from dataplane.cohorts import GROUPS, Arm
from dataplane.evidence import CANDIDATE, CELL, CONTROL
from dataplane.frames import Ending
from dataplane.policies import QUOTA_LIMITS
from dataplane.shadow.counting import CANDIDATE as SHADOW_CANDIDATE
from dataplane.shadow.counting import COUNTS as SHADOW_COUNTS
from dataplane.shadow.counting import MAX_RULES, MOMENTS, NOISE

Report = dict[str, Any]

MAX_REPORT_BYTES: Final = 16 * 1024 * 1024
_MAX_OPEN_SECONDS: Final = 31 * 86_400
# What workers of an older version do not send yet; during an upgrade both report.
_NEWER_COUNTS: Final = frozenset({"fallbacks", "attempts", "failures", "timeouts", "throttled"})
_NEWER_SKETCHES: Final = frozenset({"drain_tps"})
_NEWER_ROWS: Final = (
    *("streams", "deliveries", "samples", "evidence", "exposures", "shadow", "shadow_samples"),
    *("surfaces", "surface_readings"),
)
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


def parse_report(raw: bytes) -> Report:
    """Return the report of one stream entry; members that are not known here are kept and ignored.

    Counts, sketches, outputs and rows that an older worker does not know are filled in: 0 and empty.

    Shape: see `dataplane.reports`: {"worker", "boot", "seq", "sent_at", "state", "acks", "rollups", "usage", "events",
    "streams", "deliveries", "samples", "evidence", "exposures", "shadow", "shadow_samples", "surfaces",
    "surface_readings"}.
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
    check_object(report, _REPORT, "$")
    check_object(report["state"], _STATE, "$.state")
    for name in _NEWER_ROWS:
        report.setdefault(name, [])
    for name, members in _ROWS_OF.items():
        for position, row in enumerate(report[name]):
            check_object(row, members, f"$.{name}[{position}]")
    for position, stream in enumerate(report["streams"]):
        for part, segment in enumerate(stream["segments"]):
            check_object(segment, _SEGMENT, f"$.streams[{position}].segments[{part}]")
    for position, sample in enumerate(report["samples"]):
        for part, source in enumerate(sample["sources"]):
            check_object(source, _SOURCE, f"$.samples[{position}].sources[{part}]")
    for position, lane in enumerate(report["state"].get("lanes", ())):
        check_object(lane, _LANE, f"$.state.lanes[{position}]")
    for position, quota in enumerate(report["state"].get("quotas", ())):
        place = f"$.state.quotas[{position}]"
        check_object(quota, _QUOTA, place)
        check_object(quota["waiting"], _WAITING, f"{place}.waiting")
        check_object(quota["eta_seconds"], _ETAS, f"{place}.eta_seconds")
    for position, rollup in enumerate(report["rollups"]):
        for name in _NEWER_COUNTS:
            rollup.setdefault(name, 0)
        for name in _NEWER_SKETCHES:
            rollup.setdefault(name, empty_sketch())
        rollup.setdefault("outputs", {})
        check_sketches(rollup, SKETCHES, f"$.rollups[{position}]")
    for position, counted in enumerate(report["shadow"]):
        check_sketches(counted, SHADOW_SKETCHES, f"$.shadow[{position}]")
    for position, sample in enumerate(report["shadow_samples"]):
        if sample["texts"] is not None:
            check_object(sample["texts"], _SHADOW_TEXTS, f"$.shadow_samples[{position}].texts")
    ladder_reports.check(report)
    parsed: Report = report
    return parsed


def _is_moment(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and IS_COUNT(value[0])
        and all(isinstance(one, int | float) and not isinstance(one, bool) and abs(one) <= 1e15 for one in value[1:])
        and value[2] >= 0
    )


def _is_call(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(text(_MAX_SAMPLE_CHARACTERS)[0], value))


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
    if not all(map(IS_COUNT, sums.values())) or not IS_NUMBER(logarithms):
        return False
    return all(sums[part] <= sums[whole] for part, whole in _PARTS_OF_A_CELL)


_GROUP: Check = integer(GROUPS - 1)[0]
_SERIES = {
    "lane": text(200),
    "prompt": text(100),
    "version": integer(MAX_SMALL),
    "canary": text(100),
    "cohort": text(10),
    "tier": text(10),
}

_REPORT: Final = {
    "worker": text(120, minimum=1),
    "boot": text(32, minimum=1),
    "seq": integer(),
    "sent_at": EPOCH,
    "acks": ROWS,
    "rollups": ROWS,
    "usage": ROWS,
    "events": ROWS,
    "state": OBJECT,
    "streams": optional(ROWS),
    "deliveries": optional(ROWS),
    "samples": optional(ROWS),
    "evidence": optional(ROWS),
    "exposures": optional(ROWS),
    "shadow": optional(ROWS),
    "shadow_samples": optional(ROWS),
    "surfaces": optional(ROWS),
    "surface_readings": optional(ROWS),
}
_STATE: Final = {
    "kind": text(20),
    "host": text(100),
    "pid": integer(MAX_SMALL),
    "status": text(20),
    "revision": or_null(integer()),
    "digest": or_null(text(64)),
    "started_at": EPOCH,
    "in_flight": integer(MAX_SMALL),
    "region": optional(text(100)),
    "lanes": optional(ROWS),
    "quotas": optional(ROWS),
    "ladders": optional(ROWS),
}
_LANE: Final = {
    "lane": text(200, minimum=1),
    "state": one_of(*LANE_STATES),
    "open_for_seconds": or_null(number(_MAX_OPEN_SECONDS)),
    "probes": integer(MAX_SMALL),
    "attempts": integer(),
    "failures": integer(),
    "cause": text(200),
    "wait_ms": optional(or_null(number(1e15))),
}
_LIMITS: Member = (
    lambda value: (
        isinstance(value, dict) and all(name in QUOTA_LIMITS and IS_NUMBER(limit) for name, limit in value.items())
    ),
    f"an object with numbers for any of {', '.join(QUOTA_LIMITS)}",
)
_QUOTA: Final = {
    "pool": text(200, minimum=1),
    "account": text(200, minimum=1),
    "policy": text(200, minimum=1),
    "limits": _LIMITS,
    "learned": _LIMITS,
    "paused_seconds": number(_MAX_OPEN_SECONDS),
    "ramp": number(1),
    "is_alone": BOOLEAN,
    "waiting": OBJECT,
    "eta_seconds": OBJECT,
    "in_flight": integer(MAX_SMALL),
    "used_share": number(1e15),
    "granted": integer(),
    "throttled": integer(),
    "waited_ms_p50": or_null(number(1e15)),
    "waited_ms_p95": or_null(number(1e15)),
}
_WAITING: Final = dict.fromkeys(("interactive", "batch"), integer())
_ETAS: Final = dict.fromkeys(("interactive", "batch"), or_null(number(1e15)))
_ACK: Final = {
    "revision": or_null(integer()),
    "digest": or_null(text(64)),
    "verdict": one_of("ack", "nack"),
    "reason": optional(text(10_000)),
    "at": EPOCH,
}
_OUTPUTS: Final = counts_by_key(_MAX_OUTPUTS, _MAX_OUTPUT_KEY)
_ROLLUP: Final = {
    **_SERIES,
    "bucket": BUCKET,
    **{name: optional(integer()) if name in _NEWER_COUNTS else integer() for name in COUNTS},
    **{name: optional(OBJECT) if name in _NEWER_SKETCHES else OBJECT for name in SKETCHES},
    "outputs": optional(_OUTPUTS),
}
_USAGE: Final = {
    **_SERIES,
    "attempt_id": text(36, minimum=1),
    "request_id": text(64),
    "at": EPOCH,
    "tenant": text(50),
    "key_id": optional(text(40)),
    "route": text(100),
    "kind": text(10),
    "cause": optional(text(60)),
    "attempt": integer(MAX_SMALL),
    "outcome": text(60),
    "status": integer(MAX_SMALL),
    "input_tokens": integer(),
    "output_tokens": integer(),
    "cost_micros": integer(),
    "latency_ms": number(1e15),
    "ttft_ms": or_null(number(1e15)),
    "stream": BOOLEAN,
    "user": text(64),
    "trace_id": optional(text(32)),
}
_EVENT: Final = {"at": EPOCH, "kind": text(60, minimum=1), "data": OBJECT}
_SEGMENT: Final = {
    "lane": text(200),
    "model": text(200),
    "how": one_of("first", "prefill", "regenerated"),
    **dict.fromkeys(("first_seq", "last_seq", "billed_tokens", "generated_tokens", "buffered_tokens"), integer()),
    "partial": BOOLEAN,
    "estimated": BOOLEAN,
    "cause": text(60),
}
_MOVING: Final = dict.fromkeys(("delivered", "acked", "delivered_tokens", "acked_tokens"), integer())
_STREAM: Final = {
    **{name: member for name, member in _SERIES.items() if name != "lane"},
    **_MOVING,
    **dict.fromkeys(("billed_tokens", "generated_tokens", "buffered_tokens", "frames", "bytes"), integer()),
    "cost_micros": integer(),
    "stream_id": text(32, minimum=1),
    "request_id": text(64),
    "tenant": text(50),
    "key_id": text(40),
    "user": text(64),
    "route": text(100),
    "policy": text(100),
    "on_cut": text(20),
    "refund": text(40),
    "started_at": EPOCH,
    "at": EPOCH,
    "outcome": one_of(*Ending),
    "code": text(60),
    "continues": text(32),
    "digest": text(64),
    "text_digest": text(64),
    "segments": ROWS,
    "transcript": or_null(TEXTS),
    "resumed": optional(BOOLEAN),
}
_DELIVERY: Final = {
    **_MOVING,
    "delivery_id": text(32, minimum=1),
    "stream_id": text(32, minimum=1),
    "tenant": text(50),
    "at": EPOCH,
    "reader": one_of("caller", "resumed", "ack"),
}
_CALLS: Member = (
    lambda value: isinstance(value, list) and all(_is_call(call) for call in value),
    "a list of calls, each its name and its arguments as texts",
)
_SOURCE: Final = {"id": text(_MAX_SOURCE_CHARACTERS), "text": text(_MAX_SOURCE_CHARACTERS)}
_SAMPLE: Final = {
    "at": EPOCH,
    "request_id": text(64, minimum=1),
    "tenant": text(50, minimum=1),
    "route": text(100, minimum=1),
    "prompt": text(100),
    "version": integer(MAX_SMALL),
    "lane": text(200),
    "text": text(_MAX_SAMPLE_CHARACTERS),
    "tool_calls": _CALLS,
    "sources": ROWS,
    "question": text(_MAX_SAMPLE_CHARACTERS),
    "is_json": BOOLEAN,
}
_ARM: Final = one_of(Arm.CANARY, Arm.CONTROL)
_EVIDENCE: Final = {
    "canary": text(100, minimum=1),
    "arm": _ARM,
    "cells": (
        _are_cells,
        f"cells of at most {GROUPS} groups, each its number and {len(CELL)} sums, no part over its whole",
    ),
}
_EXPOSURE: Final = {
    "canary": text(100, minimum=1),
    "unit": (lambda value: isinstance(value, str) and _UNIT.fullmatch(value) is not None, "16 hex digits"),
    "group": integer(GROUPS - 1),
    "arm": _ARM,
    "version": integer(MAX_SMALL, minimum=1),
    "served": one_of(CANDIDATE, CONTROL),
}
_SHADOW_SERIES: Final = {
    "policy": text(100, minimum=1),
    "digest": text(64, minimum=1),
    "route": text(100, minimum=1),
    "arm": one_of(SHADOW_CANDIDATE, NOISE),
    "lane": text(200),
}
_MOMENTS: Member = (
    lambda value: isinstance(value, dict) and value.keys() == set(MOMENTS) and all(map(_is_moment, value.values())),
    f"how many, sum and sum of squares for each of {', '.join(MOMENTS)}",
)
_SHADOW: Final = {
    **_SHADOW_SERIES,
    "bucket": BUCKET,
    **dict.fromkeys(SHADOW_COUNTS, integer()),
    **dict.fromkeys(("discarded", "failed"), _OUTPUTS),
    "rules": counts_by_key(MAX_RULES, _MAX_RULE_KEY),
    "moments": _MOMENTS,
    **dict.fromkeys(SHADOW_SKETCHES, OBJECT),
}
_SHADOW_SAMPLE: Final = {
    **_SHADOW_SERIES,
    "at": EPOCH,
    "request_id": text(64, minimum=1),
    "tenant": text(50, minimum=1),
    "control_lane": text(200),
    "prompt": text(100),
    "version": integer(MAX_SMALL),
    "diff": OBJECT,
    "texts": or_null(OBJECT),
}
_SHADOW_TEXTS: Final = {
    **dict.fromkeys(("question", "control", "shadow"), text(_MAX_SAMPLE_CHARACTERS)),
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
    "surfaces": ladder_reports.SERVED,
    "surface_readings": ladder_reports.LOAD,
}
