"""Reports as workers send them, for tests."""

from datetime import UTC, datetime, timedelta
from typing import Any

from dataplane.evidence import CELL
from dataplane.frames import digest_frames
from dataplane.sketches import Sketch

NOON = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)
DIGEST = "d" * 64
# Pages that look at the clock take a worker for silent after five seconds. What one says so far ahead is still of now
# when they are asked for, however long the machine paused in between.
STILL_HEARD = timedelta(minutes=4)


def sketch(*values: float) -> dict[str, Any]:
    """The JSON of a sketch of these values."""
    made = Sketch()
    for value in values:
        made.add(value)
    return made.to_json()


def rollup(
    at: datetime = NOON,
    *,
    requests: int = 1,
    latencies: tuple[float, ...] | None = None,
    ttfts: tuple[float, ...] = (),
    drains: tuple[float, ...] = (),
    **fields: Any,
) -> dict[str, Any]:
    """One rollup; without `latencies` every request took 100 ms. Each request made one attempt, and failed with it."""
    errors = fields.get("errors", 0)
    return {
        "bucket": int(at.timestamp()),
        "lane": "openai/eu-west/main/gpt-4o",
        "prompt": "support-answer",
        "version": 12,
        "canary": "support-answer-v13",
        "cohort": "control",
        "tier": "vip",
        "requests": requests,
        "errors": 0,
        "rejected": 0,
        "cancelled": 0,
        "fallbacks": 0,
        "attempts": requests,
        "failures": errors,
        "timeouts": 0,
        "throttled": 0,
        "input_tokens": 10 * requests,
        "output_tokens": 20 * requests,
        "cost_micros": 300 * requests,
        "schema_checked": 0,
        "schema_passed": 0,
        "refusals": 0,
        "outputs": {},
        "latency_ms": sketch(*((100.0,) * requests if latencies is None else latencies)),
        "ttft_ms": sketch(*ttfts),
        "drain_tps": sketch(*drains),
    } | fields


def report(
    *rollups: dict[str, Any],
    worker: str = "host-a/gateway-0",
    boot: str = "b1",
    seq: int = 1,
    sent_at: datetime = NOON,
    started_at: datetime = NOON - timedelta(hours=1),
    status: str = "serving",
    revision: int | None = None,
    digest: str | None = None,
    acks: tuple[dict[str, Any], ...] = (),
    usage: tuple[dict[str, Any], ...] = (),
    events: tuple[dict[str, Any], ...] = (),
    lanes: tuple[dict[str, Any], ...] | None = None,
    quotas: tuple[dict[str, Any], ...] | None = None,
    streams: tuple[dict[str, Any], ...] = (),
    deliveries: tuple[dict[str, Any], ...] = (),
    samples: tuple[dict[str, Any], ...] = (),
    evidence: tuple[dict[str, Any], ...] = (),
    exposures: tuple[dict[str, Any], ...] = (),
    shadow: tuple[dict[str, Any], ...] = (),
    shadow_samples: tuple[dict[str, Any], ...] = (),
    ladders: tuple[dict[str, Any], ...] | None = None,
    surfaces: tuple[dict[str, Any], ...] = (),
    surface_readings: tuple[dict[str, Any], ...] = (),
) -> dict[str, Any]:
    """One batch of a worker."""
    return {
        "worker": worker,
        "boot": boot,
        "seq": seq,
        "sent_at": sent_at.timestamp(),
        "state": {
            "kind": "gateway",
            "host": worker.split("/")[0],
            "pid": 4242,
            "status": status,
            "revision": revision,
            "digest": digest,
            "started_at": started_at.timestamp(),
            "in_flight": 3,
            **({} if lanes is None else {"lanes": list(lanes)}),
            **({} if quotas is None else {"quotas": list(quotas)}),
            **({} if ladders is None else {"ladders": list(ladders)}),
        },
        "acks": list(acks),
        "rollups": list(rollups),
        "usage": list(usage),
        "events": list(events),
        "streams": list(streams),
        "deliveries": list(deliveries),
        "samples": list(samples),
        "evidence": list(evidence),
        "exposures": list(exposures),
        "shadow": list(shadow),
        "shadow_samples": list(shadow_samples),
        "surfaces": list(surfaces),
        "surface_readings": list(surface_readings),
    }


def lane_state(lane: str = "openai/eu-west/main/gpt-4o", state: str = "closed", **fields: Any) -> dict[str, Any]:
    """How a worker holds one lane."""
    return {
        "lane": lane,
        "state": state,
        "open_for_seconds": 30.0 if state in ("open", "half_open") else None,
        "probes": 0,
        "attempts": 40,
        "failures": 0,
        "cause": "",
        "wait_ms": None,
    } | fields


def quota_state(account: str = "openai-main", policy: str = "shared", **fields: Any) -> dict[str, Any]:
    """What a worker knows of one pool: within its limits, and nobody waits."""
    return {
        "pool": f"{account}/{policy}",
        "account": account,
        "policy": policy,
        "limits": {"requests": 10_000, "tokens": 2_000_000, "concurrency": 200},
        "learned": {},
        "paused_seconds": 0,
        "ramp": 1.0,
        "is_alone": False,
        "waiting": {"interactive": 0, "batch": 0},
        "eta_seconds": {"interactive": 0.0, "batch": 0.0},
        "in_flight": 5,
        "used_share": 0.4,
        "granted": 20,
        "throttled": 0,
        "waited_ms_p50": None,
        "waited_ms_p95": None,
    } | fields


def ladder_state(surface: str = "web-chat", **fields: Any) -> dict[str, Any]:
    """How a worker holds the ladder of one surface: nothing is engaged, and its one trigger reads little."""
    return {
        "surface": surface,
        "level": 0,
        "engaged": {"vip": 0, "standard": 0, "free": 0},
        "ids": [],
        "readings": {"load": 12.0},
        "generation": 0,
        "is_alone": False,
        "reserved": {},
    } | fields


def surface_row(at: datetime = NOON, *, requests: int = 1, ms: float = 100.0, **fields: Any) -> dict[str, Any]:
    """Requests of one series of a surface, each answered in `ms` for 300 millionths of a dollar; none waited."""
    return {
        "bucket": int(at.timestamp()),
        "surface": "web-chat",
        "region": "eu-west",
        "tier": "free",
        "rung": 0,
        "outcome": "answered",
        "requests": requests,
        "reserved": 0,
        "cost_micros": 300 * requests,
        "latency_ms": sketch(*((ms,) * requests)),
        "queued_ms": sketch(),
    } | fields


def surface_load(at: datetime = NOON, *, in_flight: float = 20.0, **fields: Any) -> dict[str, Any]:
    """How loaded a surface was in 10 s, as its leader read it; `fields` are of the row, or of its values."""
    values: dict[str, Any] = {
        "in_flight": in_flight,
        "requests_per_second": 2.0,
        "backlog_age_seconds": None,
        "queue_age_seconds": 0.0,
        "quota_utilisation": 0.2,
        "breakers_open_share": 0.0,
        "gauges": {},
        "attempts": 20,
        "failures": 0,
    }
    row = {
        "bucket": int(at.timestamp()),
        "surface": "web-chat",
        "level": 0,
        "generation": 0,
        "is_alone": False,
    }
    row |= {name: value for name, value in fields.items() if name not in values}
    return row | {"values": values | {name: value for name, value in fields.items() if name in values}}


def usage_row(attempt_id: str = "a1", *, at: datetime = NOON, **fields: Any) -> dict[str, Any]:
    """The usage row of one attempt."""
    return {
        "attempt_id": attempt_id,
        "request_id": "req-1",
        "at": at.timestamp(),
        "tenant": "acme",
        "tier": "vip",
        "route": "chat",
        "lane": "openai/eu-west/main/gpt-4o",
        "prompt": "support-answer",
        "version": 12,
        "canary": "",
        "cohort": "none",
        "kind": "primary",
        "cause": "",
        "attempt": 1,
        "outcome": "ok",
        "status": 200,
        "input_tokens": 10,
        "output_tokens": 20,
        "cost_micros": 300,
        "latency_ms": 120.5,
        "ttft_ms": None,
        "stream": False,
        "user": "ab12",
    } | fields


def ack(
    revision: int = 1, *, verdict: str = "ack", digest: str = DIGEST, at: datetime = NOON, reason: str = ""
) -> dict[str, Any]:
    """One verdict on a release."""
    return {"revision": revision, "digest": digest, "verdict": verdict, "reason": reason, "at": at.timestamp()}


FRAMES = [
    '{"choices":[{"index":0,"delta":{"content":"Within 14"}}]}',
    '{"choices":[{"index":0,"delta":{"content":" days."}}]}',
    "[DONE]",
]


def segment(lane: str = "openai/eu-west/main/gpt-4o", **fields: Any) -> dict[str, Any]:
    """What one attempt gave of a stream: all of it, unless told."""
    return {
        "lane": lane,
        "model": lane.rpartition("/")[2],
        "how": "first",
        "first_seq": 1,
        "last_seq": 40,
        "billed_tokens": 100,
        "generated_tokens": 100,
        "buffered_tokens": 100,
        "partial": False,
        "estimated": False,
        "cause": "",
    } | fields


def stream_row(stream_id: str = "5" * 32, *, at: datetime = NOON, **fields: Any) -> dict[str, Any]:
    """The row of a stream of 40 frames and 100 tokens that was completed, delivered whole and acknowledged in half."""
    return {
        "stream_id": stream_id,
        "request_id": "req-1",
        "tenant": "acme",
        "tier": "vip",
        "key_id": "",
        "user": "ab12",
        "route": "chat",
        "prompt": "support-answer",
        "version": 12,
        "canary": "",
        "cohort": "none",
        "policy": "resumable",
        "on_cut": "continue",
        "refund": "undelivered",
        "started_at": at.timestamp() - 4,
        "at": at.timestamp(),
        "outcome": "completed",
        "code": "",
        "continues": "",
        "frames": 40,
        "bytes": 4000,
        "digest": digest_frames(frame.encode() for frame in FRAMES),
        "text_digest": DIGEST,
        "billed_tokens": 100,
        "generated_tokens": 100,
        "buffered_tokens": 100,
        "delivered_tokens": 100,
        "acked_tokens": 50,
        "delivered": 40,
        "acked": 20,
        "cost_micros": 1000,
        "segments": [segment()],
        "transcript": None,
    } | fields


def delivery(
    delivery_id: str = "d1", stream_id: str = "5" * 32, *, at: datetime = NOON + timedelta(seconds=5), **fields: Any
) -> dict[str, Any]:
    """That all of such a stream was read, by a caller who came back to it."""
    return {
        "delivery_id": delivery_id,
        "stream_id": stream_id,
        "tenant": "acme",
        "at": at.timestamp(),
        "delivered": 40,
        "acked": 40,
        "delivered_tokens": 100,
        "acked_tokens": 100,
        "reader": "resumed",
    } | fields


def sample(request_id: str = "req-1", *, at: datetime = NOON, **fields: Any) -> dict[str, Any]:
    """An answer that a worker keeps as a sample."""
    return {
        "at": at.timestamp(),
        "request_id": request_id,
        "tenant": "acme",
        "route": "chat",
        "prompt": "support-answer",
        "version": 12,
        "lane": "openai/eu-west/main/gpt-4o",
        "text": "Within 14 days [1].",
        "tool_calls": [["refund", '{"days": 14}']],
        "sources": [{"id": "1", "text": "Refunds take 14 days."}],
        "question": "How long does a refund take?",
        "is_json": False,
    } | fields


def cell(group: int = 0, requests: int = 10, **sums: float) -> list[float]:
    """The sums of one group: so many requests, all answered, each in 8 ms and for 300 millionths of a dollar."""
    found: dict[str, float] = dict.fromkeys(CELL, 0)
    found |= dict.fromkeys(("answerable", "reached", "timed", "answered"), requests)
    found |= {"cost_micros": 300 * requests, "log2_ms": 3.0 * requests}
    return [group, *(found | sums).values()]


def cells(*rows: list[float], canary: str = "support-answer-v13", arm: str = "canary") -> dict[str, Any]:
    """What a worker counted in one arm of a canary."""
    return {"canary": canary, "arm": arm, "cells": list(rows)}


def exposure(unit: int = 1, served: str = "candidate", *, arm: str = "canary", **fields: Any) -> dict[str, Any]:
    """That a unit was served a version of a canary."""
    return {
        "canary": "support-answer-v13",
        "unit": f"{unit:016x}",
        "group": unit % 64,
        "arm": arm,
        "version": 13 if served == "candidate" else 12,
        "served": served,
    } | fields
