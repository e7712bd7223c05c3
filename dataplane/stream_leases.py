"""Keeps the leases of the streams that a process generates, and obeys what it hears with them: that somebody reads a
stream elsewhere, wants it cancelled, or has taken it over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from dataplane.errors.streams import OwnerLost, StreamCancelled
from dataplane.frames import Ending
from dataplane.productions import Production
from dataplane.stores.streams import Lease, Standing, StreamLog
from dataplane.stream_follower import StreamFollower
from dataplane.stream_writer import LEASE_SECONDS, StreamWriter

# So often a process keeps its leases, and says what it reads.
TICK_SECONDS: Final = 1.0
# A remote reader was there at least so lately: it says so with every tick of its process.
READ_LATELY_SECONDS: Final = 3 * TICK_SECONDS


class StreamLeases:
    """See the module. One per process."""

    def __init__(
        self,
        *,
        store: StreamLog,
        owner: str,
        productions: Mapping[str, Production],
        writer: StreamWriter,
        follower: StreamFollower,
        clock: Callable[[], float],
    ) -> None:
        """`productions` are the streams that this process, the `owner`, generates; `clock` is monotonic seconds."""
        self._store = store
        self._owner = owner
        self._productions = productions
        self._writer = writer
        self._follower = follower
        self._clock = clock

    async def renew(self) -> None:
        """Keep the leases, and hear what others want.

        Raises:
            StreamLogUnavailable: what is still held is kept next time.
        """
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
        body = production.last_words(OwnerLost(), code="upstream_interrupted")
        buffer.add([body], ending=Ending.INTERRUPTED)
        production.show()
