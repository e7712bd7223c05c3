"""What the store of answers that wait to be completed promises gateways, tried on the real one."""

from __future__ import annotations

import asyncio
import uuid

import psycopg
import pytest
from django.db import connections
from django.utils import timezone

from controlplane.ledger.repairs import Repair
from dataplane.errors.answers import RepairNotFound, RepairsUnavailable
from dataplane.journey import new_id
from dataplane.repair.kept import COMPLETED, EXPIRED, OPEN, OpenAnswer, StillBroken
from dataplane.stores.repairs import PostgresRepairStore

pytestmark = pytest.mark.django_db

PAYLOAD = {"body": {"id": "c1", "n": 1.5}, "asked": {}, "value": '{"a": 1.10}'}
DONE = PAYLOAD | {"value": '{"a": 1.10, "b": 2}'}


@pytest.fixture
async def store(database):
    """A store on the run's PostgreSQL, whose table is empty."""
    with psycopg.connect(database, autocommit=True) as sql:
        sql.execute("TRUNCATE ledger_repair")
    store = PostgresRepairStore(database, timeout_seconds=60)
    await store.start()
    yield store
    await store.close()
    with psycopg.connect(database, autocommit=True) as sql:
        sql.execute("TRUNCATE ledger_repair")


def answer(tenant="acme"):
    """An answer that lacks a field."""
    return OpenAnswer(
        id=uuid.UUID(new_id(1_760_000_000)),
        tenant=tenant,
        user_hash="",
        request_id="req_1",
        route="chat",
        prompt="support",
        version=3,
        lane="l",
        at="text",
        mode="missing_field",
        why="/b is missing",
        missing=("/b",),
        payload=PAYLOAD,
    )


async def test_answer_is_kept_for_its_tenant_and_nobody_else(store):
    """As it was handed over, until its time is over; keeping it twice is keeping it once."""
    given = answer()

    until = await store.keep(given, seconds=60)
    again = await store.keep(given, seconds=6000)
    found = await store.find(given.id, tenant="acme")

    assert again == until == found.expires_at
    assert (found.state, found.at, found.missing, found.payload) == (OPEN, "text", ("/b",), PAYLOAD)
    for tenant, repair in (("globex", given.id), ("acme", uuid.uuid4())):
        with pytest.raises(RepairNotFound):
            await store.find(repair, tenant=tenant)


async def test_of_many_who_complete_an_answer_one_does(store):
    """Each says something else; the first is what stays, and whoever says the same again is told so."""
    given = answer()
    await store.keep(given, seconds=60)
    standing = await store.find(given.id, tenant="acme")

    ends = await asyncio.gather(
        *(store.complete(standing, DONE | {"n": n}, by=f"k{n}") for n in range(5)), return_exceptions=True
    )

    (done,) = [end for end in ends if not isinstance(end, RepairNotFound)]
    assert (done.state, done.payload["n"]) == (COMPLETED, int(done.completed_by[1]))
    assert (await store.complete(standing, done.payload, by=done.completed_by)).completed_at == done.completed_at
    assert await store.find(given.id, tenant="acme") == done


async def test_answer_of_which_another_part_is_broken_stays_open(store):
    """What is missing is that of the other part from then on, and who looked before has to look again."""
    given = answer()
    await store.keep(given, seconds=60)
    standing = await store.find(given.id, tenant="acme")

    later = await store.advance(standing, DONE, StillBroken("tool_calls[1]", "syntax", "no", ()))

    assert (later.state, later.at, later.missing, later.payload) == (OPEN, "tool_calls[1]", (), DONE)
    with pytest.raises(RepairNotFound):
        await store.complete(standing, PAYLOAD | {"value": "{}"}, by="k")


async def test_answer_whose_time_is_over_is_forgotten_and_never_completed(store, database):
    """Its words go; that there was one stays, and the database lets nobody open it again."""
    given = answer()
    await store.keep(given, seconds=60)
    standing = await store.find(given.id, tenant="acme")
    with psycopg.connect(database, autocommit=True) as sql:
        sql.execute("UPDATE ledger_repair SET expires_at = now()")

        with pytest.raises(RepairNotFound):
            await store.complete(standing, DONE, by="k")
        forgotten = await asyncio.to_thread(_forget)

        row = sql.execute("SELECT state, payload, payload_bytes > 0 FROM ledger_repair").fetchone()
        assert (forgotten, row) == (1, (EXPIRED, None, True))
        with pytest.raises(psycopg.errors.RaiseException):
            sql.execute("UPDATE ledger_repair SET state = 'open', payload = ''")


def _forget():
    try:
        return Repair.objects.forget(now=timezone.now())
    finally:
        connections.close_all()  # this thread's own


async def test_database_that_is_away_is_an_error_in_words():
    """Nothing waits for ever."""
    store = PostgresRepairStore("postgresql://nobody@127.0.0.1:1/none", timeout_seconds=0.2)
    await store.start()
    try:
        with pytest.raises(RepairsUnavailable, match="the database fails"):
            await store.find(uuid.uuid4(), tenant="acme")
    finally:
        await store.close()
