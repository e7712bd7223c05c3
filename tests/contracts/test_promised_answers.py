"""What the store of jobs keeps beside a question that was put off: whose surface did it, and where its answer goes."""

from __future__ import annotations

import uuid

import orjson
import pytest

from dataplane.destinations import Channel, DeliveryState, Destination
from dataplane.idempotency import Scope, fingerprint_of
from dataplane.ids import new_id
from dataplane.jobs import UNREACHED, Event, Verdict
from dataplane.rung_words import Mail
from dataplane.stores.jobs import PostgresJobStore, Submission
from tests.contracts.conftest import LEASE_SECONDS
from tests.job_rows import empty_table

pytestmark = pytest.mark.django_db  # only reads; what a store writes is committed

CHAT = "/v1/chat/completions"
MAILBOX = Destination(Channel.EMAIL, "ada@example.com", Mail("Your answer", "Here it is."), {"copy": "later@1"})
ids = iter(range(1, 10**9))


@pytest.fixture
def sql(database):
    """Runs SQL on an empty table of jobs, as somebody else."""
    with empty_table(database) as run:
        yield run


@pytest.fixture
async def store(database, sql):
    """A store on the run's PostgreSQL."""
    store = PostgresJobStore(database, timeout_seconds=60)
    await store.start()
    yield store
    await store.close()


async def put_off(store, surface="web-chat", *, key="", destination=MAILBOX, limit=100):
    """Put a question of Ada's off."""
    submission = Submission(
        id=uuid.UUID(new_id(1_780_000_000 + next(ids))),
        scope=Scope("acme", "ada"),
        key_id="k",
        user="ada",
        key=key,
        fingerprint=fingerprint_of({"key": key}, path=CHAT),
        endpoint=CHAT,
        body=orjson.dumps({"model": "chat"}),
        expires_seconds=3600.0,
        surface=surface,
        destination=destination,
    )
    job, _ = await store.submit(submission, limit=limit)
    return job


async def take(store):
    return await store.take(owner="r1", lease_seconds=LEASE_SECONDS)


async def test_oldest_question_that_waits_is_known_by_surface(store, sql):
    """One that is tried again counts from when it was asked, one that runs or was meant for a job not at all."""
    first = await put_off(store)
    await put_off(store, "search")
    await put_off(store, "")
    sql("UPDATE ledger_job SET created_at = now() - interval '90 s' WHERE id = %s", first.id)
    waiting = await store.oldest_put_off()

    taken = await take(store)
    running = await store.oldest_put_off()
    await store.end(taken, Verdict(Event.PUT_BACK, 60.0, 1), UNREACHED)
    put_back = await store.oldest_put_off()

    assert set(waiting) == set(put_back) == {"web-chat", "search"}
    assert 90 <= waiting["web-chat"] <= put_back["web-chat"]
    assert 0 <= waiting["search"] < waiting["web-chat"]
    assert set(running) == {"search"}


async def test_where_an_answer_goes_is_kept_with_its_question(store, sql):
    """In the same statement; a question that came before under its key keeps where the first was to go."""
    job = await put_off(store, key="order-7")
    await put_off(store, key="order-7")
    await put_off(store, destination=None)
    rows = sql("SELECT job_id, channel, address, subject, text, ballast, state, attempts, next_at FROM ledger_delivery")

    assert rows == [
        (job.id, "email", "ada@example.com", "Your answer", "Here it is.", {"copy": "later@1"}, "waiting", 0, None)
    ]


@pytest.mark.parametrize("way", ["completed", "failed", "expired", "lapsed too often"])
async def test_end_of_a_job_makes_its_answer_due(store, sql, way):
    """Whoever ends it, and however."""
    await put_off(store)
    before = sql("SELECT next_at, give_up_at FROM ledger_delivery")
    if way in ("completed", "failed"):
        await store.end(await take(store), Verdict(Event(way)), UNREACHED)
    elif way == "expired":
        sql("UPDATE ledger_job SET expires_at = now() - interval '1 s'")
        await store.sweep(keep_seconds=3600)
    else:
        await take(store)
        sql("UPDATE ledger_job SET lapses = 99, lease_until = now() - interval '1 s'")
        await store.sweep(keep_seconds=3600)

    [(state, is_due, is_a_day)] = sql(
        "SELECT state, next_at <= clock_timestamp(), give_up_at - next_at BETWEEN interval '23 h' AND interval '25 h'"
        " FROM ledger_delivery"
    )
    assert before == [(None, None)]
    assert (state, is_due, is_a_day) == (DeliveryState.WAITING, True, True)


async def test_answer_of_a_cancelled_job_is_sent_to_nobody(store, sql):
    """Its caller knows."""
    job = await put_off(store)

    await store.cancel(job.id, tenant="acme")

    assert sql("SELECT state, next_at FROM ledger_delivery") == [("cancelled", None)]


async def test_address_is_forgotten_with_the_words(store, sql):
    """What became of it stays."""
    await put_off(store)
    await store.end(await take(store), Verdict(Event.COMPLETED), UNREACHED)
    sql("UPDATE ledger_delivery SET state = 'delivered', next_at = NULL")

    await store.sweep(keep_seconds=-60)

    assert sql("SELECT address, subject, text, state FROM ledger_delivery") == [("", "", "", "delivered")]
