"""The key that signs releases is rotated while callers call: real processes, no refused release, no failed request."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from celery import Celery
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from kombu import Exchange

from dataplane.agent import PUSH_EXCHANGE, PUSH_TASK
from dataplane.release import key_id_of, sign
from tests.end_to_end.stack import Stack
from tests.end_to_end.traffic import Traffic, hold_ladder

pytestmark = pytest.mark.end_to_end
GATEWAY_PROCESSES = 2


@pytest.fixture(scope="module")
def stack(data_dir: Path) -> Iterator[Stack]:
    """A console, an agent and two gateway processes."""
    stack = Stack(data_dir, gateway_processes=GATEWAY_PROCESSES)
    with stack:
        stack.wait_ready()
        hold_ladder(stack)
        yield stack
    assert stack.processes() == []


@pytest.fixture
def traffic(stack: Stack) -> Iterator[Traffic]:
    """Callers who have not begun to call."""
    traffic = Traffic(stack)
    yield traffic
    traffic.stop()


def test_signing_key_is_rotated_and_then_compromised_under_traffic(
    stack: Stack, traffic: Traffic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice the key changes hands, by steps and at once. What a key signs that went is taken by nobody, by push, from
    disk, and after restarts; a host whose agent slept through all of it catches up by asking.
    """
    monkeypatch.setenv("CELERY_BROKER_URL", stack.broker_url)  # Celery prefers it to what an application is told
    first = signing_key(stack)
    traffic.start(callers=3)

    stack.manage("rotate_signing_key", "begin")
    wait_taken(stack)
    stack.manage("rotate_signing_key", "switch")
    wait_taken(stack)
    stack.manage("rotate_signing_key", "retire")
    wait_taken(stack)
    second = signing_key(stack)
    refused_by_then = refusals(stack)

    # Somebody still has the first one.
    forged = forge(stack, first)
    push(stack, forged)
    stack.wait_for(lambda: len(refusals(stack)) > len(refused_by_then), "the agent has refused it")
    by_push = refusals(stack)

    # The second is stolen while the agent is away: it comes back to a release that none of its keys signed.
    stack.kill("agent")
    stack.manage("rotate_signing_key", "compromised", "--reason", "a laptop is gone")
    stack.start("agent")
    wait_taken(stack)
    stack.stop("gateway")
    traffic_until_here = list(traffic.exchanges)
    stack.start("gateway")
    stack.wait_answering("gateway")
    wait_taken(stack)
    third = signing_key(stack)
    push(stack, forge(stack, second))
    stack.wait_for(lambda: any(name(second) in reason for _, reason in refusals(stack)), "the second is refused, too")
    traffic.stop()

    keys = {name(key) for key in (first, second, third)}
    assert len(keys) == 3
    assert refused_by_then == []
    assert [(worker, reason.partition(":")[0]) for worker, reason in by_push] == [("stack/agent", "unknown_key")]
    assert {key for (key,) in stack.query("SELECT DISTINCT key_id FROM releases_release")} == keys
    assert len({one.release for one in traffic_until_here}) >= 3
    # The gateway was stopped on purpose once; until then nobody was refused anything.
    assert [one for one in traffic_until_here if not one.is_good and one.status] == []
    assert served_key(stack) == name(third)
    with httpx.Client(base_url=stack.gateway_url) as client:
        answer = client.get("/v1/models", headers={"authorization": "Bearer bk-demo-acme"})
    assert answer.status_code == httpx.codes.OK


def signing_key(stack: Stack) -> Ed25519PrivateKey:
    """The key that signs now."""
    key = load_pem_private_key((stack.places.keys / "release-signing.pem").read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


def name(key: Ed25519PrivateKey) -> str:
    return key_id_of(key.public_key())


def served_key(stack: Stack) -> str:
    """By whom the release on the host's disk is signed."""
    key_id = json.loads((stack.places.data_dir / "release.json").read_bytes())["key_id"]
    assert isinstance(key_id, str)
    return key_id


def wait_taken(stack: Stack) -> None:
    """Wait until agent and gateways have said that they took the newest release."""
    ((digest,),) = stack.query("SELECT digest FROM releases_release ORDER BY revision DESC LIMIT 1")

    def taken() -> bool:
        rows = stack.query("SELECT kind FROM releases_worker WHERE digest = %s AND status = 'serving'", [digest])
        kinds = [kind for (kind,) in rows]
        return kinds.count("gateway") == GATEWAY_PROCESSES and "agent" in kinds

    stack.wait_for(taken, "every worker has taken the newest release")


def refusals(stack: Stack) -> list[tuple[object, str]]:
    """Every release that a worker refused, oldest first, and why."""
    rows = stack.query("SELECT worker, reason FROM releases_ack WHERE verdict = 'nack' ORDER BY id")
    return [(worker, str(reason)) for worker, reason in rows]


def forge(stack: Stack, key: Ed25519PrivateKey) -> str:
    """A release newer than all, signed by whoever has this key."""
    ((text,),) = stack.query("SELECT document FROM releases_release ORDER BY revision DESC LIMIT 1")
    document = json.loads(str(text))
    document["revision"] += 100
    document["sections"]["access"]["keys"] = {}
    return sign(document, key).to_json()


def push(stack: Stack, envelope: str) -> None:
    """Broadcast it as the console would: whoever reaches the broker can."""
    exchange = Exchange(PUSH_EXCHANGE, type="fanout")
    with Celery("forger", broker=stack.broker_url, set_as_current=False) as app:
        app.send_task(
            PUSH_TASK,
            args=[envelope],
            exchange=exchange.name,
            exchange_type=exchange.type,
            routing_key="",
            declare=[exchange],
            retry=False,
            ignore_result=True,
        )
