"""Idempotency keys over several gateway processes: one execution for each, whoever asks, and whatever dies."""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from random import Random

import httpx
import psycopg
import pytest

from tests.end_to_end.gateways import KEY, Gateways, resumable
from tests.end_to_end.raw_streams import Received, post, read_with_resets

pytestmark = [pytest.mark.end_to_end, pytest.mark.django_db]  # asks for the tables; what is written is committed

CALLERS, KEYS = 6, 8
DRIP = "slow_drip:ms=30"
BEARER = {"authorization": f"Bearer {KEY}"}
PAUSE = threading.Event()
PAUSE_SECONDS = 0.2


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory, keys_url: str) -> Iterator[Gateways]:
    """Four processes that share a Redis and a database."""
    with Gateways(tmp_path_factory.mktemp("keyed"), resumable(), processes=4, database_url=keys_url) as gateways:
        gateways.strike("drip", DRIP)
        yield gateways


def body(route: str, *, stream: bool, question: str = "Where is my parcel?") -> dict[str, object]:
    return {"model": route, "stream": stream, "messages": [{"role": "user", "content": question}]}


def ask(gateways: Gateways, process: int, key: str, fields: dict[str, object]) -> httpx.Response:
    headers = BEARER | {"idempotency-key": key}
    return httpx.post(f"{gateways.urls[process]}/v1/chat/completions", json=fields, headers=headers, timeout=120)


def persist(gateways: Gateways, processes: list[int], key: str, fields: dict[str, object]) -> httpx.Response:
    """Ask as an application does that wants its answer: again, with the same key, whatever went wrong; every time the
    next of `processes`, and then the last.
    """
    while True:
        try:
            answer = ask(gateways, processes[0], key, fields)
            if is_complete(answer):
                return answer
        except httpx.TransportError:
            pass
        processes = processes[1:] or processes
        PAUSE.wait(PAUSE_SECONDS)


def is_complete(answer: httpx.Response) -> bool:
    """Whether it is a whole answer, or a stream to its end."""
    is_stream = answer.headers["content-type"].startswith("text/event-stream")
    return answer.status_code == 200 and (not is_stream or answer.content.endswith(b"data: [DONE]\n\n"))


def executions(gateways: Gateways, keys: list[str]) -> Counter[str]:
    """How many calls providers got for each key, by the requests that its evidence names as owners."""
    with psycopg.connect(gateways.database_url) as other:
        rows = other.execute(
            "SELECT key, request_id FROM ledger_idempotencyevidence WHERE key = ANY(%s) AND event <> 'attached'", [keys]
        ).fetchall()
    key_of = {request: key for key, request in rows}
    return Counter(key_of[row["request_id"]] for row in gateways.reported("usage") if row["request_id"] in key_of)


def test_callers_that_ask_together_share_one_execution(gateways: Gateways) -> None:
    """Whoever asks first, at whichever process: one call to the provider for each key, the same answer for all."""
    keys = {str(uuid.uuid4()): body("slow", stream=number % 2 == 1) for number in range(KEYS)}

    with ThreadPoolExecutor(CALLERS * KEYS) as threads:
        asking = {
            key: [threads.submit(persist, gateways, [number % 4], key, fields) for number in range(CALLERS)]
            for key, fields in keys.items()
        }
        answers = {key: [one.result() for one in some] for key, some in asking.items()}

    for some in answers.values():
        distinct = {one.content: one.headers for one in some}
        assert len(distinct) == 1, [(len(text), text[-300:], headers) for text, headers in distinct.items()]
        assert sum("idempotent-replayed" not in one.headers for one in some) == 1
        assert {one.headers["ballast-lane"] for one in some} == {"slow"}
    gateways.wait_for(lambda: len(executions(gateways, list(keys))) == KEYS)
    assert set(executions(gateways, list(keys)).values()) == {1}


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


def test_connections_reset_at_any_byte_get_the_same_stream(gateways: Gateways) -> None:
    """Before the first byte too: it asks again with its key, at any process, and nothing is generated twice."""
    keys = [str(uuid.uuid4()) for _ in range(6)]
    rng = Random(105)

    def one(key: str) -> Received:
        request = post(KEY, body("slow", stream=True), **{"idempotency-key": key})
        own = Random(rng.random())
        return read_with_resets(gateways.urls, request, key=KEY, rng=own, resets=6, span_bytes=600)

    with ThreadPoolExecutor(len(keys)) as threads:
        everything = list(threads.map(one, keys))

    assert sum(one.nameless for one in everything) > 0, "no reset came before the first byte"
    for received in everything:
        assert (received.payloads[received.after], received.duplicates) == (b"[DONE]", 0)
    gateways.wait_for(lambda: len(executions(gateways, keys)) == len(keys))
    assert set(executions(gateways, keys).values()) == {1}


def let_leases_run_out(gateways: Gateways, keys: list[str], process: int) -> None:
    """Let the leases of keys run out now that a process holds."""
    with psycopg.connect(gateways.database_url, autocommit=True) as other:
        other.execute(
            "UPDATE ledger_idempotencyrecord SET lease_until = now() WHERE key = ANY(%s) AND owner LIKE %s",
            [keys, f"%/gateway-{process}/%"],
        )


def executing(gateways: Gateways, keys: list[str], process: int) -> int:
    """How many of the keys a process executes now."""
    with psycopg.connect(gateways.database_url) as other:
        [(count,)] = other.execute(
            "SELECT count(*) FROM ledger_idempotencyrecord WHERE key = ANY(%s) AND state = 'running' AND owner LIKE %s",
            [keys, f"%/gateway-{process}/%"],
        ).fetchall()
    return int(count)


def test_everybody_whose_process_is_killed_ends_with_one_complete_answer(gateways: Gateways) -> None:
    """Killed while it waits for providers, in the middle of streams, before and after it could write: whoever asks
    again gets an answer, and of each key only one is ever given whole.
    """
    rng = Random(106)
    some_at_random, sure = ([str(uuid.uuid4()) for _ in range(count)] for count in (10, 3))
    keys = [*some_at_random, *sure]
    routes = {key: (rng.choice(["slow", "drip"]), rng.random() < 0.6) for key in some_at_random}
    routes |= dict.fromkeys(sure, ("fast", True))

    def begin(threads: ThreadPoolExecutor, key: str, *firsts: int) -> list[Future[httpx.Response]]:
        route, stream = routes[key]
        fields = body(route, stream=stream)
        return [
            threads.submit(persist, gateways, [first, *(rng.randrange(3) for _ in range(4))], key, fields)
            for first in firsts
        ]

    with ThreadPoolExecutor(2 * len(keys)) as threads:
        asking = {}
        for key in some_at_random:
            asking[key] = begin(threads, key, 3, rng.randrange(3))
            PAUSE.wait(rng.random() / 8)
        # Too slow to end before the process does, however long that takes to be seen to.
        gateways.strike("fast", "slow_drip:ms=1000")
        asking |= {key: begin(threads, key, 3) for key in sure}
        gateways.wait_for(lambda: executing(gateways, sure, 3) == len(sure))
        gateways.strike("fast", DRIP)
        gateways.kill(3)
        let_leases_run_out(gateways, keys, 3)
        answers = {key: [one.result() for one in some] for key, some in asking.items()}

    for key, some in answers.items():
        assert len({one.content for one in some}) == 1, routes[key]

    def count(wanted: str) -> Counter[str]:
        with psycopg.connect(gateways.database_url) as other:
            query = "SELECT key FROM ledger_idempotencyevidence WHERE key = ANY(%s) AND event = %s"
            return Counter(key for (key,) in other.execute(query, [keys, wanted]))

    # Of a stream, callers have the end a moment before the record has it.
    gateways.wait_for(lambda: count("completed").total() >= len(keys))
    assert count("completed") == dict.fromkeys(keys, 1)
    assert set(count("taken_over").values()) == {1}
    assert max(executions(gateways, keys).values()) <= 2
