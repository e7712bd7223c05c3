"""What became of requests on each rung is counted once, when they end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from dataplane.errors.upstream import UpstreamUnreachable
from dataplane.sketches import Sketch
from tests.dataplane.bench import Gate
from tests.dataplane.stream_world import done

from .steps_world import DEAR, Promises


def counted(bench):
    """Each row that was counted, as (tier, rung, outcome, requests, reserved)."""
    names = ("tier", "rung", "outcome", "requests", "reserved")
    return [tuple(row[name] for name in names) for row in bench.surfaces.drain(0)]


@pytest.mark.parametrize("rung", [0, 1, 3])
async def test_answer_of_a_lane_is_counted_on_its_rung(stand, rung):
    """With what it cost, and how long it took."""
    bench = stand(rung)
    await done(bench.start())

    (row,) = bench.surfaces.drain(0)

    assert [row[name] for name in ("surface", "region", "tier", "rung", "outcome", "requests")] == [
        "web-chat",
        "eu-west",
        "vip",
        rung,
        "answered",
        1,
    ]
    assert Sketch.from_json(row["latency_ms"]).count == 1
    assert Sketch.from_json(row["queued_ms"]).count == 0


async def test_reserved_place_is_counted_as_no_rung(stand):
    """Its caller got all that there is."""
    bench = stand(4, places={"vip": 1})
    await done(bench.start())

    assert counted(bench) == [("vip", 0, "answered", 1, 1)]


@pytest.mark.parametrize(
    ("rung", "options", "expected"),
    [(4, {"later": Promises()}, "later"), (4, {}, "refused"), (5, {}, "copy"), (6, {}, "refused")],
)
async def test_what_no_lane_is_asked_is_counted_as_what_it_came_to(stand, rung, options, expected):
    """A promise, signed words, or a refusal on purpose."""
    bench = stand(rung, **options)
    await done(bench.start())

    assert counted(bench) == [("vip", rung, expected, 1, 0)]


async def test_failure_and_caller_who_left_are_told_apart(stand):
    """Neither was refused."""
    failing = stand(1, failure=UpstreamUnreachable("nobody there", lane=DEAR))
    await done(failing.start())
    gate = Gate("read")
    leaving = stand(1, gate=gate)
    task = leaving.start()
    await gate.reached.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await done(task)

    assert counted(failing) == [("vip", 1, "failed", 1, 0)]
    assert counted(leaving) == [("vip", 1, "cancelled", 1, 0)]


async def test_request_of_no_surface_is_not_counted(stand):
    """Nor one whose caller nobody knows."""
    bench = stand(0)
    await done(bench.start(model="cheap"))
    await done(bench.start(key="bk-nobody"))

    assert counted(bench) == []
