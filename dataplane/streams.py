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
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from dataplane.cursors import Cursor, CursorKeys
from dataplane.envelope import Header, error_body, error_headers, face_of
from dataplane.errors import (
    Draining,
    GatewayError,
    OwnerLost,
    StreamCancelled,
    StreamLogUnavailable,
    StreamNotContinuable,
    StreamNotFound,
)
from dataplane.frames import Ending, FrameBuffer
from dataplane.journey import Journey, Reply, new_id
from dataplane.policies import StreamPolicy
from dataplane.productions import Production, View, Witness
from dataplane.stores.streams import Lease, Standing, StoredStream, StreamLog
from dataplane.stream_deliveries import Deliveries
from dataplane.stream_follower import StreamFollower
from dataplane.stream_orphans import Orphans, Unsettled
from dataplane.stream_rows import Origin, origin_of, with_delivery
from dataplane.stream_writer import LEASE_SECONDS, EventSink, StreamWriter
from dataplane.timers import TimerWheel

log = logging.getLogger("ballast.streams")

TICK_SECONDS: Final = 1.0
# How long the row of a stream that has ended waits for its readers to have it whole.
ROW_PATIENCE_SECONDS: Final = 5.0
# A remote reader was there at least so lately: it says so with every tick of its process.
READ_LATELY_SECONDS: Final = 3 * TICK_SECONDS
# So long, and so many, streams that ended while the log was away wait for it, of which it has nothing yet.
UNWRITTEN_SECONDS: Final = 60.0
MAX_UNWRITTEN: Final = 2000
# Whoever asked for a stream reads it within so many ticks, or asks for it again.
KEPT_TICKS: Final = 5
# Together with the time that requests have to drain, less than the supervisor waits.
STOP_SECONDS: Final = 2.0
# A caller who takes nothing for so long is gone; the stream can be read again.
READER_SECONDS: Final = 60.0
# Few frames at a time: they count as delivered once the connection has taken them.
MAX_SEND: Final = 512
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


@dataclass(frozen=True, slots=True)
class EndedStream:
    """A stream that ended before its answer was complete, and is to be taken up: `body` is its question, `version` the
    version of a managed prompt that it was asked with, and `continued_by` the stream that goes on.
    """

    origin: Origin
    body: bytes
    user: str | None
    accept_language: str | None
    version: int | None
    continued_by: str


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
        self._reports = reports
        self._owner = owner
        self._timers = timers
        self._clock = clock
        self._wall = wall
        self._reader_seconds = reader_seconds
        self._tick_seconds = tick_seconds
        self._writer = StreamWriter(store=store, owner=owner, events=reports, clock=clock, wall=wall)
        self._follower = StreamFollower(store)
        self._productions: dict[str, Production] = {}
        self._views: dict[str, View] = {}
        self._ended_at: dict[str, float] = {}
        self._unsettled = Unsettled(store)
        self._deliveries = Deliveries(store=store, reports=reports, wall=wall)
        self._ticks = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.endings: dict[str, int] = {}
        self._orphans = Orphans(
            store=store,
            owner=owner,
            reports=reports,
            unsettled=self._unsettled,
            endings=self.endings,
            cursor=lambda stream, stored, after: self.sign(self._view_of(stream, stored), after),
            wall=wall,
        )
        self.resumes = 0

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
        await self._report_ended(everything=True)
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
        self._enter(production)
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
            await self.pump(production, reply, after=0)
        finally:
            self._leave(production)
            if not is_told and witness is None:
                # Nobody knows its name, so nobody can ever come for it.
                production.stop(StreamCancelled("its caller left before it began"))

    async def _generate(self, production: Production, journey: Journey, life: Life) -> None:
        try:
            await self._live(production, journey, life)
            await self._end(production)
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

    async def _end(self, production: Production) -> None:
        """See to it that the stream has its terminal event; nothing to do if it came by itself."""
        error = production.stopped_by or GatewayError("the gateway failed; the request id finds the reason in its log")
        request_id = production.journey.inbound.request_id
        if not production.opened:
            headers = [*error_headers(error), (b"ballast-request-id", request_id.encode())]
            await production.send_whole(face_of(error).status, headers, error_body(error, request_id=request_id))
        elif production.whole is None and production.buffer.ending is None and not production.is_fenced:
            ending = Ending.CANCELLED if isinstance(error, StreamCancelled) else Ending.INTERRUPTED
            code = error.code if ending is Ending.CANCELLED else "upstream_interrupted"
            production.code = error.code
            await production.send_events([self._last_words(production, error, code=code)], ending=ending)

    def _last_words(self, production: Production, error: GatewayError, *, code: str) -> bytes:
        request_id = production.journey.inbound.request_id
        return error_body(error, request_id=request_id, code=code, resume_cursor=production.cursor())

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
            await self.refresh(view)
        if view.tenant != tenant:
            raise StreamNotFound(stream)
        view.wanted_at = self._ticks
        if isinstance(view, Production) and not view.headers:
            raise StreamNotFound(stream)  # nothing of it was sent yet, so nobody can know of it
        return view

    async def refresh(self, view: View) -> None:
        """Bring what the log has of another process' stream by now.

        Raises:
            StreamLogUnavailable.
        """
        buffer = view.buffer
        if isinstance(view, Production) or buffer.is_over:
            return
        after = len(buffer.payloads)
        stored = await self._store.read(view.id, after=after)
        if stored is not None and len(buffer.payloads) == after and stored.payloads:
            buffer.add(stored.payloads, ending=stored.checkpoint.ending)
            buffer.show(len(buffer.payloads))

    async def catch_up(self, view: View, through: int) -> None:
        """Return when as many frames can be read here as a caller says to have, or it cannot have them. The log may be
        behind, which while it was away did not keep callers waiting; and so may the owner, which hears of what it wrote
        after those who follow.

        Raises:
            StreamLogUnavailable: it does not get so far in time.
        """
        await self.refresh(view)
        buffer = view.buffer
        is_ours = isinstance(view, Production)
        if buffer.shown >= through or buffer.is_over or (is_ours and len(buffer.payloads) < through):
            return
        self._enter(view)
        try:
            if not is_ours:
                await self._follower.follow(view)
            with self._timers.deadline(LEASE_SECONDS):
                while buffer.shown < through and not buffer.is_over and not view.is_lost:
                    await buffer.wait(self._timers.loop)
        except TimeoutError:
            pass
        finally:
            self._leave(view)
        if buffer.shown < through and not buffer.is_over:
            raise StreamLogUnavailable(f"it has {buffer.shown} frames of the stream yet, and you have {through}")

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
        """Give a caller the frames of `view` after a number, as they come, up to the terminal event; as `pump`."""
        self.resumes += 1
        known = self._views.get(view.id)
        if known is None or known.is_lost:
            self._views[view.id] = view  # nobody read it for a moment, so it was let go
        else:
            view = known
        self._enter(view)
        try:
            if not isinstance(view, Production) and not view.buffer.is_over:
                await self._follower.follow(view)
            return await self.pump(view, reply, after=after)
        finally:
            self._leave(view)

    async def pump(self, view: View, reply: Reply, *, after: int) -> Ending | None:
        """Send frames after a number as they come. Returns how the stream ended; None when the view is lost, or the
        caller takes nothing any more.
        """
        buffer, loop = view.buffer, self._timers.loop
        try:
            while True:
                if buffer.shown > after:
                    through = min(buffer.shown, after + MAX_SEND)
                    ending = buffer.ending if buffer.is_over and through == buffer.shown else None
                    with self._timers.deadline(self._reader_seconds):
                        await reply.send_events(buffer.payloads[after:through], ending=ending)
                    after = through
                    view.deliver(through)
                    if ending is not None:
                        return ending
                elif buffer.is_over or view.is_lost:
                    await reply.send_events((), ending=buffer.ending or Ending.INTERRUPTED)
                    return buffer.ending
                else:
                    await buffer.wait(loop)
        except TimeoutError:
            log.info("a reader of stream %s takes nothing; its connection is dropped", view.id)
        return None

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
        """Become the one that takes a stream up; or, if somebody else has, the stream that does.

        Raises:
            StreamNotContinuable: it is not over, or complete, or its question is not kept, or somebody is just
                beginning to take it up.
            StreamLogUnavailable.
        """
        buffer = view.buffer
        if not buffer.is_over:
            raise StreamNotContinuable(view.id, why="it is under way; read on in it")
        if buffer.ending is Ending.COMPLETED:
            raise StreamNotContinuable(view.id, why="it is complete; read it again")
        if "request" not in view.about:
            stored = await self._store.read(view.id, after=len(buffer.payloads))
            view.about = {} if stored is None else orjson.loads(stored.about)
        request = view.about.get("request")
        if request is None or request["body"] is None:
            raise StreamNotContinuable(view.id, why="its question is too long to be kept; ask again")
        mine = new_id(self._wall())
        continued_by = await self._store.claim_continuation(view.id, mine)
        if continued_by != mine:
            try:
                return await self.find(continued_by, tenant=view.tenant)
            except StreamNotFound:
                raise StreamNotContinuable(view.id, why=f"stream {continued_by!r} is about to; retry") from None
        identity = view.about["identity"]
        return EndedStream(
            origin_of(view.id, buffer.payloads),
            request["body"].encode(),
            request["user"],
            request["accept_language"],
            identity["version"] or None,
            mine,
        )

    async def release_continuation(self, ended: EndedStream) -> None:
        """Let others take a stream up again, unless whoever claimed to has begun."""
        begun = self._productions.get(ended.continued_by)
        if begun is None or not begun.headers:
            try:
                await self._store.release_continuation(ended.origin.stream, ended.continued_by)
            except StreamLogUnavailable:
                log.info("stream %s can be taken up again only in a while", ended.origin.stream)

    async def cancel(self, view: View) -> bool:
        """Ask whoever generates the stream to end it. False: it is over."""
        if isinstance(view, Production) and not view.is_fenced:
            if view.buffer.ending is not None:
                return False
            view.stop(StreamCancelled("its caller asked for it"))
            return True
        return await self._store.cancel(view.id)

    def _enter(self, view: View) -> None:
        view.readers += 1
        if isinstance(view, Production):
            view.unread_since = None

    def _leave(self, view: View) -> None:
        view.readers -= 1
        if isinstance(view, Production) and not view.readers:
            view.unread_since = self._clock()

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
        for chore in (self._report_ended, self._renew, self._tell_deliveries, self._end_orphans, settle):
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

    async def _renew(self) -> None:
        """Keep the leases, and hear what others want."""
        for production in list(self._productions.values()):
            if production.is_fenced and not production.is_handed_over:
                await self._hand_over(production)
        mine = {one.id: one for one in self._productions.values() if one.needs_lease}
        if mine:
            epochs = {stream: one.epoch for stream, one in mine.items()}
            leases = await self._store.renew(epochs, owner=self._owner, lease_seconds=LEASE_SECONDS)
        else:
            leases = {}
            if self._writer.is_down:
                await self._store.ping()
        self._writer.heard()
        for stream, lease in leases.items():
            self._obey(mine[stream], lease)

    def _obey(self, production: Production, lease: Lease) -> None:
        if lease.standing is Standing.FENCED and production.buffer.ending is None:
            production.fence()
        elif lease.standing is Standing.GONE:
            production.forget_written()
        if lease.cancel:
            production.stop(StreamCancelled("its caller asked for it"))
        read_lately = lease.read_seconds is not None and lease.read_seconds < READ_LATELY_SECONDS
        if read_lately and not production.readers:
            production.unread_since = self._clock()
        if production.is_unwritten:
            self._writer.mark(production)

    async def _hand_over(self, production: Production) -> None:
        """Another process has ended the stream, or is about to: read it from the log, like everybody else."""
        buffer = production.buffer
        stored = await self._store.read(production.id, after=buffer.shown)
        production.is_handed_over = True
        if buffer.is_over:
            return  # all of it was shown while the log was away
        if stored is not None:
            last, ending = stored.checkpoint.last, stored.checkpoint.ending
            if last > buffer.shown or (last == buffer.shown and ending is None):
                await self._follower.follow(production)
                return
        # What was shown here never reached the log, so its end there is an end that readers here are past.
        body = self._last_words(production, OwnerLost(), code="upstream_interrupted")
        buffer.add([body], ending=Ending.INTERRUPTED)
        production.show()

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

    async def _report_ended(self, *, everything: bool = False) -> None:
        """Send the rows of streams that have ended and been read, or that waited long enough, and let go of those whose
        end the log has.
        """
        for stream, ended_at in list(self._ended_at.items()):
            production = self._productions[stream]
            waited_seconds = self._clock() - ended_at
            is_unwritten = production.is_unwritten and not self._writer.is_down
            if (production.readers or is_unwritten) and not everything and waited_seconds < ROW_PATIENCE_SECONDS:
                continue
            if production.headers and not production.is_fenced and not production.is_reported:
                production.is_reported = True
                await self._report(production)
            if production.is_unwritten and not everything and waited_seconds < self._patience(production):
                continue
            del self._ended_at[stream], self._productions[stream]
            if not production.headers:
                del self._views[stream]
            elif production.is_fenced and not production.is_handed_over:
                production.lose()
            elif production.is_reported and not production.is_unwritten:
                self._unsettled.add(stream)

    def _patience(self, production: Production) -> float:
        """How long a stream that has ended waits for the log to be written, in seconds."""
        if production.was_written:
            # The log has its beginning: without its end it would be taken for orphaned, and ended otherwise.
            return production.retention_seconds
        return UNWRITTEN_SECONDS if production.headers and len(self._ended_at) <= MAX_UNWRITTEN else 0.0

    async def _report(self, production: Production) -> None:
        delivered, acked = production.delivered, production.acked
        try:
            if not self._writer.is_down:
                checkpoint = await self._store.touch(production.id, delivered=delivered, acked=acked, reading=False)
                if checkpoint is not None:
                    production.deliver(checkpoint.delivered)
                    production.acknowledge(checkpoint.acked)
        except StreamLogUnavailable as exc:
            self._writer.lost(exc)
        payloads = production.buffer.payloads
        ending = production.buffer.ending or Ending.INTERRUPTED
        production.is_dirty = False
        production.about = production.describe(ending)
        row = production.row
        if row is None:
            raise RuntimeError("a stream that has ended has a row")
        self._reports.add_stream(with_delivery(row, payloads, delivered=production.delivered, acked=production.acked))
        self.endings[ending] = self.endings.get(ending, 0) + 1

    async def _end_orphans(self) -> None:
        # Nobody could renew while the log was away, so right after that no lease says that its owner is dead.
        if not self._writer.is_down and self._clock() - self._writer.up_since >= 2 * LEASE_SECONDS:
            await self._orphans.end(is_ours=lambda stream: stream in self._productions)
