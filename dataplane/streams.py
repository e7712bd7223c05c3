"""Streams that outlive the connections they go to: who generates them, who reads them, and what is told of them after.

A request whose route has a stream policy is answered by a task of its own, and the caller is its first reader. Readers
come and go, here and at other processes; the task ends when the answer does, when nobody reads for too long, or when it
is cancelled. If this process dies, another ends its streams and tells the ledger: nothing is left without an end.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import orjson

from dataplane.cursors import Cursor, CursorKeys
from dataplane.envelope import Header
from dataplane.errors.admission import Draining
from dataplane.errors.streams import OwnerLost, StreamCancelled, StreamLogUnavailable, StreamNotFound
from dataplane.frames import Ending, FrameBuffer
from dataplane.journey import Journey, Reply, new_id
from dataplane.policies import StreamPolicy
from dataplane.productions import Production, View, Witness
from dataplane.stores.streams import StoredStream, StreamLog
from dataplane.stream_continuations import Continuations, EndedStream
from dataplane.stream_deliveries import Deliveries
from dataplane.stream_endings import StreamEndings
from dataplane.stream_follower import StreamFollower
from dataplane.stream_leases import TICK_SECONDS, StreamLeases
from dataplane.stream_orphans import Orphans, Unsettled
from dataplane.stream_readers import StreamReaders
from dataplane.stream_rows import Origin
from dataplane.stream_writer import LEASE_SECONDS, EventSink, StreamWriter
from dataplane.timers import TimerWheel

log = logging.getLogger("ballast.streams")

# Whoever asked for a stream reads it within so many ticks, or asks for it again.
KEPT_TICKS: Final = 5
# Together with the time that requests have to drain, less than the supervisor waits.
STOP_SECONDS: Final = 2.0
# A caller who takes nothing for so long is gone; the stream can be read again.
READER_SECONDS: Final = 60.0
STREAM_ID: Final = re.compile(r"[0-9a-f]{32}")

Life = Callable[[Journey, Reply], Awaitable[None]]


class StreamReports(EventSink, Protocol):
    """Takes rows for the ledger, such as `ReportShipper`."""

    def add_usage(self, row: Mapping[str, Any]) -> None:
        """Take over one usage row; must not wait."""

    def add_stream(self, row: Mapping[str, Any]) -> None:
        """Take over the row of a stream that has ended; must not wait."""

    def add_delivery(self, row: Mapping[str, Any]) -> None:
        """Take over what was delivered or acknowledged of a stream after its row; must not wait."""


class Streams:
    """All streams of one gateway process."""

    def __init__(
        self,
        *,
        store: StreamLog,
        cursors: CursorKeys,
        reports: StreamReports,
        owner: str,
        timers: TimerWheel,
        clock: Callable[[], float],
        wall: Callable[[], float],
        reader_seconds: float = READER_SECONDS,
        tick_seconds: float = TICK_SECONDS,
    ) -> None:
        """`owner` names this process and no other, not even its successor. `clock` is monotonic, `wall` epoch;
        `reader_seconds` is how long a caller may take to take what is sent.
        """
        self._store = store
        self._cursors = cursors
        self._timers = timers
        self._clock = clock
        self._wall = wall
        self._tick_seconds = tick_seconds
        # What is generated here, what can be read here, and when what was generated ended: its parts share them.
        self._productions: dict[str, Production] = {}
        self._views: dict[str, View] = {}
        self._ended_at: dict[str, float] = {}
        self._ticks = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.endings: dict[str, int] = {}
        self.resumes = 0
        self._writer = StreamWriter(store=store, owner=owner, events=reports, clock=clock, wall=wall)
        self._follower = StreamFollower(store)
        self._readers = StreamReaders(
            store=store, follower=self._follower, timers=timers, reader_seconds=reader_seconds, clock=clock
        )
        self._continuations = Continuations(store=store, find=self.find, productions=self._productions, wall=wall)
        self._leases = StreamLeases(
            store=store,
            owner=owner,
            productions=self._productions,
            writer=self._writer,
            follower=self._follower,
            clock=clock,
        )
        self._deliveries = Deliveries(store=store, reports=reports, wall=wall)
        self._unsettled = Unsettled(store)
        self._ends = StreamEndings(
            store=store,
            reports=reports,
            writer=self._writer,
            unsettled=self._unsettled,
            productions=self._productions,
            views=self._views,
            ended_at=self._ended_at,
            endings=self.endings,
            clock=clock,
        )
        self._orphans = Orphans(
            store=store,
            owner=owner,
            reports=reports,
            unsettled=self._unsettled,
            endings=self.endings,
            cursor=lambda stream, stored, after: self.sign(self._view_of(stream, stored), after),
            wall=wall,
        )

    # A process' life.

    async def start(self) -> None:
        """Begin to write, to follow and to look after what others leave behind."""
        loop = self._timers.loop
        self._tasks = [
            loop.create_task(self._writer.run(), name="stream-writer"),
            loop.create_task(self._follower.run(), name="stream-follower"),
            loop.create_task(self._tick_regularly(), name="stream-ticks"),
        ]

    async def stop(self) -> None:
        """End what is being generated: complete if that takes STOP_SECONDS, else interrupted, with a cursor."""
        under_way = [one.task for one in self._productions.values() if one.task is not None and not one.task.done()]
        if under_way:
            await asyncio.wait(under_way, timeout=STOP_SECONDS)
        self.interrupt()
        if under_way:
            await asyncio.wait(under_way, timeout=STOP_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._ends.see_to(everything=True)
        await self._store.close()

    def interrupt(self) -> None:
        """End what is being generated as interrupted, because this process stops."""
        for production in list(self._productions.values()):
            production.stop(Draining())

    @property
    def generating(self) -> int:
        """How many streams this process generates now."""
        return sum(1 for one in self._productions.values() if one.is_generated)

    @property
    def is_log_up(self) -> bool:
        """False while the log cannot be written."""
        return not self._writer.is_down

    # Generating.

    async def carry(
        self,
        journey: Journey,
        reply: Reply,
        policy: StreamPolicy,
        life: Life,
        *,
        stream: str = "",
        origin: Origin | None = None,
        witness: Witness | None = None,
    ) -> None:
        """Let `life` answer the request in a task of its own, and read along for the caller.

        Args:
            life: Answers to the reply that it is given, whatever happens; it records the request as well.
            stream: What it is called, where that is known before.
            origin: The stream whose answer this one takes up.
            witness: Whoever is to know how it goes.
        """
        production = Production(
            stream or new_id(self._wall()),
            journey,
            policy,
            writer=self._writer,
            sign=self.sign,
            clock=self._clock,
            wall=self._wall,
            origin=origin,
            witness=witness,
        )
        journey.production = production
        journey.is_detached = True
        self._productions[production.id] = self._views[production.id] = production
        production.task = self._timers.loop.create_task(self._generate(production, journey, life))
        if witness is not None:
            witness.began(lambda: production.stop(OwnerLost()))
        self._readers.enter(production)
        is_told = False
        try:
            await production.head_ready.wait()
            if production.whole is not None:
                is_told = True
                status, headers, body = production.whole
                await reply.send_whole(status, headers, body)
                return
            # Whoever is told its name can read it at any process, unless the log is away.
            while not production.buffer.shown and not production.is_lost:
                await production.buffer.wait(self._timers.loop)
            is_told = True
            await reply.open_stream([*production.headers, *self.headers(production)])
            await self._readers.pump(production, reply, after=0)
        finally:
            self._readers.leave(production)
            if not is_told and witness is None:
                # Nobody knows its name, so nobody can ever come for it.
                production.stop(StreamCancelled("its caller left before it began"))

    async def _generate(self, production: Production, journey: Journey, life: Life) -> None:
        try:
            await self._live(production, journey, life)
            await production.end()
        except asyncio.CancelledError:
            pass  # by `fence`, while its last event was being written
        except Exception:
            log.exception("the end of stream %s failed", production.id)
        try:
            if production.witness is not None:
                if production.is_fenced:
                    journey.fail(OwnerLost())
                await production.witness.ended(production)
        except asyncio.CancelledError:
            pass  # what it was told it knows
        except Exception:
            log.exception("the end of stream %s cannot be told", production.id)
        finally:
            production.about = {}
            self._ended_at[production.id] = self._clock()

    async def _live(self, production: Production, journey: Journey, life: Life) -> None:
        try:
            await life(journey, production)
        except asyncio.CancelledError:
            pass  # by `stop` or `fence`: the stream says so, or its new owner does
        except Exception:
            log.exception("stream %s failed", production.id)

    # Reading.

    def sign(self, view: View, after: int) -> str:
        """A cursor that reads on in `view` after a number, for as long as the stream is kept."""
        expires_at = int(self._wall() + view.kept_seconds)
        return self._cursors.sign(Cursor(view.id, view.tenant, after, expires_at))

    def read_cursor(self, text: str) -> Cursor:
        """Read a cursor.

        Raises:
            InvalidCursor, CursorExpired.
        """
        return self._cursors.read(text, now=self._wall())

    def headers(self, view: View) -> list[Header]:
        """What the head of every response that reads a stream says of it."""
        return [
            (b"ballast-stream-id", view.id.encode()),
            (b"ballast-resume-cursor", self.sign(view, 0).encode()),
        ]

    async def find(self, stream: str, *, tenant: str) -> View:
        """The stream as this process reads it, from wherever it is.

        Raises:
            StreamNotFound: the tenant has no such stream, or it is kept no more.
            StreamLogUnavailable: it is not here, and the log cannot be asked.
        """
        if STREAM_ID.fullmatch(stream) is None:
            raise StreamNotFound(stream)
        view = self._views.get(stream)
        if view is None or view.is_lost:
            stored = await self._store.read(stream, after=0)
            view = self._views.get(stream)  # somebody else may have asked meanwhile
            if view is None or view.is_lost:
                if stored is None or not stored.about:
                    if self._writer.is_filling:
                        raise StreamLogUnavailable("it was away, and lacks what its owners are about to write again")
                    raise StreamNotFound(stream)
                view = self._views[stream] = self._view_of(stream, stored)
        elif not self._follower.follows(view):
            await self._readers.refresh(view)
        if view.tenant != tenant:
            raise StreamNotFound(stream)
        view.wanted_at = self._ticks
        if isinstance(view, Production) and not view.headers:
            raise StreamNotFound(stream)  # nothing of it was sent yet, so nobody can know of it
        return view

    def _view_of(self, stream: str, stored: StoredStream) -> View:
        about = orjson.loads(stored.about)
        checkpoint = stored.checkpoint
        view = View(
            stream,
            about["identity"]["tenant"],
            FrameBuffer(stored.payloads, ending=checkpoint.ending),
            retention_seconds=about["retention_seconds"],
            running_seconds=about["running_seconds"],
            delivered=checkpoint.delivered,
            acked=checkpoint.acked,
        )
        view.about = about
        return view

    async def read_along(self, view: View, reply: Reply, *, after: int) -> Ending | None:
        """Give a caller the frames of `view` after a number, as they come, up to the terminal event.

        Returns how the stream ended; None when the view is lost, or the caller takes nothing any more.
        """
        self.resumes += 1
        known = self._views.get(view.id)
        if known is None or known.is_lost:
            self._views[view.id] = view  # nobody read it for a moment, so it was let go
        else:
            view = known
        return await self._readers.read_along(view, reply, after=after)

    async def catch_up(self, view: View, through: int) -> None:
        """As `StreamReaders.catch_up`."""
        await self._readers.catch_up(view, through)

    async def acknowledge(self, view: View, through: int) -> tuple[int, int]:
        """Move the stream's checkpoint to `through`, never back; returns what is delivered and acknowledged then.

        Raises:
            StreamLogUnavailable: nobody can say whether it was moved.
            StreamNotFound: it is kept no more.
        """
        if isinstance(view, Production):
            view.acknowledge(min(through, view.buffer.shown))
            through = view.acked
        if not self._writer.is_down or not isinstance(view, Production):
            # How far another process' stream goes is for the log to say: what is read of it here may be behind.
            checkpoint = await self._store.touch(view.id, delivered=view.delivered, acked=through, reading=False)
            if checkpoint is not None:
                view.deliver(checkpoint.delivered)
                view.acknowledge(checkpoint.acked)
            elif not isinstance(view, Production):
                raise StreamNotFound(view.id)
        return view.delivered, view.acked

    async def claim_continuation(self, view: View) -> EndedStream | View:
        """As `Continuations.claim`."""
        return await self._continuations.claim(view)

    async def release_continuation(self, ended: EndedStream) -> None:
        """As `Continuations.release`."""
        await self._continuations.release(ended)

    async def cancel(self, view: View) -> bool:
        """Ask whoever generates the stream to end it. False: it is over."""
        if isinstance(view, Production) and not view.is_fenced:
            if view.buffer.ending is not None:
                return False
            view.stop(StreamCancelled("its caller asked for it"))
            return True
        return await self._store.cancel(view.id)

    # Once a second.

    async def _tick_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._tick_seconds)
            await self.tick()

    async def tick(self) -> None:
        """Look after all streams: what is done once a second."""
        self._ticks += 1
        self._unsettled.ticks += 1
        self._cancel_unread()
        settle = self._unsettled.settle
        for chore in (self._ends.see_to, self._leases.renew, self._tell_deliveries, self._end_orphans, settle):
            try:
                await chore()
            except StreamLogUnavailable as exc:
                self._writer.lost(exc)
                break
            except Exception:  # the other chores, and the next tick, must not suffer
                log.exception("looking after streams failed")

    def _cancel_unread(self) -> None:
        for production in list(self._productions.values()):
            since, patience = production.unread_since, production.policy.abandon_seconds.value
            if since is not None and self._clock() - since > patience:
                production.stop(StreamCancelled(f"nobody read it for {patience:g} s"))

    async def _tell_deliveries(self) -> None:
        """Tell the log and the ledger how far the streams of others, and those whose row is out, were delivered."""
        for view in list(self._views.values()):
            if view.id in self._productions:
                continue
            if view.is_dirty or (view.readers and not view.buffer.is_over):
                await self._deliveries.tell(view)
            if not view.readers and not view.is_dirty and self._ticks - view.wanted_at > KEPT_TICKS:
                self._follower.let_go(view)
                if self._views.get(view.id) is view:
                    del self._views[view.id]

    async def _end_orphans(self) -> None:
        # Nobody could renew while the log was away, so right after that no lease says that its owner is dead.
        if not self._writer.is_down and self._clock() - self._writer.up_since >= 2 * LEASE_SECONDS:
            await self._orphans.end(is_ours=lambda stream: stream in self._productions)
