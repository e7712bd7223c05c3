"""A log of streams in memory, which a test can take away, hold up and rob of its answers. `tests/contracts` holds it to
what the real one promises.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from dataplane.errors.streams import StreamLogUnavailable
from dataplane.stores.streams import CLAIM_SECONDS, Appended, Checkpoint, Followed, Lease, Standing, StoredStream

OWED_SECONDS = 30.0


@dataclass
class Shelf:
    """What all processes of a test share. `clock` is in seconds."""

    clock: object
    streams: dict[str, Kept] = field(default_factory=dict)
    live: dict[str, float] = field(default_factory=dict)
    owed: dict[str, float] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def change(self):
        """Wake everybody who follows."""
        self.changed.set()
        self.changed = asyncio.Event()

    def known(self, stream):
        """The stream, unless it is there no more."""
        kept = self.streams.get(stream)
        if kept is not None and kept.expires_at <= self.clock():
            del self.streams[stream]
            kept = None
        return kept


@dataclass
class Kept:
    """One stream."""

    owner: str
    epoch: int
    frames: list[bytes] = field(default_factory=list)
    about: bytes = b""
    ending: object = None
    delivered: int = 0
    acked: int = 0
    read_at: float | None = None
    cancel: bool = False
    by: str = ""
    by_at: float = 0.0
    expires_at: float = float("inf")

    @property
    def checkpoint(self):
        return Checkpoint(self.delivered, self.acked, len(self.frames), self.ending)


class MemoryStreamLog:
    """One process' way to the shelf. `away` refuses everything, `deaf` does what is asked and loses the answer; from
    `hold` to `let_go` everybody who asks waits. `asked` is what was asked, in order.
    """

    def __init__(self, shelf):
        self.shelf = shelf
        self.away = False
        self.deaf = False
        self.held: asyncio.Event | None = None
        self.asked = []
        self._interrupted = asyncio.Event()

    def hold(self):
        """Keep everybody who asks from now on waiting."""
        self.held = asyncio.Event()

    def let_go(self):
        """Let them all through."""
        held, self.held = self.held, None
        if held is not None:
            held.set()

    async def _reach(self, what):
        self.asked.append(what)
        if self.held is not None:
            await self.held.wait()
        if self.away:
            raise StreamLogUnavailable("it is away")

    def _answer(self, answer):
        if self.deaf:
            raise StreamLogUnavailable("no answer")
        return answer

    async def append(self, appends, *, owner, lease_seconds):
        await self._reach("append")
        answers = [self._append(one, owner, lease_seconds) for one in appends]
        self.shelf.change()
        return self._answer(answers)

    def _append(self, one, owner, lease_seconds):
        shelf, now = self.shelf, self.shelf.clock()
        kept = shelf.known(one.stream)
        if kept is None:
            if not one.about:
                return Appended(Standing.GONE, 0)
            if one.first != 1:
                return Appended(Standing.GAP, 0)
            kept = shelf.streams[one.stream] = Kept(owner, one.epoch)
        elif (kept.owner, kept.epoch) != (owner, one.epoch):
            return Appended(Standing.FENCED, len(kept.frames))
        last = len(kept.frames)
        if one.first > last + 1:
            return Appended(Standing.GAP, last)
        if kept.ending is not None:
            is_there = one.first + len(one.payloads) - 1 <= last
            return Appended(Standing.OK if is_there else Standing.FENCED, last)
        kept.frames += one.payloads[last - one.first + 1 :]
        kept.ending = one.ending
        kept.about = one.about or kept.about
        kept.expires_at = now + one.keep_seconds
        if one.ending is None:
            shelf.live[one.stream] = now + lease_seconds
        else:
            shelf.live.pop(one.stream, None)
            shelf.owed[one.stream] = now + OWED_SECONDS
        return Appended(Standing.OK, len(kept.frames))

    async def renew(self, streams, *, owner, lease_seconds):
        await self._reach("renew")
        now, leases = self.shelf.clock(), {}
        for stream, epoch in streams.items():
            kept = self.shelf.known(stream)
            if kept is None:
                leases[stream] = Lease(Standing.GONE, False, None)
            elif (kept.owner, kept.epoch) != (owner, epoch) or kept.ending is not None:
                leases[stream] = Lease(Standing.FENCED, False, None)
            else:
                self.shelf.live[stream] = now + lease_seconds
                read_seconds = None if kept.read_at is None else now - kept.read_at
                leases[stream] = Lease(Standing.OK, kept.cancel, read_seconds)
        return self._answer(leases)

    async def claim_orphans(self, *, owner, lease_seconds, limit):
        await self._reach("claim_orphans")
        now, claimed = self.shelf.clock(), {}
        due = sorted((at, stream) for stream, at in self.shelf.live.items() if at <= now)
        for _, stream in due[:limit]:
            kept = self.shelf.known(stream)
            if kept is None or kept.ending is not None:
                del self.shelf.live[stream]
                continue
            kept.epoch += 1
            kept.owner = owner
            self.shelf.live[stream] = now + lease_seconds
            claimed[stream] = kept.epoch
        return self._answer(claimed)

    async def read(self, stream, *, after):
        await self._reach("read")
        kept = self.shelf.known(stream)
        if kept is None:
            return self._answer(None)
        return self._answer(StoredStream(kept.about, kept.checkpoint, tuple(kept.frames[after:])))

    async def follow(self, places, *, wait_seconds):
        await self._reach("follow")
        self._interrupted.clear()
        try:
            async with asyncio.timeout(wait_seconds):
                while not (found := self._found(places)) and not self._interrupted.is_set():
                    waits = [asyncio.ensure_future(one.wait()) for one in (self.shelf.changed, self._interrupted)]
                    try:
                        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        for wait in waits:
                            wait.cancel()
        except TimeoutError:
            found = {}
        if self.away:
            raise StreamLogUnavailable("it is away")
        return found

    def _found(self, places):
        found = {}
        for stream, after in places.items():
            kept = self.shelf.known(stream)
            if kept is not None and len(kept.frames) > after:
                found[stream] = Followed(tuple(kept.frames[after:]), kept.ending)
        return found

    async def interrupt(self):
        await self._reach("interrupt")
        self._interrupted.set()

    async def touch(self, stream, *, delivered, acked, reading):
        await self._reach("touch")
        kept = self.shelf.known(stream)
        if kept is None:
            return self._answer(None)
        last = len(kept.frames)
        kept.acked = max(kept.acked, min(acked, last))
        kept.delivered = max(kept.delivered, min(delivered, last), kept.acked)
        if reading:
            kept.read_at = self.shelf.clock()
        return self._answer(kept.checkpoint)

    async def cancel(self, stream):
        await self._reach("cancel")
        kept = self.shelf.known(stream)
        if kept is None or kept.ending is not None:
            return self._answer(False)
        kept.cancel = True
        return self._answer(True)

    async def claim_continuation(self, stream, by):
        await self._reach("claim_continuation")
        kept, now = self.shelf.known(stream), self.shelf.clock()
        if kept is None:
            return self._answer(by)
        if kept.by and (self.shelf.known(kept.by) is not None or now - kept.by_at < CLAIM_SECONDS):
            return self._answer(kept.by)
        kept.by, kept.by_at = by, now
        return self._answer(by)

    async def release_continuation(self, stream, by):
        await self._reach("release_continuation")
        kept = self.shelf.known(stream)
        if kept is not None and kept.by == by:
            kept.by = ""
        self._answer(None)

    async def settle(self, streams):
        await self._reach("settle")
        for stream in streams:
            self.shelf.owed.pop(stream, None)
        self._answer(None)

    async def claim_owed(self, *, grace_seconds, limit):
        await self._reach("claim_owed")
        now = self.shelf.clock()
        due = sorted((at, stream) for stream, at in self.shelf.owed.items() if at <= now)[:limit]
        for _, stream in due:
            self.shelf.owed[stream] = now + grace_seconds
        return self._answer([stream for _, stream in due])

    async def ping(self):
        await self._reach("ping")
        self._answer(None)

    async def close(self):
        pass
