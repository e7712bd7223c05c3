"""Every fault that the simulator knows, on every kind of route, streaming and not."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from typing import Any

import httpx
import pytest

from dataplane.assembly import Stores
from dataplane.cursors import CursorKeys
from dataplane.simulator.faults import DIALECTS, FAULTS, MALFORMATIONS, STATUSES, Parameter
from dataplane.stores.streams import RedisStreamLog
from tests.dataplane.conftest import breaker_policy, copy_document, retry_policy, stream_policy, threshold

from .conftest import CAPABILITIES, lane, make_release, release_sections, run_gateway, wait_until

QUESTION = "How do I get a refund?"
# What a fault's parameters are here, where the defaults would only take longer.
QUICKER: dict[str, dict[str, float]] = {"latency": {"ms": 900}, "slow_drip": {"ms": 2}}
# Faults that only a time-out ends. Routes that are to meet others have patience: a busy machine may stand still.
SILENT = ("silence", "silence_mid_stream", "latency")
# Faults after which the answer is complete all the same, in the vendor's way: slow, strange or declined, but whole.
HARMLESS = {
    "latency",
    "slow_drip",
    "refusal",
    "malformed_answer",
    "say",
    "wrong_usage",
    "wrong_content_type",
    "duplicate_final",
}
CUT = {"upstream_interrupted", "upstream_malformed", "upstream_unavailable", "upstream_timeout", "upstream_error"}
CAUSES = {
    "rate_limit": {"upstream_rate_limited"},
    "content_filter": {"content_filter"},
    "reset": {"upstream_interrupted"},
    "silence": {"upstream_timeout"},
    "silence_mid_stream": {"upstream_timeout", "upstream_interrupted"},
    "latency": {"upstream_timeout"},
    "slow_drip": {"upstream_timeout"},
    "reset_mid_stream": CUT,
    "truncated_chunk": CUT,
    "malformed_chunk": CUT,
    "error_mid_stream": CUT,
    "missing_final": CUT,
    "wrong_content_type": CUT,
}
LANES = ("openai/eu/main/x", "azure/eu/main/x", "anthropic/eu/main/x")
PATIENT_SECONDS, IMPATIENT_SECONDS = 60, 0.5
KINDS: dict[str, dict[str, Any]] = {
    "bare": {"lanes": [LANES[0]]},
    "azure": {"lanes": [LANES[1]]},
    "anthropic": {"lanes": [LANES[2]]},
    "retrying": {"lanes": [LANES[0]], "retry": "r"},
    "alternates": {"lanes": list(LANES), "retry": "r", "held_tokens": 4},
    "stocked": {"lanes": list(LANES[:2]), "retry": "r", "fallback": "help"},
    "kept": {"lanes": [LANES[0]], "streams": "end"},
    "continued": {"lanes": list(LANES), "retry": "r", "streams": "continue"},
    "anew": {"lanes": list(LANES), "retry": "r", "streams": "regenerate", "fallback": "help"},
}


def variants(kind: str = "bare") -> list[str]:
    """Every fault in the compact notation; on the barest route once for each word of its parameters and each status."""
    if kind != "bare":
        return [
            name + (":" + ",".join(f"{k}={v}" for k, v in QUICKER[name].items()) if name in QUICKER else "")
            for name in FAULTS
        ]
    found = []
    for name, spec in FAULTS.items():
        base = QUICKER.get(name, {})
        choices: list[dict[str, Any]] = [base]
        for parameter, described in spec.parameters.items():
            for value in _values(name, parameter, described):
                choices.append(base | {parameter: value})
        found += [
            name + (":" + ",".join(f"{k}={v}" for k, v in chosen.items()) if chosen else "") for chosen in choices
        ]
    return list(dict.fromkeys(found))


def _values(fault: str, parameter: str, described: Parameter) -> tuple[Any, ...]:
    if fault == "status":
        return STATUSES
    if parameter == "dialect":
        return DIALECTS
    if parameter == "kind" and fault == "malformed_answer":
        return MALFORMATIONS
    return described.choices


@pytest.fixture(scope="module")
def live_gateway(simulator_url, redis_url):
    """A gateway that keeps streams where a route says so."""
    log = RedisStreamLog(redis_url, timeout_seconds=60)
    with run_gateway(
        release_sections(simulator_url), stores=Stores(streams=log), cursors=CursorKeys([b"k" * 32])
    ) as gateway:
        yield gateway


@pytest.fixture
def routes(gateway, simulator_url):
    """A release with one route of every kind; breakers never open here, so that every fault is met by an attempt."""
    sections = release_sections(simulator_url)
    routing = sections["routing"]
    for (name, provider, account, model), idle_seconds in itertools.product(
        zip(
            LANES,
            ("openai", "azure", "anthropic"),
            ("main", "azure", "claude"),
            ("gpt-4o-instant", "gpt-4o-instant", "claude-instant"),
            strict=True,
        ),
        (PATIENT_SECONDS, IMPATIENT_SECONDS),
    ):
        lane_id = named(name, idle_seconds)
        routing["lanes"][lane_id] = lane(
            provider, account, lane_id, upstream_model=model, idle_timeout_seconds=idle_seconds, breaker="b"
        )
        if provider == "anthropic":
            routing["lanes"][lane_id]["capabilities"] = [*CAPABILITIES, "prefill"]
    routing["streams"] = {on_cut: stream_policy(on_cut=on_cut) for on_cut in ("end", "continue", "regenerate")}
    routing["breakers"] = {"b": breaker_policy(minimum_attempts=100_000, drain_tokens_per_second=4 / PATIENT_SECONDS)}
    routing["retries"] = {"r": retry_policy(base_seconds=0.01, cap_seconds=0.02, least_seconds=0.1)}
    routing["fallbacks"] = {"help": {"answers": None, "template": {"copy": "words"}, "outage": {"copy": "outage"}}}
    for (kind, changes), seconds in itertools.product(KINDS.items(), (PATIENT_SECONDS, IMPATIENT_SECONDS)):
        limits = {name: threshold(seconds) for name in ("first_token_seconds", "whole_answer_seconds")}
        lanes = [named(one, seconds) for one in changes["lanes"]]
        routing["routes"][named(kind, seconds)] = {"deadline_ms": 90_000} | limits | changes | {"lanes": lanes}
    sections["copy"] = {
        slug: {"version": 1, "digest": "c" * 64, "document": copy_document(kind)}
        for slug, kind in (("words", "template"), ("outage", "outage"))
    }
    gateway.watcher.current = make_release(sections)


def named(kind: str, seconds: float) -> str:
    """What the route, or lane, of a kind is called that waits for so long."""
    return kind if seconds == PATIENT_SECONDS else f"{kind}-impatient"


async def ask(client: httpx.AsyncClient, kind: str, fault: str, *, stream: bool) -> httpx.Response:
    """One question with a fault in it. A reply that does not end within the client's time-out raises."""
    content = QUESTION + (f" [[fault {fault}]]" if fault else "")
    is_silent = fault.partition(":")[0] in SILENT
    body = {
        "model": named(kind, IMPATIENT_SECONDS if is_silent else PATIENT_SECONDS),
        "stream": stream,
        "messages": [{"role": "user", "content": content}],
    }
    return await client.post("/v1/chat/completions", json=body)


def read(response: httpx.Response, *, stream: bool) -> tuple[str, str, dict[str, Any] | None]:
    """Return text, finish reason, and error of a reply; a stream must end in exactly one terminal event."""
    if not stream or response.headers["content-type"].startswith("application/json"):
        body = response.json()
        if "error" in body:
            return "", "", body["error"]
        choice = body["choices"][0]
        return choice["message"]["content"] or choice["message"].get("refusal") or "", choice["finish_reason"], None
    blocks = [block for block in response.text.split("\n\n") if block]
    datas = [block.partition("\ndata: ")[2] for block in blocks]
    assert [block.partition("\n")[0] for block in blocks] == [f"id: {number}" for number in range(1, len(blocks) + 1)]
    terminal = [data == "[DONE]" or "error" in json.loads(data) for data in datas]
    assert terminal == [False] * (len(datas) - 1) + [True]
    error = None if datas[-1] == "[DONE]" else json.loads(datas[-1])["error"]
    text, finish = "", ""
    for data in datas[:-1]:
        for choice in json.loads(data)["choices"]:
            text += choice["delta"].get("content") or choice["delta"].get("refusal") or ""
            finish = choice.get("finish_reason") or finish
    return text, finish, error


def faults_found(response: httpx.Response, fault: str, whole: str, *, stream: bool) -> list[str]:
    """What is wrong with a reply, in words."""
    wrong = []
    name = fault.partition(":")[0]
    attempts = int(response.headers["ballast-attempts"])
    if not 1 <= attempts <= 6:
        wrong.append(f"{attempts} attempts")
    text, finish, error = read(response, stream=stream)
    if error is None:
        answered_by_copy = response.headers["ballast-fallback"] == "template"
        complete = text == whole or name in HARMLESS or finish == "content_filter" or answered_by_copy
        if not complete:
            wrong.append(f"presented as complete: {text[:60]!r}, finished by {finish!r}")
    else:
        cause = error.get("reason") or error["code"]
        status = fault.partition("code=")[2]
        allowed = CAUSES.get(name) or _causes_of_status(int(status or 500))
        if cause not in allowed:
            wrong.append(f"blames {cause!r}, expected one of {sorted(allowed)}")
        if not error["message"]:
            wrong.append("an error without words")
    return wrong


def _causes_of_status(status: int) -> set[str]:
    if status in (400, 413, 422):
        return {"invalid_request"}
    if status == 429:
        return {"upstream_rate_limited"}
    return {"upstream_auth_failed"} if status in (401, 402, 403, 404) else {"upstream_unavailable"}


@pytest.mark.usefixtures("routes")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("kind", KINDS)
async def test_every_fault_ends_soon_and_says_the_truth(gateway, kind, stream):
    """Never a hang, never a part as the whole, at most six attempts, and an error that names its cause."""
    async with httpx.AsyncClient(
        base_url=gateway.url, headers={"Authorization": "Bearer bk-globex"}, timeout=120
    ) as client:
        whole, _, _ = read(await ask(client, kind, "", stream=stream), stream=stream)
        names = variants(kind)
        replies = await asyncio.gather(*(ask(client, kind, fault, stream=stream) for fault in names))

    wrong = {
        fault: found
        for fault, reply in zip(names, replies, strict=True)
        if (found := faults_found(reply, fault, whole, stream=stream))
    }
    assert whole
    assert wrong == {}
    told = 1 + sum(int(reply.headers["ballast-attempts"]) for reply in replies)
    is_taken_up = stream and KINDS[kind].get("streams") in ("continue", "regenerate")

    def attempts() -> Counter[str]:
        kinds = {named(kind, seconds) for seconds in (PATIENT_SECONDS, IMPATIENT_SECONDS)}
        return Counter(row["request_id"] for row in gateway.reports.rows if row["route"] in kinds)

    wait_until(lambda: attempts().total() >= told)
    assert attempts().total() >= told if is_taken_up else attempts().total() == told
    assert max(attempts().values()) <= 6


def test_every_fault_is_among_the_variants():
    """A fault that the simulator learns is met by every kind of route."""
    assert {variant.partition(":")[0] for variant in variants()} == set(FAULTS)
