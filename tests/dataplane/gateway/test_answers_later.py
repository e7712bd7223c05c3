"""What an application gets on the rung on which answers come later, through OpenAI's own client: on a live gateway and
the run's PostgreSQL, with a runner that keeps what was promised.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import httpx
import openai
import pytest

from dataplane.assembly import Stores
from dataplane.cursors import CursorKeys
from dataplane.stores.idempotency import PostgresIdempotencyStore
from dataplane.stores.jobs import PostgresJobStore
from tests.dataplane.conftest import copy_document, threshold
from tests.job_rows import empty_table
from tests.ladders import activation, rung_copy, rungs, surface

from .conftest import CHAT_ROUTES, lane, make_release, make_settings, release_sections, run_gateway
from .test_jobs import CHAT, KEYS, RunnerOf, look

pytestmark = pytest.mark.django_db  # asks for the tables; what the gateway writes there is committed

QUESTION = [{"role": "user", "content": "How do I get a refund?"}]
DETAIL = "We are very busy. Request {}, position 1."
US = "openai/us/main/small"
HOOK = "https://app.example.com/answers?token=t"
DELIVERIES = "SELECT channel, address, subject, text, ballast->>'copy', ballast->>'locale', state FROM ledger_delivery"


def sections_of(simulator_url, rung):
    """A release in which all chat routes stand on a rung that people engaged; 0: on none."""
    sections = release_sections(simulator_url)
    sections["routing"]["lanes"][US] = lane("openai", "main", "small", residency="us")
    sections["routing"]["routes"]["cheap"] = {"lanes": [US], "deadline_ms": 90_000}
    promises = surface()["promises"]
    promises["vip"]["reserved_concurrency"] = threshold(0)  # else a tenant of that tier stands on no rung
    now = datetime.now(UTC)
    times = {"since": now.isoformat(), "until": (now + timedelta(hours=1)).isoformat()}
    answers = {"version": 1, "digest": "a" * 64, "document": copy_document("answers")}
    return sections | {
        "copy": rung_copy() | {"help-answers": answers},
        "ladder": {"web-chat": surface(routes=list(CHAT_ROUTES), rungs=rungs(), promises=promises)},
        "activations": {"by-hand": activation(rung=rung, **times)} if rung else {},
    }


@pytest.fixture(scope="module")
def busy_gateway(simulator_url, keys_url):
    """A gateway that puts answers off."""
    stores = Stores(
        idempotency=PostgresIdempotencyStore(keys_url, timeout_seconds=60),
        jobs=PostgresJobStore(keys_url, timeout_seconds=60),
    )
    settings = make_settings(public_url="https://gw.example")
    with run_gateway(sections_of(simulator_url, 4), settings=settings, stores=stores, cursors=KEYS) as gateway:
        yield gateway


@pytest.fixture
def sql(keys_url):
    """Runs SQL on an empty table of jobs, as somebody else."""
    with empty_table(keys_url) as run:
        yield run


@pytest.fixture
def gateway(busy_gateway, simulator, sql):
    """That gateway, with nothing recorded yet, and no job."""
    release = busy_gateway.watcher.current
    busy_gateway.wait_until_idle()
    busy_gateway.forget()
    simulator.post("/admin/reset")
    yield busy_gateway
    busy_gateway.watcher.current = release


@pytest.fixture
def http(gateway):
    """A bare HTTP client with a tenant's key."""
    with httpx.Client(base_url=gateway.url, headers={"authorization": "Bearer bk-globex"}, timeout=90) as client:
        yield client


@pytest.fixture
def client(gateway):
    """OpenAI's client with the same key."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="bk-globex", max_retries=0, timeout=90) as client:
        yield client


@pytest.fixture
async def runner(gateway, keys_url):
    """A runner of that gateway's jobs."""
    async with RunnerOf(gateway, keys_url) as runner:
        yield runner


def ask(http, *, headers=(), status=202, **fields):
    answer = http.post(CHAT, json={"model": "chat", "messages": QUESTION} | fields, headers=dict(headers))
    assert answer.status_code == status, answer.text
    return answer


async def test_question_becomes_a_job_whose_answer_is_the_full_one(client, http, runner, sql):
    """OpenAI's client reads the signed words as an answer, and beside them where it stands; then the same question is
    answered as if the rung were not engaged, which a job is exempt of.
    """
    raw = client.chat.completions.with_raw_response.create(model="chat", messages=QUESTION)
    answer = raw.parse()
    said = answer.model_extra["ballast"]
    job = said["job"]

    assert (raw.status_code, raw.headers["ballast-rung"], raw.headers["ballast-fallback"]) == (202, "4", "template")
    assert raw.headers["location"] == f"/v1/jobs/{job['id']}"
    assert int(raw.headers["retry-after"]) == said["eta_seconds"] > 0
    assert answer.choices[0].message.content == DETAIL.format(raw.headers["ballast-request-id"])
    assert (answer.choices[0].finish_reason, answer.model) == ("stop", "copy:rung-4@1")
    assert (said["surface"], said["rung"], said["name"], said["locale"]) == ("web-chat", 4, "Answers later", "en")
    assert "very busy" in said["html"]
    assert job == {
        "id": job["id"],
        "status_url": f"https://gw.example/v1/jobs/{job['id']}",
        "position": 1,
        "eta_seconds": None,
        "deliver": None,
    }
    assert look(http, job)["status"] == "queued"
    assert sql("SELECT surface, key FROM ledger_job") == [("web-chat", "")]

    assert await runner.run_next()

    told = look(http, job)
    assert (told["status"], told["response"]["headers"]["ballast-rung"]) == ("completed", "0")
    assert told["response"]["body"]["choices"][0]["message"]["content"] != answer.choices[0].message.content


def test_stream_says_the_same_and_ends_once(client, http):
    """The first chunk says where the question stands, and the last ends the stream."""
    raw = client.chat.completions.with_raw_response.create(
        model="chat", messages=QUESTION, stream=True, extra_headers={"accept-language": "de"}
    )
    chunks = list(raw.parse())

    said = chunks[0].model_extra["ballast"]
    assert (said["rung"], said["banner"], said["locale"]) == (4, "Web chat antwortet kürzer.", "de")
    assert raw.headers["location"] == f"/v1/jobs/{said['job']['id']}"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == DETAIL.format(raw.headers["ballast-request-id"])
    assert [one.choices[0].finish_reason for one in chunks if one.choices and one.choices[0].finish_reason] == ["stop"]
    assert look(http, said["job"])["status"] == "queued"


def test_job_keeps_the_request_as_it_was_asked(http, sql):
    """With its tools, and without what is for the gateway or of the connection."""
    tools = [{"type": "function", "function": {"name": "track", "parameters": {"type": "object", "properties": {}}}}]
    fields = {"tools": tools, "temperature": 0.3, "ballast": {"deliver": {"webhook": HOOK}}}
    ask(http, **fields, headers={"ballast-user": "ada"})

    [(request, user, has_tools)] = sql('SELECT request, "user", has_tools FROM ledger_job')
    assert json.loads(bytes(request)) == {
        "model": "chat",
        "messages": QUESTION,
        "tools": tools,
        "temperature": 0.3,
    }
    assert (user, has_tools) == ("ada", True)


def test_question_that_comes_twice_under_its_key_is_one_job(http, gateway, sql):
    """The promise is given again; another question under the key is refused, as on any day."""
    key = {"idempotency-key": "order-7"}
    first, second = ask(http, headers=key), ask(http, headers=key)
    other = ask(http, headers=key, temperature=0.5, status=422)

    assert first.json()["ballast"]["job"]["id"] == second.json()["ballast"]["job"]["id"]
    assert (second.headers["location"], second.headers["idempotent-replayed"]) == (first.headers["location"], "true")
    assert other.json()["error"]["code"] == "idempotency_mismatch"
    assert sql("SELECT key FROM ledger_job") == [("order-7",)]


async def test_pin_holds_for_the_answer_that_comes_later(gateway, runner):
    """A regulated tenant's question goes where it may, whenever that is."""
    with httpx.Client(base_url=gateway.url, headers={"authorization": "Bearer bk-acme"}, timeout=90) as acme:
        job = ask(acme).json()["ballast"]["job"]

        assert await runner.run_next()

        assert look(acme, job)["response"]["headers"]["ballast-lane"] == "openai/eu/main/gpt-4o"


def test_where_jobs_cannot_be_kept_the_question_is_shed_in_signed_words(simulator_url):
    """Nothing is promised that nobody keeps."""
    store = PostgresJobStore("postgresql://nobody@127.0.0.1:1/none", timeout_seconds=0.2)
    with (
        run_gateway(
            sections_of(simulator_url, 4),
            settings=make_settings(),
            stores=Stores(jobs=store),
            cursors=CursorKeys([b"n" * 32]),
        ) as gateway,
        httpx.Client(base_url=gateway.url, headers={"authorization": "Bearer bk-globex"}, timeout=90) as http,
    ):
        error = ask(http, status=503).json()["error"]

    assert (error["code"], error["rung"], error["copy"]) == ("shed", 4, "rung-4@1")
    assert "the database fails" in error["why"]


@pytest.mark.parametrize("wanted", [{"response_format": {"type": "json_object"}}, {"tool_choice": "required"}])
def test_caller_whom_words_do_not_suit_is_promised_nothing_unless_it_says_so(http, sql, wanted):
    """It would take the words for a broken answer; who accepts a promise finds the job beside them."""
    tool = {"type": "function", "function": {"name": "track", "parameters": {"type": "object", "properties": {}}}}
    fields = wanted | ({"tools": [tool]} if "tool_choice" in wanted else {})

    refused = ask(http, status=503, **fields).json()["error"]
    kept = ask(http, headers={"ballast-later": "accept"}, **fields).json()["ballast"]["job"]
    wrong = ask(http, status=400, headers={"ballast-later": "yes"}).json()["error"]

    assert refused["code"] == "shed"
    assert "ballast-later: accept" in refused["why"]
    assert look(http, kept)["status"] == "queued"
    assert wrong["param"] == "ballast-later"
    assert sql("SELECT count(*) FROM ledger_job") == [(1,)]


@pytest.mark.parametrize(
    ("asked", "row"),
    [
        (
            {"headers": {"ballast-deliver": "mailto:ada@example.com", "accept-language": "de"}},
            ("email", "ada@example.com", "Your answer from Web chat", "Here is the answer you waited for.", "de"),
        ),
        ({"ballast": {"deliver": {"email": "ada@example.com"}}}, None),
        ({"headers": {"ballast-deliver": HOOK}}, ("webhook", HOOK, "", "", "en")),
        ({"ballast": {"deliver": {"webhook": "http://127.0.0.1:8000/x"}}}, None),
    ],
)
def test_answer_is_sent_where_its_caller_says(http, sql, asked, row):
    """What will be said beside it is what was signed, in the caller's language, and kept with the job."""
    told = ask(http, **asked).json()["ballast"]["job"]

    [(channel, address, subject, text, copy, locale, state)] = sql(DELIVERIES)
    assert (told["deliver"], copy, state) == (channel, "rung-4@1", "waiting")
    if row is not None:
        assert (channel, address, subject, text, locale) == row


def test_job_tells_how_its_answer_is_sent(http, sql):
    """Who never heard of it looks whether it was sent; of a job whose answer is fetched there is nothing to tell."""
    sent = {
        "endpoint": CHAT,
        "body": {"model": "chat", "messages": QUESTION},
        "ballast": {"deliver": {"webhook": HOOK}},
    }
    waiting = {"channel": "webhook", "status": "waiting", "attempts": 0, "delivered_at": None}

    job = http.post("/v1/jobs", json=sent).json()
    fetched = http.post("/v1/jobs", json={"endpoint": CHAT, "body": sent["body"]}).json()
    before = http.get(f"/v1/jobs/{job['id']}").json()
    sql("UPDATE ledger_delivery SET state = 'delivered', attempts = 2, next_at = NULL, delivered_at = to_timestamp(7)")
    after = http.get(f"/v1/jobs/{job['id']}").json()

    assert (job["delivery"], before["delivery"], fetched["delivery"]) == (waiting, waiting, None)
    assert after["delivery"] == waiting | {"status": "delivered", "attempts": 2, "delivered_at": 7}


@pytest.mark.parametrize("rung", [0, 4])
@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"headers": {"ballast-deliver": "ftp://app.example.com"}}, "ballast-deliver"),
        ({"headers": {"ballast-deliver": "http://app.example.com/x"}}, "ballast-deliver"),
        ({"headers": {"ballast-deliver": "https://u:p@app.example.com/x"}}, "ballast-deliver"),
        ({"headers": {"ballast-deliver": "mailto:ada@example.com,bob@example.com"}}, "ballast-deliver"),
        ({"ballast": {"deliver": {"email": "ada@example.com\r\nBcc: b@example.com"}}}, "ballast.deliver.email"),
        ({"ballast": {"deliver": {"email": 7}}}, "ballast.deliver.email"),
        ({"ballast": {"deliver": {"pigeon": "home"}}}, "ballast.deliver"),
        ({"ballast": "email"}, "ballast"),
        ({"ballast": {"deliver": {"webhook": HOOK}}, "headers": {"ballast-deliver": HOOK}}, "ballast-deliver"),
    ],
)
def test_place_that_nothing_can_be_sent_to_is_refused_on_any_day(http, gateway, simulator_url, sql, rung, asked, param):
    """A mistake must not wait for the rush to show."""
    gateway.watcher.current = make_release(sections_of(simulator_url, rung), revision=2)

    error = ask(http, status=400, **asked).json()["error"]

    assert (error["code"], error["param"]) == ("invalid_request", param)
    assert sql("SELECT count(*) FROM ledger_job") == [(0,)]


def test_what_is_told_to_the_gateway_alone_is_sent_to_no_provider(http, gateway, simulator, simulator_url):
    """On a day without a rung too."""
    gateway.watcher.current = make_release(sections_of(simulator_url, 0), revision=2)

    ask(http, status=200, ballast={"deliver": {"webhook": HOOK}})

    assert "app.example.com" not in simulator.get("/admin/calls").text


@pytest.mark.parametrize(
    ("job", "param"),
    [
        ({"body": {"model": "chat", "messages": QUESTION}}, None),
        ({"body": {"model": "unladdered", "messages": QUESTION}}, "ballast.deliver.email"),
        ({"endpoint": "/v1/embeddings", "body": {"model": "embed", "input": "x"}}, "ballast.deliver.email"),
        ({"body": {"model": "chat", "messages": QUESTION, "ballast": {}}}, "body.ballast"),
    ],
)
def test_job_that_was_handed_in_goes_out_by_mail_where_words_are_signed(http, gateway, simulator_url, sql, job, param):
    """Whoever hands in a job may have its answer sent likewise; a mailbox reads no vectors, and no unsigned words."""
    sections = sections_of(simulator_url, 0)
    sections["routing"]["routes"]["unladdered"] = sections["routing"]["routes"]["chat"]
    gateway.watcher.current = make_release(sections, revision=2)

    answer = http.post("/v1/jobs", json={"endpoint": CHAT, "ballast": {"deliver": {"email": "ada@example.com"}}} | job)

    if param is None:
        assert answer.status_code == 202, answer.text
        assert sql("SELECT surface FROM ledger_job") == [("",)]
        assert [row[:2] for row in sql(DELIVERIES)] == [("email", "ada@example.com")]
    else:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
