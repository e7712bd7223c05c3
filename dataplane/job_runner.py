"""Runs jobs: takes one that is due, asks a gateway, writes what became of it; and sees to what others left lying.

Waiting for quota happens at the gateway, in the class batch. What may break anywhere in between is told apart by the
store alone: a runner that dies leaves a lease that runs out, and its successor asks with the same idempotency key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Final
from uuid import UUID

import httpx

from dataplane.cursors import CursorKeys
from dataplane.errors.jobs import JobsUnavailable
from dataplane.job_tokens import LIFE_SECONDS, JobToken, sign_token
from dataplane.jobs import BROKEN_OFF, UNREACHED, Answer, Event, LeaseLost, Taken, Verdict, judge, name_of
from dataplane.quota import BATCH
from dataplane.routing import MAX_DEADLINE_MS
from dataplane.stores.jobs import JobStore
from dataplane.tracing import Fact, Tracing

log = logging.getLogger("ballast.jobs")

LEASE_SECONDS: Final = 30.0
RENEW_SECONDS: Final = 3.0
SEND_SECONDS: Final = 0.5
SWEEP_SECONDS: Final = 2.0
# Word that nobody has come for after so long counts as lost, and is sent again; word that comes later is void.
LOST_SECONDS: Final = 60.0
# A runner that has had no word for so long looks for itself, and as often.
DEAF_SECONDS: Final = 5.0
WRITE_AGAIN_SECONDS: Final = 1.0
# Beyond the deadline that the gateway keeps itself; a gateway that says nothing for longer is not there.
MARGIN_SECONDS: Final = 15.0


class _Hold:
    """A job that is being tried here."""

    __slots__ = ("_asking", "ends_with", "is_lost")

    def __init__(self, asking: asyncio.Task[Answer]) -> None:
        self._asking = asking
        self.ends_with: Verdict | None = None
        self.is_lost = False

    async def answer(self) -> Answer:
        """Wait for the gateway's answer. Raises CancelledError: it was stopped."""
        return await self._asking

    def end_with(self, verdict: Verdict) -> None:
        """Stop asking, and let this be what becomes of the attempt; too late once there is an answer."""
        if self._asking.cancel():
            self.ends_with = self.ends_with or verdict

    def lose(self) -> None:
        """Stop: it is somebody else's."""
        self.is_lost = True
        self._asking.cancel()


class JobRunner:
    """See the module. One per process, on one event loop."""

    def __init__(
        self,
        *,
        store: JobStore,
        client: httpx.AsyncClient,
        keys: CursorKeys,
        send: Callable[[Sequence[UUID]], Awaitable[None]],
        owner: str,
        concurrency: int,
        keep_seconds: float,
        clock: Callable[[], float],
        wall: Callable[[], float],
        rng: Random,
        tracing: Tracing | None = None,
    ) -> None:
        """`client` has the gateway's address; `send` sends word of jobs, whatever it raises counts as not sent; `owner`
        names this process and no other, not even its successor; `clock` is monotonic seconds, `wall` epoch seconds.
        `tracing` None: this process traces nothing, and hands on what it was handed.
        """
        self._store = store
        self._client = client
        self._keys = keys
        self._send = send
        self._owner = owner
        self._concurrency = concurrency
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._wall = wall
        self._rng = rng
        self._tracing = tracing
        self._holds: dict[Taken, _Hold] = {}
        self._pulled: set[asyncio.Task[None]] = set()
        self._heard_at = clock()
        self._chores: list[asyncio.Task[None]] = []
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._is_due = asyncio.Event()
        self._stopping = False

    # A process' life.

    async def start(self) -> None:
        """Begin to hold leases, to send word of what is due, and to sweep."""
        await self._store.start()
        self._chores = [
            asyncio.create_task(self._every(RENEW_SECONDS, self.renew), name="job-leases"),
            asyncio.create_task(self._every(SEND_SECONDS, self.send_due, hurry=self._is_due), name="job-sending"),
            asyncio.create_task(self._every(SWEEP_SECONDS, self.sweep), name="job-sweep"),
            asyncio.create_task(self._every(DEAF_SECONDS, self.pull), name="job-pull"),
        ]

    async def stop(self) -> None:
        """Put back what is being tried, so that another runner goes on at once, and let go of the store. What the
        gateway has under way goes on there, and is found again under the job's key.
        """
        self._stopping = True
        for taken, hold in self._holds.items():
            hold.end_with(Verdict(Event.PUT_BACK, failures=taken.failures))
        await self._is_idle.wait()
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self._store.close()

    async def _every(
        self, seconds: float, chore: Callable[[], Awaitable[object]], *, hurry: asyncio.Event | None = None
    ) -> None:
        event = hurry or asyncio.Event()
        while True:
            try:
                async with asyncio.timeout(seconds):
                    await event.wait()
            except TimeoutError:
                pass
            event.clear()
            try:
                await chore()
            except JobsUnavailable as exc:
                log.info("jobs cannot be looked after: %s", exc.reason)
            except Exception:  # whatever it was, the next turn comes
                log.exception("looking after jobs failed")

    # Running.

    async def run_next(self, *, sent: UUID | None = None) -> bool:
        """Try the first job that is due, to the end of this attempt. `sent` is the job that word came of. False: there
        is none, or it cannot be known; then word is sent again.
        """
        if sent is not None:
            self._heard_at = self._clock()
        taken = await self._take(sent)
        if taken is None:
            return False
        await self._run(taken)
        return True

    async def pull(self) -> None:
        """Look for jobs that are due when no word has come for a while: a broker that is away, or a consumer that is
        deaf to it, costs seconds and not the night. Returns once they are begun.
        """
        if self._clock() - self._heard_at < DEAF_SECONDS:
            return
        while len(self._holds) < self._concurrency:
            taken = await self._take(None)
            if taken is None:
                return
            running = asyncio.create_task(self._run(taken))
            self._pulled.add(running)
            running.add_done_callback(self._pulled.discard)
            await asyncio.sleep(0)  # it is among those that are held from here on

    async def _take(self, sent: UUID | None) -> Taken | None:
        if self._stopping:
            return None
        try:
            return await self._store.take(owner=self._owner, lease_seconds=LEASE_SECONDS, sent=sent)
        except JobsUnavailable as exc:
            log.warning("no job can be taken: %s", exc.reason)
            return None

    async def _run(self, taken: Taken) -> None:
        expires_at = self._clock() + taken.expires_in_seconds
        hold = self._holds[taken] = _Hold(asyncio.create_task(self._ask(taken), name=f"job-{taken.id}"))
        self._is_idle.clear()
        try:
            if self._stopping:
                hold.end_with(Verdict(Event.PUT_BACK, failures=taken.failures))
            await self._see_through(taken, hold, expires_at=expires_at)
        finally:
            hold.lose()
            del self._holds[taken]
            if not self._holds:
                self._is_idle.set()
            self._is_due.set()  # there is room for the next

    async def _see_through(self, taken: Taken, hold: _Hold, *, expires_at: float) -> None:
        answer = UNREACHED
        try:
            answer = await hold.answer()
        except asyncio.CancelledError:
            if hold.is_lost:
                log.warning("job %s is lost to another runner", taken.id)
                return
            if hold.ends_with is None:
                raise
        verdict = hold.ends_with or judge(
            answer,
            attempts=taken.attempts,
            failures=taken.failures,
            left_seconds=expires_at - self._clock(),
            rng=self._rng,
        )
        while True:
            try:
                await self._store.end(taken, verdict, answer)
                return
            except LeaseLost as exc:
                log.warning("%s", exc)
                return
            except JobsUnavailable as exc:
                # Nobody else can take it meanwhile; and if this process ends first, the job's key knows the answer.
                log.warning("what became of job %s cannot be written yet: %s", taken.id, exc.reason)
                if self._stopping:
                    return
            await asyncio.sleep(WRITE_AGAIN_SECONDS)

    async def _ask(self, taken: Taken) -> Answer:
        """Ask the gateway once; UNREACHED when it does not answer, BROKEN_OFF when it is gone with the request."""
        deadline_ms = min(max(taken.expires_in_seconds * 1000.0, 1.0), float(MAX_DEADLINE_MS))
        token = JobToken(taken.id, taken.tenant, taken.key_id, int(self._wall()) + LIFE_SECONDS)
        headers = {
            "authorization": f"Bearer {sign_token(self._keys, token)}",
            "content-type": "application/json",
            "ballast-class": BATCH,
            "ballast-deadline-ms": f"{deadline_ms:.0f}",
            "idempotency-key": taken.key,
        }
        if taken.user:
            headers["ballast-user"] = taken.user
        timeout = httpx.Timeout(10.0, read=deadline_ms / 1000 + MARGIN_SECONDS)
        try:
            with self._traced(taken) as traceparent:
                if traceparent:
                    headers["traceparent"] = traceparent
                encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
                response = await self._client.post(taken.endpoint, content=taken.body, headers=encoded, timeout=timeout)
        except httpx.HTTPError as exc:
            log.warning("the gateway does not answer for job %s: %s: %s", taken.id, type(exc).__name__, exc)
            return BROKEN_OFF if _has_broken_off(exc) else UNREACHED
        if response.headers.get("content-type", "").partition(";")[0] != "application/json":
            return Answer(response.status_code, {}, b"")  # a proxy's page, say
        return Answer(response.status_code, dict(response.headers), response.content)

    @contextmanager
    def _traced(self, taken: Taken) -> Iterator[str]:
        """An attempt at a job as part of the trace that handed it in. Gives what the gateway is told to go on with;
        empty where that is not traced.
        """
        if self._tracing is None or not taken.traceparent:
            yield taken.traceparent
            return
        facts: dict[str, Fact] = {
            "ballast.job": name_of(taken.id),
            "ballast.job.attempt": taken.attempts,
            "ballast.tenant": taken.tenant,
        }
        with self._tracing.span("run job", parent=taken.traceparent, facts=facts, is_entry=True):
            yield self._tracing.current or taken.traceparent

    # Chores.

    async def renew(self) -> None:
        """Hold on to what is tried here, and stop what is not held any more, or is to be cancelled.

        Raises:
            JobsUnavailable: as of the store, in each of these.
        """
        asked = list(self._holds)
        if not asked:
            return
        held = await self._store.renew(asked, owner=self._owner, lease_seconds=LEASE_SECONDS)
        for taken in asked:
            hold = self._holds.get(taken)
            if hold is None:
                continue  # it ended meanwhile
            if taken not in held:
                hold.lose()
            elif held[taken]:
                hold.end_with(Verdict(Event.CANCELLED, failures=taken.failures))

    async def send_due(self) -> None:
        """Send word of what is due, as far as runners have room for it."""
        if self._stopping:
            return
        jobs = await self._store.to_send(concurrency=self._concurrency, lost_seconds=LOST_SECONDS)
        if not jobs:
            return
        try:
            await self._send(jobs)
        except Exception as exc:  # noqa: BLE001 - brokers and their clients raise what they like
            log.warning("word of %d jobs cannot be sent: %s: %s", len(jobs), type(exc).__name__, exc)
            await self._store.unsend(jobs)

    async def resend(self) -> None:
        """Send word of all that is due again: the broker was away, and may have lost some."""
        try:
            await self._store.resend()
        except JobsUnavailable as exc:
            log.info("word is not sent again before it counts as lost: %s", exc.reason)
        self._is_due.set()

    async def sweep(self) -> None:
        """Put back what dead runners had, end what has expired, forget what is old. Every runner does: each row is
        taken by one of them.
        """
        if await self._store.sweep(keep_seconds=self._keep_seconds):
            self._is_due.set()


def _has_broken_off(error: httpx.HTTPError) -> bool:
    """Whether a connection ended that the request had been sent on. A gateway that is only slow keeps it open, one that
    is told to stop answers first; so its process is gone, or what stands in between has cut it off.
    """
    if isinstance(error, httpx.ConnectError):
        return False
    return isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
