"""A store of idempotency keys in memory, which tests can take away, hold up and rob of its answers. Its records move by
the decider and the table alone; `tests/contracts` holds it to what the real one promises.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field, replace

from dataplane.errors.idempotency import (
    IdempotencyIndeterminate,
    IdempotencyMismatch,
    IdempotencyOutcomeNotKept,
    IdempotencyUnavailable,
)
from dataplane.idempotency import (
    BEGINNINGS,
    MAX_KEPT_BYTES,
    TRANSITIONS,
    Done,
    Event,
    Known,
    LeaseLost,
    Owned,
    Running,
    State,
    event_of_claim,
)


@dataclass
class Record:
    """One key. Times are those of the register's clock."""

    id: uuid.UUID
    fingerprint: object
    is_repeatable: bool
    request_id: str
    owner: str
    lease_until: float
    expires_at: float
    epoch: int = 0
    state: State = State.RUNNING
    stream_id: str = ""
    outcome: object = None


@dataclass
class Register:
    """What all processes of a test share. `clock` is in seconds; `evidence` is every step, with its key."""

    clock: object
    records: dict[tuple[str, str, str], Record] = field(default_factory=dict)
    evidence: list[tuple[str, Event]] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def change(self):
        """Let everybody who waits look again, as when time has passed."""
        self.changed.set()
        self.changed = asyncio.Event()

    def events(self, key="k"):
        """The steps of a key, in order."""
        return [event for one, event in self.evidence if one == key]

    def record(self, key="k"):
        """The record of a key that only one scope has."""
        [record] = [record for (_, _, one), record in self.records.items() if one == key]
        return record

    def lapse(self, key="k"):
        """Let the owner of a key have been silent for too long."""
        self.record(key).lease_until = self.clock()
        self.change()

    def move(self, place, record, event):
        """Take one step; only this assigns `state`."""
        self.evidence.append((place[2], event))
        record.state = TRANSITIONS[record.state, event]
        if record.state is State.EXPIRED:
            del self.records[place]


class MemoryIdempotencyStore:
    """One process' way to the register. `away` names what is refused, `deaf` what is done and its answer lost; `gate`,
    if there is one, is passed before each step and, as "step done", after it. `is_dead` ends whoever asks.
    """

    def __init__(self, register, *, gate=None):
        self.register = register
        self.away = set()
        self.deaf = set()
        self.gate = gate
        self.is_dead = False
        self.is_closed = False
        self.asked = []

    async def _reach(self, step):
        self.asked.append(step)
        if self.is_dead:
            raise asyncio.CancelledError
        if self.gate is not None:
            await self.gate.pass_(step)
        if step in self.away or "everything" in self.away:
            raise IdempotencyUnavailable("it is away")

    async def _answer(self, step):
        self.register.change()
        if self.gate is not None:
            await self.gate.pass_(f"{step} done")
        if step in self.deaf:
            raise IdempotencyUnavailable("no answer")

    async def start(self):
        pass

    async def close(self):
        self.is_closed = True

    async def claim(self, scope, key, fingerprint, *, owner, request_id, lease_seconds, ttl_seconds, is_repeatable):
        await self._reach("claim")
        place = (scope.tenant, scope.user_hash, key)
        asked = {"owner": owner, "request_id": request_id, "is_repeatable": is_repeatable}
        lasts = (lease_seconds, ttl_seconds)
        got = self._claim(place, fingerprint, asked, lasts)
        if got is None:
            got = self._claim(place, fingerprint, asked, lasts)  # the one before had expired
        try:
            await self._answer("claim")
        except (asyncio.CancelledError, IdempotencyUnavailable):
            if isinstance(got, Owned) and not self.is_dead:
                self._step(got, Event.RELEASED)
            raise
        if isinstance(got, Exception):
            raise got
        return got

    def _claim(self, place, fingerprint, asked, lasts):
        register, now = self.register, self.register.clock()
        record = register.records.get(place)
        known = None
        if record is not None:
            known = Known(
                record.state,
                record.fingerprint.sha256,
                record.owner,
                record.request_id,
                record.is_repeatable,
                record.lease_until - now,
                record.expires_at - now,
                is_kept=record.outcome is not None and len(record.outcome.body) <= MAX_KEPT_BYTES,
            )
        event = event_of_claim(known, fingerprint=fingerprint.sha256, **asked)
        if event is Event.CREATED:
            record = register.records[place] = Record(
                uuid.uuid4(), fingerprint, asked["is_repeatable"], "", "", 0.0, now + lasts[1]
            )
            register.evidence.append((place[2], event))
        else:
            register.move(place, record, event)
        if event is Event.EXPIRED:
            return None
        if event in BEGINNINGS or event is Event.RESUMED:
            return self._begin(record, event, fingerprint, asked, now, lasts)
        if event is Event.MISMATCH:
            return IdempotencyMismatch(place[2], fields=record.fingerprint.differing(fingerprint))
        if event is Event.INDETERMINATE:
            return IdempotencyIndeterminate(place[2])
        if event is Event.NOT_KEPT:
            return IdempotencyOutcomeNotKept(place[2], body_bytes=len(record.outcome.body), limit_bytes=MAX_KEPT_BYTES)
        if event is Event.REPLAYED:
            return Done(record.id, record.epoch, record.outcome)
        return Running(record.id, record.epoch, record.owner, record.stream_id, record.lease_until - now)

    def _begin(self, record, event, fingerprint, asked, now, lasts):
        before = record.stream_id if event is Event.TAKEN_OVER else ""
        record.lease_until = now + lasts[0]
        if event is Event.RESUMED:
            return Owned(record.id, record.epoch, record.owner)
        record.owner, record.request_id = asked["owner"], asked["request_id"]
        record.epoch += 1
        record.stream_id = ""
        if event is Event.REOPENED:
            record.fingerprint, record.is_repeatable = fingerprint, asked["is_repeatable"]
            record.expires_at = now + lasts[1]
        return Owned(record.id, record.epoch, record.owner, event is Event.TAKEN_OVER, before)

    async def note_stream(self, owned, stream_id):
        await self._take("note_stream", owned, Event.STREAMING, stream_id=stream_id)

    async def complete(self, owned, outcome):
        await self._take("complete", owned, Event.COMPLETED, outcome=outcome)

    async def release(self, owned):
        await self._take("release", owned, Event.RELEASED)

    async def abandon(self, owned):
        await self._take("abandon", owned, Event.INDETERMINATE)

    async def _take(self, step, owned, event, *, stream_id="", outcome=None):
        await self._reach(step)
        self._step(owned, event, stream_id=stream_id, outcome=outcome)
        await self._answer(step)

    def _step(self, owned, event, *, stream_id="", outcome=None):
        place, record = self._find(owned)
        if record is None:
            raise LeaseLost(owned)
        if record.state is State.RUNNING:
            if event is Event.STREAMING and record.stream_id == stream_id:
                return
            record.stream_id = stream_id or record.stream_id
            if outcome is not None:
                record.stream_id = outcome.stream_id or record.stream_id
                record.outcome = replace(outcome, stream_id=record.stream_id)
            self.register.move(place, record, event)
            return
        is_repeated = record.state is TRANSITIONS[State.RUNNING, event]
        if not is_repeated or (outcome is not None and record.outcome.body != outcome.body):
            raise LeaseLost(owned)

    def _find(self, owned):
        for place, record in self.register.records.items():
            if (record.id, record.epoch, record.owner) == (owned.record_id, owned.epoch, owned.owner):
                return place, record
        return None, None

    async def renew(self, owned, *, lease_seconds):
        await self._reach("renew")
        held = set()
        for one in owned:
            _, record = self._find(one)
            if record is not None and record.state is State.RUNNING:
                record.lease_until = self.register.clock() + lease_seconds
                held.add(one)
        await self._answer("renew")
        return held

    async def wait(self, running, *, timeout_seconds):
        await self._reach("wait")
        until = self.register.clock() + timeout_seconds
        while not self._is_news(running):
            if self.register.clock() >= until:
                return False
            await self.register.changed.wait()
        return True

    def _is_news(self, running):
        record = next((one for one in self.register.records.values() if one.id == running.record_id), None)
        if record is None or record.state is not State.RUNNING or record.lease_until <= self.register.clock():
            return True
        return (record.epoch, record.stream_id) != (running.epoch, running.stream_id)

    async def expire(self, *, limit):
        await self._reach("expire")
        now = self.register.clock()
        due = [
            (place, record)
            for place, record in self.register.records.items()
            if record.expires_at <= now and (record.state is not State.RUNNING or record.lease_until <= now)
        ][:limit]
        for place, record in due:
            self.register.move(place, record, Event.EXPIRED)
        await self._answer("expire")
        return len(due)
