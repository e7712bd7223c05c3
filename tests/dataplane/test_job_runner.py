"""What a runner of jobs makes of a gateway that gives no answer: gone with the job, or merely not there."""

from __future__ import annotations

import random
import uuid
from dataclasses import replace

import httpx
import pytest

from dataplane.cursors import CursorKeys
from dataplane.job_runner import JobRunner
from dataplane.jobs import BROKEN_OFF, UNREACHED, Answer, Delivery, Event, Taken, judge

TAKEN = Taken(uuid.UUID(int=1), 1, "r", "acme", "k", "", "/v1/chat/completions", b"{}", 1, 0, 3600.0)


class OneJob:
    """A store that has one job to give, and keeps what became of it."""

    def __init__(self):
        self.waiting, self.ended = [TAKEN], []

    async def take(self, **asked):
        return self.waiting.pop() if self.waiting else None

    async def end(self, taken, verdict, answer):
        self.ended.append((verdict, answer))


async def attempt(error):
    """What a runner writes of an attempt whose request to the gateway ends with this error."""

    def handle(request):
        raise error("no", request=request)

    store = OneJob()
    await run_next(store, handle)
    return store.ended[0]


async def run_next(store, handle):
    """Have a runner try the store's next job at a gateway that answers as `handle` does."""
    async with httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://gateway") as client:
        runner = JobRunner(
            store=store,
            client=client,
            keys=CursorKeys([b"k" * 32]),
            send=None,
            owner="r",
            concurrency=1,
            keep_seconds=3600,
            clock=lambda: 0.0,
            wall=lambda: 0.0,
            rng=random.Random(1),
        )
        assert await runner.run_next()


@pytest.mark.parametrize("error", [httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError])
async def test_gateway_that_is_gone_with_the_job_counts(error):
    """Its connection ends without an answer, which no living gateway does."""
    verdict, answer = await attempt(error)

    assert (verdict.event, verdict.delivery, answer) == (Event.PUT_BACK, Delivery.LOST, BROKEN_OFF)


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadTimeout, httpx.PoolTimeout])
async def test_gateway_that_is_away_or_slow_says_nothing_of_the_job(error):
    """It had not begun with it, or may still be at it."""
    verdict, answer = await attempt(error)

    assert (verdict.event, verdict.delivery, answer) == (Event.PUT_BACK, Delivery.UNTRIED, UNREACHED)


@pytest.mark.parametrize("traceparent", ["", f"00-{'a1' * 16}-{'b2' * 8}-01"])
async def test_runner_that_traces_nothing_hands_a_trace_on_as_it_came(traceparent):
    """The gateway goes on with it all the same; without one, it is told of none."""
    seen = []

    def handle(request):
        seen.append(request.headers.get("traceparent", ""))
        return httpx.Response(200, json={})

    store = OneJob()
    store.waiting = [replace(TAKEN, traceparent=traceparent)]
    await run_next(store, handle)

    assert seen == [traceparent]


@pytest.mark.parametrize(
    ("code", "delivery"),
    [
        ("upstream_error", Delivery.RETURNED),
        ("quota_exhausted", Delivery.RETURNED),
        ("idempotency_in_progress", Delivery.UNTRIED),
        ("maintenance", Delivery.UNTRIED),
        ("no_release", Delivery.UNTRIED),
    ],
)
def test_only_a_gateway_that_has_tried_a_job_and_lives_clears_it(code, delivery):
    """Who waits for the execution of a dead gateway, or is about to stop, has not had it in hand."""
    answer = Answer(503, {}, b'{"error": {"code": "%s"}}' % code.encode())

    verdict = judge(answer, attempts=1, failures=0, left_seconds=9.0, rng=random.Random(1))

    assert (verdict.event, verdict.delivery) == (Event.PUT_BACK, delivery)
