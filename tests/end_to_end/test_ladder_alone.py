"""Ladders move by themselves with nobody to tell them: no control plane, broker or PostgreSQL, and then no Redis."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.dataplane.conftest import threshold
from tests.end_to_end.gateways import KEY, Gateways, two_lanes
from tests.ladders import rung_copy, surface, trigger

PROCESSES = 2
CALLERS = 8
FAULT = "latency:ms=2000"


def quick_ladder() -> dict[str, Any]:
    """The sections of a release with two rungs, which move within seconds."""
    rungs = {
        "1": {"copy": "rung-1", "instruction": "Briefly.", "max_output_tokens": threshold(50)},
        "2": {"copy": "rung-2", "instruction": "No tools."},
    }
    pace = dict.fromkeys(("step_seconds", "dwell_seconds", "calm_seconds", "longest_calm_seconds"), threshold(2))
    load = trigger(enter=CALLERS - 2, leave=2, sustain_seconds=threshold(1), highest=2)
    promises = {
        tier: {"reserved_concurrency": threshold(0), "served_share": threshold(0.5)}
        for tier in ("vip", "standard", "free")
    }
    only = surface(rungs=rungs, triggers={"load": load}, pace=pace, promises=promises)
    return {"copy": rung_copy(1, 2), "ladder": {"web-chat": only}}


@pytest.fixture
def gateways(tmp_path: Any) -> Iterator[Gateways]:
    routing = two_lanes(["chat"], policy={})

    def without_breakers(simulator_url: str) -> dict[str, Any]:
        table = routing(simulator_url)
        for lane in table["lanes"].values():
            del lane["breaker"]
        return {name: part for name, part in table.items() if name != "breakers"}

    with Gateways(tmp_path, without_breakers, processes=PROCESSES, sections=quick_ladder()) as started:
        yield started


@contextmanager
def rush(gateways: Gateways) -> Iterator[list[httpx.Response]]:
    """Callers who ask again and again, spread over the processes; gives what they were answered."""
    is_over = threading.Event()
    answers: list[httpx.Response] = []

    def ask_on_and_on(number: int) -> None:
        body = {"model": "chat", "messages": [{"role": "user", "content": "Where is my parcel?"}]}
        with httpx.Client(base_url=gateways.urls[number % PROCESSES], timeout=60) as client:
            while not is_over.is_set():
                answers.append(
                    client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {KEY}"})
                )

    gateways.strike("chat-primary", FAULT)
    threads = [threading.Thread(target=ask_on_and_on, args=(number,)) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        is_over.set()
        gateways.relieve()
        for thread in threads:
            thread.join()


def figures(gateways: Gateways, name: str) -> list[float]:
    """What each process says of itself."""
    found = []
    for url in gateways.urls:
        text = httpx.get(f"{url}/metrics", timeout=30).text
        found += [float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.M)]
    return found


def levels(gateways: Gateways) -> list[float]:
    """The rung that triggers engaged, as each process sees it."""
    return figures(gateways, "ballast_ladder_level")


def test_rungs_engage_and_stand_down_by_themselves_with_nobody_to_tell_them(gateways: Gateways) -> None:
    """Together while Redis is there, each for itself once it is not, and together again when it is back."""
    assert levels(gateways) == [0.0, 0.0]

    with rush(gateways) as answers:
        gateways.wait_for(lambda: levels(gateways) == [2.0, 2.0])
        gateways.wait_for(lambda: answers and answers[-1].headers["ballast-rung"] == "2")
        assert answers[-1].json()["ballast"]["banner"].startswith("Web chat answers more briefly")
    assert all(answer.is_success for answer in answers)
    gateways.wait_for(lambda: levels(gateways) == [0.0, 0.0])

    gateways.redis.stop()
    gateways.wait_for(lambda: figures(gateways, "ballast_ladder_alone") == [1.0, 1.0])
    with rush(gateways) as answers:
        gateways.wait_for(lambda: levels(gateways) == [2.0, 2.0])
    assert all(answer.is_success for answer in answers)
    gateways.wait_for(lambda: levels(gateways) == [0.0, 0.0])

    gateways.redis.start()
    gateways.wait_for(lambda: figures(gateways, "ballast_ladder_alone") == [0.0, 0.0])
    with rush(gateways):
        gateways.wait_for(lambda: levels(gateways) == [2.0, 2.0])
