"""Breakers of several gateway processes: what one meets the others are spared, and what is left without Redis."""

from collections.abc import Iterator

import httpx
import pytest

from tests.end_to_end.gateways import Gateways, two_lanes

pytestmark = pytest.mark.end_to_end
FAILURES = 4
POLICY = {
    "window_seconds": 60,
    "minimum_attempts": FAILURES,
    "failure_rate": 0.5,
    "timeout_rate": 0.5,
    "latency_p95_ms": 60_000,
    "ttft_p95_ms": 60_000,
    "drain_tokens_per_second": 1,
    "dragging_rate": 1,
    "open_seconds": 600,
    "flap_factor": 1,
    "max_open_seconds": 600,
    "calm_seconds": 600,
    "probes": 1,
    "healthy_probes": 1,
}
ONE, TWO, THREE = range(3)


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    """Three processes that share a Redis; each test spoils a route of its own."""
    routing = two_lanes(["together", "scattered", "alone"], policy=POLICY)
    with Gateways(tmp_path_factory.mktemp("gateways"), routing, processes=3) as gateways:
        yield gateways


def test_what_one_process_meets_opens_the_others(gateways: Gateways) -> None:
    """Failures at one process alone: the others open too, and pass the lane over without ever having called it."""
    rule = gateways.strike("together-primary", "status:code=503")

    served = [gateways.ask(ONE, "together") for _ in range(FAILURES)]
    gateways.wait_for(lambda: states(gateways, "together") == ["open"] * 3)
    spared = [gateways.ask(process, "together", stream=stream) for process in (TWO, THREE) for stream in (False, True)]

    assert [how(answer) for answer in served] == [("together/alternate", "alternate", 2)] * FAILURES
    assert [how(answer) for answer in spared] == [("together/alternate", "alternate", 1)] * 4
    assert gateways.hits(rule) == FAILURES


def test_failures_that_no_process_could_judge_by_add_up(gateways: Gateways) -> None:
    """Two failures here and two there are four for the fleet, so that even the process that met none opens."""
    rule = gateways.strike("scattered-primary", "status:code=500")

    for process in (ONE, TWO) * (FAILURES // 2):
        assert how(gateways.ask(process, "scattered")) == ("scattered/alternate", "alternate", 2)
    gateways.wait_for(lambda: states(gateways, "scattered") == ["open"] * 3)

    assert how(gateways.ask(THREE, "scattered")) == ("scattered/alternate", "alternate", 1)
    assert gateways.hits(rule) == FAILURES


def test_without_redis_every_request_is_served_and_each_process_opens_by_itself(gateways: Gateways) -> None:
    """Nobody can be asked: the process that met enough opens, the next one goes on calling the lane until it has too.

    Once Redis is back, the one that has met nothing hears of it.
    """
    gateways.redis.stop()
    rule = gateways.strike("alone-primary", "status:code=503")

    first = [gateways.ask(ONE, "alone") for _ in range(FAILURES)]
    after_first = states(gateways, "alone")
    second = [gateways.ask(TWO, "alone", stream=True) for _ in range(FAILURES)]
    after_second = states(gateways, "alone")
    more = [gateways.ask(process, "alone") for process in (ONE, TWO)]

    assert [how(answer) for answer in first + second] == [("alone/alternate", "alternate", 2)] * (2 * FAILURES)
    assert [how(answer) for answer in more] == [("alone/alternate", "alternate", 1)] * 2
    assert after_first == ["open", "closed", "closed"]
    assert after_second == ["open", "open", "closed"]
    assert gateways.hits(rule) == 2 * FAILURES
    gateways.redis.start()
    gateways.wait_for(lambda: states(gateways, "alone") == ["open"] * 3)


# --- steps ------------------------------------------------------------------------------------------------------------
def states(gateways: Gateways, route: str) -> list[str]:
    """The state of the route's first breaker in every process."""
    return [gateways.breaker(process, f"{route}/primary") for process in range(len(gateways.urls))]


def how(answer: httpx.Response) -> tuple[str, str, int]:
    """By which lane a request was served, as what, and after how many attempts; it must have been served."""
    assert answer.status_code == httpx.codes.OK, answer.text
    said = answer.headers
    return said["ballast-lane"], said["ballast-fallback"], int(said["ballast-attempts"])
