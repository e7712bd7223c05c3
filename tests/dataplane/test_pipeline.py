"""One request's life with everything around it faked: what is recorded, whatever happens and whenever it happens."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest

from dataplane.aggregation import Aggregation
from dataplane.errors import UpstreamInterrupted, UpstreamUnavailable
from dataplane.journey import Inbound, hash_user, new_id
from dataplane.metrics import GatewayMetrics
from dataplane.pipeline import Pipeline, merge_parameters
from dataplane.release import parse_document
from dataplane.timers import TimerWheel

BODY = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}
ANSWER = json.dumps(
    {
        "id": "c1",
        "choices": [{"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 500_000},
    }
).encode()


def event(**fields):
    return b"data: " + json.dumps({"id": "c1", "model": "m", "created": 1} | fields).encode() + b"\n\n"


STREAM = [
    event(choices=[{"delta": {"role": "assistant", "content": "Hello, "}}]),
    event(choices=[{"delta": {"content": "you there"}}]),
    event(choices=[{"delta": {}, "finish_reason": "stop"}]),
    event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 4}),
    b"data: [DONE]\n\n",
]


class Gate:
    """Holds whoever waits at the named place, so that a test can cancel exactly there."""

    def __init__(self, place=None, *, turn=1):
        self.place = place
        self.turn = turn
        self.reached = asyncio.Event()

    async def pass_(self, place):
        if place == self.place:
            self.turn -= 1
            if self.turn == 0:
                self.reached.set()
                await asyncio.Event().wait()


class FakeExchange:
    """An answer that is already here, handed over chunk by chunk."""

    def __init__(self, chunks, gate, *, status=200, error=None):
        self.status = status
        self.closed = False
        self.finished = False
        self._chunks = list(chunks)
        self._gate = gate
        self._error = error

    def headers(self):
        return {}

    async def read(self):
        await self._gate.pass_("read")
        return b"".join(self._chunks)

    async def next_chunk(self):
        await self._gate.pass_("next_chunk")
        if not self._chunks and self._error is not None:
            raise self._error
        return self._chunks.pop(0) if self._chunks else None

    def finish(self):
        self.finished = True

    def close(self):
        self.closed = True


class FakeTransport:
    """Gives the exchange it was made with."""

    def __init__(self, exchange, gate):
        self.exchange = exchange
        self.calls = []
        self._gate = gate

    async def send(self, call, *, lane, limits):
        self.calls.append((call, lane, limits))
        await self._gate.pass_("send")
        if isinstance(self.exchange, Exception):
            raise self.exchange
        return self.exchange

    async def close(self):
        pass


class FakeReply:
    """Remembers what the caller was sent."""

    def __init__(self, gate):
        self.opened = False
        self.status = None
        self.headers = {}
        self.data = b""
        self.ended = 0
        self._gate = gate

    async def send_whole(self, status, headers, body):
        self.opened = True
        self.status, self.headers, self.data = status, dict(headers), body
        await self._gate.pass_("send_whole")

    async def open_stream(self, headers):
        self.opened = True
        self.status, self.headers = 200, dict(headers)
        await self._gate.pass_("open_stream")

    async def send_events(self, data):
        self.data += data
        await self._gate.pass_("send_events")

    async def end_stream(self):
        self.ended += 1
        await self._gate.pass_("end_stream")


class Rows(list):
    """Keeps usage rows."""

    def add_usage(self, row):
        self.append(row)


class FixedSecrets:
    """Every reference is the same key."""

    def resolve(self, reference, *, now):
        return "s3cret"


class Bench:
    """A pipeline on a release of its own, and the request that runs through it."""

    def __init__(self, make_document, *, chunks=(ANSWER,), gate=None, failure=None, **exchange):
        self.gate = gate or Gate()
        self.exchange = FakeExchange(chunks, self.gate, **exchange)
        self.transport = FakeTransport(failure or self.exchange, self.gate)
        self.reply = FakeReply(self.gate)
        self.rows = Rows()
        self.aggregation = Aggregation(wall=lambda: 1_760_000_000.0)
        self.current = parse_document(make_document(), digest="d" * 64)
        self.pipeline = Pipeline(
            releases=self,
            transport=self.transport,
            secrets=FixedSecrets(),
            aggregation=self.aggregation,
            usage=self.rows,
            metrics=GatewayMetrics(release=lambda: None),
            region="eu-west",
            timers=TimerWheel(),
            wall=lambda: 1_760_000_000.0,
        )

    def start(self, *, deadline_ms=None, key="bk-acme", **fields):
        inbound = Inbound(
            "req_1",
            json.dumps(BODY | fields).encode(),
            asyncio.get_running_loop().time(),
            authorization=f"Bearer {key}",
            user="ada",
            deadline_ms=deadline_ms,
        )
        return asyncio.create_task(self.pipeline.serve_chat(inbound, self.reply))

    def rollup(self):
        (rollup,) = self.aggregation.drain(1_760_000_000.0)
        return {name: rollup[name] for name in ("requests", "errors", "rejected", "cancelled")}


@pytest.fixture
def bench(make_document):
    """Makes benches."""
    return lambda **options: Bench(make_document, **options)


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
        ("end_stream", 1, True, "ok"),
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


@pytest.mark.parametrize("place", ["send_whole", "send_events", "end_stream"])
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
async def test_deadline_at_every_wait_for_the_upstream_is_an_error(bench, place):
    """When the deadline passes the caller gets a 504, the upstream is closed, one row says so."""
    life = bench(gate=Gate(place))

    await life.start(deadline_ms="30", stream=place == "next_chunk")

    assert life.reply.status == 504
    assert json.loads(life.reply.data)["error"]["code"] == "deadline_exceeded"
    assert [row["outcome"] for row in life.rows] == ["deadline_exceeded"]
    assert life.exchange.closed or place == "send"


async def test_caller_who_never_reads_does_not_hold_the_request(bench):
    """A write that blocks is bounded by the deadline, and the last words by their own."""
    life = bench(chunks=STREAM, gate=Gate("send_events"))

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


async def test_events_before_an_error_in_the_same_read_are_delivered(bench):
    """What came before a broken event goes out first, then the error."""
    life = bench(chunks=[STREAM[0] + b"data: {oops\n\n"])

    await life.start(stream=True)

    first, last = life.reply.data.split(b"\n\n")[:2]
    assert first.startswith(b"id: 1\n")
    assert last.startswith(b'id: 2\ndata: {"error"')


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
