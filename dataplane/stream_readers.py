"""Gives callers the frames of streams, as they come, whoever generates them; and knows which streams are being read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from dataplane.errors.streams import StreamLogUnavailable
from dataplane.frames import Ending
from dataplane.journey import Reply
from dataplane.productions import Production, View
from dataplane.stores.streams import StreamLog
from dataplane.stream_follower import StreamFollower
from dataplane.stream_writer import LEASE_SECONDS
from dataplane.timers import TimerWheel

log = logging.getLogger("ballast.streams")

# Few frames at a time: they count as delivered once the connection has taken them.
MAX_SEND: Final = 512


class StreamReaders:
    """See the module. One per process."""

    def __init__(
        self,
        *,
        store: StreamLog,
        follower: StreamFollower,
        timers: TimerWheel,
        reader_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        """`clock` is monotonic seconds; `reader_seconds` is how long a caller may take to take what is sent."""
        self._store = store
        self._follower = follower
        self._timers = timers
        self._reader_seconds = reader_seconds
        self._clock = clock

    def enter(self, view: View) -> None:
        """Note that somebody reads `view` from now on, who has to `leave` it."""
        view.readers += 1
        if isinstance(view, Production):
            view.unread_since = None

    def leave(self, view: View) -> None:
        """Note that one reader of `view` is gone."""
        view.readers -= 1
        if isinstance(view, Production) and not view.readers:
            view.unread_since = self._clock()

    async def read_along(self, view: View, reply: Reply, *, after: int) -> Ending | None:
        """Give a caller who comes back the frames of a stream, whoever generates it; as `pump`."""
        self.enter(view)
        try:
            if not isinstance(view, Production) and not view.buffer.is_over:
                await self._follower.follow(view)
            return await self.pump(view, reply, after=after)
        finally:
            self.leave(view)

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
        self.enter(view)
        try:
            if not is_ours:
                await self._follower.follow(view)
            with self._timers.deadline(LEASE_SECONDS):
                while buffer.shown < through and not buffer.is_over and not view.is_lost:
                    await buffer.wait(self._timers.loop)
        except TimeoutError:
            pass
        finally:
            self.leave(view)
        if buffer.shown < through and not buffer.is_over:
            raise StreamLogUnavailable(f"it has {buffer.shown} frames of the stream yet, and you have {through}")
