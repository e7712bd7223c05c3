"""What every log of streams promises the processes that share it, tried on the real one and on the tests' own."""

from __future__ import annotations

import asyncio
import os
import re
import time
import uuid

import pytest
import redis.asyncio

from dataplane.errors.streams import StreamLogUnavailable
from dataplane.frames import Ending
from dataplane.stores.streams import LIVE, OWED, PAGE, PREFIX, Append, Checkpoint, RedisStreamLog, Standing
from tests.contracts.conftest import LEASE_SECONDS
from tests.dataplane.stream_logs import MemoryStreamLog, Shelf

KEPT_SECONDS = LEASE_SECONDS
OK, GONE, GAP, FENCED = Standing.OK, Standing.GONE, Standing.GAP, Standing.FENCED


class InRedis:
    """A database of this worker's own in the run's Redis: orphans are looked for in all of it."""

    def __init__(self):
        number = 1 + int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "0"))) % 15
        url = re.sub(r"/\d+$", "", os.environ["REDIS_URL"].rstrip("/")) + f"/{number}"
        self.client = redis.asyncio.Redis.from_url(url)
        self.log = RedisStreamLog(url, timeout_seconds=60)

    async def empty(self):
        await self.client.flushdb()

    async def expire_lease(self, stream):
        await self.client.zadd(LIVE, {stream: 1})

    async def let_be_owed(self, stream):
        await self.client.zadd(OWED, {stream: 1})

    async def lose_half(self, stream):
        """Let the memory run out, and one of a stream's two keys go."""
        await self.client.delete(PREFIX + stream)

    async def kept_seconds(self, stream):
        left = {await self.client.pttl(key) for key in (PREFIX + stream, f"{PREFIX}{stream}:frames")}
        return [one / 1000 for one in left]

    async def close(self):
        await self.client.flushdb()
        await self.client.aclose()
        await self.log.close()


class InMemory:
    """A shelf of this test's own."""

    def __init__(self):
        self.shelf = Shelf(time.monotonic)
        self.log = MemoryStreamLog(self.shelf)

    async def empty(self):
        pass

    async def expire_lease(self, stream):
        self.shelf.live[stream] = 0

    async def let_be_owed(self, stream):
        self.shelf.owed[stream] = 0

    async def lose_half(self, stream):
        del self.shelf.streams[stream]

    async def kept_seconds(self, stream):
        return [self.shelf.streams[stream].expires_at - self.shelf.clock()]

    async def close(self):
        pass


@pytest.fixture(params=[InRedis, InMemory], ids=["redis", "memory"])
async def database(request):
    """Where the log is, with what a test does behind its back."""
    database = request.param()
    await database.empty()
    yield database
    await database.close()


@pytest.fixture
def log(database):
    """A log in it."""
    return database.log


@pytest.fixture
def stream():
    """The id of a stream."""
    return uuid.uuid4().hex


async def append(log, stream, first, *payloads, owner="a", epoch=1, about=b"", ending=None):
    one = Append(stream, epoch, first, payloads, KEPT_SECONDS, about, ending)
    [answer] = await log.append([one], owner=owner, lease_seconds=LEASE_SECONDS)
    return answer.standing, answer.last


async def begin(log, stream, *payloads, owner="a"):
    return await append(log, stream, 1, *payloads, about=b"{}", owner=owner)


async def test_frames_are_read_from_any_number_on(log, stream):
    """What was written in several goes comes back whole, with what is kept beside it."""
    await begin(log, stream, b"one", b"two")
    await append(log, stream, 3, b"three", b"[DONE]", ending=Ending.COMPLETED, about=b'{"a": 1}')

    stored = await log.read(stream, after=0)

    assert stored.payloads == (b"one", b"two", b"three", b"[DONE]")
    assert (stored.about, stored.checkpoint) == (b'{"a": 1}', Checkpoint(0, 0, 4, Ending.COMPLETED))
    assert (await log.read(stream, after=2)).payloads == (b"three", b"[DONE]")
    assert (await log.read(stream, after=9)).payloads == ()
    assert await log.read("0" * 32, after=0) is None


async def test_a_long_stream_comes_whole(log, stream):
    """However many answers it takes, and from any number on."""
    frames = [b"%d" % number for number in range(2 * PAGE + 3)]
    await begin(log, stream, *frames)

    assert (await log.read(stream, after=0)).payloads == tuple(frames)
    assert (await log.read(stream, after=PAGE)).payloads == tuple(frames[PAGE:])
    places = {stream: 0}
    while places[stream] < len(frames):
        found = await log.follow(places, wait_seconds=30)
        assert found[stream].payloads[0] == frames[places[stream]]
        places[stream] += len(found[stream].payloads)


async def test_a_stream_of_which_half_is_lost_is_written_anew(log, stream, database):
    """A store that is short of memory forgets what it likes; what is left of a stream does not stand in its way."""
    await begin(log, stream, b"one", b"two")
    await database.lose_half(stream)
    assert await log.read(stream, after=0) is None
    assert await append(log, stream, 3, b"three") == (GONE, 0)

    assert await begin(log, stream, b"one", b"two", b"three") == (OK, 3)

    assert (await log.read(stream, after=0)).payloads == (b"one", b"two", b"three")


async def test_an_ended_stream_is_taken_up_by_one_other(log, stream):
    """Whoever claims first; unless it gives up, or is not there in time."""
    first, second = uuid.uuid4().hex, uuid.uuid4().hex
    await begin(log, stream, b"one")
    await append(log, stream, 2, b"over", ending=Ending.INTERRUPTED)

    assert await log.claim_continuation(stream, first) == first
    assert await log.claim_continuation(stream, second) == first
    await log.release_continuation(stream, second)
    assert await log.claim_continuation(stream, second) == first
    await log.release_continuation(stream, first)
    assert await log.claim_continuation(stream, second) == second
    assert await log.claim_continuation("0" * 32, first) == first
    assert await log.read("0" * 32, after=0) is None


async def test_no_number_is_missing_or_twice_whatever_is_repeated(log, stream):
    """An append whose answer was lost may be made again, a gap is refused, and an unknown stream begins at 1."""
    assert await append(log, stream, 1, b"one") == (GONE, 0)
    assert await append(log, stream, 2, b"two", about=b"{}") == (GAP, 0)
    assert await begin(log, stream, b"one", b"two") == (OK, 2)
    assert await begin(log, stream, b"one", b"two") == (OK, 2)
    assert await append(log, stream, 2, b"two", b"three") == (OK, 3)
    assert await append(log, stream, 5, b"five") == (GAP, 3)

    assert (await log.read(stream, after=0)).payloads == (b"one", b"two", b"three")


async def test_nothing_follows_the_terminal_event(log, stream):
    """Once it is over it stays as it is; telling the end again is no mistake."""
    await begin(log, stream, b"one")
    assert await append(log, stream, 2, b"[DONE]", ending=Ending.COMPLETED) == (OK, 2)

    assert await append(log, stream, 2, b"[DONE]", ending=Ending.COMPLETED) == (OK, 2)
    assert await append(log, stream, 3, b"more") == (FENCED, 2)
    assert await append(log, stream, 2, b"[DONE]", b"more") == (FENCED, 2)


async def test_an_owner_that_was_replaced_cannot_write(log, stream, database):
    """Whoever takes over an orphan owns it under a new epoch; the owner before, back again, is told so."""
    await begin(log, stream, b"one")
    assert await log.claim_orphans(owner="b", lease_seconds=LEASE_SECONDS, limit=10) == {}
    await database.expire_lease(stream)

    assert await log.claim_orphans(owner="b", lease_seconds=LEASE_SECONDS, limit=10) == {stream: 2}

    assert await log.claim_orphans(owner="c", lease_seconds=LEASE_SECONDS, limit=10) == {}
    assert await append(log, stream, 2, b"two") == (FENCED, 1)
    assert (await log.renew({stream: 1}, owner="a", lease_seconds=LEASE_SECONDS))[stream].standing is FENCED
    assert await append(log, stream, 2, b"over", owner="b", epoch=2, ending=Ending.INTERRUPTED) == (OK, 2)
    assert (await log.read(stream, after=1)).payloads == (b"over",)


async def test_leases_of_many_streams_are_renewed_in_one_go(log, database):
    """Each says for itself how it stands, and a renewed one is no orphan."""
    held, ended, unknown = (uuid.uuid4().hex for _ in range(3))
    await begin(log, held, b"one")
    await begin(log, ended, b"one")
    await append(log, ended, 2, b"[DONE]", ending=Ending.COMPLETED)
    await database.expire_lease(held)

    leases = await log.renew({held: 1, ended: 1, unknown: 1}, owner="a", lease_seconds=LEASE_SECONDS)

    assert [leases[one].standing for one in (held, ended, unknown)] == [OK, FENCED, GONE]
    assert await log.claim_orphans(owner="b", lease_seconds=LEASE_SECONDS, limit=10) == {}


async def test_the_owner_hears_of_readers_elsewhere_and_of_a_cancellation(log, stream):
    """What others do with a stream comes back with its lease."""
    await begin(log, stream, b"one", b"two")
    before = (await log.renew({stream: 1}, owner="a", lease_seconds=LEASE_SECONDS))[stream]
    await log.touch(stream, delivered=1, acked=0, reading=True)
    assert await log.cancel(stream)

    after = (await log.renew({stream: 1}, owner="a", lease_seconds=LEASE_SECONDS))[stream]

    assert (before.cancel, before.read_seconds) == (False, None)
    assert after.cancel
    assert 0 <= after.read_seconds < 30
    assert not await log.cancel("0" * 32)


async def test_checkpoints_only_move_forward_and_never_past_the_end(log, stream):
    """Delivered and acknowledged grow, bounded by what there is; what is acknowledged was delivered."""
    await begin(log, stream, b"one", b"two", b"three")

    assert await log.touch(stream, delivered=2, acked=1, reading=False) == Checkpoint(2, 1, 3, None)
    assert await log.touch(stream, delivered=1, acked=0, reading=False) == Checkpoint(2, 1, 3, None)
    assert await log.touch(stream, delivered=0, acked=99, reading=False) == Checkpoint(3, 3, 3, None)
    assert await log.touch("0" * 32, delivered=1, acked=1, reading=False) is None


async def test_a_follower_gets_what_comes_after_its_place(log, stream):
    """It waits for frames of any of its streams, and sees the end with the last of them."""
    other = uuid.uuid4().hex
    await begin(log, stream, b"one", b"two")
    await begin(log, other, b"one")
    waiting = asyncio.create_task(log.follow({stream: 2, other: 1}, wait_seconds=30))
    await append(log, stream, 3, b"three", b"[DONE]", ending=Ending.COMPLETED)

    found = await waiting

    assert found.keys() == {stream}
    assert (found[stream].payloads, found[stream].ending) == ((b"three", b"[DONE]"), Ending.COMPLETED)
    assert (await log.follow({other: 0}, wait_seconds=30))[other].payloads == (b"one",)


async def test_a_follower_can_be_interrupted(log, stream):
    """So that a new stream is followed at once and not when the wait is over."""
    await begin(log, stream, b"one")
    await log.follow({stream: 0}, wait_seconds=30)
    waiting = asyncio.create_task(log.follow({stream: 1}, wait_seconds=30))

    async def insist():
        while not waiting.done():
            await log.interrupt()
            await asyncio.sleep(0)

    await asyncio.wait_for(insist(), 60)

    assert await waiting == {}


async def test_a_row_is_owed_until_somebody_says_that_it_is_out(log, stream, database):
    """When a stream has ended and its owner died before telling the ledger, another process is asked to, in turn."""
    await begin(log, stream, b"one")
    await append(log, stream, 2, b"[DONE]", ending=Ending.COMPLETED)
    assert await log.claim_owed(grace_seconds=LEASE_SECONDS, limit=10) == []
    await database.let_be_owed(stream)

    assert await log.claim_owed(grace_seconds=LEASE_SECONDS, limit=10) == [stream]
    assert await log.claim_owed(grace_seconds=LEASE_SECONDS, limit=10) == []
    await database.let_be_owed(stream)
    await log.settle([stream])
    assert await log.claim_owed(grace_seconds=LEASE_SECONDS, limit=10) == []


async def test_a_stream_is_kept_for_as_long_as_it_says(log, stream, database):
    """Frames and what is beside them go together."""
    await begin(log, stream, b"one")

    assert all(0.9 * KEPT_SECONDS < seconds <= KEPT_SECONDS for seconds in await database.kept_seconds(stream))


async def test_many_streams_are_written_in_one_round_trip(log):
    """Each fares for itself."""
    streams = [uuid.uuid4().hex for _ in range(3)]
    await begin(log, streams[2], b"one", owner="somebody")

    answers = await log.append(
        [Append(one, 1, 1, [b"one"], KEPT_SECONDS, b"{}") for one in streams], owner="a", lease_seconds=LEASE_SECONDS
    )

    assert [answer.standing for answer in answers] == [OK, OK, FENCED]


async def test_a_log_that_is_away_says_so():
    """Every question gets the same error, at once."""
    log = RedisStreamLog("redis://127.0.0.1:1/0")

    for asking in (
        log.read("0" * 32, after=0),
        log.append([Append("0" * 32, 1, 1, [b"one"], 1.0, b"{}")], owner="a", lease_seconds=1),
        log.follow({"0" * 32: 0}, wait_seconds=1),
        log.touch("0" * 32, delivered=0, acked=0, reading=False),
        log.ping(),
    ):
        with pytest.raises(StreamLogUnavailable, match="redis"):
            await asking
    await log.close()
