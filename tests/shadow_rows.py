"""What shadow processes report, and policies of shadows in a routing table, for tests of the control plane."""

from datetime import datetime
from typing import Any

from dataplane.shadow.counting import CANDIDATE, COUNTS, MOMENTS
from tests.factories import routing_document
from tests.worker_reports import NOON, sketch

POLICY, ROUTE = "trial", "chat"
CANDIDATE_LANE = "azure/eu-west/trial/gpt-next"
NOISE_LANE = "azure/eu-west/trial/gpt-4o"
MAIN_LANE = "azure/eu-west/eu/gpt-next"
DIGEST = "e" * 64


def threshold(value: float) -> dict[str, Any]:
    """A number that is a guess."""
    said = {"origin": "guess", "note": "a first try", "link": "", "author": "owner"}
    return {"value": value, "provenance": said | {"on": "2026-03-01", "review_by": "2026-06-01"}}


def shadow_policy(**numbers: float) -> dict[str, Any]:
    """A policy as a routing table has it; `numbers` by name."""
    own = {"percent": 10, "noise_percent": 20, "max_in_flight": 2, "queue": 10, "deadline_ms": 60_000}
    budget = {"calls": 1000, "tokens": 10**6, "cost_micros": 10**6}
    kill = {"failure_rate": 0.5, "minimum_calls": 20, "cost_ratio": 3}
    said = {name: threshold(value) for name, value in (own | budget | kill | numbers).items()}
    return {
        "lanes": [CANDIDATE_LANE],
        "noise_lanes": [NOISE_LANE],
        "budget": {name: said.pop(name) for name in budget},
        "kill": {name: said.pop(name) for name in kill},
        **said,
    }


def shadow_document(table: dict[str, Any] | None = None, **numbers: float) -> dict[str, Any]:
    """A routing table, the demo's unless told, with a shadow of a newer model on `chat`, on an account of its own."""
    document = table or routing_document()
    for policy in document.pop("shadows", {}).values():
        for name in (*policy["lanes"], *policy["noise_lanes"]):
            del document["lanes"][name]
    for route in document["routes"].values():
        route.pop("shadow", None)
    azure = document["accounts"]["azure-eu"]
    document["accounts"]["azure-trial"] = azure | {"secret": "env:TRIAL_KEY"}
    lane = document["lanes"]["azure/eu-west/eu/gpt-4o"]
    own = lane | {"account": "azure-trial", "breaker": None, "probe": None, "quota": None}
    document["lanes"][CANDIDATE_LANE] = own | {"model": "gpt-next", "upstream_model": "gpt-next"}
    document["lanes"][NOISE_LANE] = own
    document["shadows"] = {POLICY: shadow_policy(**numbers)}
    document["routes"][ROUTE]["shadow"] = POLICY
    return document


def promoting_document() -> dict[str, Any]:
    """The same table, with the candidate's model among the lanes that serve the route, on the account that serves."""
    document = shadow_document()
    document["lanes"][MAIN_LANE] = document["lanes"][CANDIDATE_LANE] | {"account": "azure-eu"}
    document["routes"][ROUTE]["lanes"].append(MAIN_LANE)
    if document["routes"][ROUTE].get("held_tokens"):
        document["lanes"][MAIN_LANE]["breaker"] = "hosted-chat"
    return document


def shadow_row(at: datetime = NOON, *, arm: str = CANDIDATE, asked: int = 0, **fields: Any) -> dict[str, Any]:
    """One row of a shadow process; without more, `asked` calls that were answered and agreed in everything."""
    counts = dict.fromkeys(COUNTS, 0) | {
        **dict.fromkeys(("asked", "answered", "verdicts_agree", "schema_both"), asked),
        "cost_micros": 200 * asked,
        "control_cost_micros": 200 * asked,
        "input_tokens": 10 * asked,
        "output_tokens": 20 * asked,
    }
    return {
        "bucket": int(at.timestamp()),
        "policy": POLICY,
        "digest": DIGEST,
        "route": ROUTE,
        "arm": arm,
        "lane": CANDIDATE_LANE if arm == CANDIDATE else NOISE_LANE,
        **counts,
        "discarded": {},
        "failed": {},
        "rules": {},
        "moments": {name: [asked, 0.0, 0.0] for name in MOMENTS} | {"overlap": [asked, 0.5 * asked, 0.26 * asked]},
        "latency_ms": sketch(*(100.0,) * asked),
        "control_latency_ms": sketch(*(100.0,) * asked),
    } | fields


def shadow_sample(request_id: str = "req_1", at: datetime = NOON, **fields: Any) -> dict[str, Any]:
    """One comparison as a shadow process hands it over, with its words."""
    return {
        "at": at.timestamp(),
        "request_id": request_id,
        "tenant": "acme",
        "policy": POLICY,
        "digest": DIGEST,
        "route": ROUTE,
        "arm": CANDIDATE,
        "lane": CANDIDATE_LANE,
        "control_lane": "azure/eu-west/eu/gpt-4o",
        "prompt": "support-answer",
        "version": 3,
        "diff": {
            "schema": "both",
            "overlap": 0.5,
            "length_ratio": 1.2,
            "citations": None,
            "tools": None,
            "refused": [False, False],
            "layers": {},
            "rules": [["no-prices@1", "pass", "block"]],
            "finish_reasons": ["stop", "stop"],
            "cost_micros": [100, 150],
            "latency_ms": [400.0, 600.0],
        },
        "texts": {
            "question": "Where is my parcel?",
            "control": "It left the house on Monday.",
            "shadow": "It left our house on Tuesday.",
            "control_tools": [],
            "shadow_tools": [],
        },
    } | fields
