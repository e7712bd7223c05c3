"""The release that benchmarks serve: one route with three lanes on two wires, and all policies or none."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dataplane.release import key_id_of, sign
from tests.ladders import rung_copy, rungs, surface, trigger

DEMO = Path(__file__).resolve().parents[1] / "fixtures" / "demo.yaml"
PROVENANCE = {
    "origin": "guess",
    "note": "as in the demo",
    "link": "",
    "author": "benchmark",
    "on": "2026-01-01",
    "review_by": "2027-01-01",
}
KEY = "bk-benchmark"
QUESTION = "How long does a refund take after the parcel has come back to you?"
AMPLE = {
    name: {"value": value}
    for name, value in {"requests": 10**9, "tokens": 10**12, "concurrency": 10**6, "fleet_workers": 1}.items()
}
VERSION = {
    "digest": "0" * 64,
    "messages": [
        {"role": "system", "content": "You help customers of {{company}}. Answer briefly and kindly."},
        {"role": "user", "content": "{{question}}"},
    ],
    "variables_schema": {
        "type": "object",
        "properties": {"company": {"type": "string"}, "question": {"type": "string"}},
        "required": ["company", "question"],
    },
    "parameters": {"temperature": 0.2, "max_tokens": 300},
}


def release_document(base_url: str, *, has_policies: bool = True) -> dict[str, Any]:
    """A release before it is signed: one route with three lanes on two wires. The first lane answers; the others are
    there to be considered.

    Args:
        has_policies: Breaker, retries, quota, the limits of a route, validators and a ladder, with the numbers of the
            demo; else nothing of these. What the account is admitted is more than a core can ask for.
    """
    demo = yaml.safe_load(DEMO.read_text())["routing"]
    lane = {
        "provider": "openai",
        "region": "eu-west",
        "account": "main",
        "model": "gpt-4o",
        "upstream_model": "gpt-4o-instant",
        "residency": "eu",
        "capabilities": ["chat", "stream", "tools", "json_schema"],
        "context_tokens": 128_000,
        "max_output_tokens": 16_384,
        "input_micros_per_million_tokens": 2_500_000,
        "output_micros_per_million_tokens": 10_000_000,
        "connect_timeout_seconds": 2,
        "first_byte_timeout_seconds": 10,
        "idle_timeout_seconds": 10,
    }
    if has_policies:
        lane |= {"breaker": "hosted-chat", "quota": "shared"}
    lanes = {
        "openai/eu-west/main/gpt-4o": lane,
        "openai/eu-north/main/gpt-4o": lane | {"region": "eu-north"},
        "anthropic/eu-west/other/claude": lane | {"provider": "anthropic", "account": "other", "model": "claude"},
    }
    route: dict[str, Any] = {"lanes": list(lanes), "deadline_ms": 30_000}
    if has_policies:
        limits = ("first_token_seconds", "whole_answer_seconds", "held_tokens", "latency_open_share", "retry")
        route |= undated({name: demo["routes"]["chat"][name] for name in limits}) | {"validators": "careful"}
    account = {"base_url": base_url, "secret": "env:UP_KEY", "api_version": None}
    tenant = {"tier": "vip", "residency": ["eu"], "region": "eu-west", "internal": False, "log_content": False}
    stage = {"stage": "half", "audience": "all", "tenants": [], "regions": [], "weight": 5000}
    canary = {"prompt": "support", "control": 1, "candidate": 2, "unit": "user", "salt": "s", "not_after": None}
    return {
        "schema": 1,
        "revision": 1,
        "cut_at": "2026-01-01T00:00:00Z",
        "reason": "benchmark",
        "audit_head": {"seq": 1, "hash": "ab" * 32},
        "sections": {
            "access": {
                "tenants": {"bench": tenant},
                "keys": {hashlib.sha256(KEY.encode()).hexdigest(): {"tenant": "bench", "id": "k1"}},
            },
            "prompts": {
                "support": {"live": 1, "route": "chat", "pinnable": [1], "versions": {"1": VERSION, "2": VERSION}}
            },
            "canaries": {"support-2": canary | {"reach": [stage]}},
            "routing": {
                "providers": {"openai": {"wire": "openai"}, "anthropic": {"wire": "anthropic"}},
                "accounts": {
                    "main": account | {"provider": "openai"},
                    "other": account | {"provider": "anthropic"},
                },
                "lanes": lanes,
                "routes": {"chat": route},
                **(_policies(demo) if has_policies else {}),
            },
            **(_ladder() if has_policies else {}),
        },
    }


def _policies(demo: dict[str, Any]) -> dict[str, Any]:
    validators = demo["validators"]["careful-answers"] | {"escalation": None}
    rules = [undated(rule) for rule in validators["rules"]]
    return {
        "breakers": {"hosted-chat": undated(demo["breakers"]["hosted-chat"])},
        "retries": {"patient": undated(demo["retries"]["patient"])},
        "quotas": {"shared": undated(demo["quotas"]["shared"] | AMPLE)},
        "validators": {"careful": undated(validators) | {"rules": rules}},
    }


def _ladder() -> dict[str, Any]:
    four = {number: rung for number, rung in rungs().items() if number in ("1", "2", "4")}
    triggers = {"load": trigger(enter=1_000_000, leave=500_000)}
    return {"copy": rung_copy(1, 2, 4), "ladder": {"web-chat": surface(rungs=four, triggers=triggers)}}


def write_release(directory: Path, document: dict[str, Any]) -> None:
    """Write a release, signed, and the key that verifies it."""
    key = Ed25519PrivateKey.generate()
    write_keys(directory, key)
    (directory / "release.json").write_text(sign(document, key).to_json())


def bodies(*, stream: bool, managed: bool) -> tuple[bytes, bytes]:
    """What the upstream is asked directly, and what the gateway is asked; `managed`: for a prompt under a canary."""
    fields: dict[str, Any] = {"model": "gpt-4o-instant", "messages": [{"role": "user", "content": QUESTION}]}
    asked = fields | {"model": "chat"}
    if managed:
        asked = {"prompt": {"id": "support", "variables": {"company": "Globex", "question": QUESTION}}}
    direct, through = (
        json.dumps(one | ({"stream": True} if stream else {}), separators=(",", ":")).encode()
        for one in (fields, asked)
    )
    return direct, through


def write_keys(directory: Path, key: Ed25519PrivateKey) -> None:
    """Write the key that verifies what `key` signs."""
    (directory / "keys").mkdir()
    public = key.public_key()
    raw = base64.b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    (directory / "keys" / "trusted-keys.json").write_text(json.dumps({key_id_of(public): raw}))


def undated(policy: dict[str, Any]) -> dict[str, Any]:
    """A policy of the demo with its numbers but not their provenance, whose days are counted from today."""
    return {
        name: one | {"provenance": PROVENANCE} if isinstance(one, dict) and "value" in one else one
        for name, one in policy.items()
    }
