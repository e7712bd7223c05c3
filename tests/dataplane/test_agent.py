"""The agent: newer releases reach the disk by push or by asking, nothing else does, and restarts cannot be tricked."""

from __future__ import annotations

import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import redis
from celery import Celery
from kombu import Exchange

from dataplane.agent import PUSH_EXCHANGE, PUSH_TASK, Reconciler, ReleaseKeeper
from dataplane.pulse import Pulse
from dataplane.release import Envelope
from dataplane.report_sinks import STREAM

WAIT_SECONDS = 120


@pytest.fixture
def release_file(tmp_path):
    return tmp_path / "release.json"


@pytest.fixture
def make_keeper(release_file, trusted_keys_file, verdicts):
    """Builds a keeper; a second one is the agent after a restart."""

    def make():
        return ReleaseKeeper(release_file=release_file, trusted_keys_file=trusted_keys_file, acknowledge=verdicts)

    return make


def revision_on_disk(release_file: Path) -> int:
    revision = json.loads(Envelope.from_json(release_file.read_bytes()).document)["revision"]
    assert isinstance(revision, int)
    return revision


def test_newer_release_is_written_as_it_came(make_keeper, release_file, make_envelope, verdicts):
    """Gateways verify the same envelope that the control plane signed; acknowledging is theirs."""
    keeper = make_keeper()
    envelope = make_envelope(4)

    assert keeper.receive(envelope.to_mapping()) is True
    assert Envelope.from_json(release_file.read_bytes()) == envelope
    assert keeper.receive(make_envelope(5).to_json()) is True
    assert revision_on_disk(release_file) == 5
    assert verdicts == []


def test_release_received_twice_is_written_once(make_keeper, release_file, make_envelope):
    """Push and reconcile bring the same one."""
    keeper = make_keeper()
    keeper.receive(make_envelope(4).to_mapping())
    before = release_file.stat().st_ino

    assert keeper.receive(make_envelope(4).to_mapping()) is False
    assert release_file.stat().st_ino == before


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"signature": "AAAA"}, "bad_signature"),
        ({"key_id": "f" * 16}, "unknown_key"),
        ({"digest": "f" * 64}, "digest_mismatch"),
        ({"extra": "x"}, "malformed_release"),
        ({"document": 3}, "malformed_release"),
    ],
)
def test_refused_release_is_reported_once_and_never_written(
    make_keeper, release_file, make_envelope, verdicts, change, code
):
    """It comes with every reconcile until somebody acts; one NACK is enough."""
    keeper = make_keeper()
    keeper.receive(make_envelope(1).to_mapping())
    for _ in range(3):
        assert keeper.receive(make_envelope(2).to_mapping() | change) is False

    assert revision_on_disk(release_file) == 1
    assert [verdict["reason"].split(":")[0] for verdict in verdicts] == [code]


def test_older_release_is_refused_with_its_claimed_revision(make_keeper, make_envelope, verdicts):
    """A replayed push is told apart on the fleet page."""
    keeper = make_keeper()
    keeper.receive(make_envelope(4).to_mapping())
    keeper.receive(make_envelope(3).to_mapping())

    assert [(verdict["revision"], verdict["verdict"]) for verdict in verdicts] == [(3, "nack")]
    assert verdicts[0]["reason"].startswith("stale_revision")


@pytest.mark.parametrize("damage", ["nothing", "lost", "corrupt", "mark_lost", "mark_corrupt"])
def test_restart_cannot_be_tricked_into_an_older_release(make_keeper, release_file, make_envelope, damage):
    """The release file, or the mark beside it, remembers how far this host has come; either is enough."""
    make_keeper().receive(make_envelope(4).to_mapping())
    mark = release_file.with_name("release.json.mark")
    match damage:
        case "lost":
            release_file.unlink()
        case "corrupt":
            release_file.write_bytes(b"\0" * 100)
        case "mark_lost":
            mark.unlink()
        case "mark_corrupt":
            mark.write_bytes(b"{")
    restarted = make_keeper()

    assert restarted.receive(make_envelope(3).to_mapping()) is False
    assert restarted.receive(make_envelope(4, reason="another").to_mapping()) is False
    assert restarted.receive(make_envelope(4).to_mapping()) is (damage in ("lost", "corrupt"))
    assert restarted.receive(make_envelope(5).to_mapping()) is True


def test_disk_that_cannot_be_written_is_an_error_and_the_release_may_come_again(
    make_keeper, make_envelope, release_file
):
    """A full disk loses the push, not the release: the next reconcile brings it again."""
    keeper = make_keeper()
    release_file.mkdir()
    with pytest.raises(OSError, match="release"):
        keeper.receive(make_envelope(4).to_mapping())
    release_file.rmdir()

    assert keeper.receive(make_envelope(4).to_mapping()) is True


def reconciler_against(handler, keeper):
    return Reconciler(
        receive=keeper.receive,
        current_digest=lambda: None if keeper.current is None else keeper.current.digest,
        learn=keeper.learn,
        lacks_key=lambda: keeper.lacks_key,
        client=httpx.Client(transport=httpx.MockTransport(handler), headers={"Authorization": "Bearer t"}),
        url="http://console/api/v1/releases/current",
        interval_seconds=3600,
        rng=random.Random(1),
        pulse=Pulse(within_seconds=60),
    )


def test_reconcile_fetches_what_is_missing_and_then_only_asks(make_keeper, make_envelope):
    """The second question carries the digest, and costs no body."""
    envelope = make_envelope(2)
    asked = []

    def console(request):
        asked.append((request.headers.get("If-None-Match"), request.headers["Authorization"]))
        if asked[-1][0] == f'"{envelope.digest}"':
            return httpx.Response(304)
        return httpx.Response(200, json=envelope.to_mapping())

    reconciler = reconciler_against(console, make_keeper())

    assert [reconciler.reconcile(), reconciler.reconcile()] == [True, False]
    assert asked == [(None, "Bearer t"), (f'"{envelope.digest}"', "Bearer t")]


@pytest.mark.parametrize("answer", ["refused connection", "500", "404", "401", "no JSON"])
def test_control_plane_that_does_not_answer_changes_nothing(make_keeper, make_envelope, answer, verdicts):
    """The host serves what it has, and the control plane's trouble is no verdict on a release."""

    def console(request):
        if answer == "refused connection":
            raise httpx.ConnectError("refused", request=request)
        if answer == "no JSON":
            return httpx.Response(200, text="<html>")
        return httpx.Response(int(answer))

    keeper = make_keeper()
    keeper.receive(make_envelope(2).to_mapping())

    assert reconciler_against(console, keeper).reconcile() is False
    assert keeper.current.revision == 2
    assert verdicts == []


def test_reconciler_asks_at_once_when_woken(make_keeper):
    """After the broker was away a push may have been missed; waiting for the interval would be waiting for nothing."""
    asked = queue.Queue()

    def console(request):
        asked.put(1)
        return httpx.Response(404)

    reconciler = reconciler_against(console, make_keeper())
    reconciler.start()
    asked.get(timeout=WAIT_SECONDS)
    reconciler.wake()

    asked.get(timeout=WAIT_SECONDS)
    reconciler.stop()
    reconciler.join(WAIT_SECONDS)
    assert not reconciler.is_alive()


class ReportReader(threading.Thread):
    """Waits for a report that satisfies a condition, through Redis' own blocking read."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self._client = redis.Redis.from_url(url)
        self._last = "0"

    def wait_for(self, condition, *, meanwhile=lambda: None):
        """The first report of which `condition` is true; `meanwhile` is done once a second until it comes."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            meanwhile()
            for _, entries in self._client.xread({STREAM: self._last}, block=1000) or []:
                for entry, fields in entries:
                    self._last = entry
                    batch = json.loads(fields[b"batch"])
                    if condition(batch):
                        return batch
        raise AssertionError("no such report")


@pytest.fixture
def agent(tmp_path, broker, release_file, trusted_keys_file, monkeypatch):
    """A real agent process at a real broker, with no control plane to ask."""
    # Celery prefers this variable to what its application is told, and the sender has to use this test's own broker.
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    environment = {
        "PATH": os.environ["PATH"],
        "REDIS_URL": broker.url,
        "BALLAST_CONSOLE_URL": "http://127.0.0.1:9",
        "BALLAST_AGENT_TOKEN": "t",
        "BALLAST_HOST_NAME": "host",
        "BALLAST_DATA_DIR": str(tmp_path),
        "BALLAST_RELEASE_FILE": str(release_file),
        "BALLAST_TRUSTED_KEYS_FILE": str(trusted_keys_file),
    }
    process = subprocess.Popen([sys.executable, "-m", "dataplane", "agent"], env=environment)
    yield process
    process.kill()
    process.wait()


def push(url, envelope):
    """Broadcast as the control plane does: by the task's name, from an application of its own."""
    exchange = Exchange(PUSH_EXCHANGE, type="fanout")
    with Celery("sender", broker=url, set_as_current=False) as sender:
        # Without the type Celery takes the exchange for a direct one and puts the message into its default queue.
        sender.send_task(
            PUSH_TASK,
            args=[envelope.to_mapping()],
            exchange=exchange.name,
            exchange_type=exchange.type,
            routing_key="",
            declare=[exchange],
            ignore_result=True,
        )


def wait_until_subscribed(url):
    """The broker itself says when the agent listens."""
    client = redis.Redis.from_url(url)
    with client.monitor() as monitor:
        if client.pubsub_numpat() or client.pubsub_channels():
            return
        for command in monitor.listen():
            if command["command"].upper().startswith(("SUBSCRIBE", "PSUBSCRIBE")):
                return


@pytest.mark.end_to_end
def test_push_reaches_the_disk_through_a_broker_that_is_stopped_and_started(agent, broker, release_file, make_envelope):
    """Broadcast, refusal with NACK, loss of the broker, and broadcast again, with real processes."""
    wait_until_subscribed(broker.url)
    push(broker.url, make_envelope(1))
    heartbeat = ReportReader(broker.url).wait_for(lambda batch: batch["state"]["revision"] == 1)
    assert (heartbeat["worker"], heartbeat["state"]["kind"], heartbeat["state"]["status"]) == (
        "host/agent",
        "agent",
        "serving",
    )
    assert revision_on_disk(release_file) == 1

    push(broker.url, Envelope(**make_envelope(2).to_mapping() | {"signature": "AAAA"}))
    nack = ReportReader(broker.url).wait_for(lambda batch: batch["acks"])
    assert nack["acks"][0]["verdict"] == "nack"
    assert revision_on_disk(release_file) == 1

    broker.stop()
    broker.start()
    wait_until_subscribed(broker.url)
    # Celery takes its connection up again in two steps, and what is pushed between them is lost: that is what
    # reconciling is for, and here there is no control plane to ask.
    ReportReader(broker.url).wait_for(
        lambda batch: batch["state"]["revision"] == 3, meanwhile=lambda: push(broker.url, make_envelope(3))
    )
    assert revision_on_disk(release_file) == 3

    agent.send_signal(signal.SIGTERM)
    assert agent.wait(WAIT_SECONDS) == 0
    ReportReader(broker.url).wait_for(lambda batch: batch["state"]["status"] == "stopped")
