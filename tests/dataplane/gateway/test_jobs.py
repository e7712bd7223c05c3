"""Jobs from end to end of one process: an application hands them in at a live gateway on a live simulator, and a runner
tries them; both on the run's PostgreSQL. Word of jobs, which Celery carries, is not in here.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import random
import time
import uuid
from pathlib import Path

import httpx
import pytest

from dataplane.assembly import Stores
from dataplane.cursors import CursorKeys
from dataplane.errors.jobs import JobsUnavailable, JobTokenRefused
from dataplane.job_runner import DEAF_SECONDS, JobRunner
from dataplane.job_tokens import JobToken, read_token, sign_token
from dataplane.jobs import MAX_FAILURES, MIN_WAIT_SECONDS
from dataplane.stores.idempotency import PostgresIdempotencyStore
from dataplane.stores.jobs import PostgresJobStore
from tests.dataplane.conftest import copy_document
from tests.job_rows import empty_table

from .conftest import (
    make_release,
    make_settings,
    release_sections,
    run_gateway,
    wait_until,
)

pytestmark = pytest.mark.django_db  # asks for the tables; what the gateway writes there is committed

QUESTION = [{"role": "user", "content": "How do I get a refund?"}]
SLOWLY = [{"role": "user", "content": "How do I get a refund? [[fault latency:ms=400]]"}]
CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
KEYS = CursorKeys([b"n" * 32, b"o" * 32])


@pytest.fixture(scope="module")
def working_gateway(simulator_url, keys_url):
    """A gateway that takes jobs, five of a tenant at once; with stubs for what verifies releases and ships reports.

    What its route `unreachable` cannot answer, a signed template does.
    """
    sections = copy.deepcopy(release_sections(simulator_url))
    outage, template = {"copy": "outage"}, {"copy": "template"}
    sections["routing"]["fallbacks"] = {"words": {"answers": None, "template": template, "outage": outage}}
    sections["routing"]["routes"]["unreachable"]["fallback"] = "words"
    sections["access"]["keys"][hashlib.sha256(b"bk-demo-acme").hexdigest()] = {"tenant": "globex", "id": "k-guide"}
    sections["copy"] = {
        kind: {"version": 3, "digest": "c" * 64, "document": copy_document(kind)} for kind in ("template", "outage")
    }
    stores = Stores(
        idempotency=PostgresIdempotencyStore(keys_url, timeout_seconds=60),
        jobs=PostgresJobStore(keys_url, timeout_seconds=60),
    )
    with run_gateway(sections, settings=make_settings(job_limit=5), stores=stores, cursors=KEYS) as gateway:
        yield gateway


@pytest.fixture
def sql(keys_url):
    """Runs SQL on an empty table of jobs, as somebody else."""
    with empty_table(keys_url) as run:
        yield run


@pytest.fixture
def gateway(working_gateway, simulator, sql):
    """That gateway, with nothing recorded yet, and no job."""
    release = working_gateway.watcher.current
    working_gateway.wait_until_idle()
    # What it went on with for a runner that was gone is to be recorded before, and counted by the provider.
    running = "SELECT count(*) FROM ledger_idempotencyrecord WHERE state = 'running'"
    wait_until(lambda: sql(running) == [(0,)])
    working_gateway.forget()
    simulator.post("/admin/reset")
    yield working_gateway
    working_gateway.watcher.current = release


@pytest.fixture
def http(gateway):
    """A bare HTTP client with a tenant's key."""
    with httpx.Client(base_url=gateway.url, headers={"authorization": "Bearer bk-globex"}, timeout=90) as client:
        yield client


@pytest.fixture
async def runner(gateway, keys_url):
    """A runner of that gateway's jobs."""
    async with RunnerOf(gateway, keys_url) as runner:
        yield runner


class RunnerOf:
    """A runner as its process makes it, with a store of its own, that works only when it is told; and time passes for
    it only when it is told.
    """

    def __init__(self, gateway, keys_url, *, store=None, client=None, keys=KEYS):
        self.store = store or PostgresJobStore(keys_url, timeout_seconds=60)
        self.client = client or httpx.AsyncClient(base_url=gateway.url)
        self.sent = []
        self.keys = keys
        self.seconds = 0.0

    async def __aenter__(self):
        async def send(jobs):
            self.sent.extend(jobs)

        await self.store.start()
        return JobRunner(
            store=self.store,
            client=self.client,
            keys=self.keys,
            send=send,
            owner=f"test/jobs/{uuid.uuid4().hex}",
            concurrency=2,
            keep_seconds=3600,
            clock=lambda: self.seconds,
            wall=time.time,
            rng=random.Random(1),
        )

    async def __aexit__(self, *problem):
        await self.store.close()
        await self.client.aclose()


def hand_in(http, body=None, *, endpoint=CHAT, status=202, headers=(), **more):
    answer = http.post(
        "/v1/jobs",
        json={"endpoint": endpoint, "body": body or {"model": "chat", "messages": QUESTION}, **more},
        headers=dict(headers),
    )
    assert answer.status_code == status, answer.text
    return answer


def look(http, job):
    return http.get(f"/v1/jobs/{job['id']}").json()


def wait_of(sql):
    """How long the queued job has to wait since it was taken last, in seconds."""
    [(seconds,)] = sql("SELECT extract(epoch FROM not_before - taken_at) FROM ledger_job WHERE state = 'queued'")
    return seconds


def put_off(sql):
    sql("UPDATE ledger_job SET not_before = now() + interval '1 h' WHERE state = 'queued'")


def due(sql):
    sql("UPDATE ledger_job SET not_before = now() WHERE state = 'queued'")


async def test_application_hands_a_job_in_and_comes_back_for_the_answer(http, gateway, runner, simulator):
    """Accepted with its place, then done: the answer is the one that the same request gets at once, with its usage; it
    ran in the class batch, in the name of the key that it was handed in with.
    """
    first = hand_in(http, headers={"ballast-user": "ada"}, expires_seconds=3600)
    second = hand_in(http, {"model": "embed", "input": "Where is my parcel?"}, endpoint=EMBEDDINGS).json()
    job = first.json()

    assert first.headers["location"] == f"/v1/jobs/{job['id']}"
    assert int(first.headers["retry-after"]) >= 1
    assert {name: job[name] for name in ("object", "endpoint", "status", "position", "eta_seconds", "attempts")} == {
        "object": "job",
        "endpoint": CHAT,
        "status": "queued",
        "position": 1,
        "eta_seconds": None,
        "attempts": 0,
    }
    assert job["expires_at"] - job["created_at"] == 3600
    assert (second["position"], look(http, job)["position"]) == (2, 1)
    while await runner.run_next():
        pass

    done = http.get(f"/v1/jobs/{job['id']}")
    told = done.json()
    at_once = http.post(CHAT, json={"model": "chat", "messages": QUESTION}).json()
    assert (told["status"], told["attempts"], told["error"], told["response"]["status"]) == ("completed", 1, None, 200)
    assert told["response"]["body"]["choices"] == at_once["choices"]
    assert told["usage"] == told["response"]["body"]["usage"] == at_once["usage"]
    assert told["response"]["headers"]["ballast-lane"] == "openai/eu/main/gpt-4o"
    assert not {name for name in told["response"]["headers"] if not name.startswith("ballast-")}
    assert "retry-after" not in done.headers
    assert look(http, second)["response"]["body"]["data"][0]["embedding"]
    rows = gateway.rows(3)
    assert [(row["tenant"], row["key_id"]) for row in rows] == [("globex", "k-globex")] * 3
    assert rows[0]["user"] != ""
    assert simulator.get("/admin/state").json()["total"] == 3


def test_the_guides_programs_come_back_with_an_answer(gateway, keys_url, sql, capsys):
    """With OpenAI's SDK and without it, as they stand, but for the address, and the patience that a busy machine takes;
    while they sleep, a runner works.
    """
    guide = (Path(__file__).resolve().parents[3] / "docs" / "jobs.md").read_text()
    programs = [part.partition("```")[0] for part in guide.split("```python\n")[1:]]

    def meanwhile(seconds):
        async def work():
            async with RunnerOf(gateway, keys_url) as runner:
                assert await runner.run_next()

        asyncio.run(work())

    for program in programs:
        program = program.replace("http://127.0.0.1:8080", gateway.url).replace("time.sleep(", "meanwhile(")
        program = program.replace("httpx.Client(", "httpx.Client(timeout=90, ")
        exec(program, {"meanwhile": meanwhile})  # noqa: S102 - our own guide

    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(" 1 None")
    assert "'total_tokens': " in said[-2]
    assert said[-1] == "completed"
    assert sql("SELECT count(*), count(DISTINCT key) FROM ledger_job") == [(2, 2)]


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ([], 400, "invalid_request", None),
        ({"endpoint": "/v1/models", "body": {}}, 400, "invalid_request", "endpoint"),
        ({"endpoint": CHAT}, 400, "invalid_request", "body"),
        ({"endpoint": CHAT, "body": {}, "then": 1}, 400, "invalid_request", "then"),
        ({"endpoint": CHAT, "body": {"model": "chat"}}, 400, "invalid_request", "body.messages"),
        (
            {"endpoint": CHAT, "body": {"model": "chat", "messages": QUESTION, "stream": True}},
            400,
            "invalid_request",
            "body.stream",
        ),
        ({"endpoint": CHAT, "body": {"model": "none", "messages": QUESTION}}, 404, "model_not_found", "body.model"),
        ({"endpoint": EMBEDDINGS, "body": {"model": "embed"}}, 400, "invalid_request", "body.input"),
        ({"endpoint": EMBEDDINGS, "body": {"model": "chat", "input": "x"}}, 400, "unsupported_request", "body"),
        *(
            (
                {"endpoint": CHAT, "body": {"model": "chat", "messages": QUESTION}, "expires_seconds": seconds},
                400,
                "invalid_request",
                "expires_seconds",
            )
            for seconds in (59, 604_801, True, "60", None)
        ),
    ],
)
def test_what_cannot_be_right_is_refused_at_once(http, sql, fields, status, code, param):
    """With the name of the field, and nothing is kept."""
    answer = http.post("/v1/jobs", json=fields)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert sql("SELECT count(*) FROM ledger_job") == [(0,)]


def test_jobs_are_asked_for_as_they_should_be(http, gateway, sql):
    """Wrong methods, addresses, bodies, keys; another tenant's job looks like none."""
    job = hand_in(http).json()
    stranger = {"authorization": "Bearer bk-acme"}
    tries = [
        http.get("/v1/jobs"),
        http.delete(f"/v1/jobs/{job['id']}"),
        http.get("/v1/jobs/"),
        http.get("/v1/jobs/job_1"),
        http.get(f"/v1/jobs/{job['id'].removeprefix('job_')}"),
        http.get(f"/v1/jobs/{job['id']}/stop"),
        http.get(f"/v1/jobs/{job['id']}", headers=stranger),
        http.post(f"/v1/jobs/{job['id']}/cancel", headers=stranger),
        http.get(f"/v1/jobs/{job['id']}", headers={"authorization": "Bearer no"}),
        http.post("/v1/jobs", content=b"{", headers={"content-type": "application/json"}),
        http.post("/v1/jobs", content=b"{}", headers={"content-type": "text/plain"}),
        http.post("/v1/jobs", json={"endpoint": CHAT, "body": {"model": "x" * 100_001}}),
    ]

    assert [answer.status_code for answer in tries] == [405, 405, 404, 404, 404, 404, 404, 404, 401, 400, 415, 413]
    assert {answer.json()["error"]["code"] for answer in tries[6:8]} == {"job_not_found"}
    assert look(http, job)["status"] == "queued"
    for number in range(4):
        hand_in(http, {"model": "chat", "messages": QUESTION, "seed": number})
    full = hand_in(http, status=429)
    assert (full.json()["error"]["code"], full.json()["error"]["limit"]) == ("job_queue_full", 5)
    hand_in(http, headers=stranger)
    page = http.get("/metrics").text
    assert "ballast_jobs_queued " in page
    assert 'ballast_gateway_requests_total{operation="job_submit",outcome="job_queue_full"}' in page


async def test_key_names_one_job(http, gateway, runner, sql):
    """The same again is told 200 and the same job, also when it is done; another body 422, which names the field."""
    named = {"idempotency-key": str(uuid.uuid4())}
    job = hand_in(http, headers=named).json()
    assert hand_in(http, headers=named, status=200).json() == job
    await runner.run_next()

    again = hand_in(http, headers=named, status=200).json()
    other = hand_in(http, {"model": "chat", "messages": QUESTION, "seed": 1}, headers=named, status=422).json()

    assert (again["id"], again["status"]) == (job["id"], "completed")
    assert (other["error"]["code"], other["error"]["fields"]) == ("idempotency_mismatch", ["body"])
    assert hand_in(http, headers=named | {"ballast-user": "bob"}).json()["id"] != job["id"]


async def test_what_passes_is_waited_for_and_what_does_not_ends_the_job(http, gateway, runner, simulator, sql):
    """A 429 and a 503 put it back, later, at no loss; a refusal is its end, in the words of the envelope."""
    job = hand_in(http).json()
    for fault, seconds in (("rate_limit:retry_after_seconds=7", 7), ("status:code=503", MIN_WAIT_SECONDS)):
        simulator.post("/admin/faults", json={"fault": fault, "count": 1})
        assert await runner.run_next()
        assert wait_of(sql) >= seconds
        put_off(sql)
        assert not await runner.run_next()
        assert look(http, job)["status"] == "queued"
        due(sql)
    await runner.run_next()
    assert (look(http, job)["status"], look(http, job)["attempts"]) == ("completed", 3)
    assert sql("SELECT failures FROM ledger_job") == [(1,)]

    refused = hand_in(http, {"model": "chat", "messages": [{"role": "user", "content": "x [[fault status:code=400]]"}]})
    await runner.run_next()
    told = look(http, refused.json())
    assert (told["status"], told["response"], told["error"]["code"]) == ("failed", None, "invalid_request")

    hopeless = hand_in(http, {"model": "chat", "messages": [{"role": "user", "content": "[[fault status:code=500]]"}]})
    while await runner.run_next():
        due(sql)
    told = look(http, hopeless.json())
    assert (told["status"], told["attempts"], told["error"]["code"]) == ("failed", MAX_FAILURES, "upstream_unavailable")


async def test_a_runner_that_hears_no_word_looks_for_itself(http, gateway, keys_url, sql):
    """After five seconds, and for no more than it may have at once; while word comes, it leaves that to word."""
    jobs = [hand_in(http).json() for _ in range(3)]
    client = HeldClient(gateway.url)
    deaf = RunnerOf(gateway, keys_url, client=client)

    async with deaf as runner:
        await runner.pull()
        assert {look(http, job)["status"] for job in jobs} == {"queued"}
        deaf.seconds += DEAF_SECONDS
        await runner.pull()
        assert sql("SELECT count(*) FROM ledger_job WHERE state = 'queued'") == [(1,)]
        client.may_ask.set()
        await asyncio.gather(*runner._pulled)
        await runner.pull()
        await asyncio.gather(*runner._pulled)

        assert [look(http, job)["status"] for job in jobs] == ["completed"] * 3
        job = hand_in(http).json()
        await runner.run_next(sent=uuid.UUID(hex=job["id"].removeprefix("job_")))
        other = hand_in(http).json()
        await runner.pull()
        assert (look(http, job)["status"], look(http, other)["status"]) == ("completed", "queued")


async def test_words_that_were_signed_for_people_who_wait_are_no_answer_to_a_job(http, gateway, runner, sql):
    """Where a caller would be given the template of the fallback stack, a runner hears why, and comes again."""
    body = {"model": "unreachable", "messages": QUESTION}
    assert http.post(CHAT, json=body).headers["ballast-fallback"] == "template"
    job = hand_in(http, body).json()

    assert await runner.run_next()

    assert look(http, job)["status"] == "queued"
    assert sql("SELECT error_code, failures FROM ledger_job") == [("upstream_unreachable", 0)]


async def test_revoked_key_ends_its_jobs_and_a_wrong_key_file_does_not(http, gateway, runner, keys_url, sql):
    """What the tenant took back is not spent; what the operator set up wrongly waits until it is right."""
    job = hand_in(http).json()
    async with RunnerOf(gateway, keys_url, keys=CursorKeys([b"x" * 32])) as stranger:
        await stranger.run_next()
    assert look(http, job)["status"] == "queued"
    assert sql("SELECT error_code, failures FROM ledger_job") == [("job_token_refused", 0)]
    due(sql)
    sections = copy.deepcopy(release_sections("http://127.0.0.1:1"))
    keys = sections["access"]["keys"]
    sections["access"]["keys"] = {digest: key for digest, key in keys.items() if key["id"] != "k-globex"}
    release, gateway.watcher.current = gateway.watcher.current, make_release(sections)

    await runner.run_next()

    gateway.watcher.current = release
    told = look(http, job)
    assert (told["status"], told["error"]["code"]) == ("failed", "unauthorized")


def test_token_is_good_for_one_request_of_one_job_for_a_while(http, gateway):
    """Not without the job's key, not for its other addresses, not altered, and not for ever."""
    job = uuid.uuid4()
    token = sign_token(KEYS, JobToken(job, "globex", "k-globex", int(time.time()) + 60))
    body = {"model": "chat", "messages": QUESTION}

    def ask(shown, **headers):
        bearer = {"authorization": f"Bearer {shown}"}
        answer = http.post(CHAT, json=body, headers=bearer | {k.replace("_", "-"): v for k, v in headers.items()})
        return answer.status_code, answer.json().get("error", {}).get("code")

    old = sign_token(KEYS, JobToken(job, "globex", "k-globex", int(time.time()) - 1))
    other_tenant = sign_token(KEYS, JobToken(job, "acme", "k-globex", int(time.time()) + 60))
    assert ask(token, idempotency_key=str(job)) == (200, None)
    assert ask(token) == (401, "unauthorized")
    assert ask(token, idempotency_key=str(uuid.uuid4())) == (401, "job_token_refused")
    assert ask(token[:-1] + ("A" if token[-1] != "A" else "B"), idempotency_key=str(job)) == (401, "job_token_refused")
    assert ask(old, idempotency_key=str(job)) == (401, "job_token_refused")
    assert ask(other_tenant, idempotency_key=str(job)) == (401, "unauthorized")
    refused = http.get(f"/v1/jobs/job_{job.hex}", headers={"authorization": f"Bearer {token}"})
    assert refused.status_code == 401
    cursor = KEYS.seal(b"ballast.cursor\n", b"x" * 40)
    with pytest.raises(JobTokenRefused):
        read_token(KEYS, f"bj-{cursor}", job=str(job), now=time.time())
    assert read_token(CursorKeys([b"o" * 32, b"n" * 32]), token, job=str(job), now=0).tenant == "globex"


class Killed(BaseException):
    """The runner's process is gone at this point."""


class Mortal:
    """A store whose process dies before, or right after, a step."""

    def __init__(self, store, step, *, after):
        self._store = store
        self._step = step
        self._after = after

    def __getattr__(self, name):
        method = getattr(self._store, name)
        if name != self._step:
            return method

        async def step(*arguments, **options):
            if not self._after:
                raise Killed
            await method(*arguments, **options)
            raise Killed

        return step


class HeldClient(httpx.AsyncClient):
    """A client whose requests wait until they `may_ask`."""

    def __init__(self, base_url):
        super().__init__(base_url=base_url)
        self.may_ask = asyncio.Event()

    async def post(self, *arguments, **options):
        await self.may_ask.wait()
        return await super().post(*arguments, **options)


class UnansweredClient(httpx.AsyncClient):
    """A client whose answers never come. `has_asked` once a request has gone out to the gateway."""

    def __init__(self, base_url, gateway):
        super().__init__(base_url=base_url)
        self._gateway = gateway
        self.has_asked = asyncio.Event()

    async def post(self, *arguments, **options):
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(super().post(*arguments, **options))
            await asyncio.to_thread(wait_until, lambda: self._gateway.reports.in_flight > 0 or asking.done())
            self.has_asked.set()
            await asyncio.Event().wait()


class MortalClient(httpx.AsyncClient):
    """A client whose process dies once the request has gone out, or once the answer has come."""

    def __init__(self, base_url, gateway, *, after):
        super().__init__(base_url=base_url)
        self._gateway = gateway
        self._after = after

    async def post(self, *arguments, **options):
        asking = asyncio.create_task(super().post(*arguments, **options))
        if self._after:
            await asking
        else:
            await asyncio.to_thread(wait_until, lambda: self._gateway.reports.in_flight > 0 or asking.done())
            asking.cancel()
        raise Killed


@pytest.mark.parametrize("where", ["take after", "ask before", "ask after", "end before", "end after"])
async def test_runner_that_is_killed_between_two_writes_costs_nobody_an_answer(
    where, http, gateway, runner, simulator, keys_url, sql
):
    """Wherever it dies: its successor ends the job, the provider was called once, and one attempt is billed."""
    job = hand_in(http, {"model": "chat", "messages": SLOWLY}).json()
    step, _, when = where.partition(" ")
    store = client = None
    if step == "ask":
        client = MortalClient(gateway.url, gateway, after=when == "after")
    else:
        store = Mortal(PostgresJobStore(keys_url, timeout_seconds=60), step, after=when == "after")
    async with RunnerOf(gateway, keys_url, store=store, client=client) as mortal:
        with pytest.raises(Killed):
            await mortal.run_next()
    is_written = where == "end after"
    assert look(http, job)["status"] == ("completed" if is_written else "running")

    await runner.sweep()
    assert not await runner.run_next()  # its lease is not over
    sql("UPDATE ledger_job SET lease_until = now() WHERE state = 'running'")
    await runner.sweep()
    while look(http, job)["status"] == "queued":
        due(sql)
        await runner.run_next()

    told = look(http, job)
    assert (told["status"], told["attempts"]) == ("completed", 1 if is_written else 2)
    assert told["response"]["body"]["choices"]
    assert simulator.get("/admin/state").json()["total"] == 1
    assert [row["outcome"] for row in gateway.rows()] == ["ok"]


async def test_cancelled_while_it_runs_it_is_stopped_and_while_it_waits_it_is_gone(
    http, gateway, keys_url, runner, sql
):
    """202 says that it is asked for, and best effort; what is over stays as it is."""
    job = hand_in(http, {"model": "chat", "messages": SLOWLY}).json()
    waiting = hand_in(http).json()
    client = UnansweredClient(gateway.url, gateway)
    async with RunnerOf(gateway, keys_url, client=client) as patient:
        running = asyncio.create_task(patient.run_next())
        await client.has_asked.wait()

        asked = await asyncio.to_thread(http.post, f"/v1/jobs/{job['id']}/cancel")
        gone = await asyncio.to_thread(http.post, f"/v1/jobs/{waiting['id']}/cancel")
        await patient.renew()
        await running

    assert (asked.status_code, asked.json()["status"], asked.json()["cancelling"]) == (202, "running", True)
    assert (gone.status_code, gone.json()["status"]) == (200, "cancelled")
    told = http.post(f"/v1/jobs/{job['id']}/cancel")
    assert (told.status_code, told.json()["status"], told.json()["response"]) == (200, "cancelled", None)
    assert not await runner.run_next()


async def test_runner_that_is_told_to_stop_gives_its_jobs_back_at_once(http, gateway, keys_url, runner, simulator, sql):
    """The next one finds what the gateway went on with."""
    job = hand_in(http, {"model": "chat", "messages": SLOWLY}).json()
    client = UnansweredClient(gateway.url, gateway)
    async with RunnerOf(gateway, keys_url, client=client) as stopping:
        running = asyncio.create_task(stopping.run_next())
        await client.has_asked.wait()
        await stopping.stop()
        await running
        assert not await stopping.run_next()
    assert look(http, job)["status"] == "queued"

    while look(http, job)["status"] != "completed":
        due(sql)
        await runner.run_next()

    assert simulator.get("/admin/state").json()["total"] == 1


async def test_gateway_or_database_that_is_away_is_waited_for(http, gateway, keys_url, runner, sql):
    """An attempt that reached nobody costs nothing; what came of one is written when there is somewhere to write."""
    job = hand_in(http).json()
    async with RunnerOf(gateway, keys_url, client=httpx.AsyncClient(base_url="http://127.0.0.1:1")) as lost:
        assert await lost.run_next()
    assert look(http, job)["status"] == "queued"
    assert sql("SELECT failures, status FROM ledger_job") == [(0, 0)]
    due(sql)

    class Away:
        """A store that cannot be asked the first time that an end is to be written."""

        def __init__(self, store):
            self._store, self._refusals = store, 1

        def __getattr__(self, name):
            return getattr(self._store, name)

        async def end(self, *arguments):
            self._refusals -= 1
            if self._refusals >= 0:
                raise JobsUnavailable("away")
            await self._store.end(*arguments)

    async with RunnerOf(gateway, keys_url, store=Away(PostgresJobStore(keys_url, timeout_seconds=60))) as patient:
        assert await patient.run_next()
    assert look(http, job)["status"] == "completed"


async def test_word_that_cannot_be_sent_is_sent_with_the_next_turn(http, gateway, keys_url, sql):
    """A broker that is away delays a job, and loses none."""
    jobs = [hand_in(http).json() for _ in range(2)]
    world = RunnerOf(gateway, keys_url)
    async with world as runner:

        async def refuse(some):
            raise ConnectionError("no broker")

        send, runner._send = runner._send, refuse
        await runner.send_due()
        assert sql("SELECT count(*) FROM ledger_job WHERE sent_until IS NOT NULL") == [(0,)]
        runner._send = send
        await runner.send_due()
        await runner.send_due()

        # In any order: word says that something is due, and the first that is due is taken.
        assert sorted(f"job_{job.hex}" for job in world.sent) == sorted(job["id"] for job in jobs)


def test_gateway_without_a_database_takes_no_jobs(simulator_url):
    """It says so, and everything else is served."""
    for store in (None, PostgresJobStore("postgresql://nobody@127.0.0.1:1/none", timeout_seconds=0.2)):
        bearer = {"authorization": "Bearer bk-globex"}
        sections = release_sections(simulator_url)
        with (
            run_gateway(sections, stores=Stores(jobs=store)) as one,
            httpx.Client(base_url=one.url, headers=bearer, timeout=90) as http,
        ):
            refused = [hand_in(http, status=503), http.get(f"/v1/jobs/job_{'0' * 32}")]
            assert {(one.status_code, one.json()["error"]["code"]) for one in refused} == {(503, "jobs_unavailable")}
            assert refused[0].headers["retry-after"] == "1"
            assert http.post(CHAT, json={"model": "chat", "messages": QUESTION}).status_code == 200
            assert http.get("/metrics").status_code == 200
