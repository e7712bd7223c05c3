"""Requests that come with an idempotency key: executed once, whoever asks how often, at whichever process.

The first one is executed in a task of its own, so that a caller who leaves does not end it; the others attach to its
stream, wait for its answer, or get it again. What is decided is in `idempotency.py`, where it is kept in
`stores/idempotency.py`; here it is put to work.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson

from dataplane.envelope import Header, error_body, error_headers, face_of
from dataplane.errors import GatewayError
from dataplane.errors.admission import Draining
from dataplane.errors.idempotency import IdempotencyInProgress, IdempotencyUnavailable
from dataplane.errors.streams import OwnerLost, StreamCancelled, StreamLogUnavailable, StreamNotFound
from dataplane.errors.upstream import UpstreamInterrupted
from dataplane.frames import Ending, FrameBuffer
from dataplane.idempotency import Done, Outcome, Owned, Running, Scope, fingerprint_of
from dataplane.journey import Journey, Reply
from dataplane.key_leases import LEASE_SECONDS, KeyLeases, Watch
from dataplane.outcomes import CONTENT_TYPE, Capture, broke_off, shared
from dataplane.productions import View
from dataplane.relay import EVENT_STREAM, NO_CACHE
from dataplane.stores.idempotency import IdempotencyStore
from dataplane.streams import READER_SECONDS, Life, Streams
from dataplane.timers import TimerWheel

log = logging.getLogger("ballast.idempotency")

TURN_SECONDS: Final = 1.0
# So long a duplicate is kept waiting for an answer that comes in one piece; then it is told when to ask again.
WAIT_SECONDS: Final = 20.0
RETRY_AFTER_SECONDS: Final = 2.0
# A stream is noted just before others can read it, so whoever is told too early looks again: first after so long, then
# after twice that, and so on.
LOOK_AGAIN_SECONDS: Final = 0.1
MAX_LOOK_AGAIN_SECONDS: Final = 1.0
EXPIRE_SECONDS: Final = 60.0
# So long what is executed may go on when the process stops, and so long what became of it may take to be written:
# together with the streams' end, about what the supervisor waits.
STOP_SECONDS: Final = 2.0
# Bodies that may take long to write canonically (numbers do) do not hold up everybody else meanwhile.
THREAD_FROM_BYTES: Final = 16 * 1024
REPLAYED: Final[Header] = (b"idempotent-replayed", b"true")


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request that shows a key. `ttl_seconds` is how long the key is remembered; `execute` answers it, to the reply
    that it is given, whatever happens, and records it; `carries_stream` lets it be answered as a stream that outlives
    its connection, and is None where it is not one.
    """

    key: str
    path: str
    ttl_seconds: float
    is_repeatable: bool
    execute: Life
    carries_stream: Callable[[Watch], Awaitable[None]] | None


class KeyedWork:
    """All executions under keys of one gateway process."""

    def __init__(
        self,
        *,
        store: IdempotencyStore,
        streams: Streams | None,
        owner: str,
        timers: TimerWheel,
        clock: Callable[[], float],
        reader_seconds: float = READER_SECONDS,
        wait_seconds: float = WAIT_SECONDS,
        turn_seconds: float = TURN_SECONDS,
    ) -> None:
        """`owner` names this process and no other, not even its successor. `clock` is monotonic seconds;
        `reader_seconds` is how long a caller may take to take what is sent, `wait_seconds` how long a duplicate waits.
        """
        self.leases = KeyLeases(store, clock=clock)
        self._store = store
        self._streams = streams
        self._owner = owner
        self._timers = timers
        self._clock = clock
        self._reader_seconds = reader_seconds
        self._wait_seconds = wait_seconds
        self._turn_seconds = turn_seconds
        self._tasks: list[asyncio.Task[None]] = []
        self._executing: set[asyncio.Task[None]] = set()

    # A process' life.

    async def start(self) -> None:
        """Begin to hold leases, and to forget what has expired."""
        await self._store.start()
        loop = self._timers.loop
        # Each apart from the others: leases must not wait for outcomes that the store is slow to take.
        self._tasks = [
            loop.create_task(self._every(self._turn_seconds, self.leases.renew), name="key-leases"),
            loop.create_task(self._every(self._turn_seconds, self.catch_up), name="key-outcomes"),
            loop.create_task(self._every(EXPIRE_SECONDS, self.leases.expire), name="key-expiry"),
        ]

    async def stop(self) -> None:
        """Wait a moment for what is being executed, let go of the rest, and write what became of it."""
        if self._executing:
            await asyncio.wait(self._executing, timeout=STOP_SECONDS)
        self.interrupt()
        for task in self._tasks:
            task.cancel()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await asyncio.gather(*self._executing, *self._tasks, return_exceptions=True)
                with suppress(IdempotencyUnavailable):
                    await self.leases.catch_up()
                await self._store.close()
        except TimeoutError:
            log.warning("the store of keys does not let go in time")
        if self.leases.held:
            log.warning("how %d executions ended is not kept; their leases run out", self.leases.held)

    def interrupt(self) -> None:
        """End what is executed here and is no stream of its own, because this process stops."""
        for task in self._executing:
            task.cancel()

    async def catch_up(self) -> None:
        """Write what the store could not be told when it happened, and see to the streams that were adopted.

        Raises:
            IdempotencyUnavailable: the store cannot be asked now.
        """
        for watch in list(self.leases.adopting):
            view = await self._stream_of(watch.adopted, watch.tenant)
            if view is None:
                self.leases.let_go(watch)  # nobody can say how it goes on: whoever takes over looks again
            else:
                await watch.adopt(view)
        await self.leases.catch_up()

    async def _every(self, seconds: float, chore: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await chore()
            except IdempotencyUnavailable as exc:
                log.info("idempotency keys cannot be looked after: %s", exc.reason)
            except Exception:  # whatever it was, the next turn comes
                log.exception("looking after idempotency keys failed")

    # Serving.

    async def serve(self, journey: Journey, reply: Reply, request: KeyedRequest, *, seconds: float) -> None:
        """Answer a request with a key; `seconds` is what its deadline leaves.

        Raises:
            IdempotencyMismatch, IdempotencyIndeterminate, IdempotencyInProgress, IdempotencyOutcomeNotKept,
            IdempotencyUnavailable, InvalidRequest, OwnerLost: it is neither executed nor answered.
        """
        body = journey.inbound.body
        fields = orjson.loads(body)
        if len(body) < THREAD_FROM_BYTES:
            fingerprint = fingerprint_of(fields, path=request.path)
        else:
            fingerprint = await asyncio.to_thread(fingerprint_of, fields, path=request.path)
        tenant = "" if journey.tenant is None else journey.tenant.slug
        give_up_at = self._clock() + min(seconds, self._wait_seconds)
        while True:
            asked_at = self._clock()
            claim = await self._store.claim(
                Scope(tenant, journey.user),
                request.key,
                fingerprint,
                owner=self._owner,
                request_id=journey.inbound.request_id,
                lease_seconds=LEASE_SECONDS,
                ttl_seconds=request.ttl_seconds,
                is_repeatable=request.is_repeatable,
            )
            if isinstance(claim, Done):
                await self._replay(journey, reply, claim.outcome)
                return
            if isinstance(claim, Owned):
                watch = Watch(self.leases, claim, journey, is_repeatable=request.is_repeatable, asked_at=asked_at)
                await self._execute(journey, reply, request, watch)
                return
            journey.stage = "waiting for the first request with this key"
            view = await self._find_stream(claim, tenant, key=request.key, give_up_at=give_up_at)
            if view is not None:
                await self._attach(journey, reply, view)
                return

    async def _find_stream(self, running: Running, tenant: str, *, key: str, give_up_at: float) -> View | None:
        """Wait for the stream that the answer is. None: the record has changed, and is to be claimed again.

        Raises:
            IdempotencyInProgress: neither has come until `give_up_at`.
        """
        pause = LOOK_AGAIN_SECONDS
        while True:
            view = await self._stream_of(running.stream_id, tenant)
            if view is not None and view.buffer.shown and not broke_off(view):
                return view
            left = give_up_at - self._clock()
            # A stream that nobody can read, or wants, is about to begin, or its log is away, or its owner dead.
            seconds = min(left, pause) if running.stream_id else left
            if left > 0 and await self._store.wait(running, timeout_seconds=seconds):
                return None
            if self._clock() >= give_up_at:
                raise IdempotencyInProgress(key, retry_after_seconds=RETRY_AFTER_SECONDS)
            pause = min(2 * pause, MAX_LOOK_AGAIN_SECONDS)

    # Executing.

    async def _execute(self, journey: Journey, reply: Reply, request: KeyedRequest, watch: Watch) -> None:
        self.leases.hold(watch)
        try:
            view = await self._stream_before(watch)
            if watch.is_lost:
                raise OwnerLost  # meanwhile; no await from here to where it is begun
            if view is not None:
                await watch.adopt(view)
                await self._attach(journey, reply, view)
            elif request.carries_stream is not None:
                await request.carries_stream(watch)
            else:
                await self._execute_here(journey, reply, request, watch)
        finally:
            watch.forsake()

    async def _stream_before(self, watch: Watch) -> View | None:
        """The stream of an owner that is held to be dead: the answer, unless it broke off, and nothing is executed.

        Raises:
            OwnerLost: it is somebody else's to look after now.
        """
        if not watch.adopted:
            return None
        await watch.opened(watch.adopted)  # whoever may have to take over from us finds it too
        view = await self._stream_of(watch.adopted, watch.tenant)
        if view is not None and not broke_off(view):
            return view
        watch.adopted = ""
        return None

    async def _execute_here(self, journey: Journey, reply: Reply, request: KeyedRequest, watch: Watch) -> None:
        capture = Capture()
        watch.began(self._spawn(self._run(journey, capture, request, watch)))
        await capture.head_ready.wait()
        try:
            if capture.whole is not None:
                status, headers, body = capture.whole
                with self._timers.deadline(self._reader_seconds):
                    await reply.send_whole(status, list(headers), body)
            else:
                await reply.open_stream(list(capture.headers))
                await self._read(capture.buffer, reply)
        except TimeoutError:
            # What is executed goes on, and is recorded by itself; the connection is dropped.
            log.info("the caller of request %s takes nothing", journey.inbound.request_id)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> Callable[[], object]:
        """Do `work` in a task of its own; returns what ends it."""
        loop = self._timers.loop
        task = loop.create_task(work)
        self._executing.add(task)
        task.add_done_callback(self._executing.discard)
        # Not at once: a task that is cancelled before its first step takes none, and nobody would hear of its end.
        return lambda: loop.call_soon(task.cancel)

    async def _run(self, journey: Journey, capture: Capture, request: KeyedRequest, watch: Watch) -> None:
        error = GatewayError("the gateway failed; the request id finds the reason in its log")
        try:
            await request.execute(journey, capture)
        except asyncio.CancelledError:
            error = OwnerLost() if watch.is_lost else Draining()
            log.info("the execution of request %s was stopped", journey.inbound.request_id)
        except Exception:
            log.exception("the execution of request %s failed", journey.inbound.request_id)
        # A whole answer is kept before it is given, so that nobody has one that those who ask again do not get.
        try:
            await self._end(capture, error, journey)
            await watch.ended(capture)
            if watch.is_lost and capture.whole is not None:
                await self._refuse(capture, OwnerLost(), journey)
        finally:
            capture.head_ready.set()

    async def _end(self, capture: Capture, error: GatewayError, journey: Journey) -> None:
        """See to it that there is an answer, or that the stream has its terminal event."""
        if not capture.opened:
            await self._refuse(capture, error, journey)
        elif capture.whole is None and capture.buffer.ending is None:
            body = error_body(error, request_id=journey.inbound.request_id, code="upstream_interrupted")
            await capture.send_events([body], ending=Ending.INTERRUPTED)

    async def _refuse(self, capture: Capture, error: GatewayError, journey: Journey) -> None:
        request_id = journey.inbound.request_id
        headers = [*error_headers(error), (b"ballast-request-id", request_id.encode())]
        await capture.send_whole(face_of(error).status, headers, error_body(error, request_id=request_id))

    async def _read(self, buffer: FrameBuffer, reply: Reply) -> None:
        after = 0
        while True:
            shown = buffer.shown
            if shown > after or buffer.is_over:
                ending = buffer.ending if buffer.is_over else None
                with self._timers.deadline(self._reader_seconds):
                    await reply.send_events(buffer.payloads[after:shown], ending=ending)
                after = shown
                if ending is not None:
                    return
            else:
                await buffer.wait(self._timers.loop)

    # Giving again.

    async def _replay(self, journey: Journey, reply: Reply, outcome: Outcome) -> None:
        count_apart(journey)
        journey.outcome = "ok"
        journey.stage = "responding"
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in outcome.headers]
        headers += [REPLAYED, (b"ballast-request-id", journey.inbound.request_id.encode())]
        media = (CONTENT_TYPE, outcome.media.encode("latin-1"))
        try:
            with self._timers.deadline(self._reader_seconds):
                if media[1] != EVENT_STREAM[1]:
                    await reply.send_whole(outcome.status, [media, *headers], outcome.body)
                    return
                await reply.open_stream([media, NO_CACHE, *headers])
                await reply.send_events(outcome.body.split(b"\n"), ending=Ending.COMPLETED)
        except TimeoutError:
            journey.outcome = "cancelled"
            log.info("the caller of request %s takes nothing", journey.inbound.request_id)

    async def _attach(self, journey: Journey, reply: Reply, view: View) -> None:
        """Read along in the stream of the first request."""
        streams = self._streams
        if streams is None:
            raise IdempotencyUnavailable("this gateway keeps no streams")
        count_apart(journey)
        journey.stage = "streaming"
        named = [*streams.headers(view), REPLAYED, (b"ballast-request-id", journey.inbound.request_id.encode())]
        await reply.open_stream([EVENT_STREAM, NO_CACHE, *shared(view.head), *named])
        match await streams.read_along(view, reply, after=0):
            case Ending.COMPLETED:
                journey.outcome = "ok"
            case Ending.CANCELLED:
                journey.fail(StreamCancelled("it was the first request's"))
            case None:
                journey.outcome = "cancelled"
            case _:
                journey.fail(UpstreamInterrupted("the stream of the first request broke off"))

    async def _stream_of(self, stream: str, tenant: str) -> View | None:
        if not stream or self._streams is None:
            return None
        try:
            return await self._streams.find(stream, tenant=tenant)
        except (StreamNotFound, StreamLogUnavailable):
            return None


def count_apart(journey: Journey) -> None:
    """Let a request that is answered once more count for no prompt version: they are compared by what was executed."""
    journey.prompt_version, journey.canary, journey.cohort, journey.part = None, "", "none", None
