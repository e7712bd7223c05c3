"""All breakers of a worker: what the lanes of a route decide together, and what operators hold."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dataplane.blame import Blame
from dataplane.board import BreakerBoard, Moment
from dataplane.breaker import Observation, Verdict
from dataplane.errors.admission import BreakerOpen
from dataplane.overrides import LaneOverride
from dataplane.routing import RoutingTable

from .conftest import ROUTING, breaker_policy, threshold

ONE, TWO, THREE = "a/eu/main/m", "b/eu/main/m", "c/us/main/m"
FAILED = Observation(Blame.LANE, False, 100.0)
SLOW = Observation(Blame.NOBODY, False, 3000.0)
START = Moment(0.0, 1_760_000_000.0)
STACK = {"answers": None, "template": None, "outage": {"copy": "out"}}


def table(*, lanes=(ONE, TWO), fallback=False, share=None, breaker="b", **policy) -> RoutingTable:
    """A routing table with one route over `lanes`, all of which have the same breaker policy."""
    lane = next(iter(ROUTING["lanes"].values()))
    route = {"lanes": list(lanes), "deadline_ms": 30_000, "fallback": "stack" if fallback else None}
    if share is not None:
        route["latency_open_share"] = threshold(share)
    document = {
        "providers": ROUTING["providers"],
        "accounts": ROUTING["accounts"],
        "lanes": {name: lane | {"model": name, "breaker": breaker} for name in lanes},
        "routes": {"chat": route},
        "breakers": {"b": breaker_policy(minimum_attempts=2, **policy)},
        "fallbacks": {"stack": STACK},
    }
    return RoutingTable.parse(document)


def make_board(overrides=None, **options) -> BreakerBoard:
    board = BreakerBoard()
    board.adopt(table(**options), overrides or {}, at=START)
    return board


def fail(board, lane, *, seen=FAILED, times=2, at=START):
    """Make so many bad attempts; return what happened at the last."""
    events = []
    for _ in range(times):
        permit, _ = board.acquire(lane, at=at)
        events = board.record(permit, seen, at=at)
    return events


def hold(mode, until="2026-01-01T00:00:00+00:00"):
    return LaneOverride(ONE, mode, datetime.fromisoformat(until), "vendor incident", "oncall")


def test_transition_is_an_event_with_the_numbers_that_caused_it():
    """Lane, states, cause, for how long, and the counts that crossed the threshold."""
    (event,) = fail(make_board(), ONE)

    assert event.to_json() == {
        "at": START.wall,
        "kind": "breaker.changed",
        "data": {
            "lane": ONE,
            "before": "closed",
            "after": "open",
            "cause": "tripped",
            "generation": 1,
            "open_seconds": 10.0,
            "measured": {
                "threshold": "failure_rate",
                "value": 1.0,
                "limit": 0.5,
                "attempts": 2,
                "failures": 2,
                "timeouts": 0,
                "slow": 0,
                "streams": 0,
                "late": 0,
                "drained": 0,
                "dragging": 0,
            },
        },
    }


def test_last_lane_of_a_route_without_a_fallback_says_that_requests_go_on_reaching_it():
    """It opens for everybody who has something else; the event names the route that has not."""
    board = make_board()
    fail(board, ONE)

    changed, withheld = fail(board, TWO)

    assert (changed.kind, changed.after) == ("breaker.changed", "open")
    assert withheld.kind == "breaker.withheld"
    assert withheld.reason.startswith("it is the last lane of route 'chat', with no fallback stack below")


def test_last_resort_is_the_lane_that_comes_back_first_and_never_one_that_is_held():
    """A failure is no worse than no attempt; an operator's word is."""
    board = make_board()
    fail(board, TWO)
    fail(board, ONE, at=Moment(3.0, START.wall + 3))

    assert board.last_resort([ONE, TWO]) == TWO
    held = make_board({ONE: hold("open")})
    assert held.last_resort([ONE]) is None


def test_last_lane_opens_quietly_when_signed_copy_is_below():
    """A route with a fallback stack answers without its lanes."""
    board = make_board(fallback=True)
    fail(board, ONE)

    (event,) = fail(board, TWO)

    assert (event.kind, event.after) == ("breaker.changed", "open")


def test_share_of_lanes_open_for_latency_alone_is_capped():
    """One of two may be; the second slow lane stays, while a failing one opens."""
    board = make_board(fallback=True, share=0.5)
    (first,) = fail(board, ONE, seen=SLOW, times=20)

    (second,) = fail(board, TWO, seen=SLOW, times=20)

    assert (first.after, first.measured["threshold"]) == ("open", "latency_p95_ms")
    assert (second.kind, second.reason) == (
        "breaker.withheld",
        "2 of 2 lanes of route 'chat' would be open for latency alone; at most 50% may be",
    )
    assert fail(board, TWO, times=20)[0].kind == "breaker.changed"


def test_lane_without_a_breaker_is_always_let_through():
    """No permit, no counting, nothing to give back; and it is a lane that the others may rely on."""
    board = BreakerBoard()
    board.adopt(table(breaker=None), {}, at=START)

    assert board.acquire(ONE, at=START) == (None, [])
    assert board.record(None, FAILED, at=START) == []
    board.give_back(None)


def test_hold_begins_with_the_release_and_ends_by_itself():
    """Held open until its time, then automatic again without another release."""
    board = make_board({ONE: hold("open", "2025-10-09T08:54:00+00:00")})
    assert START.wall < datetime(2025, 10, 9, 8, 54, tzinfo=UTC).timestamp()

    with pytest.raises(BreakerOpen, match="held open by an operator"):
        board.acquire(ONE, at=START)
    assert board.open_seconds([ONE, TWO], at=START) == {ONE: 1_760_000_040.0 - START.wall}

    board.expire(at=Moment(40.0, START.wall + 41))

    assert board.acquire(ONE, at=START)[0] is not None
    assert board.open_seconds([ONE, TWO], at=START) == {}


def test_new_release_keeps_what_breakers_have_seen():
    """An open lane stays open through a release that changes something else, and is judged anew by another policy."""
    board = make_board()
    fail(board, ONE)

    board.adopt(table(open_seconds=30), {}, at=START)

    with pytest.raises(BreakerOpen, match=r"open for 10\.0 s"):
        board.acquire(ONE, at=START)
    assert board.breakers()[ONE].policy.open_seconds.value == 30


def test_permit_of_a_lane_that_left_the_table_comes_back_to_nobody():
    """A release may drop a lane while a request is on it."""
    board = make_board()
    permit, _ = board.acquire(ONE, at=START)

    board.adopt(table(lanes=(TWO, THREE)), {}, at=START)

    assert board.record(permit, FAILED, at=START) == []
    board.give_back(permit)


def test_hearing_of_the_fleets_failures_opens_a_lane_here():
    """A worker that saw nothing itself acts on the fleet's sum, with the fleet's numbers in its event."""
    board = make_board()

    (event,) = board.hear(ONE, Verdict(0, False, 0.0, 0), counts=[20, 15, 0, 0, 0, 0, 0, 0], healthy=0, at=START)

    assert (event.after, event.measured["failures"]) == ("open", 15)


def test_another_workers_verdict_is_not_told_again():
    """The event of a transition is told by the worker that concluded it."""
    board = make_board()

    events = board.hear(ONE, Verdict(1, True, 9.0, 1, 0.0, "timeout_rate"), counts=[0] * 8, healthy=0, at=START)

    assert events == []
    assert board.states(now=0.0)[0] == {
        "lane": ONE,
        "state": "open",
        "open_for_seconds": 9.0,
        "probes": 0,
        "attempts": 0,
        "failures": 0,
        "cause": "timeout_rate",
    }


def test_states_name_what_an_operator_holds():
    """A held lane shows as forced, whatever its own state is underneath."""
    board = make_board({ONE: hold("closed")})

    assert [state["state"] for state in board.states(now=0.0)] == ["forced_closed", "closed"]
