"""No order of deaths, stand-stills and outages leaves a stream without its end, or with two: processes on one log."""

from __future__ import annotations

import asyncio
import itertools
import os

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from dataplane.access import OURSELVES
from dataplane.cursors import CursorKeys
from dataplane.documents import Node
from dataplane.frames import DONE, Ending
from dataplane.journey import Inbound, Journey
from dataplane.policies import StreamPolicy
from dataplane.streams import Streams
from dataplane.timers import TimerWheel

from .bench import WALL, FakeReply, Gate, Rows, kill
from .conftest import FakeClock, stream_policy
from .stream_logs import MemoryStreamLog, Shelf
from .stream_world import calm, payloads_in

POLICY = StreamPolicy.parse("kept", Node(stream_policy(on_cut="end", abandon_seconds=3600), "$"))
PLACES = st.integers(0, 2)
TURNS = 30
# A row is safe this long after it was handed over: it is with the log of reports then, or in the spool.
SHIPPED_TICKS = 2
CONTENT = [b'{"choices":[],"n":%d}' % number for number in range(2000)]


def is_terminal(payload):
    return payload == DONE or payload.startswith(b'{"error"')


class NotedShelf(Shelf):
    """A shelf that notes how many frames a stream had when somebody took it over."""

    def __init__(self, clock):
        super().__init__(clock)
        self.taken_at = {}


class NotedLog(MemoryStreamLog):
    async def claim_orphans(self, *, owner, lease_seconds, limit):
        claimed = await super().claim_orphans(owner=owner, lease_seconds=lease_seconds, limit=limit)
        for stream in claimed:
            self.shelf.taken_at.setdefault(stream, len(self.shelf.streams[stream].frames))
        return claimed


class TimedRows(Rows):
    """Knows at which tick of its process each row of a stream was handed over."""

    def __init__(self):
        super().__init__()
        self.ticks = 0
        self.handed_over = []

    def add_stream(self, row):
        self.handed_over.append((self.ticks, row))


class Process:
    """One gateway process, as far as streams go."""

    def __init__(self, shelf, clock, owner):
        self.log = NotedLog(shelf)
        self.rows = TimedRows()
        self.stands_still = False
        self.streams = Streams(
            store=self.log,
            cursors=CursorKeys([b"k" * 32]),
            reports=self.rows,
            owner=owner,
            timers=TimerWheel(),
            clock=clock,
            wall=lambda: WALL,
            tick_seconds=3600,
        )

    async def tick(self):
        self.rows.ticks += 1
        await self.streams.tick()


class Stream:
    """A stream that one process generates, and everybody who reads it."""

    def __init__(self, process):
        self.process = process
        self.coming = asyncio.Queue()
        self.count = 0
        self.is_finished = False
        self.readers = []

    @property
    def name(self):
        return self.readers[0][1].headers.get(b"ballast-stream-id", b"").decode()

    def begin(self):
        journey = Journey(Inbound("req_1", b"{}", 0.0))
        journey.tenant, journey.deadline_ms = OURSELVES, 60_000.0
        reply = FakeReply(Gate())
        task = asyncio.create_task(self.process.streams.carry(journey, reply, POLICY, self._live))
        self.readers.append((self.process, reply, task))

    async def _live(self, journey, reply):
        await reply.open_stream([(b"content-type", b"text/event-stream")])
        while (payload := await self.coming.get()) is not DONE:
            await reply.send_events([payload])
        journey.outcome = "ok"
        await reply.send_events([DONE], ending=Ending.COMPLETED)

    def feed(self, count):
        for _ in range(count):
            self.coming.put_nowait(CONTENT[self.count])
            self.count += 1

    def finish(self):
        self.is_finished = True
        self.coming.put_nowait(DONE)


class EveryOrder(RuleBasedStateMachine):
    """Three processes; each rule is something that happens to one of them, or that its callers do."""

    runner: asyncio.Runner

    def __init__(self):
        super().__init__()
        self.clock = FakeClock(1000.0)
        self.shelf = NotedShelf(self.clock)
        self.numbers = itertools.count()
        self.streams = []
        self.tainted = set()
        self.shipped = []
        self.written = {}
        self.processes = [self._start() for _ in range(3)]

    def _start(self):
        process = Process(self.shelf, self.clock, f"p{next(self.numbers)}")
        self._run(process.streams.start())
        return process

    def _run(self, doing=None):
        async def run():
            if doing is not None:
                await doing
            await calm(TURNS)

        self.runner.run(run())

    # What callers do.

    @rule(place=PLACES)
    def begin(self, place):
        async def begin():
            stream = Stream(self.processes[place])
            stream.begin()
            stream.feed(1)
            self.streams.append(stream)
            process = stream.process
            if process.log.away or process.log.deaf or not process.streams.is_log_up:
                self.tainted.add(id(stream))

        self._run(begin())

    @precondition(lambda self: self.streams)
    @rule(data=st.data(), count=st.sampled_from([1, 2, 600]))
    def feed(self, data, count):
        stream = data.draw(st.sampled_from(self.streams))
        if not stream.is_finished:
            stream.feed(count)
            self._run()

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def finish(self, data):
        stream = data.draw(st.sampled_from(self.streams))
        if not stream.is_finished:
            stream.finish()
            self._run()

    @precondition(lambda self: any(stream.name in self.shelf.streams for stream in self.streams))
    @rule(data=st.data(), place=PLACES)
    def read(self, data, place):
        process = self.processes[place]
        if process.stands_still or process.log.away or process.log.deaf:
            return
        known = [stream for stream in self.streams if stream.name in self.shelf.streams]
        stream = data.draw(st.sampled_from(known))

        async def read():
            reply = FakeReply(Gate())
            view = await process.streams.find(stream.name, tenant=OURSELVES.slug)
            task = asyncio.create_task(process.streams.read_along(view, reply, after=0))
            stream.readers.append((process, reply, task))

        self._run(read())

    @precondition(lambda self: self._reading())
    @rule(data=st.data())
    def leave(self, data):
        data.draw(st.sampled_from(self._reading())).cancel()
        self._run()

    def _reading(self):
        return [task for stream in self.streams for _, _, task in stream.readers if not task.done()]

    # What happens to processes.

    def _taint(self, process):
        """From now on readers of its streams may see what the log never gets."""
        self.tainted |= {id(stream) for stream in self.streams if stream.process is process}

    @rule(place=PLACES)
    def stand_still_or_go_on(self, place):
        process = self.processes[place]
        process.stands_still = not process.stands_still
        if process.stands_still:
            process.log.hold()
        else:
            process.log.let_go()
        self._run()

    @rule(place=PLACES)
    def lose_or_find_the_log(self, place):
        process = self.processes[place]
        self._taint(process)
        process.log.away = not process.log.away
        self._run()

    @rule(place=PLACES)
    def lose_or_find_answers(self, place):
        process = self.processes[place]
        self._taint(process)
        process.log.deaf = not process.log.deaf
        self._run()

    @rule(place=PLACES)
    def kill_and_start_anew(self, place):
        process = self.processes[place]
        self.shipped += [row for tick, row in process.rows.handed_over if process.rows.ticks - tick >= SHIPPED_TICKS]

        async def end():
            await kill(process.streams, process.log)
            for stream in self.streams:
                stream.is_finished = stream.is_finished or stream.process is process
                for place_of, _, task in stream.readers:
                    if place_of is process:
                        task.cancel()

        self._run(end())
        self.processes[place] = self._start()

    @rule(seconds=st.sampled_from([1, 2, 7]), places=st.sets(PLACES, min_size=1))
    def pass_seconds(self, seconds, places):
        """Time passes for all; these processes get to do what they do once a second, unless they stand still."""

        async def pass_():
            for _ in range(seconds):
                self.clock.advance(1)
                for place in sorted(places):
                    if not self.processes[place].stands_still:
                        await self.processes[place].tick()
                        await calm(TURNS)

        self._run(pass_())

    # What is so all the while.

    @invariant()
    def a_stream_is_what_its_owner_said_and_one_end(self):
        """Its numbers have no gap, what was written stays, and nothing follows the terminal event."""
        for name, kept in self.shelf.streams.items():
            before = self.written.get(name, [])
            assert kept.frames[: len(before)] == before
            self.written[name] = list(kept.frames)
            ends = [number for number, payload in enumerate(kept.frames, 1) if is_terminal(payload)]
            assert ends == ([] if kept.ending is None else [len(kept.frames)])
            content = kept.frames[:-1] if ends else kept.frames
            assert content == CONTENT[: len(content)]

    @invariant()
    def a_replaced_owner_writes_nothing(self):
        """Behind the frames that were there when it was replaced there is nothing but the new owner's word."""
        for name, count in self.shelf.taken_at.items():
            after = self.shelf.streams[name].frames[count:]
            assert len(after) <= 1
            assert all(orjson.loads(payload)["error"]["reason"] == "owner_lost" for payload in after)

    @invariant()
    def every_reader_has_the_same_stream(self):
        """From its beginning, without a gap, and with its end at most once; as the log has it."""
        for stream in self.streams:
            for _, reply, _ in stream.readers:
                payloads = payloads_in(reply)
                assert list(payloads) == list(range(1, len(payloads) + 1))
                seen = list(payloads.values())
                assert not any(map(is_terminal, seen[:-1]))
                if seen and id(stream) not in self.tainted:
                    assert seen == self.shelf.streams[stream.name].frames[: len(seen)]

    def teardown(self):
        """When all is well again every stream ends, whoever reads is told, and the ledger has a row of each."""
        for process in self.processes:
            process.log.away = process.log.deaf = process.stands_still = False
            process.log.let_go()
        for stream in self.streams:
            if not stream.is_finished:
                stream.finish()
        self._run(self._recover())
        try:
            self._check()
        finally:
            self._run(self._end())

    async def _recover(self):
        for _ in range(70):
            self.clock.advance(1)
            for process in self.processes:
                await process.tick()
                await calm(TURNS)

    def _check(self):
        self.a_stream_is_what_its_owner_said_and_one_end()
        self.a_replaced_owner_writes_nothing()
        self.every_reader_has_the_same_stream()
        assert all(kept.ending is not None for kept in self.shelf.streams.values())
        assert self._reading() == []
        rows = self.shipped + [row for process in self.processes for _, row in process.rows.handed_over]
        assert {row["stream_id"] for row in rows} >= self.shelf.streams.keys()
        assert (self.shelf.live, self.shelf.owed) == ({}, {})
        for process in self.processes:
            streams = process.streams
            assert (streams._productions, streams._ended_at, streams._views) == ({}, {}, {})

    async def _end(self):
        for process in self.processes:
            await kill(process.streams, process.log)


def test_no_order_of_things_leaves_a_stream_without_its_end():
    """Owners, deaths, returns, repeated appends, claims: one end each, and every end told to the ledger."""
    deep = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
    bounds = {} if deep else {"max_examples": 25, "stateful_step_count": 25}
    with asyncio.Runner() as runner:
        EveryOrder.runner = runner

        run_state_machine_as_test(EveryOrder, settings=settings(suppress_health_check=list(HealthCheck), **bounds))
