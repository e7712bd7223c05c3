"""One request's life with everything around it faked: what is recorded, whatever happens and whenever it happens."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json

import pytest

from dataplane.errors.upstream import UpstreamInterrupted, UpstreamUnavailable
from dataplane.journey import hash_user, new_id
from dataplane.prompts import merge_parameters
from dataplane.release import parse_document

from .bench import ANSWER, STREAM, Bench, FakeExchange, Gate
from .virtual_time import in_virtual_time


@pytest.fixture
def bench(make_document):
    """Makes benches."""
    return lambda **options: Bench(make_document(), **options)


async def test_plain_answer_is_recorded_once_with_its_price(bench):
    """One rollup, one row: tokens, cost at the lane's prices, and nobody's name."""
    life = bench()

    await life.start()

    assert (life.reply.status, life.reply.data) == (200, ANSWER)
    (row,) = life.rows
    assert (row["cost_micros"], row["user"]) == (2_500_000 + 5_000_000, hash_user("ada"))
    assert (row["kind"], row["attempt"], row["outcome"]) == ("primary", 1, "ok")
    assert (row["tenant"], row["key_id"]) == ("acme", "k1")
    assert life.rollup() == {"requests": 1, "errors": 0, "rejected": 0, "cancelled": 0}
    assert life.exchange.closed


@pytest.mark.parametrize("stream", [False, True])
async def test_answered_request_leaves_nothing_for_the_garbage_collector(bench, stream):
    """A ring (a timer and whom it wakes, say) keeps all that hangs on it; one per request makes all of them dear."""
    life = bench(chunks=STREAM if stream else (ANSWER,))
    await life.start(stream=stream)
    gc.collect()

    life.exchange_again("openai/eu-west/main/gpt-4o", FakeExchange(STREAM if stream else (ANSWER,), life.gate))
    await life.start(stream=stream)

    assert life.reply.status == 200
    assert gc.collect() == 0


@pytest.mark.parametrize(
    ("place", "turn", "stream", "outcome"),
    [
        ("send", 1, False, "cancelled"),
        ("read", 1, False, "cancelled"),
        ("send_whole", 1, False, "ok"),
        ("send", 1, True, "cancelled"),
        ("next_chunk", 1, True, "cancelled"),
        ("next_chunk", 3, True, "cancelled"),
        ("open_stream", 1, True, "cancelled"),
        ("send_events", 1, True, "cancelled"),
        ("send_events", 2, True, "cancelled"),
        ("send_events", 4, True, "ok"),
    ],
)
async def test_cancellation_at_every_wait_is_recorded_once(bench, place, turn, stream, outcome):
    """Wherever the caller leaves: one row, the upstream closed, and the cancellation passed on.

    Where the whole answer has been handed over before, it counts as served.
    """
    life = bench(chunks=STREAM if stream else (ANSWER,), gate=Gate(place, turn=turn))
    task = life.start(stream=stream)
    await life.gate.reached.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    (row,) = life.rows
    assert row["outcome"] == outcome
    assert life.rollup()["cancelled"] == (outcome == "cancelled")
    assert life.exchange.closed or place == "send"


@pytest.mark.parametrize("place", ["send_whole", "send_events"])
async def test_cancellation_while_told_of_a_failure_keeps_the_failure(bench, place):
    """A caller who leaves while reading an error has had that error."""
    stream = place != "send_whole"
    turn = 2 if place == "send_events" else 1
    life = bench(chunks=STREAM[:1] if stream else (), gate=Gate(place, turn=turn), status=200 if stream else 500)
    task = life.start(stream=stream)
    await life.gate.reached.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

    (row,) = life.rows
    assert row["outcome"] == ("upstream_interrupted" if stream else "upstream_unavailable")
    assert life.rollup() == {"requests": 1, "errors": 1, "rejected": 0, "cancelled": 0}


@pytest.mark.parametrize("place", ["send", "read", "next_chunk"])
@in_virtual_time
async def test_deadline_at_every_wait_for_the_upstream_is_an_error(bench, place):
    """When the deadline passes the caller gets a 504, the upstream is closed, one row says so."""
    life = bench(gate=Gate(place), clock=asyncio.get_running_loop().time)

    await life.start(deadline_ms="30", stream=place == "next_chunk")

    assert life.reply.status == 504
    assert json.loads(life.reply.data)["error"]["code"] == "deadline_exceeded"
    assert [row["outcome"] for row in life.rows] == ["deadline_exceeded"]
    assert life.exchange.closed or place == "send"


@in_virtual_time
async def test_caller_who_never_reads_does_not_hold_the_request(bench):
    """A write that blocks is bounded by the deadline, and the last words by their own."""
    life = bench(chunks=STREAM, gate=Gate("send_events"), clock=asyncio.get_running_loop().time)

    await life.start(deadline_ms="30", stream=True)

    assert [row["outcome"] for row in life.rows] == ["deadline_exceeded"]


async def test_cut_stream_bills_what_was_delivered(bench):
    """Without the vendor's usage, tokens are estimated from what went out and came in."""
    life = bench(chunks=STREAM[:2])

    await life.start(stream=True)

    (row,) = life.rows
    assert row["outcome"] == "upstream_interrupted"
    assert row["output_tokens"] == 4  # 16 characters
    assert row["input_tokens"] > 0
    assert b"[DONE]" not in life.reply.data
    assert life.reply.ended == 1


async def test_attempt_that_the_vendor_refused_costs_nothing(bench):
    """A 5xx is recorded with no tokens."""
    life = bench(chunks=[b"{}"], status=503)

    await life.start()

    (row,) = life.rows
    assert (row["outcome"], row["input_tokens"], row["cost_micros"]) == ("upstream_unavailable", 0, 0)


async def test_error_in_the_read_that_brought_the_first_token_is_a_plain_error(bench):
    """Nothing was committed yet, so nothing of it goes out, and the status tells the truth."""
    life = bench(chunks=[STREAM[0] + b"data: {oops\n\n"])

    await life.start(stream=True)

    assert life.reply.status == 502
    assert json.loads(life.reply.data)["error"]["code"] == "upstream_malformed"


async def test_events_before_an_error_in_a_later_read_are_delivered(bench):
    """Once the stream is open, what came before a broken event goes out first, then the error."""
    life = bench(chunks=[STREAM[0], STREAM[1] + b"data: {oops\n\n"])

    await life.start(stream=True)

    first, second, last = life.reply.data.split(b"\n\n")[:3]
    assert first.startswith(b"id: 1\n")
    assert second.startswith(b"id: 2\n")
    assert last.startswith(b'id: 3\ndata: {"error"')


async def test_transport_failure_is_answered_and_recorded(bench):
    """An error of the transport reaches caller and row."""
    life = bench(failure=UpstreamInterrupted("gone", lane="l"))

    await life.start(stream=True)

    assert life.reply.status == 502
    assert [row["outcome"] for row in life.rows] == ["upstream_interrupted"]


async def test_bug_is_an_internal_error_without_its_text(bench):
    """An unexpected exception becomes a 500 that says nothing but the request id."""
    life = bench(failure=RuntimeError("secret words"))

    await life.start()

    assert life.reply.status == 500
    assert b"secret words" not in life.reply.data
    assert b"req_1" in life.reply.data
    assert life.rollup()["errors"] == 1


@pytest.mark.parametrize(("fields", "code"), [({"n": 3}, "invalid_request"), ({"model": "no"}, "model_not_found")])
async def test_callers_mistake_makes_no_attempt(bench, fields, code):
    """A request refused before any attempt counts as rejected and leaves no usage row."""
    life = bench()

    await life.start(**fields)

    assert json.loads(life.reply.data)["error"]["code"] == code
    assert life.rows == []
    assert life.transport.calls == []
    assert life.rollup() == {"requests": 1, "errors": 0, "rejected": 1, "cancelled": 0}


async def test_unknown_key_is_nobodys_traffic(bench):
    """Without a tenant nothing is recorded, and nothing is sent."""
    life = bench()

    await life.start(key="other")

    assert life.reply.status == 401
    assert life.rows == []
    assert life.aggregation.drain(1_760_000_000.0) == []


async def test_vendors_refusal_of_the_request_is_the_callers(bench):
    """A 400 from the vendor counts as rejected: another lane would say the same."""
    life = bench(chunks=[b'{"error": {"message": "bad seed", "param": "seed"}}'], status=400)

    await life.start()

    error = json.loads(life.reply.data)["error"]
    assert (life.reply.status, error["message"], error["param"]) == (400, "bad seed", "seed")
    assert life.rollup()["rejected"] == 1


def test_version_parameters_are_the_last_word(make_document):
    """The version's values win, its limit silences both names of it, the rest is the caller's."""
    version = parse_document(make_document(), digest="d" * 64).prompts["support-answer"].versions[1]

    merged = merge_parameters(version, {"temperature": 1, "max_completion_tokens": 5, "seed": 7})

    assert merged == {"temperature": 0.2, "max_tokens": 400, "seed": 7}


def test_ids_sort_by_time_and_name_their_version():
    """An id is a UUID of version 7 in hex; a later one sorts later."""
    early, late = new_id(1_760_000_000.0), new_id(1_760_000_000.001)

    assert early < late
    assert (len(early), early[12], early[16] in "89ab") == (32, "7", True)


def test_user_is_only_known_by_a_digest():
    """Sixteen hex digits, nothing for nobody."""
    assert hash_user("ada") == hashlib.sha256(b"ada").hexdigest()[:16]
    assert hash_user(None) == hash_user("") == ""


def test_unavailable_lane_keeps_its_retry_after():
    """The vendor's wait travels with the error."""
    assert UpstreamUnavailable("x", retry_after_seconds=3).retry_after_seconds == 3
