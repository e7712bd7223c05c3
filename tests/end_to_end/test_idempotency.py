"""Idempotency keys over several gateway processes: one execution for each, whoever asks, and whatever dies."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import httpx
import psycopg
import pytest
from django.db import connection

from tests.contracts.conftest import FORGET
from tests.end_to_end.gateways import KEY, Gateways, resumable
from tests.end_to_end.raw_streams import Connection, Received, post

pytestmark = [pytest.mark.end_to_end, pytest.mark.django_db(transaction=True)]

CALLERS, KEYS = 8, 12
BEARER = {"authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def database_url(django_db_setup: None) -> Iterator[str]:
    """This run's database, as processes are told of it. What they write is committed, and removed at the end."""
    facts = connection.settings_dict
    login = f"{quote(facts['USER'])}:{quote(facts['PASSWORD'])}"
    host = quote(facts["HOST"], safe="")
    url = f"postgresql://{login}@{host}:{facts['PORT']}/{facts['NAME']}"
    yield url
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(FORGET)


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Iterator[Gateways]:
    """Four processes that share a Redis and a database."""
    directory = tmp_path_factory.mktemp("keyed")
    with Gateways(directory, resumable(), processes=4, database_url=database_url) as gateways:
        yield gateways


def body(route: str, *, stream: bool, question: str = "Where is my parcel?") -> dict[str, object]:
    return {"model": route, "stream": stream, "messages": [{"role": "user", "content": question}]}


def ask(gateways: Gateways, process: int, key: str, fields: dict[str, object]) -> httpx.Response:
    headers = BEARER | {"idempotency-key": key}
    return httpx.post(f"{gateways.urls[process]}/v1/chat/completions", json=fields, headers=headers, timeout=60)


def executions(gateways: Gateways, keys: list[str]) -> Counter[str]:
    """How many calls providers got for each key, by the requests that its evidence names as owners."""
    with psycopg.connect(gateways.database_url) as other:
        rows = other.execute(
            "SELECT key, request_id FROM ledger_idempotencyevidence WHERE key = ANY(%s) AND event <> 'attached'", [keys]
        ).fetchall()
    key_of = {request: key for key, request in rows}
    return Counter(key_of[row["request_id"]] for row in gateways.reported("usage") if row["request_id"] in key_of)


@pytest.mark.parametrize("stream", [True, False])
def test_callers_that_ask_together_share_one_execution(gateways: Gateways, stream: bool) -> None:
    """Whoever asks first, at whichever process: one call to the provider for each key, the same answer for all."""
    keys = [str(uuid.uuid4()) for _ in range(KEYS)]
    fields = body("slow", stream=stream)

    with ThreadPoolExecutor(CALLERS * 4) as threads:
        asking = {
            key: [threads.submit(ask, gateways, number % 4, key, fields) for number in range(CALLERS)] for key in keys
        }
        answers = {key: [one.result() for one in some] for key, some in asking.items()}

    for some in answers.values():
        assert {one.status_code for one in some} == {200}, [one.text for one in some if one.status_code != 200]
        distinct = {one.content: one.headers for one in some}
        assert len(distinct) == 1, [(len(text), text[-300:], headers) for text, headers in distinct.items()]
        assert sum("idempotent-replayed" not in one.headers for one in some) == 1
    gateways.wait_for(lambda: len(executions(gateways, keys)) == KEYS)
    assert set(executions(gateways, keys).values()) == {1}


def test_key_with_another_body_is_refused_by_name(gateways: Gateways) -> None:
    """422 says which fields differ, and what came first is replayed all the same."""
    key = str(uuid.uuid4())
    first = ask(gateways, 0, key, body("fast", stream=False))

    other = ask(gateways, 1, key, body("fast", stream=False, question="And now?") | {"seed": 1})
    again = ask(gateways, 2, f'"{key}"', body("fast", stream=False))

    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert "messages, seed" in other.json()["error"]["message"]
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["idempotent-replayed"] == "true"


def test_caller_whose_connection_breaks_before_the_first_byte_gets_the_same_stream(gateways: Gateways) -> None:
    """It asks again with its key, at another process, and nothing is generated twice."""
    key = str(uuid.uuid4())
    received, again = Received(), Received()
    request = post(KEY, body("slow", stream=True), **{"idempotency-key": key})
    Connection(gateways.urls[0], request, received).reset()

    Connection(gateways.urls[1], request, again).read_all()

    assert again.payloads[again.after] == b"[DONE]"
    gateways.wait_for(lambda: executions(gateways, [key])[key] == 1)


def test_execution_of_a_dead_process_is_taken_over_once(gateways: Gateways) -> None:
    """A process is killed in the middle of an answer: the key is executed anew, by one of those that ask."""
    key = str(uuid.uuid4())
    received = Received()
    started = Connection(gateways.urls[3], post(KEY, body("drip", stream=True), **{"idempotency-key": key}), received)
    while received.after < 2:
        started.read_bytes(1)
    gateways.kill(3)
    with psycopg.connect(gateways.database_url, autocommit=True) as other:
        other.execute("UPDATE ledger_idempotencyrecord SET lease_until = now() WHERE key = %s", [key])
    gateways.wait_for(lambda: gateways.stream_state(0, received.stream) == "interrupted")

    with ThreadPoolExecutor(4) as threads:
        some = [threads.submit(ask, gateways, number % 3, key, body("drip", stream=True)) for number in range(4)]
        answers = [one.result() for one in some]

    assert len({one.content for one in answers}) == 1
    assert answers[0].content.endswith(b"data: [DONE]\n\n")
    with psycopg.connect(gateways.database_url) as other:
        rows = other.execute(
            "SELECT event FROM ledger_idempotencyevidence WHERE key = %s ORDER BY seq", [key]
        ).fetchall()
    assert Counter(event for (event,) in rows)["taken_over"] == 1
    assert json.loads(received.payloads[1])["id"]
    gateways.restart(3)
