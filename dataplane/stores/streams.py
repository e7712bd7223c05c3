"""The log of streams in Redis: the frames of each under gap-free sequence numbers, one owner at a time, one end.

A stream's frames are entries of one Redis stream whose ids are their sequence numbers, so Redis itself refuses a number
twice. Beside it stands a hash with the owner, the number of the last frame and how it ended: whoever writes must be the
owner of the current epoch, checked in the same step. Many streams are written in one round trip. All times are Redis'
own, so hosts need not agree on any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from redis.exceptions import NoScriptError, RedisError

from dataplane.errors.streams import StreamLogUnavailable
from dataplane.frames import Ending
from dataplane.stores.redis_client import make_redis

PREFIX: Final = "ballast:stream:"
# Streams that are being written, by when their owner's lease ends; and ended ones whose ledger row somebody still owes.
LIVE: Final = "ballast:streams:live"
OWED: Final = "ballast:streams:owed"
FOLLOW_MARGIN_SECONDS: Final = 2.0
CLAIM_SECONDS: Final = 60.0
# Frames that come in one answer: a long stream takes several, so that none of them takes long.
PAGE: Final = 1000
# Only what is written holds up whoever generates; a reader who is refused at once may not come back by itself.
PATIENT_SECONDS: Final = 2.0


class Standing(StrEnum):
    """What became of an append, or of a lease: it holds (ok), the stream is unknown (gone) or lacks frames before
    (gap), or it belongs to somebody else or is over (fenced).
    """

    OK = "ok"
    GONE = "gone"
    GAP = "gap"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True)
class Append:
    """Frames of one stream, from number `first` on. Frames that are there already are passed over.

    `about` is what else is kept of the stream, as JSON; empty: as it was. An `ending` makes the last frame terminal.
    """

    stream: str
    epoch: int
    first: int
    payloads: Sequence[bytes]
    keep_seconds: float
    about: bytes = b""
    ending: Ending | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """How an append fared, and the number of the last frame that is there."""

    standing: Standing
    last: int


@dataclass(frozen=True, slots=True)
class Lease:
    """What an owner hears of a stream that it renews: whether it is wanted cancelled, and how long ago another process
    read it for a caller, in seconds; None: none did.
    """

    standing: Standing
    cancel: bool
    read_seconds: float | None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a stream was delivered and acknowledged, how far it goes, and how it ended, if it has."""

    delivered: int
    acked: int
    last: int
    ending: Ending | None


@dataclass(frozen=True, slots=True)
class StoredStream:
    """A stream as it is kept. `payloads` are the frames asked for."""

    about: bytes
    checkpoint: Checkpoint
    payloads: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Followed:
    """Frames that came after a place, and the ending if the last of them is terminal."""

    payloads: tuple[bytes, ...]
    ending: Ending | None


class StreamLog(Protocol):
    """Where a fleet keeps streams. Every method but `close` raises StreamLogUnavailable when that cannot be asked."""

    async def append(self, appends: Sequence[Append], *, owner: str, lease_seconds: float) -> list[Appended]:
        """Write frames of several streams, each whole or not at all, and renew their leases. One round trip."""

    async def renew(self, streams: Mapping[str, int], *, owner: str, lease_seconds: float) -> dict[str, Lease]:
        """Renew the leases of streams, by epoch, and hear what others want of them. One round trip."""

    async def claim_orphans(self, *, owner: str, lease_seconds: float, limit: int) -> dict[str, int]:
        """Become the owner of streams whose lease has run out. Returns the new epoch of each."""

    async def read(self, stream: str, *, after: int) -> StoredStream | None:
        """Read the frames after `after`, and the rest; None: no such stream."""

    async def follow(self, places: Mapping[str, int], *, wait_seconds: float) -> dict[str, Followed]:
        """Wait for frames after a place in any of the streams. Empty when none came, or `interrupt` was called.

        For one task at a time.
        """

    async def interrupt(self) -> None:
        """End the wait of `follow`, if there is one."""

    async def touch(self, stream: str, *, delivered: int, acked: int, reading: bool) -> Checkpoint | None:
        """Move the checkpoints forward, never back nor beyond the last frame, and return them; None: no such stream.

        What is acknowledged was delivered. `reading` says that a caller is being served.
        """

    async def cancel(self, stream: str) -> bool:
        """Ask the owner to end the stream. False: there is no such stream, or it is over."""

    async def claim_continuation(self, stream: str, by: str) -> str:
        """Note that stream `by` takes this one up, unless another does; returns the one that does.

        One that has not begun within CLAIM_SECONDS never will, and is replaced. A stream that is not there is nobody's
        to take up but the caller's.
        """

    async def release_continuation(self, stream: str, by: str) -> None:
        """Note that stream `by` will not begin, so that another may take this one up."""

    async def settle(self, streams: Sequence[str]) -> None:
        """Note that the ledger has the rows of these streams."""

    async def claim_owed(self, *, grace_seconds: float, limit: int) -> list[str]:
        """Streams that ended and whose rows nobody sent; the caller is to send them, and has `grace_seconds` to."""

    async def ping(self) -> None:
        """Return if it answers."""

    async def close(self) -> None:
        """Let go of connections."""


_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# Keys: the stream's hash, its frames, LIVE, OWED.
# Arguments: id, owner, epoch, first, ending, lease ms, keep ms, about, owed ms, then the payloads.
_APPEND: Final = (
    _NOW
    + """
local known = redis.call('HMGET', KEYS[1], 'owner', 'epoch', 'last', 'ending')
local first, count = tonumber(ARGV[4]), #ARGV - 9
local last = tonumber(known[3] or 0)
if not known[1] then
  if ARGV[8] == '' then return {'gone', 0} end
  if first ~= 1 then return {'gap', 0} end
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'epoch', ARGV[3], 'last', 0, 'ending', '', 'delivered', 0, 'acked', 0)
  known[4] = ''
elseif known[1] ~= ARGV[2] or known[2] ~= ARGV[3] then
  return {'fenced', last}
end
if first > last + 1 then return {'gap', last} end
if known[4] ~= '' then
  if first + count - 1 <= last then return {'ok', last} end
  return {'fenced', last}
end
for i = 1, count do
  local number = first + i - 1
  if number > last then
    if i == count and ARGV[5] ~= '' then
      redis.call('XADD', KEYS[2], number .. '-0', 'd', ARGV[9 + i], 'e', ARGV[5])
    else
      redis.call('XADD', KEYS[2], number .. '-0', 'd', ARGV[9 + i])
    end
    last = number
  end
end
redis.call('HSET', KEYS[1], 'last', last, 'ending', ARGV[5])
if ARGV[8] ~= '' then redis.call('HSET', KEYS[1], 'about', ARGV[8]) end
redis.call('PEXPIRE', KEYS[1], ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[7])
if ARGV[5] ~= '' then
  redis.call('ZREM', KEYS[3], ARGV[1])
  redis.call('ZADD', KEYS[4], now + ARGV[9], ARGV[1])
else
  redis.call('ZADD', KEYS[3], now + ARGV[6], ARGV[1])
end
return {'ok', last}
"""
)

# Keys: LIVE, then the hash of each stream. Arguments: owner, lease ms, then id and epoch of each.
_RENEW: Final = (
    _NOW
    + """
local answers = {}
for i = 1, #KEYS - 1 do
  local hash, id, epoch = KEYS[i + 1], ARGV[2 * i + 1], ARGV[2 * i + 2]
  local known = redis.call('HMGET', hash, 'owner', 'epoch', 'ending', 'cancel', 'read')
  if not known[1] then answers[i] = {'gone', 0, -1}
  elseif known[1] ~= ARGV[1] or known[2] ~= epoch or known[3] ~= '' then answers[i] = {'fenced', 0, -1}
  else
    redis.call('ZADD', KEYS[1], now + ARGV[2], id)
    answers[i] = {'ok', known[4] and 1 or 0, known[5] and now - known[5] or -1}
  end
end
return answers
"""
)

# Keys: LIVE. Arguments: owner, lease ms, limit, prefix.
_CLAIM_ORPHANS: Final = (
    _NOW
    + """
local claimed = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[3])) do
  local hash = ARGV[4] .. id
  local ending = redis.call('HGET', hash, 'ending')
  if ending == '' then
    local epoch = redis.call('HINCRBY', hash, 'epoch', 1)
    redis.call('HSET', hash, 'owner', ARGV[1])
    redis.call('ZADD', KEYS[1], now + ARGV[2], id)
    claimed[#claimed + 1] = id
    claimed[#claimed + 1] = epoch
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return claimed
"""
)

# Keys: the stream's hash. Arguments: delivered, acked, whether a caller is being served.
_TOUCH: Final = (
    _NOW
    + """
local known = redis.call('HMGET', KEYS[1], 'last', 'delivered', 'acked', 'ending')
if not known[1] then return false end
local last = tonumber(known[1])
local acked = math.max(tonumber(known[3]), math.min(tonumber(ARGV[2]), last))
local delivered = math.max(tonumber(known[2]), math.min(tonumber(ARGV[1]), last), acked)
redis.call('HSET', KEYS[1], 'delivered', delivered, 'acked', acked)
if ARGV[3] == '1' then redis.call('HSET', KEYS[1], 'read', now) end
return {delivered, acked, last, known[4]}
"""
)

_CANCEL: Final = """
if redis.call('HGET', KEYS[1], 'ending') ~= '' then return 0 end
redis.call('HSET', KEYS[1], 'cancel', 1)
return 1
"""

# Keys: the stream's hash. Arguments: id of the stream that would take it up, prefix, claim ms.
_CLAIM_CONTINUATION: Final = (
    _NOW
    + """
local known = redis.call('HMGET', KEYS[1], 'by', 'by_at', 'owner')
if not known[3] then return ARGV[1] end
if known[1] and (redis.call('EXISTS', ARGV[2] .. known[1]) == 1 or now - known[2] < tonumber(ARGV[3])) then
  return known[1]
end
redis.call('HSET', KEYS[1], 'by', ARGV[1], 'by_at', now)
return ARGV[1]
"""
)

# Keys: the stream's hash. Arguments: id of the stream that was to take it up.
_RELEASE_CONTINUATION: Final = """
if redis.call('HGET', KEYS[1], 'by') == ARGV[1] then redis.call('HDEL', KEYS[1], 'by', 'by_at') end
"""

# Keys: OWED. Arguments: grace ms, limit. An entry is put off, not removed: whoever takes it may die too.
_CLAIM_OWED: Final = (
    _NOW
    + """
local owed = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
for _, id in ipairs(owed) do redis.call('ZADD', KEYS[1], now + ARGV[1], id) end
return owed
"""
)
_APPEND_KEYS: Final = 4
# How long whoever ended a stream has to send its rows before another process does.
_OWED_MS: Final = 30_000


class RedisStreamLog:
    """See the module."""

    def __init__(self, url: str, *, timeout_seconds: float = 1.0) -> None:
        # A stream that waits for Redis keeps its caller waiting, and goes on in this process' memory instead. Not at
        # once: on a busy host it is this process that was late.
        self._redis = make_redis(url, timeout_seconds=timeout_seconds)
        self._patient = make_redis(url, timeout_seconds=max(timeout_seconds, PATIENT_SECONDS))
        # Blocks for as long as `follow` waits, which bounds it, so it has a connection of its own.
        self._follower = make_redis(
            url, timeout_seconds=timeout_seconds, socket_timeout=None, single_connection_client=True
        )
        self._follower_id: int | None = None
        self._append = self._redis.register_script(_APPEND)
        self._renew = self._patient.register_script(_RENEW)
        self._claim_orphans = self._patient.register_script(_CLAIM_ORPHANS)
        self._touch = self._patient.register_script(_TOUCH)
        self._cancel = self._patient.register_script(_CANCEL)
        self._claim_continuation = self._patient.register_script(_CLAIM_CONTINUATION)
        self._release_continuation = self._patient.register_script(_RELEASE_CONTINUATION)
        self._claim_owed = self._patient.register_script(_CLAIM_OWED)

    async def append(self, appends: Sequence[Append], *, owner: str, lease_seconds: float) -> list[Appended]:
        """As `StreamLog.append`."""
        calls = [_appending(one, owner, lease_seconds) for one in appends]
        try:
            try:
                answers = await self._append_all(calls)
            except NoScriptError:
                # Those that were written all the same are passed over.
                await self._redis.script_load(_APPEND)
                answers = await self._append_all(calls)
        except _AWAY as exc:
            raise _unavailable(exc) from exc
        return [Appended(Standing(standing.decode()), last) for standing, last in answers]

    async def _append_all(self, calls: Sequence[Sequence[Any]]) -> list[Any]:
        # Not by calling the script: in a pipeline, that asks first, every time, whether Redis knows it. One call is
        # cheaper without a pipeline, by a third.
        if len(calls) == 1:
            return [await self._redis.evalsha(self._append.sha, _APPEND_KEYS, *calls[0])]
        async with self._redis.pipeline(transaction=False) as pipeline:
            for call in calls:
                pipeline.evalsha(self._append.sha, _APPEND_KEYS, *call)
            answers: list[Any] = await pipeline.execute()
        return answers

    async def renew(self, streams: Mapping[str, int], *, owner: str, lease_seconds: float) -> dict[str, Lease]:
        """As `StreamLog.renew`."""
        keys = [LIVE, *(PREFIX + stream for stream in streams)]
        arguments: list[Any] = [owner, _ms(lease_seconds)]
        for stream, epoch in streams.items():
            arguments += (stream, epoch)
        try:
            answers = await self._renew(keys=keys, args=arguments)
        except _AWAY as exc:
            raise _unavailable(exc) from exc
        return {
            stream: Lease(Standing(standing.decode()), bool(cancel), None if read < 0 else read / 1000)
            for stream, (standing, cancel, read) in zip(streams, answers, strict=True)
        }

    async def claim_orphans(self, *, owner: str, lease_seconds: float, limit: int) -> dict[str, int]:
        """As `StreamLog.claim_orphans`."""
        try:
            answer = await self._claim_orphans(keys=[LIVE], args=[owner, _ms(lease_seconds), limit, PREFIX])
        except _AWAY as exc:
            raise _unavailable(exc) from exc
        return {stream.decode(): epoch for stream, epoch in zip(answer[::2], answer[1::2], strict=True)}

    async def read(self, stream: str, *, after: int) -> StoredStream | None:
        """As `StreamLog.read`."""
        hash_key, frames_key = _keys(stream)
        try:
            # In one transaction, so that the end and the frames agree.
            async with self._patient.pipeline(transaction=True) as pipeline:
                pipeline.hmget(hash_key, ["about", "last", "ending", "delivered", "acked"])
                pipeline.xrange(frames_key, min=f"{after + 1}-0", count=PAGE)
                (about, last, ending, delivered, acked), entries = await pipeline.execute()
            if last is None:
                return None
            payloads = [fields[b"d"] for _, fields in entries]
            # What is there stays as it is, so the rest may come later; what came meanwhile is left out.
            while (missing := int(last) - after - len(payloads)) > 0:
                first = after + len(payloads) + 1
                more: Any = await self._patient.xrange(frames_key, min=f"{first}-0", count=min(missing, PAGE))
                if not more:
                    return None  # it went while it was read
                payloads += [fields[b"d"] for _, fields in more]
        except _AWAY as exc:
            raise _unavailable(exc) from exc
        checkpoint = Checkpoint(int(delivered), int(acked), int(last), _ending(ending))
        return StoredStream(about or b"", checkpoint, tuple(payloads))

    async def follow(self, places: Mapping[str, int], *, wait_seconds: float) -> dict[str, Followed]:
        """As `StreamLog.follow`."""
        by_key = {_keys(stream)[1].encode(): stream for stream in places}
        try:
            async with asyncio.timeout(wait_seconds + FOLLOW_MARGIN_SECONDS):
                if self._follower_id is None:
                    self._follower_id = await self._follower.client_id()
                answer: Any = await self._follower.xread(
                    {_keys(stream)[1]: f"{after}-0" for stream, after in places.items()},
                    count=PAGE,
                    block=_ms(wait_seconds),
                )
        except _AWAY as exc:
            self._follower_id = None
            await self._follower.connection_pool.disconnect()
            raise _unavailable(exc) from exc
        found: dict[str, Followed] = {}
        for key, entries in answer or ():
            last = entries[-1][1]
            found[by_key[key]] = Followed(tuple(fields[b"d"] for _, fields in entries), _ending(last.get(b"e")))
        return found

    async def interrupt(self) -> None:
        """As `StreamLog.interrupt`."""
        if self._follower_id is None:
            return
        try:
            await self._patient.client_unblock(self._follower_id)
        except _AWAY as exc:
            raise _unavailable(exc) from exc

    async def touch(self, stream: str, *, delivered: int, acked: int, reading: bool) -> Checkpoint | None:
        """As `StreamLog.touch`."""
        try:
            answer = await self._touch(keys=[PREFIX + stream], args=[delivered, acked, int(reading)])
        except _AWAY as exc:
            raise _unavailable(exc) from exc
        if answer is None:
            return None
        return Checkpoint(answer[0], answer[1], answer[2], _ending(answer[3]))

    async def cancel(self, stream: str) -> bool:
        """As `StreamLog.cancel`."""
        try:
            return bool(await self._cancel(keys=[PREFIX + stream]))
        except _AWAY as exc:
            raise _unavailable(exc) from exc

    async def claim_continuation(self, stream: str, by: str) -> str:
        """As `StreamLog.claim_continuation`."""
        try:
            answer = await self._claim_continuation(keys=[PREFIX + stream], args=[by, PREFIX, _ms(CLAIM_SECONDS)])
        except _AWAY as exc:
            raise _unavailable(exc) from exc
        winner: str = answer.decode()
        return winner

    async def release_continuation(self, stream: str, by: str) -> None:
        """As `StreamLog.release_continuation`."""
        try:
            await self._release_continuation(keys=[PREFIX + stream], args=[by])
        except _AWAY as exc:
            raise _unavailable(exc) from exc

    async def settle(self, streams: Sequence[str]) -> None:
        """As `StreamLog.settle`."""
        if not streams:
            return
        try:
            await self._patient.zrem(OWED, *streams)
        except _AWAY as exc:
            raise _unavailable(exc) from exc

    async def claim_owed(self, *, grace_seconds: float, limit: int) -> list[str]:
        """As `StreamLog.claim_owed`."""
        try:
            owed = await self._claim_owed(keys=[OWED], args=[_ms(grace_seconds), limit])
        except _AWAY as exc:
            raise _unavailable(exc) from exc
        return [stream.decode() for stream in owed]

    async def ping(self) -> None:
        """As `StreamLog.ping`."""
        try:
            await self._patient.ping()
        except _AWAY as exc:
            raise _unavailable(exc) from exc

    async def close(self) -> None:
        """As `StreamLog.close`."""
        await self._follower.aclose()
        await self._patient.aclose()
        await self._redis.aclose()


_AWAY: Final = (RedisError, OSError, TimeoutError)


def _unavailable(exc: Exception) -> StreamLogUnavailable:
    return StreamLogUnavailable(f"redis: {type(exc).__name__}: {exc}")


def _keys(stream: str) -> tuple[str, str]:
    return PREFIX + stream, f"{PREFIX}{stream}:frames"


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _ending(word: bytes | None) -> Ending | None:
    return Ending(word.decode()) if word else None


def _appending(one: Append, owner: str, lease_seconds: float) -> list[Any]:
    ending = "" if one.ending is None else one.ending.value
    head = [one.stream, owner, one.epoch, one.first, ending, _ms(lease_seconds), _ms(one.keep_seconds), one.about]
    return [*_keys(one.stream), LIVE, OWED, *head, _OWED_MS, *one.payloads]
