"""What an application gets that sends an idempotency key, through OpenAI's own client and by bare HTTP, from a gateway
that keeps its keys in PostgreSQL and its streams in Redis.
"""

from __future__ import annotations

import copy
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import psycopg
import pytest

from dataplane.assembly import Stores
from dataplane.cursors import CursorKeys
from dataplane.stores.idempotency import PostgresIdempotencyStore
from dataplane.stores.streams import RedisStreamLog
from tests.dataplane.conftest import stream_policy

from .conftest import make_release, release_sections, run_gateway, wait_until
from .proxies import HoldingProxy

pytestmark = pytest.mark.django_db  # asks for the tables; what the gateway writes there is committed

QUESTION = [{"role": "user", "content": "How do I get a refund?"}]
DRIPPING = [{"role": "user", "content": "How do I get a refund? [[fault slow_drip:ms=20]]"}]


def sections_of(url):
    """The sections of a release whose route `kept` keeps its streams."""
    sections = copy.deepcopy(release_sections(url))
    routing = sections["routing"]
    routing["streams"] = {"kept": stream_policy()}
    routing["routes"]["kept"] = routing["routes"]["chat"] | {"streams": "kept"}
    return sections


@pytest.fixture(scope="module")
def keeping_gateway(simulator_url, keys_url, redis_url):
    """A gateway with that release, and stubs for what verifies releases and ships reports."""
    stores = Stores(
        idempotency=PostgresIdempotencyStore(keys_url, timeout_seconds=60),
        streams=RedisStreamLog(redis_url, timeout_seconds=60),
    )
    with run_gateway(sections_of(simulator_url), stores=stores, cursors=CursorKeys([b"k" * 32])) as gateway:
        yield gateway


@pytest.fixture
def gateway(keeping_gateway, simulator):
    """That gateway, with nothing recorded yet."""
    release = keeping_gateway.watcher.current
    keeping_gateway.forget()
    yield keeping_gateway
    keeping_gateway.watcher.current = release


@pytest.fixture
def client(gateway):
    """OpenAI's client as it comes: it tries three times."""
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="bk-globex", timeout=90) as client:
        yield client


@pytest.fixture
def key():
    """A key as an application makes it."""
    return str(uuid.uuid4())


@pytest.fixture
def ask(client):
    """Asks with a key; gives the answer and its headers."""

    def _ask(key, *, route="chat", messages=QUESTION, headers=(), **options):
        return client.chat.completions.with_raw_response.create(
            model=route, messages=messages, extra_headers={"Idempotency-Key": key, **dict(headers)}, **options
        )

    return _ask


def counted(gateway, outcome, operation="chat"):
    """How many requests the gateway has answered so."""
    page = httpx.get(f"{gateway.url}/metrics", timeout=90).text
    words = f'ballast_gateway_requests_total{{operation="{operation}",outcome="{outcome}"}} '
    return int(sum(float(line.removeprefix(words)) for line in page.splitlines() if line.startswith(words)))


def events(keys_url, key):
    """The evidence of a key."""
    with psycopg.connect(keys_url) as other:
        rows = other.execute("SELECT event FROM ledger_idempotencyevidence WHERE key = %s ORDER BY seq", [key])
        return [event for (event,) in rows.fetchall()]


def test_client_gets_the_same_answer_again_whichever_way_it_writes_the_key(ask, gateway, key, keys_url):
    """Bare or in quotes: parsed, it is the same completion; one call was made, and one is billed."""
    first = ask(key)
    again = [ask(key), ask(f'"{key}"')]

    assert {one.parse().id for one in again} == {first.parse().id}
    assert {one.content for one in again} == {first.content}
    assert [one.headers.get("idempotent-replayed") for one in (first, *again)] == [None, "true", "true"]
    names = ("ballast-lane", "ballast-attempts", "ballast-release", "content-type")
    assert {tuple(one.headers[name] for name in names) for one in (first, *again)} == {
        ("openai/eu/main/gpt-4o", "1", "1", "application/json")
    }
    assert len({one.headers["ballast-request-id"] for one in (first, *again)}) == 3
    assert len(gateway.rows()) == 1
    assert events(keys_url, key) == ["created", "completed", "replayed", "replayed"]


@pytest.mark.parametrize("route", ["kept", "chat"])
def test_client_gets_the_same_stream_again_chunk_by_chunk(ask, gateway, key, route):
    """While it is written, at once where streams are kept, or at its end; and again later."""
    options = {"route": route, "messages": DRIPPING, "stream": True, "stream_options": {"include_usage": True}}

    def read(started=None):
        raw = ask(key, **options)
        chunks = []
        for chunk in raw.parse():
            chunks.append(chunk)
            if started is not None:
                started.set()
        return chunks, raw.headers

    with ThreadPoolExecutor(3) as threads:
        started = threading.Event()
        first = threads.submit(read, started)
        assert started.wait(60)
        beside = [threads.submit(read) for _ in range(2)]
        everybody = [one.result() for one in (first, *beside)]
    everybody.append(read())

    whole, head = everybody[0]
    assert whole[-1].usage.completion_tokens > 0
    assert [chunks == whole for chunks, _ in everybody] == [True] * 4
    assert ["idempotent-replayed" in headers for _, headers in everybody] == [False, True, True, True]
    assert {headers.get("ballast-stream-id") for _, headers in everybody} == {head.get("ballast-stream-id")}
    assert ("ballast-stream-id" in head) == (route == "kept")
    assert {headers["ballast-lane"] for _, headers in everybody} == {"openai/eu/main/gpt-4o"}
    assert [headers.get_list("cache-control") for _, headers in everybody] == [["no-cache"]] * 4
    assert len(gateway.rows()) == 1


def test_client_gets_the_same_embeddings_again(client, gateway, key):
    """They are answers like any other."""
    asked = {"model": "embed", "input": ["Where is my parcel?"], "extra_headers": {"Idempotency-Key": key}}

    first, again = (client.embeddings.with_raw_response.create(**asked) for _ in range(2))

    assert first.content == again.content
    assert again.parse().data[0].embedding == first.parse().data[0].embedding
    assert (again.headers["idempotent-replayed"], len(gateway.rows())) == ("true", 1)


def test_client_does_not_repeat_what_would_meet_the_same(ask, gateway, simulator_url, key, keys_url):
    """A key that is in use, came with something else, or is none: told once, with what to do, and not tried again."""
    codes = ("idempotency_in_progress", "idempotency_mismatch", "invalid_request")
    before = {code: counted(gateway, code) for code in codes}
    with ThreadPoolExecutor(1) as threads, HoldingProxy(simulator_url) as provider:
        gateway.watcher.current = make_release(sections_of(provider.url))
        first = threads.submit(ask, key)
        # In flight is not yet enough: the key is claimed after that.
        wait_until(lambda: events(keys_url, key) == ["created"])
        with pytest.raises(openai.ConflictError) as busy:
            ask(key, headers={"ballast-deadline-ms": "300"})
        with pytest.raises(openai.UnprocessableEntityError) as other:
            ask(key, messages=DRIPPING, temperature=0.5)
        with pytest.raises(openai.BadRequestError) as bad:
            ask("two words")
        provider.may_go_on.set()
        answer = first.result()

    assert [error.value.body["code"] for error in (busy, other, bad)] == list(codes)
    assert [counted(gateway, code) - before[code] for code in codes] == [1, 1, 1]
    assert {error.value.response.headers["x-should-retry"] for error in (busy, other, bad)} == {"false"}
    assert busy.value.response.headers["retry-after"] == "2"
    assert (other.value.body["fields"], other.value.body["param"]) == (["messages", "temperature"], "Idempotency-Key")
    assert bad.value.body["param"] == "Idempotency-Key"
    assert ask(key).content == answer.content


def test_retries_of_the_client_carry_the_key(ask, gateway, simulator, key, keys_url):
    """A failure leaves the key free, so that what the client does by itself is one more try under the same key."""
    simulator.post("/admin/faults", json={"fault": "status:code=503", "count": 1})

    answer = ask(key)

    assert answer.retries_taken == 1
    assert answer.parse().choices[0].message.content
    assert [row["outcome"] for row in gateway.rows(2)] == ["upstream_unavailable", "ok"]
    assert events(keys_url, key) == ["created", "released", "reopened", "completed"]


def test_key_belongs_to_tenant_and_user(gateway, key):
    """By bare HTTP: the same key of another tenant, or of another of its users, is another key."""

    def post(bearer, user):
        return httpx.post(
            f"{gateway.url}/v1/chat/completions",
            json={"model": "chat", "messages": QUESTION},
            headers={"authorization": f"Bearer {bearer}", "ballast-user": user, "idempotency-key": key},
            timeout=90,
        )

    first, again, other_user, other_tenant = (
        post(*who) for who in (("bk-globex", "ada"), ("bk-globex", "ada"), ("bk-globex", "bob"), ("bk-acme", "ada"))
    )

    replayed = [one.headers.get("idempotent-replayed") for one in (first, again, other_user, other_tenant)]
    assert replayed == [None, "true", None, None]
    assert len(gateway.rows(3)) == 3
