"""What the store of jobs promises of those that fail for good: a dead letter, in the transaction of their end."""

from __future__ import annotations

import uuid

import orjson
import psycopg
import pytest

from dataplane.deadletters import KEPT_CAUSES, MAX_LAPSES, fingerprint_of, summary_of
from dataplane.errors.jobs import JobsUnavailable
from dataplane.idempotency import Scope
from dataplane.idempotency import fingerprint_of as request_fingerprint_of
from dataplane.ids import new_id
from dataplane.job_desk import job_json
from dataplane.jobs import BROKEN_OFF, UNREACHED, Answer, Delivery, Event, State, Verdict
from dataplane.stores.jobs import PostgresJobStore, Submission
from tests.contracts.conftest import LEASE_SECONDS
from tests.job_rows import empty_table

pytestmark = pytest.mark.django_db  # only reads; what a store writes is committed

CHAT = "/v1/chat/completions"
BODY = b'{"model":"chat","messages":[{"role":"user","content":"\\u0000 5.10"}]}'
MESSAGE = "lane 'eu/main' is rate limited by its provider; retry in 12.4 s"
HEADERS = {
    "ballast-release": "41",
    "ballast-prompt": "support-answer@7",
    "ballast-lane": "openai/eu",
    "ballast-request-id": "r",
}
LIMITED = Answer(
    429, HEADERS, orjson.dumps({"error": {"code": "upstream_rate_limited", "message": MESSAGE, "type": "t"}})
)
FAILED = Verdict(Event.FAILED, failures=10)
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


async def submit(store, tenant="acme", **fields):
    """Hand in a job of Ada's with tools, under a key."""
    number = next(ids)
    submission = Submission(
        id=uuid.UUID(new_id(1_770_000_000 + number)),
        scope=Scope(tenant, "ada"),
        key_id="k",
        user="ada",
        key=f"key-{number}",
        fingerprint=request_fingerprint_of({"n": number}, path="/v1/jobs"),
        endpoint=CHAT,
        body=BODY,
        expires_seconds=3600.0,
        **{"has_tools": True} | fields,
    )
    job, _ = await store.submit(submission, limit=100)
    return job


async def take(store):
    return await store.take(owner="r1", lease_seconds=LEASE_SECONDS)


def letters(sql, *names):
    """These columns of every letter, the oldest first."""
    return sql(f"SELECT {', '.join(names)} FROM deadletters_deadletter ORDER BY id")  # noqa: S608 - ours


def age(sql, column):
    """Let a time of the jobs that have it be over."""
    has_it = "state = 'running'" if column == "lease_until" else "ended_at IS NULL"
    sql(f"UPDATE ledger_job SET {column} = now() - interval '1 s' WHERE {has_it}")  # noqa: S608 - ours


async def test_job_that_fails_leaves_all_that_is_known_of_it(store, sql):
    """Whose it was, what was in force, why each attempt came to nothing, and what it takes to hand it in again."""
    letter = uuid.uuid4()
    job = await submit(store, redriven_from=letter)
    await store.end(await take(store), Verdict(Event.PUT_BACK, 0.0, 1), UNREACHED)

    await store.end(await take(store), FAILED, LIMITED)

    [row] = letters(
        sql, "kind, name, tenant, user_hash, key, work_id, state, attempts, category, code, summary, fingerprint"
    )
    summary = summary_of(MESSAGE)
    assert row == (
        *("job", CHAT, "acme", Scope("acme", "ada").user_hash, "key-1", job.id, "open", 2),
        *("rate_limit", "upstream_rate_limited", summary),
        fingerprint_of(kind="job", name=CHAT, category="rate_limit", code="upstream_rate_limited", summary=summary),
    )
    [row] = letters(sql, "release_revision, prompt, lane, has_tools, redriven_from, payload_state, payload_bytes")
    [[payload, sha256_matches]] = letters(sql, "payload_body", "payload_sha256 = encode(sha256(payload_body), 'hex')")
    assert row == (41, "support-answer@7", "openai/eu", True, letter, "pending", len(payload))
    assert sha256_matches
    told = orjson.loads(payload)
    assert (told["endpoint"], told["key_id"], told["user"]) == (CHAT, "k", "ada")
    assert payload.endswith(b',"body":' + BODY + b"}")  # as it came: 5.10 is no 5.1
    [[causes, kept_for, ended]] = letters(
        sql, "causes", "payload_expires_at - created_at", "created_at = (SELECT ended_at FROM ledger_job)"
    )
    assert [(one["code"], one["status"], one["owner"]) for one in causes] == [
        ("unanswered", 0, "r1"),
        ("upstream_rate_limited", 429, "r1"),
    ]
    assert (causes[1]["message"], kept_for.days, ended) == (MESSAGE, 30, True)


async def test_ends_that_are_no_failure_leave_no_letter(store, sql):
    """Completed, cancelled, and what is tried again."""
    for verdict in (Verdict(Event.COMPLETED), Verdict(Event.CANCELLED), Verdict(Event.PUT_BACK, 3000.0, 1)):
        await submit(store)
        await store.end(await take(store), verdict, LIMITED)
    job = await submit(store)
    await store.cancel(job.id, tenant="acme")

    assert letters(sql, "id") == []
    assert sql("SELECT count(*) FROM deadletters_group") == [(0,)]


async def test_job_and_letter_are_written_together_or_not_at_all(store, sql):
    """Whatever keeps the letter from being written keeps the job from ending: it is tried again, never lost."""
    job = await submit(store)
    taken = await take(store)
    sql("ALTER TABLE deadletters_deadletter ADD CONSTRAINT nothing_goes_in CHECK (false) NOT VALID")
    try:
        with pytest.raises((psycopg.errors.CheckViolation, JobsUnavailable)):
            await store.end(taken, FAILED, LIMITED)
        assert (await store.find(job.id, tenant="acme")).state is State.RUNNING
        age(sql, "expires_at")
        age(sql, "lease_until")
        with pytest.raises((psycopg.errors.CheckViolation, JobsUnavailable)):
            await store.sweep(keep_seconds=3600)
        assert (await store.find(job.id, tenant="acme")).state is State.RUNNING
    finally:
        sql("ALTER TABLE deadletters_deadletter DROP CONSTRAINT nothing_goes_in")

    await store.sweep(keep_seconds=3600)

    assert (await store.find(job.id, tenant="acme")).state is State.EXPIRED
    assert letters(sql, "work_id", "category") == [(job.id, "expired")]


async def test_expired_jobs_say_what_held_them_up(store, sql):
    """However they expire, those that were held up by the same are one group."""
    await submit(store)
    await store.end(await take(store), Verdict(Event.EXPIRED, failures=1), LIMITED)
    await submit(store)
    await store.end(await take(store), Verdict(Event.PUT_BACK, 0.0, 1), LIMITED)
    age(sql, "expires_at")
    await store.sweep(keep_seconds=3600)
    await submit(store)
    age(sql, "expires_at")
    await store.sweep(keep_seconds=3600)

    summary = "expired; its last attempt: upstream_rate_limited"
    marked = fingerprint_of(kind="job", name=CHAT, category="expired", code="expired", summary=summary)
    told = letters(sql, "category", "code", "summary", "fingerprint")
    assert told[:2] == [("expired", "expired", summary, marked)] * 2
    assert letters(sql, "summary", "attempts")[2] == ("expired; its last attempt: unanswered", 0)
    assert [lane for (lane,) in letters(sql, "lane")] == ["openai/eu", "openai/eu", ""]


async def test_job_that_its_runners_die_of_is_quarantined_while_others_go_on(store, sql):
    """So many in a row, then it is given to nobody any more; a runner that lives to tell puts an end to the row."""
    poison = await submit(store)
    for number in range(1, MAX_LAPSES):
        assert (await take(store)).id == poison.id
        age(sql, "lease_until")
        await store.sweep(keep_seconds=3600)
        assert sql("SELECT lapses, state FROM ledger_job") == [(number, "queued")]
        age(sql, "not_before")
    await store.end(await take(store), Verdict(Event.PUT_BACK, 0.0, 1), UNREACHED)
    assert sql("SELECT lapses FROM ledger_job") == [(0,)]
    other = await submit(store)

    for _ in range(MAX_LAPSES):
        age(sql, "not_before")
        assert (await take(store)).id == poison.id
        age(sql, "lease_until")
        await store.sweep(keep_seconds=3600)

    failed = await store.find(poison.id, tenant="acme")
    assert (failed.state, failed.error["code"], failed.attempts) == (State.FAILED, "poison", 2 * MAX_LAPSES)
    [[work, category, code, causes]] = letters(sql, "work_id", "category", "code", "causes")
    assert (work, category, code) == (poison.id, "poison", "poison")
    assert [one["code"] for one in causes] == ["lapsed"] * 2 + ["unanswered"] + ["lapsed"] * 3
    assert (await take(store)).id == other.id


async def test_job_that_its_gateways_die_of_is_quarantined_while_others_go_on(store, sql):
    """So many in a row, and the statement that ends the last attempt fails it and writes its letter. What was not begun
    with counts neither way; a gateway that lives to tell puts an end to the row.
    """
    lost, untried = (Verdict(Event.PUT_BACK, 0.0, 1, delivery) for delivery in (Delivery.LOST, Delivery.UNTRIED))
    poison = await submit(store)

    async def deliver(verdict, answer):
        age(sql, "not_before")
        taken = await take(store)
        assert taken.id == poison.id
        await store.end(taken, verdict, answer)
        [(lapses, state)] = sql("SELECT lapses, state FROM ledger_job WHERE id = %s", poison.id)
        return lapses, state

    assert await deliver(lost, BROKEN_OFF) == (1, "queued")
    assert await deliver(untried, UNREACHED) == (1, "queued")
    assert await deliver(lost, BROKEN_OFF) == (2, "queued")
    assert await deliver(Verdict(Event.PUT_BACK, 0.0, 1), LIMITED) == (0, "queued")
    other = await submit(store)
    for lapses in range(1, MAX_LAPSES):
        assert await deliver(lost, BROKEN_OFF) == (lapses, "queued")
    assert letters(sql, "id") == []
    assert await deliver(lost, BROKEN_OFF) == (MAX_LAPSES, "failed")

    failed = await store.find(poison.id, tenant="acme")
    assert (failed.error["code"], failed.status, failed.attempts) == ("poison", 0, 7)
    [[work, category, code, causes, ended]] = letters(
        sql, "work_id", "category", "code", "causes", "created_at = (SELECT max(ended_at) FROM ledger_job)"
    )
    assert (work, category, code, ended) == (poison.id, "poison", "poison", True)
    assert [one["code"] for one in causes[-MAX_LAPSES:]] == ["lapsed"] * MAX_LAPSES
    assert (await take(store)).id == other.id


async def test_job_that_was_lost_together_with_others_comes_back_apart_from_them(store, sql):
    """From the second time on, after a while that nobody can foresee; deaths of runners and of gateways are one row."""
    job = await submit(store)
    await store.end(await take(store), Verdict(Event.PUT_BACK, 0.0, 0, Delivery.LOST), BROKEN_OFF)
    assert sql("SELECT not_before <= now() FROM ledger_job") == [(True,)]
    await take(store)
    age(sql, "lease_until")
    await store.sweep(keep_seconds=3600)
    assert sql("SELECT lapses, not_before > now() FROM ledger_job") == [(2, True)]
    age(sql, "not_before")

    await store.end(await take(store), Verdict(Event.EXPIRED, 0.0, 0, Delivery.LOST), BROKEN_OFF)

    assert (await store.find(job.id, tenant="acme")).state is State.FAILED
    assert letters(sql, "category") == [("poison",)]


async def test_job_tells_of_its_last_attempts_only_and_forgets_them_with_its_words(store, sql):
    """Of very many attempts; what providers said in their errors is nobody's to keep for ever."""
    await submit(store)
    for number in range(KEPT_CAUSES + 5):
        error = orjson.dumps({"error": {"code": "upstream_error", "message": f"\x00 no {number}"}})
        await store.end(await take(store), Verdict(Event.PUT_BACK, 0.0, number), Answer(502, {}, error))

    [[causes]] = sql("SELECT causes FROM ledger_job")
    assert [one["message"] for one in causes] == [f"\N{REPLACEMENT CHARACTER} no {number}" for number in range(5, 15)]
    await store.end(await take(store), FAILED, LIMITED)
    sql("ALTER TABLE ledger_job DISABLE TRIGGER USER")
    sql("UPDATE ledger_job SET ended_at = now() - interval '2 h'")
    sql("ALTER TABLE ledger_job ENABLE TRIGGER USER")
    await store.sweep(keep_seconds=3600)
    assert sql("SELECT causes, request FROM ledger_job") == [([], None)]
    # The letter goes by rules of its own.
    assert letters(sql, "jsonb_array_length(causes)", "payload_body IS NULL") == [(KEPT_CAUSES, False)]


async def test_groups_are_counted_with_every_letter(store, sql):
    """How many, of whom, since when and until when, without looking at one of them."""
    for tenant in ("acme", "globex", "acme"):
        await submit(store, tenant)
        await store.end(await take(store), FAILED, LIMITED)

    groups = sql("SELECT total, open, code, last_at > first_at FROM deadletters_group")
    parts = sql("SELECT tenant, total, open FROM deadletters_grouptenant ORDER BY tenant")
    assert (groups, parts) == ([(3, 3, "upstream_rate_limited", True)], [("acme", 2, 2), ("globex", 1, 1)])


async def test_job_names_what_it_was_handed_in_again_as(store, sql):
    """To whoever looks, and to whoever hands the same in under the same key."""
    number = next(ids) + 1
    job = await submit(store)
    await store.end(await take(store), FAILED, LIMITED)
    assert (await store.find(job.id, tenant="acme")).redriven_as is None
    again = uuid.uuid4()

    sql("UPDATE deadletters_deadletter SET state = 'redriven', closed_at = now(), redriven_as = %s", again)

    found = await store.find(job.id, tenant="acme")
    same, is_new = await store.submit(
        Submission(
            id=uuid.UUID(new_id(1_780_000_000)),
            scope=Scope("acme", "ada"),
            key_id="k",
            user="ada",
            key=f"key-{number}",
            fingerprint=request_fingerprint_of({"n": number}, path="/v1/jobs"),
            endpoint=CHAT,
            body=BODY,
            expires_seconds=3600.0,
        ),
        limit=100,
    )
    assert (found.redriven_as, same.redriven_as, same.id, is_new) == (again, again, job.id, False)
    told = job_json(found, position=None, eta_seconds=None)
    assert told["redriven_as"] == f"job_{again.hex}"
