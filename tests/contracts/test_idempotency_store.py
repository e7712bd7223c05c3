"""What every store of idempotency keys promises its workers, tried on the real one."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import uuid
from dataclasses import replace

import psycopg
import pytest

from controlplane.audit.models import GENESIS
from controlplane.ledger.evidence import verify_chain
from controlplane.ledger.idempotency import IdempotencyEvidence, IdempotencyRecord
from dataplane.errors.idempotency import (
    IdempotencyIndeterminate,
    IdempotencyMismatch,
    IdempotencyOutcomeNotKept,
    IdempotencyUnavailable,
)
from dataplane.idempotency import (
    MAX_KEPT_BYTES,
    MAX_TTL_SECONDS,
    MIN_TTL_SECONDS,
    Done,
    Event,
    Known,
    LeaseLost,
    Owned,
    Running,
    Scope,
    State,
    event_of_claim,
)
from dataplane.stores import idempotency_sql
from dataplane.stores.idempotency import WORKING, PostgresIdempotencyStore
from dataplane.stores.lookout import LISTENING
from tests.contracts.conftest import ADA, ANSWER, FORGET, LEASE_SECONDS, OTHER, QUESTION, claim

pytestmark = pytest.mark.django_db  # only reads; what a store writes is committed


@pytest.fixture
def sql(database):
    """Runs SQL on empty tables, as somebody else, and returns its rows. When the test is over, every chain holds, and
    every record is in a state of the table.
    """
    with psycopg.connect(database, autocommit=True) as other:

        def run(statement, *parameters):
            cursor = other.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

        run(FORGET)
        yield run
    chains = {row.record: verify_chain(row.record) for row in IdempotencyEvidence.objects.filter(seq=1)}
    records = dict(IdempotencyRecord.objects.values_list("pk", "state"))
    assert [chain for chain in chains.values() if chain.findings] == []
    assert records.keys() == {record for record, chain in chains.items() if not chain.is_closed}
    assert set(records.values()) <= set(State) - {State.EXPIRED}


@pytest.fixture
async def store(database, sql):
    """A store on the run's PostgreSQL that is told of changes, and would look for them too late."""
    store = PostgresIdempotencyStore(database, timeout_seconds=60, poll_seconds=3600)
    await store.start()
    await asyncio.wait_for(store.is_listening.wait(), 60)
    yield store
    await store.close()


async def comes_to(store, key="k", **facts):
    """What a claim comes to, as its evidence would name it."""
    try:
        got = await claim(store, key, **facts)
    except IdempotencyMismatch:
        return Event.MISMATCH
    except IdempotencyIndeterminate:
        return Event.INDETERMINATE
    except IdempotencyOutcomeNotKept:
        return Event.NOT_KEPT
    return type(got)


def events(sql, key="k"):
    return [event for (event,) in sql("SELECT event FROM ledger_idempotencyevidence WHERE key = %s ORDER BY id", key)]


def lapse(sql, key="k"):
    """Let the lease of a key run out: its owner is held to be dead."""
    sql("UPDATE ledger_idempotencyrecord SET lease_until = now() - interval '1 s' WHERE key = %s", key)


def age(sql, key="k"):
    """Let the time of a key be over."""
    sql("UPDATE ledger_idempotencyrecord SET expires_at = now() - interval '1 s' WHERE key = %s", key)


def waiting(sql):
    """The processes of this database that wait for a lock."""
    return sql("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


def kill(sql, name, which="true"):
    """End the connections of a store to this database, and wait until they are; return how many there were."""
    return len(
        sql(
            f"SELECT pg_terminate_backend(pid, 60_000) FROM pg_stat_activity WHERE {which}"  # noqa: S608 - ours
            " AND datname = current_database() AND application_name = %s",
            name,
        )
    )


async def until(condition):
    """Let the store work until the database says so."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - the database has no event for it
            await asyncio.sleep(0)


async def test_one_executes_and_everybody_gets_its_outcome(store, sql):
    """The first owns the key, duplicates hear who runs it and under which stream, then each gets the same outcome."""
    owned = await claim(store)
    running = await claim(store, owner="w2", request="r2")
    await store.note_stream(owned, "stream-1")
    streaming = await claim(store, owner="w3", request="r3")
    await store.complete(owned, ANSWER)

    assert (owned.epoch, owned.owner, owned.taken_over) == (1, "w1", False)
    assert (running.record_id, running.owner, running.stream_id) == (owned.record_id, "w1", "")
    assert 0.9 * LEASE_SECONDS < running.lease_left_seconds <= LEASE_SECONDS
    assert streaming.stream_id == "stream-1"
    for number in range(2):
        done = await claim(store, owner="w2", request=f"r4{number}")
        assert done == Done(owned.record_id, 1, replace(ANSWER, stream_id="stream-1"))
    assert events(sql) == ["created", "attached", "streaming", "attached", "completed", "replayed", "replayed"]


async def test_key_of_another_tenant_or_user_is_another_key(store, sql):
    """Nobody gets somebody else's answer, and the user's id is nowhere."""
    scopes = [ADA, Scope("acme"), Scope("acme", "bob"), Scope("globex", "ada")]

    got = [await claim(store, scope=scope, request=f"r{n}") for n, scope in enumerate(scopes)]

    assert len({owned.record_id for owned in got}) == 4
    assert all(isinstance(owned, Owned) for owned in got)
    assert {user for (user,) in sql("SELECT user_hash FROM ledger_idempotencyrecord")} == {
        "",
        *(hashlib.sha256(name).hexdigest() for name in (b"ada", b"bob")),
    }
    for seconds in (MIN_TTL_SECONDS - 1, MAX_TTL_SECONDS + 1):
        with pytest.raises(ValueError, match=r"is outside 86400\.\.259200"):
            await store.claim(
                ADA, "k", QUESTION, owner="w", request_id="r", lease_seconds=1, ttl_seconds=seconds, is_repeatable=True
            )


async def test_another_request_under_the_key_is_named_and_changes_nothing(store, sql):
    """While it runs and when it is done; the evidence names the fields too."""
    owned = await claim(store)
    with pytest.raises(IdempotencyMismatch) as caught:
        await claim(store, fingerprint=OTHER, request="r2")
    await store.complete(owned, ANSWER)
    assert await comes_to(store, fingerprint=OTHER, request="r2") is Event.MISMATCH

    assert caught.value.fields == QUESTION.differing(OTHER) == ("messages", "seed")
    told = sql("SELECT fingerprint, detail FROM ledger_idempotencyevidence WHERE event = 'mismatch'")
    assert told == [(OTHER.sha256, '["messages", "seed"]')] * 2
    assert (await claim(store, request="r3")).outcome == ANSWER


async def test_released_key_is_free_for_any_request(store, sql):
    """Nothing was done under it, so nothing has to be the same."""
    await store.release(await claim(store))

    reopened = await claim(store, fingerprint=OTHER, owner="w2", request="r2", repeatable=False)

    assert (reopened.epoch, reopened.taken_over) == (2, False)
    with pytest.raises(IdempotencyMismatch) as caught:
        await claim(store, request="r3")
    assert caught.value.fields == ("messages", "seed")
    lapse(sql)
    assert await comes_to(store, fingerprint=OTHER, owner="w3", request="r4") is Event.INDETERMINATE


async def test_resurrected_owner_writes_nothing(store, sql):
    """Held to be dead, it was taken over from, be it by another request of the same process; whatever it does then is
    refused, and what the new owner does counts.
    """
    old = await claim(store)
    await store.note_stream(old, "old-stream")
    lapse(sql)

    new = await claim(store, request="r2")

    assert new == Owned(old.record_id, 2, "w1", taken_over=True, stream_before="old-stream")
    for impostor in (old, replace(new, owner="w3"), replace(new, epoch=3), replace(new, record_id=uuid.uuid4())):
        for act in (
            store.complete(impostor, replace(ANSWER, body=b"late")),
            store.release(impostor),
            store.abandon(impostor),
            store.note_stream(impostor, "old-stream"),
        ):
            with pytest.raises(LeaseLost, match="is over for 'w"):
                await act
        assert await store.renew([impostor], lease_seconds=2 * LEASE_SECONDS) == set()
        running = await claim(store, owner="w3", request="r3")
        assert (running.epoch, running.stream_id, running.lease_left_seconds <= LEASE_SECONDS) == (2, "", True)
        assert await store.renew([new, impostor], lease_seconds=LEASE_SECONDS) == {new}
    await store.complete(new, ANSWER)
    with pytest.raises(LeaseLost):
        await store.complete(old, ANSWER)
    assert (await claim(store, owner="w3", request="r3")).outcome == ANSWER


async def test_owner_that_lives_after_all_goes_on_until_somebody_takes_over(store, sql):
    """A lease that has run out is lost only when another needs it."""
    owned, others = await claim(store), [await claim(store, f"k{n}", request=f"r{n}") for n in range(3)]
    lapse(sql)
    await store.release(others[0])

    assert await store.renew([owned, *others], lease_seconds=2 * LEASE_SECONDS) == {owned, *others[1:]}
    assert await store.renew([], lease_seconds=2 * LEASE_SECONDS) == set()

    assert (await claim(store, owner="w2", request="r2")).lease_left_seconds > LEASE_SECONDS
    lapse(sql)
    await store.complete(owned, ANSWER)


async def test_work_that_must_not_happen_twice_is_never_taken_over(store, sql):
    """Its owner is dead, and nobody knows what it did: the key ends without an answer, until its time is over."""
    await claim(store, repeatable=False)
    lapse(sql)

    for request in ("r2", "r3"):
        assert await comes_to(store, owner="w2", request=request, repeatable=False) is Event.INDETERMINATE
    age(sql)

    assert (await claim(store, owner="w2", request="r4")).epoch == 1
    assert events(sql) == ["created", "indeterminate", "indeterminate", "expired", "created"]


async def test_owner_may_leave_the_key_indeterminate_itself(store, sql):
    """It lives, and knows no better."""
    await store.abandon(await claim(store, repeatable=False))

    assert await comes_to(store, request="r2", repeatable=False) is Event.INDETERMINATE
    assert await comes_to(store, request="r2", fingerprint=OTHER) is Event.MISMATCH


async def test_lost_answer_of_the_database_is_asked_for_again(store, sql):
    """The same step twice is one step, whichever it was, and another one in its place is refused."""
    owned = await claim(store)
    again = await claim(store)
    freed, unknown = await claim(store, "freed"), await claim(store, "unknown")
    for _ in range(2):
        await store.note_stream(owned, "s")
        await store.release(freed)
        await store.abandon(unknown)
    for _ in range(2):
        await store.complete(owned, ANSWER)

    for act in (
        store.complete(owned, replace(ANSWER, body=b"another")),
        store.release(owned),
        store.abandon(freed),
        store.complete(unknown, ANSWER),
    ):
        with pytest.raises(LeaseLost):
            await act

    assert again == owned
    assert events(sql) == ["created", "resumed", "streaming", "completed"]
    assert (events(sql, "freed"), events(sql, "unknown")) == (["created", "released"], ["created", "indeterminate"])


async def test_answer_that_is_too_long_is_told_and_not_kept(store, sql):
    """Its digest and length stay in the record and the evidence; duplicates hear why there is no replay."""
    largest = replace(ANSWER, body=b"x" * MAX_KEPT_BYTES, headers=(), usage=None)
    await store.complete(await claim(store), largest)
    await store.complete(await claim(store, "long"), replace(largest, body=largest.body + b"x"))

    assert (await claim(store, request="r2")).outcome == largest
    with pytest.raises(IdempotencyOutcomeNotKept, match="had 8388609 bytes; over 8388608 none is kept"):
        await claim(store, "long", request="r2")

    assert events(sql, "long") == ["created", "completed", "not_kept"]


async def test_whoever_waits_hears_of_every_change(store, sql):
    """At once, of a stream and of an end; and a change that came before the wait is not missed."""
    owned = await claim(store)
    for change in (store.note_stream(owned, "s"), store.complete(owned, ANSWER)):
        running = await claim(store, owner="w2", request="r2")
        waits = [asyncio.create_task(store.wait(running, timeout_seconds=60)) for _ in range(3)]
        assert not await store.wait(running, timeout_seconds=0.01)
        await change
        assert await asyncio.gather(*waits) == [True] * 3
        assert await store.wait(running, timeout_seconds=60)

    assert isinstance(await claim(store, owner="w2", request="r2"), Done)


async def test_death_of_an_owner_and_lost_news_are_seen_by_looking(database, store, sql):
    """Nobody tells of them. A store that lost the connection on which it is told gets another."""
    watchful = PostgresIdempotencyStore(database, timeout_seconds=60, poll_seconds=0.02)
    await watchful.start()
    await claim(store)
    running = await claim(watchful, owner="w2", request="r2")
    waits = asyncio.create_task(watchful.wait(running, timeout_seconds=60))
    await asyncio.wait_for(watchful.is_listening.wait(), 60)
    watchful.is_listening.clear()
    kill(sql, LISTENING)
    await asyncio.wait_for(watchful.is_listening.wait(), 60)
    lapse(sql)

    assert await waits
    assert (await claim(watchful, owner="w2", request="r2")).taken_over
    await watchful.close()


async def test_only_what_is_over_is_removed_and_its_evidence_stays(store, sql):
    """A record that is being executed is not over; as many go at a time as are asked for."""
    for key in ("done", "free", "runs", "dead", "young"):
        owned = await claim(store, key)
        if key == "done":
            await store.complete(owned, ANSWER)
        elif key == "free":
            await store.release(owned)
        if key != "young":
            age(sql, key)
    lapse(sql, "dead")

    assert [await store.expire(limit=2) for _ in range(3)] == [2, 1, 0]

    assert sorted(sql("SELECT key FROM ledger_idempotencyrecord")) == [("runs",), ("young",)]
    assert [events(sql, key)[-1] for key in ("done", "free", "dead")] == ["expired"] * 3


async def test_of_many_at_once_one_executes(database, store, sql):
    """64 requests with one key, from four processes: new, left by a dead owner, over, released, and at last done."""
    fleet = [store] + [PostgresIdempotencyStore(database, timeout_seconds=60, connections=2) for _ in range(3)]
    for process in fleet[1:]:
        await process.start()

    async def all_at_once(name):
        return await asyncio.gather(*(claim(fleet[n % 4], owner=f"w{n % 4}", request=f"{name}{n}") for n in range(64)))

    owner = None
    for name, prepare in (
        ("new", lambda: None),
        ("dead", lambda: lapse(sql)),
        ("over", lambda: (lapse(sql), age(sql))),
    ):
        prepare()
        got = await all_at_once(name)
        (owner,) = (one for one in got if isinstance(one, Owned))
        assert owner.taken_over == (name == "dead")
        assert {one.epoch for one in got} == {owner.epoch}
        assert {type(one) for one in got} == {Owned, Running}
    await store.release(owner)
    (owner,) = (one for one in await all_at_once("free") if isinstance(one, Owned))
    await store.complete(owner, ANSWER)
    assert {one.outcome.body for one in await all_at_once("done")} == {ANSWER.body}
    for process in fleet[1:]:
        await process.close()


async def test_store_decides_as_the_decider_does(store, sql):
    """Every state, with its lease or time over or not, met by the same or another request."""
    cases = itertools.chain(
        itertools.product([State.RUNNING], *[[True, False]] * 6),
        itertools.product(
            [State.DONE, State.RELEASED, State.INDETERMINATE], [True], *[[True, False]] * 2, [True], [True], [False]
        ),
    )

    async def check(number, case):
        state, lives, young, same, was_repeatable, is_repeatable, is_itself = case
        key = f"k{number}"
        owned = await claim(store, key, repeatable=was_repeatable)
        if state is State.DONE:
            await store.complete(owned, ANSWER)
        elif state is State.RELEASED:
            await store.release(owned)
        elif state is State.INDETERMINATE:
            await store.abandon(owned)
        if not lives:
            lapse(sql, key)
        if not young:
            age(sql, key)
        asked = {"owner": "w1" if is_itself else "w2", "request": "r1" if is_itself else "r2"}
        fingerprint = QUESTION if same else OTHER
        known = Known(
            state, QUESTION.sha256, "w1", "r1", was_repeatable, 30.0 if lives else -1.0, 9e4 if young else -1.0
        )
        expected = event_of_claim(
            known,
            fingerprint=fingerprint.sha256,
            owner=asked["owner"],
            request_id=asked["request"],
            is_repeatable=is_repeatable,
        )
        before = len(events(sql, key))
        await comes_to(store, key, fingerprint=fingerprint, repeatable=is_repeatable, **asked)
        assert events(sql, key)[before] == expected, case

    await asyncio.gather(*(check(number, case) for number, case in enumerate(cases)))


STEPS = {
    "claim": lambda store, _: claim(store, "fresh", request="r2"),
    "attach": lambda store, _: claim(store, request="r2"),
    "take over": lambda store, _: claim(store, "dead", owner="w2", request="r2"),
    "stream": lambda store, owned: store.note_stream(owned, "s"),
    "complete": lambda store, owned: store.complete(owned, ANSWER),
    "release": lambda store, owned: store.release(owned),
    "abandon": lambda store, owned: store.abandon(owned),
    "expire": lambda store, _: store.expire(limit=9),
}


async def test_process_that_dies_within_a_step_leaves_the_step_undone(database, store, sql):
    """Killed when the record is written and its evidence is not: neither is there, and the next try is the first."""
    owned = await claim(store)
    await claim(store, "dead")
    await claim(store, "over")
    lapse(sql, "dead")
    lapse(sql, "over")
    age(sql, "over")
    everything = """SELECT (SELECT array_agg(r ORDER BY id) FROM ledger_idempotencyrecord r)::text,
        (SELECT array_agg(e ORDER BY id) FROM ledger_idempotencyevidence e)::text"""

    for name, step in STEPS.items():
        before = sql(everything)
        with psycopg.connect(database) as blocker:
            blocker.execute("LOCK TABLE ledger_idempotencyevidence IN SHARE MODE")
            task = asyncio.create_task(step(store, owned))
            killed = 0
            while not task.done():
                killed += kill(sql, WORKING, "wait_event_type = 'Lock'")
                await asyncio.sleep(0)
            with pytest.raises(IdempotencyUnavailable, match="the database fails"):
                await task
        assert killed >= 2, name  # the store itself tries once more
        assert sql(everything) == before, name
        await step(store, owned)
        assert sql(everything) != before, name
        if name in ("complete", "release", "abandon"):
            lapse(sql)
            owned = await next_owner(store, sql, name)


async def next_owner(store, sql, after):
    """What the next claim of the key comes to after a step of its owner's; at last an owner again."""
    got = await comes_to(store, owner="w2", request="after")
    assert got is {"complete": Done, "release": Owned, "abandon": Event.INDETERMINATE}[after]
    age(sql)
    lapse(sql)
    return await claim(store, owner="w1", request="next")


async def test_nobody_executes_under_a_key_that_was_never_handed_over(database, store, sql):
    """Who leaves, or gives up, while the database is slow, leaves a key behind that is free for the next."""
    hasty = PostgresIdempotencyStore(database, timeout_seconds=0.2)
    await hasty.start()
    connected = False
    while not connected:
        try:
            connected = bool(await claim(hasty, "first", owner="w2", request="r2"))
        except IdempotencyUnavailable:
            continue  # it is too hasty to connect on a busy machine
    with psycopg.connect(database) as blocker:
        blocker.execute("LOCK TABLE ledger_idempotencyevidence IN SHARE MODE")
        leaver = asyncio.create_task(claim(store, "left"))
        await until(lambda: waiting(sql))
        leaver.cancel()
        with pytest.raises(IdempotencyUnavailable, match="gave no answer within"):
            await claim(hasty, "late", owner="w2", request="r2")
        with pytest.raises(asyncio.CancelledError):
            await leaver
    await hasty.close()
    await until(lambda: events(sql, "left") == ["created", "released"])

    assert events(sql, "late") == ["created", "released"]
    for key in ("left", "late"):
        assert isinstance(await claim(store, key, fingerprint=OTHER, owner="w3", request="r3"), Owned)


async def test_lost_connections_are_replaced_and_an_absent_database_is_told(store, sql):
    """A restart of the database costs nobody an error; without one, nothing is executed under a key."""
    await asyncio.gather(*(claim(store, f"k{n}", request=f"r{n}") for n in range(8)))
    assert kill(sql, WORKING) > 0
    assert isinstance(await claim(store), Owned)

    absent = PostgresIdempotencyStore("postgresql://nobody@127.0.0.1:1/none", timeout_seconds=0.05)
    await absent.start()
    owned = Owned(uuid.uuid4(), 1, "w")
    running = Running(owned.record_id, 1, "w", "", 30.0)
    for call in (
        claim(absent),
        absent.complete(owned, ANSWER),
        absent.renew([owned], lease_seconds=1),
        absent.wait(running, timeout_seconds=1),
        absent.expire(limit=1),
    ):
        with pytest.raises(IdempotencyUnavailable):
            await call
    await absent.close()


def test_both_planes_mean_the_same_tables():
    """The data plane writes exactly the columns that the control plane's models have."""

    def columns(model):
        return {field.column for field in model._meta.concrete_fields}

    assert IdempotencyRecord._meta.db_table == idempotency_sql.RECORDS
    assert IdempotencyEvidence._meta.db_table == idempotency_sql.ROWS
    assert columns(IdempotencyRecord) == set(idempotency_sql.RECORD_COLUMNS)
    assert columns(IdempotencyEvidence) == {"id", *idempotency_sql.EVIDENCE_COLUMNS}
    assert idempotency_sql.GENESIS == GENESIS
