"""What the store of jobs promises gateways and runners, tried on the real one."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from dataclasses import replace

import orjson
import psycopg
import pytest

from dataplane.errors.idempotency import IdempotencyMismatch
from dataplane.errors.jobs import JobNotFound, JobQueueFull, JobsUnavailable
from dataplane.idempotency import Scope, fingerprint_of
from dataplane.jobs import MIN_ENDS, OVER, TRANSITIONS, Answer, Event, LeaseLost, State, Verdict
from dataplane.journey import new_id
from dataplane.stores import jobs_sql
from dataplane.stores.jobs import WORKING, PostgresJobStore, Submission
from tests.contracts.conftest import LEASE_SECONDS
from tests.job_rows import empty_table

pytestmark = pytest.mark.django_db  # only reads; what a store writes is committed

CHAT = "/v1/chat/completions"
BODY = b'{"model": "chat", "messages": []}'
ANSWER = Answer(
    200,
    {"ballast-lane": "l", "ballast-request-id": "req_1", "content-type": "application/json"},
    b'{"id": "c", "usage": {"prompt_tokens": 3}}',
)
REFUSED = Answer(400, {"ballast-request-id": "req_2"}, b'{"error": {"code": "invalid_request", "message": "no"}}')
DONE = Verdict(Event.COMPLETED)
TRACEPARENT = f"00-{'a1' * 16}-{'b2' * 8}-01"
ends = iter(range(1, 10**9))


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


async def submit(store, tenant="acme", *, key="", limit=10_000, user=None, body=BODY, seconds=3600.0, traceparent=""):
    """Hand in a job on the usual terms."""
    submission = Submission(
        id=uuid.UUID(new_id(1_760_000_000 + next(ends))),
        scope=Scope(tenant, user),
        key_id=f"k-{tenant}",
        user=user,
        key=key,
        fingerprint=fingerprint_of({"endpoint": CHAT, "body": orjson.loads(body)}, path="/v1/jobs"),
        endpoint=CHAT,
        body=body,
        expires_seconds=seconds,
        traceparent=traceparent,
    )
    job, is_new = await store.submit(submission, limit=limit)
    assert is_new or key
    return job


def erase(database):
    """Erase the jobs of Ada, a user of acme; returns which these were."""
    whose = {"tenant": "acme", "user_hash": Scope("acme", "ada").user_hash, "begun_by": None}
    with psycopg.connect(database, autocommit=True) as other:
        return {job for (job,) in other.execute(jobs_sql.ERASE, whose)}


async def take(store, owner="r1", sent=None):
    return await store.take(owner=owner, lease_seconds=LEASE_SECONDS, sent=sent)


async def find(store, job, tenant="acme"):
    return await store.find(job.id, tenant=tenant)


def age(sql, column, where="true"):
    """Let a time of a job be over."""
    sql(f"UPDATE ledger_job SET {column} = now() - interval '1 s' WHERE {where}")  # noqa: S608 - ours


async def test_a_job_goes_its_way_and_only_its_tenant_sees_it(store, sql):
    """Handed in, taken, answered: what was asked comes to the runner as it is, and what came back to the caller."""
    job = await submit(store, user="ada")
    with pytest.raises(JobNotFound):
        await find(store, job, tenant="globex")
    assert (job.state, job.attempts, await store.place(job)) == (State.QUEUED, 0, 1)

    taken = await take(store)
    running = await find(store, job)
    await store.end(taken, DONE, ANSWER)
    done = await find(store, job)

    assert (taken.id, taken.key_id, taken.user, taken.endpoint, taken.body) == (job.id, "k-acme", "ada", CHAT, BODY)
    assert (taken.key, taken.attempts, 3590 < taken.expires_in_seconds <= 3600) == (str(job.id), 1, True)
    assert (running.state, running.attempts, running.response) == (State.RUNNING, 1, None)
    assert (done.state, done.status, done.response) == (State.COMPLETED, 200, ANSWER.body)
    assert (done.usage, done.error) == ({"prompt_tokens": 3}, None)
    assert done.headers == (("ballast-lane", "l"), ("ballast-request-id", "req_1"))
    assert sql("SELECT request_id, error_code, response_bytes FROM ledger_job") == [("req_1", "", len(ANSWER.body))]


async def test_every_attempt_is_told_of_the_trace_that_handed_the_job_in(store, sql):
    """The second as the first, whoever makes it; a job that nobody traces says nothing."""
    await submit(store, traceparent=TRACEPARENT)
    await submit(store, tenant="globex")

    first = await take(store)
    await store.end(first, Verdict(Event.PUT_BACK))
    others = {(one := await take(store, owner="r2")).id: one.traceparent for _ in range(2)}

    assert first.traceparent == others.pop(first.id) == TRACEPARENT
    assert list(others.values()) == [""]
    assert await take(store) is None


async def test_failed_and_expired_jobs_say_why_and_what_is_put_back_comes_again(store, sql):
    """An error stands as the envelope has it; a job that is to wait is not due before."""
    job = await submit(store)
    await store.end(await take(store), Verdict(Event.PUT_BACK, 3000.0, 1), Answer(503, {}, b"{}"))
    assert (await find(store, job)).state is State.QUEUED
    assert await take(store) is None
    age(sql, "not_before")

    again = await take(store, "r2")
    await store.end(again, Verdict(Event.FAILED, failures=1), REFUSED)

    failed = await find(store, job)
    assert (again.epoch, again.failures) == (2, 1)
    assert (failed.state, failed.response, failed.attempts) == (State.FAILED, None, 2)
    assert failed.error == {"code": "invalid_request", "message": "no"}
    late = await submit(store)
    age(sql, "expires_at", "state = 'queued'")
    assert await take(store) is None
    assert await store.sweep(keep_seconds=3600) == 1
    assert (await find(store, late)).state is State.EXPIRED


async def test_tenants_take_turns_however_many_jobs_one_of_them_has(store, sql):
    """Whoever comes late with one job waits for one turn; position says so, and a tenant's own order stays."""
    many = [await submit(store) for _ in range(6)]
    first = await take(store)
    few = [await submit(store, "globex") for _ in range(2)]
    one = await submit(store, "initech")

    places = {job.id: await store.place(job) for job in (*many[1:], *few, one)}
    order = [first.id]
    while taken := await take(store):
        order.append(taken.id)

    assert [places[job] for job in order[1:]] == list(range(1, 9))
    owners = [{job.id: job.tenant for job in (*many, *few, one)}[job] for job in order]
    assert owners == ["acme", "globex", "initech", "acme", "globex", "acme", "acme", "acme", "acme"]
    assert [job for job in order if job in {one.id for one in many}] == [job.id for job in many]
    # Nobody collects credit by having been away, and nobody pays for what was served before.
    last = [await submit(store, tenant) for tenant in ("umbrella", "acme", "umbrella", "acme")]
    assert [(await take(store)).id for _ in last] == [last[0].id, last[1].id, last[2].id, last[3].id]


async def test_a_tenant_has_so_many_jobs_in_the_queue_and_no_more(store, sql):
    """Those that are running do not count; many at the same moment do not slip through; others have their own."""
    asked = await asyncio.gather(*(submit(store, limit=5) for _ in range(20)), return_exceptions=True)

    refused = [one for one in asked if isinstance(one, JobQueueFull)]
    assert Counter(map(type, asked))[JobQueueFull] == 15
    assert refused[0].members == {"limit": 5}
    assert sorted(job.tag for job in asked if not isinstance(job, Exception)) == [0, 1, 2, 3, 4]
    await submit(store, "globex", limit=5)
    await take(store)
    await take(store)
    await submit(store, limit=5)


async def test_a_key_names_one_job_of_one_user(store, sql):
    """The same again is the same job, also when nothing more would be taken; another body is named."""
    job = await submit(store, key="k", user="ada")
    assert (await submit(store, key="k", user="ada", limit=1)).id == job.id
    with pytest.raises(IdempotencyMismatch) as caught:
        await submit(store, key="k", user="ada", body=b'{"model": "other"}')
    assert caught.value.fields == ("body",)
    assert len({(await submit(store, key="k", user=user)).id for user in (None, "bob", "ada")}) == 3
    assert (await submit(store, "globex", key="k", user="ada")).id != job.id
    together = await asyncio.gather(*(submit(store, key="k2") for _ in range(8)))
    assert len({one.id for one in together}) == 1


async def test_dead_runner_loses_its_job_and_writes_nothing_any_more(store, sql):
    """Its lease over, the job goes back to its place; from then on the epoch is over, however late it wakes."""
    jobs = [await submit(store) for _ in range(2)]
    old = await take(store)
    assert await store.renew([old], owner="r1", lease_seconds=LEASE_SECONDS) == {old: False}
    assert await store.sweep(keep_seconds=3600) == 0
    age(sql, "lease_until", "state = 'running'")
    # Late, and nobody has noticed: it goes on.
    assert await store.renew([old], owner="r1", lease_seconds=LEASE_SECONDS) == {old: False}
    age(sql, "lease_until", "state = 'running'")

    assert await store.sweep(keep_seconds=3600) == 1
    with pytest.raises(LeaseLost):
        await store.end(old, DONE, ANSWER)
    new = await take(store, "r2")

    assert (new.id, new.epoch) == (jobs[0].id, 2)
    for impostor in (old, replace(new, owner="r1"), replace(new, epoch=3), replace(new, id=uuid.uuid4())):
        for verdict in (DONE, Verdict(Event.PUT_BACK), Verdict(Event.FAILED), Verdict(Event.CANCELLED)):
            with pytest.raises(LeaseLost):
                await store.end(impostor, verdict, ANSWER)
        assert await store.renew([impostor], owner=impostor.owner, lease_seconds=LEASE_SECONDS) == {}
    await store.end(new, DONE, ANSWER)
    await store.end(new, DONE, ANSWER)  # its answer was lost, and it is asked again
    with pytest.raises(LeaseLost):
        await store.end(new, Verdict(Event.FAILED), REFUSED)


async def test_cancelling_ends_what_waits_and_asks_what_runs(store, sql):
    """What is over stays as it ended; a dead runner's job that nobody wants is not tried again."""
    waiting, running, over = [await submit(store) for _ in range(3)]
    await store.cancel(waiting.id, tenant="acme")
    taken, other = await take(store), await take(store)
    await store.end(other, DONE, ANSWER)

    assert (await store.cancel(running.id, tenant="acme")).state is State.RUNNING
    assert (await store.cancel(over.id, tenant="acme")).state is State.COMPLETED
    for job, tenant in ((running.id, "globex"), (uuid.uuid4(), "acme")):
        with pytest.raises(JobNotFound):
            await store.cancel(job, tenant=tenant)

    assert (await find(store, waiting)).state is State.CANCELLED
    assert await store.renew([taken], owner="r1", lease_seconds=LEASE_SECONDS) == {taken: True}
    age(sql, "lease_until", "state = 'running'")
    await store.sweep(keep_seconds=3600)
    assert (await find(store, running)).state is State.CANCELLED


async def test_word_is_sent_of_what_is_due_as_far_as_there_is_room(store, sql):
    """Each job once until it counts as lost, in the order of service; word of one job may serve another before it."""
    jobs = [await submit(store) for _ in range(6)]
    assert [*await store.to_send(concurrency=2, lost_seconds=LEASE_SECONDS)] == [job.id for job in jobs[:4]]
    assert await store.to_send(concurrency=2, lost_seconds=LEASE_SECONDS) == []
    await store.unsend([jobs[1].id])
    assert [*await store.to_send(concurrency=2, lost_seconds=LEASE_SECONDS)] == [jobs[1].id]

    hasty = await submit(store, "globex")  # unsent, and the second in the order
    assert (await take(store, sent=jobs[0].id)).id == jobs[0].id
    assert (await take(store, sent=jobs[1].id)).id == hasty.id
    # The word that came is used up, so that job is to be sent again; those of the others are on their way.
    marked = {job for (job,) in sql("SELECT id FROM ledger_job WHERE sent_until IS NOT NULL")}
    assert marked == {jobs[2].id, jobs[3].id}
    assert (await take(store, sent=jobs[2].id)).id == jobs[1].id
    assert set(await store.to_send(concurrency=2, lost_seconds=LEASE_SECONDS)) == {jobs[2].id, jobs[4].id, jobs[5].id}
    age(sql, "sent_until", "sent_until IS NOT NULL")
    assert set(await store.to_send(concurrency=9, lost_seconds=LEASE_SECONDS)) == {job.id for job in jobs[2:]}


async def test_word_that_a_dead_runner_had_is_sent_again(store, sql):
    """With it died what it had not begun; nobody knows what that was, so all is sent again."""
    jobs = [await submit(store) for _ in range(3)]
    await store.to_send(concurrency=2, lost_seconds=LEASE_SECONDS)
    await take(store, sent=jobs[0].id)
    age(sql, "lease_until", "state = 'running'")

    assert await store.to_send(concurrency=2, lost_seconds=LEASE_SECONDS) == []
    await store.sweep(keep_seconds=3600)

    assert set(await store.to_send(concurrency=2, lost_seconds=LEASE_SECONDS)) == {job.id for job in jobs}


async def test_many_runners_take_each_job_once(store, sql):
    """At the same moment, with word that comes twice or for nothing."""
    jobs = {(await submit(store, tenant)).id for tenant in ("acme", "globex") for _ in range(10)}

    got = await asyncio.gather(*(take(store, f"r{number}", sent=job) for number in range(3) for job in jobs))

    assert Counter(taken.id for taken in got if taken is not None) == dict.fromkeys(jobs, 1)


async def test_words_are_forgotten_and_figures_stay(store, sql):
    """Some time after the end, question, answer, error, user and key are gone; and the key is free."""
    job = await submit(store, key="k", user="ada")
    await store.end(await take(store), DONE, ANSWER)
    await submit(store)
    assert await store.sweep(keep_seconds=3600) == 0

    sql("ALTER TABLE ledger_job DISABLE TRIGGER USER")
    sql("UPDATE ledger_job SET ended_at = now() - interval '2 h' WHERE state = 'completed'")
    sql("ALTER TABLE ledger_job ENABLE TRIGGER USER")
    assert await store.sweep(keep_seconds=3600) == 1
    assert await store.sweep(keep_seconds=3600) == 0

    kept = await find(store, job)
    assert (kept.state, kept.status, kept.usage) == (State.COMPLETED, 200, {"prompt_tokens": 3})
    assert (kept.response, kept.headers, kept.forgotten_at is None) == (None, (), False)
    row = sql('SELECT request, response, "user", key, fields, error FROM ledger_job WHERE id = %s', job.id)
    assert row == [(None, None, "", "", {}, None)]
    assert (await submit(store, key="k", user="ada")).id != job.id


async def test_words_of_one_user_are_erased_and_figures_stay(database, store, sql):
    """Of this tenant's user alone, whatever became of the job. One that waits ends; one that runs is stopped, leaves
    neither words nor a letter, and is not tried again; the same again finds nothing.
    """
    done, failing, back = [await submit(store, user="ada", key=f"k{number}") for number in range(3)]
    takings = [await take(store) for _ in range(3)]
    await store.end(takings[0], DONE, ANSWER)
    waiting = await submit(store, user="ada", key="k3")
    others = [await submit(store, "globex", user="ada"), await submit(store, user="bob"), await submit(store)]

    assert erase(database) == {job.id for job in (done, failing, back, waiting)}
    assert erase(database) == set()

    held = await store.renew(takings[1:], owner="r1", lease_seconds=LEASE_SECONDS)
    assert held == dict.fromkeys(takings[1:], True)
    await store.end(takings[1], Verdict(Event.FAILED, failures=1), REFUSED)
    await store.end(takings[2], Verdict(Event.PUT_BACK), REFUSED)
    states = [(await find(store, job)).state for job in (done, failing, back, waiting)]
    assert states == [State.COMPLETED, State.FAILED, State.CANCELLED, State.CANCELLED]
    kept = await find(store, done)
    assert (kept.status, kept.usage, kept.response, kept.attempts) == (200, {"prompt_tokens": 3}, None, 1)
    words = (None, None, [], None, "", "", "", "", {}, [])
    named = 'request, response, response_headers, error, "user", user_hash, key, fingerprint, fields, causes'
    assert sql(f"SELECT {named} FROM ledger_job WHERE erased_at IS NOT NULL") == [words] * 4  # noqa: S608 - ours
    assert sql("SELECT count(*) FROM deadletters_deadletter") == [(0,)]
    assert sql("SELECT count(*) FROM ledger_job WHERE request IS NOT NULL AND state = 'queued'") == [(len(others),)]
    assert (await submit(store, user="ada", key="k0")).id != done.id


async def test_answer_that_comes_after_an_erasure_is_not_kept(database, store, sql):
    """What it cost is; and a runner that dies with such a job gives it back to nobody."""
    answered, orphaned = [await submit(store, user="ada") for _ in range(2)]
    taken, _ = await take(store), await take(store)
    erase(database)

    await store.end(taken, DONE, ANSWER)
    age(sql, "lease_until", "state = 'running'")
    await store.sweep(keep_seconds=3600)

    kept = await find(store, answered)
    assert (kept.state, kept.response, kept.headers, kept.usage) == (
        State.COMPLETED,
        None,
        (),
        {"prompt_tokens": 3},
    )
    assert (await find(store, orphaned)).state is State.CANCELLED
    assert await take(store) is None


async def test_eta_is_told_from_what_ended_lately(store, sql):
    """Nobody knows as long as nothing has ended; cancelled ones say nothing of how fast it goes."""
    jobs = [await submit(store) for _ in range(MIN_ENDS + 4)]
    await store.cancel(jobs[-1].id, tenant="acme")
    assert (await store.figures()).eta_seconds(1) is None

    for _ in range(MIN_ENDS):
        await store.end(await take(store), DONE, ANSWER)
    await take(store)

    figures = await store.figures()
    assert (figures.queued, figures.running) == (2, 1)
    assert figures.ended == {"completed": MIN_ENDS, "cancelled": 1}
    assert figures.eta_seconds(6) == pytest.approx(6 * max(figures.span_seconds, 1) / MIN_ENDS, abs=0.1)


async def test_the_table_takes_no_other_move_than_the_engine(store, sql):
    """Whoever writes: a move that the table of moves lacks is refused by the database, and an end is an end."""
    for state in State:
        for event in Event:
            moved = sql(
                f"SELECT {jobs_sql._state_after('%s::text')} FROM (SELECT %s::text AS state) AS j",  # noqa: S608
                *[event] * len(TRANSITIONS),
                state,
            )
            assert moved == [(TRANSITIONS.get((state, event)),)]
    job = await submit(store)
    await store.end(await take(store), DONE, ANSWER)
    for change in ("state = 'queued', ended_at = NULL", "epoch = 0", "status = 500", "tag = 9"):
        with pytest.raises(psycopg.errors.RaiseException, match="Cannot update"):
            sql(f"UPDATE ledger_job SET {change} WHERE id = %s", job.id)  # noqa: S608 - ours
    other = await submit(store)
    for change in ("state = 'asleep'", "state = 'running'", "state = 'failed'", "lease_until = now()"):
        with pytest.raises(psycopg.errors.CheckViolation):
            sql(f"UPDATE ledger_job SET {change} WHERE id = %s", other.id)  # noqa: S608 - ours


@pytest.mark.parametrize("seed", range(4))
async def test_any_order_of_events_ends_each_job_once(store, sql, seed):
    """Runners that die, wake, answer, put back; callers that cancel; a sweep at any moment: in the end every job is
    over, and of each only one end was ever taken.
    """
    rng = random.Random(seed)
    jobs = [await submit(store, rng.choice(["acme", "globex"])) for _ in range(8)]
    held, accepted = [], {job.id: set() for job in jobs}

    async def end(taken):
        verdict = rng.choice([DONE, DONE, Verdict(Event.FAILED), Verdict(Event.PUT_BACK), Verdict(Event.CANCELLED)])
        try:
            await store.end(taken, verdict, ANSWER)
        except LeaseLost:
            return
        if verdict.event is not Event.PUT_BACK:
            accepted[taken.id].add((taken.epoch, verdict.event))  # the same again is a lost answer, asked for anew

    for _ in range(80):
        match rng.randrange(6):
            case 0 | 1:
                held.append(await take(store, rng.choice("ab")))
            case 2 | 3 if held:
                one = held[rng.randrange(len(held))]
                if one is not None:
                    await end(one)
            case 4:
                age(sql, "lease_until", "state = 'running' AND random() < 0.5")
                await store.sweep(keep_seconds=3600)
                age(sql, "not_before", "state = 'queued'")  # what died with its runner more than once has to wait
            case _ if rng.random() < 0.2:
                job = rng.choice(jobs)
                was = await find(store, job, job.tenant)
                now = await store.cancel(job.id, tenant=job.tenant)
                if was.state not in OVER and now.state in OVER:
                    accepted[job.id].add((was.attempts, Event.CANCELLED))
    age(sql, "lease_until", "state = 'running'")
    await store.sweep(keep_seconds=3600)
    age(sql, "not_before", "state = 'queued'")
    while taken := await take(store):
        await store.end(taken, DONE, ANSWER)
        accepted[taken.id].add((taken.epoch, DONE.event))

    assert {state for (state,) in sql("SELECT state FROM ledger_job")} <= set(OVER)
    assert max(map(len, accepted.values())) == 1


async def test_database_that_is_away_is_told_and_a_lost_connection_is_not(database, store, sql):
    """Nothing waits for ever, and nothing is accepted that is not stored."""
    job = await submit(store)
    sql(
        "SELECT pg_terminate_backend(pid, 60_000) FROM pg_stat_activity WHERE application_name = %s"
        " AND datname = current_database()",
        WORKING,
    )
    assert (await find(store, job)).id == job.id

    nowhere = PostgresJobStore("postgresql://nobody@127.0.0.1:1/none", timeout_seconds=0.2)
    await nowhere.start()
    for ask in (nowhere.figures(), submit(nowhere), take(nowhere), find(nowhere, job)):
        with pytest.raises(JobsUnavailable):
            await ask
    await nowhere.close()
