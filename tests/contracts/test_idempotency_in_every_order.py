"""No order of claims, deaths and returns makes one key two executions: processes and their records, all at once."""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import dataclass, replace

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from controlplane.ledger.evidence import verify_chain
from controlplane.ledger.idempotency import IdempotencyEvidence, IdempotencyRecord
from dataplane.errors.idempotency import IdempotencyIndeterminate, IdempotencyMismatch
from dataplane.idempotency import (
    BEGINNINGS,
    TRANSITIONS,
    Done,
    Event,
    Known,
    LeaseLost,
    Outcome,
    Owned,
    Running,
    Scope,
    State,
    event_of_claim,
)
from dataplane.stores.idempotency import PostgresIdempotencyStore
from tests.contracts.conftest import ANSWER, FORGET, LEASE_SECONDS, OTHER, QUESTION, claim
from tests.dataplane.conftest import FakeClock
from tests.dataplane.key_stores import MemoryIdempotencyStore, Register

KEYS = st.sampled_from(["a", "b"])
USERS = st.sampled_from(["ada", "bob"])
OWNERS = st.sampled_from(["w1", "w2", "w3"])
QUESTIONS = st.sampled_from([QUESTION, OTHER])
REFUSALS = {Event.MISMATCH: IdempotencyMismatch, Event.INDETERMINATE: IdempotencyIndeterminate}


@dataclass
class Entry:
    """What a record should be: its last epoch, and whether the owner's lease and the key's time last."""

    owned: Owned
    fingerprint: str
    request_id: str
    is_repeatable: bool
    state: State = State.RUNNING
    lives: bool = True
    is_young: bool = True
    outcome: Outcome | None = None

    @property
    def known(self) -> Known:
        return Known(
            self.state,
            self.fingerprint,
            self.owned.owner,
            self.request_id,
            self.is_repeatable,
            lease_left_seconds=1.0 if self.lives else -1.0,
            ttl_left_seconds=1.0 if self.is_young else -1.0,
        )

    @property
    def is_due(self) -> bool:
        return not self.is_young and not (self.state is State.RUNNING and self.lives)


class InPostgres:
    """The tables of this run's database, and a store on them."""

    def __init__(self, url):
        self.store = PostgresIdempotencyStore(url, timeout_seconds=60)
        self.other = psycopg.connect(url, autocommit=True)

    def empty(self):
        self.other.execute(FORGET)

    def put_back(self, column, user, key):
        self.other.execute(
            f"UPDATE ledger_idempotencyrecord SET {column} = now() - interval '1 s'"  # noqa: S608 - ours
            " WHERE (user_hash, key) = (%s, %s)",
            [Scope("acme", user).user_hash, key],
        )

    def rows(self):
        return self.other.execute(
            "SELECT id, state, epoch, owner, body FROM ledger_idempotencyrecord ORDER BY id"
        ).fetchall()

    def check_evidence(self, ids):
        """Every chain holds, with at most one outcome, and is closed exactly when its record is gone."""
        living = set(IdempotencyRecord.objects.values_list("pk", flat=True))
        assert set(IdempotencyEvidence.objects.values_list("record", flat=True)) == ids
        for record in ids:
            chain = verify_chain(record)
            assert chain.findings == ()
            assert chain.is_closed == (record not in living)
            assert IdempotencyEvidence.objects.filter(record=record, event=Event.COMPLETED).count() <= 1

    def close(self):
        self.other.close()


class InMemory:
    """The store that tests of the data plane use."""

    def __init__(self):
        self.clock = FakeClock(1000.0)
        self.register = Register(self.clock)
        self.store = MemoryIdempotencyStore(self.register)

    def empty(self):
        self.register.records.clear()

    def put_back(self, column, user, key):
        record = self.register.records.get(("acme", Scope("acme", user).user_hash, key))
        if record is not None:
            setattr(record, column, self.clock() - 1)

    def rows(self):
        return sorted(
            (one.id, one.state, one.epoch, one.owner, one.outcome and one.outcome.body)
            for one in self.register.records.values()
        )

    def check_evidence(self, ids):
        """It keeps none that could be wrong: its steps are those of the table."""

    def close(self):
        pass


class EveryOrder(RuleBasedStateMachine):
    """Each rule does one thing to the store and holds the model beside it, which the decider moves."""

    runner: asyncio.Runner
    ground: InPostgres | InMemory
    owners = Bundle("owners")

    def __init__(self):
        super().__init__()
        self.store = self.ground.store
        self.entries: dict[tuple[str, str], Entry] = {}
        self.ids = set()
        self.numbers = itertools.count(1)

    @initialize()
    def empty(self):
        self.ground.empty()

    @rule(target=owners, user=USERS, key=KEYS, owner=OWNERS, question=QUESTIONS, repeatable=st.booleans())
    def claim(self, user, key, owner, question, repeatable):
        request = f"r{next(self.numbers)}"
        entry = self.entries.get((user, key))
        call = claim(
            self.store,
            key,
            scope=Scope("acme", user),
            fingerprint=question,
            owner=owner,
            request=request,
            repeatable=repeatable,
        )
        event = event_of_claim(
            entry and entry.known,
            fingerprint=question.sha256,
            owner=owner,
            request_id=request,
            is_repeatable=repeatable,
        )
        if event in REFUSALS:
            with pytest.raises(REFUSALS[event]):
                self.runner.run(call)
            entry.state = TRANSITIONS[entry.state, event]
            return multiple()
        got = self.runner.run(call)
        if event is Event.REPLAYED:
            assert got == Done(entry.owned.record_id, entry.owned.epoch, entry.outcome)
            return multiple()
        if event is Event.ATTACHED:
            assert isinstance(got, Running)
            assert (got.record_id, got.epoch, got.owner) == (
                entry.owned.record_id,
                entry.owned.epoch,
                entry.owned.owner,
            )
            return multiple()
        if event in (Event.CREATED, Event.EXPIRED):
            assert (got.epoch, got.record_id in self.ids) == (1, False)
            self.ids.add(got.record_id)
            entry = None
        else:
            assert event in BEGINNINGS
            assert (got.record_id, got.epoch) == (entry.owned.record_id, entry.owned.epoch + 1)
        assert (got.owner, got.taken_over) == (owner, event is Event.TAKEN_OVER)
        begun = Entry(got, question.sha256, request, repeatable)
        if event is Event.TAKEN_OVER:
            begun.is_young, begun.is_repeatable = entry.is_young, entry.is_repeatable
        self.entries[user, key] = begun
        return got

    @rule(owned=owners, stream=st.sampled_from(["s1", "s2"]))
    def note_stream(self, owned, stream):
        self.write(owned, self.store.note_stream(owned, stream), Event.STREAMING)

    @rule(owned=owners, words=st.binary(max_size=2), tokens=st.none() | st.integers(0, 9))
    def complete(self, owned, words, tokens):
        usage = None if tokens is None else {"total_tokens": tokens}
        outcome = replace(ANSWER, body=words, usage=usage, stream_id="stream")
        self.write(owned, self.store.complete(owned, outcome), Event.COMPLETED, outcome)

    @rule(owned=owners)
    def release(self, owned):
        self.write(owned, self.store.release(owned), Event.RELEASED)

    @rule(owned=owners)
    def abandon(self, owned):
        self.write(owned, self.store.abandon(owned), Event.INDETERMINATE)

    @rule(owned=st.lists(owners, max_size=4))
    def renew(self, owned):
        held = {one for one in owned if (entry := self.entry_of(one)) and entry.state is State.RUNNING}

        assert self.runner.run(self.store.renew(owned, lease_seconds=LEASE_SECONDS)) == held
        for one in held:
            self.entry_of(one).lives = True

    @rule(user=USERS, key=KEYS)
    def die(self, user, key):
        """The owner is not heard of for too long; what it owned it will still try to write."""
        self.ground.put_back("lease_until", user, key)
        if entry := self.entries.get((user, key)):
            entry.lives = False

    @rule(user=USERS, key=KEYS)
    def grow_old(self, user, key):
        """The time of the key is over."""
        self.ground.put_back("expires_at", user, key)
        if entry := self.entries.get((user, key)):
            entry.is_young = False

    @rule()
    def expire(self):
        due = [place for place, entry in self.entries.items() if entry.is_due]

        assert self.runner.run(self.store.expire(limit=9)) == len(due)
        for place in due:
            del self.entries[place]

    def write(self, owned, call, event, outcome=None):
        """Only the owner of the running epoch moves its record; and whoever did may say the same once more."""
        entry = self.entry_of(owned)
        if entry is not None and entry.state is State.RUNNING:
            self.runner.run(call)
            entry.state = TRANSITIONS[entry.state, event]
            entry.outcome = outcome
            return
        after = TRANSITIONS[State.RUNNING, event]
        is_repeated = entry is not None and entry.state is after and event is not Event.COMPLETED
        if event is Event.COMPLETED and entry is not None and entry.outcome is not None:
            is_repeated = entry.outcome.body == outcome.body
        if is_repeated:
            self.runner.run(call)
            return
        with pytest.raises(LeaseLost):
            self.runner.run(call)

    def entry_of(self, owned):
        """The record whose last epoch this is, if there is one."""
        return next((entry for entry in self.entries.values() if entry.owned == owned), None)

    @invariant()
    def the_records_are_what_was_done(self):
        """One owner each, of the last epoch; an outcome exactly where one was completed."""
        assert self.ground.rows() == sorted(
            (
                entry.owned.record_id,
                entry.state,
                entry.owned.epoch,
                entry.owned.owner,
                None if entry.outcome is None else entry.outcome.body,
            )
            for entry in self.entries.values()
        )

    def teardown(self):
        self.ground.check_evidence(self.ids)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("where", ["postgres", "memory"])
def test_no_order_of_things_makes_one_key_two_executions(database, where):
    """Whoever claims, dies, comes back or is late: one owner at a time, one outcome, and evidence of each step."""
    deep = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
    bounds = {} if deep else {"max_examples": 15, "stateful_step_count": 30}
    ground = InPostgres(database) if where == "postgres" else InMemory()
    with asyncio.Runner() as runner:
        runner.run(ground.store.start())
        EveryOrder.runner, EveryOrder.ground = runner, ground

        run_state_machine_as_test(EveryOrder, settings=settings(suppress_health_check=list(HealthCheck), **bounds))

        runner.run(ground.store.close())
        ground.close()
