"""Reports: acknowledgements at once, everything else once a second, and nothing lost while Redis is away."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil

import pytest

from dataplane.aggregation import Aggregation, Series
from dataplane.events import ReportsDropped
from dataplane.evidence import CELL, SHIP_SECONDS, Evidence, Part
from dataplane.release import verify
from dataplane.report_sinks import SinkUnavailable
from dataplane.reports import MAX_EVIDENCE_PER_BATCH, MAX_ROWS_PER_BATCH, ReportShipper
from dataplane.settings import ReportSettings
from dataplane.stores.spool import Spool

SERIES = Series("lane", "prompt", 2, "canary", "canary", "vip")


class FakeSink:
    """Keeps what is sent; `away` makes it refuse, `stuck` makes it wait for ever."""

    def __init__(self):
        self.batches = []
        self.arrived = asyncio.Event()
        self.away = False
        self.stuck = False

    async def send(self, batches, *, urgent=False):
        if self.stuck:
            await asyncio.Event().wait()
        if self.away:
            raise SinkUnavailable("away")
        self.batches += [json.loads(batch) for batch in batches]
        self.arrived.set()

    async def close(self):
        pass

    def take(self, kind):
        """All rows of one kind that have arrived, in order."""
        return [row for batch in self.batches for row in batch[kind]]


@pytest.fixture
def sink():
    return FakeSink()


@pytest.fixture
def make_shipper(tmp_path, clock, sink):
    """Builds a shipper whose regular tick never comes: tests flush by hand."""

    def make(**changes):
        settings = ReportSettings(redis_url=None, spool_dir=tmp_path / "spool", interval_seconds=3600)
        options = {"worker": "host/gateway-0", "kind": "gateway", "host": "host", "settings": settings}
        return ReportShipper(**(options | {"sink": sink, "wall": clock} | changes))

    return make


@pytest.fixture
async def shipper(make_shipper, clock):
    """A running shipper with an aggregation."""
    shipper = make_shipper(aggregation=Aggregation(wall=clock))
    await shipper.start()
    await shipper.flush()
    yield shipper
    await shipper.stop()


async def test_heartbeat_says_who_the_worker_is_and_what_it_serves(shipper, sink, make_envelope, trusted, clock):
    """An idle worker is still seen, with the digest that convergence is judged by."""
    shipper.serving = release = verify(make_envelope(4), trusted=trusted, current=None)
    shipper.status = "serving"
    shipper.in_flight = 3
    await shipper.flush()

    batch = sink.batches[-1]

    assert (batch["worker"], batch["boot"], batch["sent_at"]) == ("host/gateway-0", shipper.boot, clock.now())
    assert batch["state"] | {"pid": 0} == {
        "kind": "gateway",
        "host": "host",
        "pid": 0,
        "status": "serving",
        "revision": 4,
        "digest": release.digest,
        "started_at": clock.now(),
        "in_flight": 3,
    }
    assert (batch["acks"], batch["rollups"], batch["usage"], batch["events"]) == ([], [], [], [])


async def test_heartbeat_of_a_gateway_says_where_it_is(shipper, sink):
    """So that people know which regions a rung can be engaged for; nothing is said where nobody told the worker."""
    await shipper.flush()
    shipper.region = "eu-west"
    await shipper.flush()

    assert [batch["state"].get("region") for batch in sink.batches[-2:]] == [None, "eu-west"]


async def test_every_batch_says_how_the_worker_holds_its_lanes(shipper, sink, caplog):
    """Asked anew each time, and left out by a worker without breakers; a failing answer costs no rows."""
    lane = {
        "lane": "openai/eu-west/main/gpt-4o",
        "state": "open",
        "open_for_seconds": 12.4,
        "probes": 0,
        "attempts": 40,
        "failures": 31,
        "cause": "failure_rate",
    }
    answers = iter([[lane], [lane | {"state": "half_open", "open_for_seconds": None}]])
    shipper.lanes = lambda: next(answers)
    await shipper.flush()
    await shipper.flush()
    shipper.add_usage({"attempt_id": "a"})
    await shipper.flush()

    before, first, second, failed = [batch["state"] for batch in sink.batches[-4:]]

    assert "lanes" not in before
    assert first["lanes"] == [lane]
    assert second["lanes"][0]["state"] == "half_open"
    assert "lanes" not in failed
    assert sink.take("usage") == [{"attempt_id": "a"}]
    assert "could not be told" in caplog.text


async def test_every_batch_says_where_the_ladders_of_its_surfaces_stand(shipper, sink):
    """So that people see a rung engaged on every worker; left out by a worker that serves no surface."""
    state = {
        "surface": "web-chat",
        "level": 1,
        "engaged": {"free": 3, "standard": 1, "vip": 1},
        "ids": ["black-friday"],
        "readings": {"load": 140.0, "gpu": None},
        "generation": 7,
        "is_alone": False,
        "reserved": {"vip": 12},
    }
    await shipper.flush()
    shipper.ladders = lambda: [state]
    await shipper.flush()

    before, after = [batch["state"] for batch in sink.batches[-2:]]

    assert "ladders" not in before
    assert after["ladders"] == [state]


async def test_sequence_numbers_grow(shipper, sink):
    """The receiver tells newer from older by them."""
    for _ in range(3):
        await shipper.flush()

    numbers = [batch["seq"] for batch in sink.batches]
    assert numbers == sorted(set(numbers))


async def test_acknowledgement_goes_out_at_once_in_a_batch_of_its_own(shipper, sink, clock):
    """A rollout is watched live; it does not wait for the next tick."""
    sink.arrived.clear()
    shipper.add_usage({"attempt_id": "a"})
    shipper.ack(revision=4, digest="d", verdict="nack", reason="bad_signature: altered")
    await asyncio.wait_for(sink.arrived.wait(), timeout=60)

    batch = sink.batches[-1]

    assert batch["acks"] == [
        {"revision": 4, "digest": "d", "verdict": "nack", "reason": "bad_signature: altered", "at": clock.now()}
    ]
    assert batch["usage"] == []


async def test_change_of_status_is_told_at_once(shipper, sink):
    """A worker that drains is seen draining, not a second later."""
    sink.arrived.clear()
    shipper.set_status("draining")
    await asyncio.wait_for(sink.arrived.wait(), timeout=60)

    assert sink.batches[-1]["state"]["status"] == "draining"


async def test_rollups_usage_and_events_are_shipped_together(make_shipper, sink, clock):
    """One tick, one batch, unless there are many rows."""
    aggregation = Aggregation(wall=clock)
    shipper = make_shipper(aggregation=aggregation)
    await shipper.start()
    aggregation.record_request(SERIES, result="ok", schema_passed=None, refused=False, fallback=False)
    shipper.add_usage({"attempt_id": "a"})
    shipper.add_event(ReportsDropped(at=1.0, batches=2, bytes=3))
    await shipper.flush()
    await shipper.stop()

    assert [rollup["lane"] for rollup in sink.take("rollups")] == ["lane"]
    assert sink.take("usage") == [{"attempt_id": "a"}]
    assert sink.take("events") == [{"at": 1.0, "kind": "reports.dropped", "data": {"batches": 2, "bytes": 3}}]


async def test_many_rows_are_cut_into_batches(shipper, sink):
    """No entry of the stream grows without bound."""
    for number in range(MAX_ROWS_PER_BATCH * 2 + 1):
        shipper.add_usage({"attempt_id": number})
    await shipper.flush()

    sizes = [len(batch["usage"]) for batch in sink.batches if batch["usage"]]

    assert sizes == [MAX_ROWS_PER_BATCH, MAX_ROWS_PER_BATCH, 1]


def answered(evidence, canary="c", *, unit=1):
    """One request on the canary, answered in 8 ms."""
    part = Part(canary, "canary", f"{unit:016x}", unit % 64, 2, "candidate", is_compared=True, is_told=True)
    evidence.record(
        part,
        result="ok",
        cost_micros=300,
        milliseconds=8.0,
        is_copy=False,
        refused=False,
        schema_passed=True,
        blocked=False,
        grounded=None,
    )


async def test_evidence_of_canaries_is_shipped_when_it_is_due(make_shipper, sink, clock):
    """Its sums when they are due, whoever saw a version at once, and all that is left when the worker stops."""
    evidence = Evidence(clock=clock)
    evidence.adopt(["c"])
    shipper = make_shipper(evidence=evidence)
    await shipper.start()
    answered(evidence)
    await shipper.flush()
    answered(evidence, unit=2)
    await shipper.flush()
    clock.advance(SHIP_SECONDS)
    await shipper.flush()
    answered(evidence, unit=2)

    await shipper.stop()

    rows = sink.take("evidence")
    reached = 1 + CELL.index("reached")
    assert {(row["canary"], row["arm"]) for row in rows} == {("c", "canary")}
    assert [[(cell[0], cell[reached]) for cell in row["cells"]] for row in rows] == [
        [(1, 1)],
        [(1, 1), (2, 1)],
        [(1, 1), (2, 2)],
    ]
    assert [row["unit"] for row in sink.take("exposures")] == ["1".zfill(16), "2".zfill(16)]


async def test_evidence_of_many_canaries_is_cut_into_batches(make_shipper, sink, clock):
    """Each row holds the sums of all groups."""
    evidence = Evidence(clock=clock)
    canaries = [f"c{number}" for number in range(MAX_EVIDENCE_PER_BATCH + 1)]
    evidence.adopt(canaries)
    shipper = make_shipper(evidence=evidence)
    await shipper.start()
    for canary in canaries:
        answered(evidence, canary)

    await shipper.flush()
    await shipper.stop()

    assert [len(batch["evidence"]) for batch in sink.batches if batch["evidence"]] == [MAX_EVIDENCE_PER_BATCH, 1]


async def test_nothing_is_lost_or_reordered_while_the_sink_is_away(shipper, sink):
    """Rows of the outage are replayed in order when it is over, before newer ones, and an event says so."""
    shipper.add_usage({"attempt_id": 1})
    await shipper.flush()
    sink.away = True
    for number in (2, 3):
        shipper.add_usage({"attempt_id": number})
        await shipper.flush()
    sink.away = False
    shipper.add_usage({"attempt_id": 4})
    await shipper.flush()
    await shipper.flush()

    assert [row["attempt_id"] for row in sink.take("usage")] == [1, 2, 3, 4]
    assert [event["kind"] for event in sink.take("events")] == ["reports.delayed", "reports.caught_up"]


async def test_outage_of_an_idle_worker_is_told_once(shipper, sink):
    """No event per failed heartbeat."""
    sink.away = True
    for _ in range(5):
        await shipper.flush()
    sink.away = False
    for _ in range(3):
        await shipper.flush()

    assert [event["kind"] for event in sink.take("events")] == ["reports.delayed", "reports.caught_up"]


async def test_acknowledgement_survives_an_outage(shipper, sink):
    """Nobody would otherwise learn that this worker refused."""
    sink.away = True
    shipper.ack(revision=1, digest="d", verdict="ack")
    await shipper.flush()
    sink.away = False
    await shipper.flush()

    assert [ack["digest"] for ack in sink.take("acks")] == ["d"]


async def test_next_process_delivers_what_its_predecessor_spooled(make_shipper, sink):
    """A restart in the middle of an outage loses nothing; the batch still names the boot that made it."""
    sink.away = True
    first = make_shipper()
    await first.start()
    first.add_usage({"attempt_id": 1})
    await first.stop()
    sink.away = False

    second = make_shipper()
    await second.start()
    await second.flush()
    await second.stop()

    [batch] = [batch for batch in sink.batches if batch["usage"]]
    assert (batch["usage"], batch["boot"]) == ([{"attempt_id": 1}], first.boot)


async def test_batch_being_sent_when_the_worker_stops_is_kept(make_shipper, sink):
    """A flush that is cancelled in its wait puts what it held into the spool."""
    shipper = make_shipper()
    await shipper.start()
    await shipper.flush()
    sink.stuck = True
    shipper.add_usage({"attempt_id": 1})
    flush = asyncio.create_task(shipper.flush())
    await asyncio.sleep(0)
    flush.cancel()
    await asyncio.gather(flush, return_exceptions=True)
    sink.stuck = False
    await shipper.stop()

    assert sink.take("usage") == [{"attempt_id": 1}]


async def test_last_report_says_stopped(make_shipper, sink):
    """A worker that left in order is not one that fell silent."""
    shipper = make_shipper()
    await shipper.start()
    await shipper.stop()

    assert sink.batches[-1]["state"]["status"] == "stopped"


class FullDisk:
    """Makes the spools of a test's shippers find no room, from `fill` to `empty`."""

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch

    def fill(self):
        def append(self, lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        self._monkeypatch.setattr(Spool, "append", append)

    def empty(self):
        self._monkeypatch.undo()


@pytest.fixture
def disk(monkeypatch):
    return FullDisk(monkeypatch)


async def flush_rows(shipper, *names):
    """Report the usage rows of these attempts, a batch each."""
    for name in names:
        shipper.add_usage({"attempt_id": name})
        await shipper.flush()


@pytest.mark.parametrize("room_first", [True, False])
async def test_nothing_is_lost_while_neither_the_sink_nor_the_disk_takes_it(shipper, sink, disk, room_first):
    """Batches are held in memory; when there is room, or the sink is back, they leave in order, and once."""
    sink.away = True
    await flush_rows(shipper, "spooled")
    disk.fill()
    await flush_rows(shipper, "held", "held too")
    if room_first:
        disk.empty()
        await flush_rows(shipper, "spooled again")
    sink.away = False
    await flush_rows(shipper, "last")

    await shipper.flush()

    names = [row["attempt_id"] for row in sink.take("usage")]
    assert names == ["spooled", "held", "held too", *(["spooled again"] if room_first else []), "last"]
    assert [event["kind"] for event in sink.take("events")] == ["reports.delayed", "reports.caught_up"]


async def test_what_is_held_in_memory_is_bounded_and_its_loss_told(make_shipper, sink, disk, monkeypatch):
    """The oldest go first, as those of a full spool do, and are counted in an event."""
    monkeypatch.setattr("dataplane.reports.HELD_BYTES", 1500)
    shipper = make_shipper()
    await shipper.start()
    sink.away = True
    disk.fill()
    await flush_rows(shipper, *(f"row {number}" for number in range(9)))
    sink.away = False

    await shipper.flush()
    await shipper.stop()

    names = [row["attempt_id"] for row in sink.take("usage")]
    dropped = [event["data"]["batches"] for event in sink.take("events") if event["kind"] == "reports.dropped"]
    assert names
    assert names == [f"row {number}" for number in range(9 - len(names), 9)]
    assert dropped == [9 - len(names)]


async def test_what_is_held_goes_to_the_spool_of_a_worker_that_stops_once_there_is_room(make_shipper, sink, disk):
    """Its successor delivers it."""
    first = make_shipper()
    await first.start()
    sink.away = True
    disk.fill()
    await flush_rows(first, "held")
    disk.empty()
    await first.stop()
    sink.away = False
    second = make_shipper()
    await second.start()

    await second.flush()
    await second.stop()

    assert [row["attempt_id"] for row in sink.take("usage")] == ["held"]


async def test_dropped_batches_are_counted_in_an_event(tmp_path, make_shipper, sink):
    """A full spool drops the oldest, and the loss reaches the control plane."""
    settings = ReportSettings(
        redis_url=None, spool_dir=tmp_path / "small", spool_max_bytes=4_000, interval_seconds=3600
    )
    shipper = make_shipper(settings=settings)
    await shipper.start()
    sink.away = True
    for number in range(40):
        shipper.add_usage({"attempt_id": number})
        await shipper.flush()
    sink.away = False
    await shipper.flush()
    await shipper.stop()

    dropped = sum(event["data"]["batches"] for event in sink.take("events") if event["kind"] == "reports.dropped")
    kept = [row["attempt_id"] for row in sink.take("usage")]
    assert kept == list(range(40 - len(kept), 40))
    assert dropped > 0


def killed(spool_dir):
    """Settings of who starts after the owner of `spool_dir` was killed just now: with what its files hold now."""
    directory = spool_dir.with_name(f"after-{spool_dir.name}")
    shutil.copytree(spool_dir, directory)
    return ReportSettings(redis_url=None, spool_dir=directory, interval_seconds=3600)


async def test_usage_rows_outlive_a_killed_process(make_shipper, sink, tmp_path):
    """They are with its successor as soon as they were handed over: no tick had come, and nothing was closed."""
    first = make_shipper()
    await first.start()
    await flush_rows(first, "shipped")
    first.add_usage({"attempt_id": "not yet", "user": "ü"})
    settings = killed(tmp_path / "spool")
    sink.batches.clear()

    second = make_shipper(settings=settings)
    await second.start()
    second.add_usage({"attempt_id": "its own"})
    await second.flush()

    assert sink.take("usage") == [{"attempt_id": "not yet", "user": "ü"}, {"attempt_id": "its own"}]
    await first.stop()
    await second.stop()


async def test_usage_rows_outlive_processes_that_are_killed_again_and_again(make_shipper, sink, tmp_path):
    """A successor that is killed before its first tick takes nothing with it."""
    first = make_shipper()
    await first.start()
    await first.flush()
    first.add_usage({"attempt_id": 1})
    after_first = killed(tmp_path / "spool")
    second = make_shipper(settings=after_first)
    await second.start()
    second.add_usage({"attempt_id": 2})
    settings = killed(after_first.spool_dir)
    third = make_shipper(settings=settings)
    await third.start()

    await third.flush()

    assert [row["attempt_id"] for row in sink.take("usage")] == [1, 2]
    for shipper in (first, second, third):
        await shipper.stop()


@pytest.mark.parametrize("away", [False, True])
async def test_what_was_shipped_or_spooled_is_found_once(make_shipper, sink, tmp_path, away):
    """The ring forgets what is with Redis or in the spool; in between, a row may be in both."""
    first = make_shipper()
    await first.start()
    sink.away = away
    await flush_rows(first, "a", "b")
    second = make_shipper(settings=killed(tmp_path / "spool"))
    sink.away = False
    await second.start()

    await second.flush()

    assert [row["attempt_id"] for row in sink.take("usage")] == ["a", "b"]
    await first.stop()
    await second.stop()


async def test_row_that_comes_while_a_batch_is_under_way_is_not_forgotten_with_it(make_shipper, sink, tmp_path):
    """Only what was in the batch is."""
    first = make_shipper()
    await first.start()
    await sink.arrived.wait()  # its first tick is over, and the next one never comes
    sink.stuck = True
    first.add_usage({"attempt_id": "sent"})
    flush = asyncio.create_task(first.flush())
    await asyncio.sleep(0)
    first.add_usage({"attempt_id": "meanwhile"})
    flush.cancel()
    await asyncio.gather(flush, return_exceptions=True)
    sink.stuck = False
    second = make_shipper(settings=killed(tmp_path / "spool"))
    await second.start()

    await second.flush()

    assert [row["attempt_id"] for row in sink.take("usage")] == ["sent", "meanwhile"]
    await first.stop()
    await second.stop()


async def test_what_is_held_in_memory_outlives_the_process_too(make_shipper, sink, disk, tmp_path):
    """Neither Redis nor the spool took it, so it stays in the ring, and leaves it once one of them does."""
    first = make_shipper()
    await first.start()
    await first.flush()
    sink.away = True
    disk.fill()
    await flush_rows(first, "held", "held too")
    second = make_shipper(settings=killed(tmp_path / "spool"))
    disk.empty()
    sink.away = False
    await second.start()

    await second.flush()

    assert [row["attempt_id"] for row in sink.take("usage")] == ["held", "held too"]
    await first.stop()
    await second.stop()


async def test_what_was_held_leaves_the_ring_once_the_spool_takes_it(make_shipper, sink, disk, tmp_path):
    """Else the successor would tell of it twice, and the ring would stay full."""
    first = make_shipper()
    await first.start()
    await first.flush()
    sink.away = True
    disk.fill()
    await flush_rows(first, "held")
    disk.empty()
    await flush_rows(first, "spooled")
    second = make_shipper(settings=killed(tmp_path / "spool"))
    sink.away = False
    await second.start()

    await second.flush()

    assert [row["attempt_id"] for row in sink.take("usage")] == ["held", "spooled"]
    await first.stop()
    await second.stop()


async def test_orderly_stop_leaves_an_empty_ring(make_shipper, sink):
    """Nothing is told twice after it."""
    first = make_shipper()
    await first.start()
    first.add_usage({"attempt_id": 1})
    await first.stop()
    second = make_shipper()
    await second.start()
    await second.stop()

    assert sink.take("usage") == [{"attempt_id": 1}]


async def test_rows_that_the_ring_has_no_room_for_are_counted_and_shipped(make_shipper, sink, tmp_path):
    """A burst costs no row, only that those would be lost with the process."""
    settings = ReportSettings(redis_url=None, spool_dir=tmp_path / "small", ring_bytes=64, interval_seconds=3600)
    shipper = make_shipper(settings=settings)
    await shipper.start()
    for number in range(5):
        shipper.add_usage({"attempt_id": number})
    await shipper.flush()
    unguarded = shipper.outliving.unguarded_rows
    shipper.add_usage({"attempt_id": 5})
    await shipper.stop()

    assert [row["attempt_id"] for row in sink.take("usage")] == list(range(6))
    assert (unguarded, shipper.outliving.unguarded_rows) == (3, 3)


async def test_worker_without_a_ring_serves_and_says_so_once(make_shipper, sink, tmp_path, caplog):
    """A disk that is full or read-only stops nobody."""
    (tmp_path / "spool" / "host_gateway-0" / "rows.ring").mkdir(parents=True)
    shipper = make_shipper()
    await shipper.start()
    await flush_rows(shipper, "a", "b")
    await shipper.stop()

    assert [row["attempt_id"] for row in sink.take("usage")] == ["a", "b"]
    assert shipper.outliving.unguarded_rows == 2
    assert caplog.text.count("would be lost with its process") == 1


async def test_file_that_nobody_can_read_is_set_aside_and_counted(make_shipper, sink, tmp_path, caplog):
    """The worker starts, with a ring of its own."""
    directory = tmp_path / "spool" / "host_gateway-0"
    directory.mkdir(parents=True)
    (directory / "rows.ring").write_bytes(b"of another format")
    shipper = make_shipper()
    await shipper.start()
    await flush_rows(shipper, "a")
    await shipper.stop()

    assert (shipper.outliving.unread_rings, shipper.outliving.unguarded_rows) == (1, 0)
    assert (directory / "rows.ring.unread").read_bytes() == b"of another format"
    assert "rows.ring.unread" in caplog.text
    assert sink.take("usage") == [{"attempt_id": "a"}]


async def test_agent_has_no_ring(make_shipper, tmp_path):
    """It asks no provider anything, so it need not keep room for that."""
    agent = make_shipper(worker="host/agent", kind="agent")
    await agent.start()
    await agent.stop()

    assert not list(tmp_path.rglob("rows.ring"))
