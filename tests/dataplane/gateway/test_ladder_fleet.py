"""Two gateway processes whose ladders one of them decides, over a real Redis."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
import redis

from dataplane.assembly import Stores
from dataplane.stores.ladder import LEADER, TOLD, RedisLadderStore
from tests.dataplane.conftest import breaker_policy, threshold
from tests.ladders import rung_copy, rungs, surface, trigger

from .conftest import make_release, make_settings, release_sections, run_gateway, wait_until

SURFACE = "web-chat"
LANE = "openai/eu/main/gpt-4o"
SIGNED = {number: rung for number, rung in rungs().items() if number not in ("3", "5")}


def sections_of(simulator_url, *, is_held):
    """A surface that steps on rung 1 as soon as its lane is held open, and looks at the lane's errors too."""
    sections = release_sections(simulator_url)
    sections["routing"]["breakers"] = {"b": breaker_policy(minimum_attempts=1000)}
    sections["routing"]["lanes"][LANE]["breaker"] = "b"
    sections["routing"]["routes"]["chat"]["lanes"] = [LANE]
    sections["copy"] = rung_copy()
    source = {"objective": threshold(0.99), "window_seconds": threshold(3600)}
    now = {"sustain_seconds": threshold(0), "highest": 1}
    triggers = {
        "held": trigger(signal="breakers_open_share", enter=0.5, leave=0.1, **now),
        "burn": trigger(signal="error_budget_burn", enter=14.4, leave=6) | source,
    }
    sections["ladder"] = {SURFACE: surface(rungs=SIGNED, triggers=triggers)}
    if is_held:
        hold = {"mode": "open", "until": "2200-01-01T00:00:00Z", "reason": "vendor incident", "by": "oncall"}
        sections["lane_overrides"] = {LANE: hold}
    return sections


@pytest.fixture
def start(simulator, simulator_url, redis_url):
    """Starts a process of the fleet."""

    @contextmanager
    def start(slot):
        store = RedisLadderStore(redis_url, timeout_seconds=60)
        settings = replace(make_settings(), slot=slot)
        with run_gateway(
            sections_of(simulator_url, is_held=False), settings=settings, stores=Stores(ladders=store)
        ) as gateway:
            yield gateway

    return start


def state_of(gateway):
    (state,) = gateway.reports.ladders()
    return state


def moves_of(*gateways):
    """What they reported to have moved themselves."""
    events = [event for one in gateways for event in one.reports.events if event.kind == "ladder.moved"]
    return [(event.surface, event.before, event.after, event.trigger) for event in events]


def test_what_one_process_decides_holds_for_all_and_for_those_that_come_later(start, simulator_url):
    """The leader reports it, each heartbeat says where its process stands, and so does what Prometheus scrapes."""
    with start(0) as first, start(1) as second:
        for gateway in (first, second):
            gateway.watcher.current = make_release(sections_of(simulator_url, is_held=True), revision=2)
        wait_until(lambda: [state_of(one)["level"] for one in (first, second)] == [1, 1])
        wait_until(lambda: moves_of(first, second) != [])
        with start(2) as third:
            httpx.get(f"{third.url}/livez", timeout=60)  # answered once it has started
            newcomer = state_of(third)
        page = httpx.get(f"{first.url}/metrics", timeout=60).text
        state = state_of(second)
        moved = moves_of(first, second)

    assert moved == [(SURFACE, 0, 1, "held")]
    assert state["readings"] == {"held": 1.0, "burn": 0.0}
    assert (state["generation"], state["is_alone"]) == (1, False)
    assert state["engaged"] == {"free": 1, "standard": 1, "vip": 1}
    assert (newcomer["level"], newcomer["generation"]) == (1, 1)
    assert f'ballast_ladder_level{{surface="{SURFACE}"}} 1.0' in page
    assert f'ballast_ladder_engaged{{surface="{SURFACE}",tier="vip"}} 1.0' in page
    assert f'ballast_ladder_reading{{surface="{SURFACE}",trigger="held"}} 1.0' in page
    assert "ballast_ladder_alone 0.0" in page


def test_attempts_of_requests_are_what_an_error_budget_is_measured_by(start):
    """Each attempt at the surface's lane is counted as it ends, and evals' own lanes and other surfaces' are not."""
    with start(0) as gateway, httpx.Client(base_url=gateway.url, timeout=60) as http:
        body = {"model": "chat", "messages": [{"role": "user", "content": "Say failing. [[fault status:code=500]]"}]}
        http.headers["authorization"] = "Bearer bk-globex"
        for _ in range(20):
            http.post("/v1/chat/completions", json=body)
        other = {"model": "claude", "messages": [{"role": "user", "content": "Say hello."}]}
        for _ in range(20):
            http.post("/v1/chat/completions", json=other)

        wait_until(lambda: (state_of(gateway)["readings"].get("burn") or 0) > 0)

        assert state_of(gateway)["readings"]["burn"] == pytest.approx(100.0)


def test_process_that_stops_lets_another_one_decide_at_once(start, redis_url):
    """Its lease is not left to run out."""
    with redis.Redis.from_url(redis_url) as shared:
        with start(0):
            wait_until(lambda: shared.exists(LEADER) == 1)
        left = shared.exists(LEADER), shared.hlen(TOLD)

    assert left == (0, 0)
