"""Attempts under way at the death of a process: each is on the bill, as far as anybody knows it."""

from __future__ import annotations

import shutil
from struct import Struct
from types import SimpleNamespace

import pytest

from dataplane.access import OURSELVES
from dataplane.journey import Inbound, Journey, attempt_id, hash_user
from dataplane.messages import Usage
from dataplane.outliving import KEPT_SECONDS, SLOTS_FILE
from dataplane.reports import ReportShipper
from dataplane.settings import ReportSettings
from dataplane.stores.slots import NONE, Slots
from dataplane.under_way import NUMBER, PROCESS_LOST, UnderWay

from .test_reports import FakeSink
from .test_stream_rows import LANE

BEGAN_AT = 1_760_000_000.5
TRACE = "a1" * 16


def journey_of(number=1, *, user="ada", trace_id="", production=None):
    """A request whose first attempt is about to be sent."""
    journey = Journey(Inbound(f"req_{number:032x}", b"{}", 0.0, user=user))
    journey.tenant, journey.route, journey.key_id = OURSELVES, "chat", "k1"
    journey.trace = SimpleNamespace(trace_id=trace_id) if trace_id else None
    journey.production = production
    return journey, journey.begin_attempt(LANE, now=1.0)


def begin(under_way, journey, attempt, *, sent_bytes=401):
    return under_way.begin(journey, attempt, sent_bytes=sent_bytes, at=BEGAN_AT)


@pytest.fixture
def path(tmp_path):
    """Where attempts under way stand."""
    return tmp_path / "attempts.slots"


@pytest.fixture
def under_way(path):
    """Those of the process that will die."""
    under_way = UnderWay()
    under_way.open(path)
    return under_way


def left(path):
    """The rows that a successor makes."""
    return [row for _, row in sorted(UnderWay().open(path).items())]


def test_lost_attempt_has_the_row_that_it_would_have_had(under_way, path):
    """But for what nobody knows: what it was answered. What it sent is estimated as ever, and so is what that costs."""
    journey, attempt = journey_of(trace_id=TRACE)
    begin(under_way, journey, attempt)

    [row] = left(path)

    expected = journey.usage_row(attempt, Usage(), cost_micros=0, attempt_id=attempt_id(journey, attempt), at=BEGAN_AT)
    assert row == expected | {
        "outcome": PROCESS_LOST,
        "status": 0,
        "input_tokens": 101,
        "cost_micros": LANE.cost_micros(input_tokens=101, output_tokens=0),
        "latency_ms": 0.0,
        "is_kept": False,
        "trace_id": TRACE,
    }
    assert (row["user"], row["cost_micros"] > 0) == (hash_user("ada"), True)
    assert b"ada" not in path.read_bytes()


def test_attempts_that_share_nearly_everything_are_told_apart(under_way, path):
    """By request, user and trace, whatever is kept of the ones before."""
    made = [journey_of(1), journey_of(2, user=None), journey_of(3, user="bob", trace_id=TRACE)]
    for journey, attempt in made:
        begin(under_way, journey, attempt)

    rows = {row["request_id"]: row for row in left(path)}

    assert {name: (row["user"], row.get("trace_id")) for name, row in rows.items()} == {
        made[0][0].inbound.request_id: (hash_user("ada"), None),
        made[1][0].inbound.request_id: ("", None),
        made[2][0].inbound.request_id: (hash_user("bob"), TRACE),
    }


def test_retry_is_told_as_one(under_way, path):
    """With its own number, and why it was made."""
    journey, first = journey_of()
    under_way.end(begin(under_way, journey, first))
    first.outcome = "upstream_timeout"
    second = journey.begin_attempt(LANE, now=2.0)
    begin(under_way, journey, second)

    [row] = left(path)

    assert (row["kind"], row["attempt"], row["cause"]) == ("retry", 2, "upstream_timeout")
    assert row["attempt_id"] == attempt_id(journey, second)


def test_attempt_that_has_ended_is_none_that_is_lost(under_way, path):
    """However many there were; its slot is the next one's."""
    for number in range(3 * NUMBER):
        under_way.end(begin(under_way, *journey_of(number)))

    assert left(path) == []
    assert under_way.unguarded == 0


def test_one_too_many_is_counted_and_goes_on(under_way, path):
    """It is attempted all the same."""
    slots = [begin(under_way, *journey_of(number)) for number in range(NUMBER + 1)]

    under_way.end(slots[-1])

    assert (slots[-1], slots.count(NONE), under_way.unguarded) == (NONE, 1, 1)
    assert len(left(path)) == NUMBER


def test_record_of_another_release_of_the_program_takes_no_slot_for_ever(path):
    """It cannot be read, and another attempt stands there next."""
    slots = Slots(path, number=NUMBER)
    for _ in range(NUMBER):
        slots.take(Struct(""), (), b"written otherwise")
    under_way = UnderWay()

    rows = under_way.open(path)

    assert rows == {}
    assert begin(under_way, *journey_of()) != NONE


# What a worker's reports make of it.


@pytest.fixture
def sink():
    return FakeSink()


@pytest.fixture
def make_shipper(tmp_path, clock, sink):
    """Makes shippers of one worker that ship when they are told to; `after` is the one that died."""

    def make(*, after=None):
        directory = tmp_path / "spool"
        if after is not None:
            directory = tmp_path / f"after-{after}"
            shutil.copytree(tmp_path / "spool", directory)
        settings = ReportSettings(redis_url=None, spool_dir=directory, interval_seconds=3600)
        return ReportShipper(
            worker="host/gateway-0", kind="gateway", host="host", settings=settings, sink=sink, wall=clock
        )

    return make


async def test_successor_tells_of_what_was_under_way_once(make_shipper, sink):
    """Not of what had its row; and its own successor tells of nothing again."""
    first = make_shipper()
    await first.start()
    (done, done_attempt), (lost, lost_attempt) = journey_of(1), journey_of(2)
    slots = [
        first.under_way.begin(*pair, sent_bytes=40, at=BEGAN_AT)
        for pair in ((done, done_attempt), (lost, lost_attempt))
    ]
    first.add_usage({"attempt_id": attempt_id(done, done_attempt), "outcome": "ok"})  # and died before it was freed

    second = make_shipper(after="a kill")
    await second.start()
    await second.flush()
    told = [(row["attempt_id"], row["outcome"]) for row in sink.take("usage")]
    sink.batches.clear()
    await second.flush()

    assert NONE not in slots
    assert told == [(attempt_id(done, done_attempt), "ok"), (attempt_id(lost, lost_attempt), PROCESS_LOST)]
    assert all("is_kept" not in row for row in sink.take("usage"))
    assert sink.take("usage") == []
    assert second.under_way.open(second._settings.spool_dir / "host_gateway-0" / SLOTS_FILE) == {}
    await first.stop()
    await second.stop()


async def test_stream_that_others_may_tell_of_is_told_of_later(make_shipper, sink, clock):
    """They know what was sent of it; nobody may, so it is told of in the end, and until then by each successor."""
    first = make_shipper()
    await first.start()
    journey, attempt = journey_of(production=object())
    begin(first.under_way, journey, attempt)

    second = make_shipper(after="a kill")
    await second.start()
    await second.flush()
    at_once = sink.take("usage")
    clock.advance(KEPT_SECONDS)
    await second.flush()

    assert at_once == []
    assert [row["outcome"] for row in sink.take("usage")] == [PROCESS_LOST]
    await first.stop()
    await second.stop()
