"""The watcher: verified releases are swapped in whole, anything else leaves the old one serving."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from dataplane.stores.files import write_atomically
from dataplane.watcher import INLINE_BYTES, ReleaseWatcher


@pytest.fixture
def release_file(tmp_path):
    return tmp_path / "release.json"


@pytest.fixture
def make_watcher(release_file, trusted_keys_file, verdicts):
    """Builds a watcher; a second one is the process after a restart."""

    def make():
        return ReleaseWatcher(
            release_file=release_file, trusted_keys_file=trusted_keys_file, acknowledge=verdicts, poll_seconds=0.001
        )

    return make


@pytest.fixture
def write(release_file):
    """Writes an envelope, or bytes, as the agent does."""

    def write(content):
        write_atomically(release_file, content if isinstance(content, bytes) else content.to_json().encode())

    return write


def test_without_a_file_nothing_is_served_and_nothing_is_refused(make_watcher, verdicts):
    """A new host waits for its first release."""
    watcher = make_watcher()

    assert watcher.poll() is False
    assert (watcher.current, verdicts) == (None, [])


def test_new_release_is_served_and_acknowledged(make_watcher, write, make_envelope, verdicts):
    """Subscribers have it before the acknowledgement goes out."""
    watcher = make_watcher()
    seen = []
    watcher.subscribe(lambda release: seen.append((release.revision, len(verdicts))))
    envelope = make_envelope(1)
    write(envelope)

    assert watcher.poll() is True
    assert watcher.current.digest == envelope.digest
    assert seen == [(1, 0)]
    assert verdicts == [{"revision": 1, "digest": envelope.digest, "verdict": "ack", "reason": ""}]


def test_file_that_did_not_change_is_not_read_again(make_watcher, write, make_envelope, verdicts):
    """The poll costs two stats."""
    watcher = make_watcher()
    write(make_envelope(1))
    watcher.poll()

    assert watcher.poll() is False
    assert len(verdicts) == 1


def test_same_release_written_again_is_no_news(make_watcher, write, make_envelope, verdicts):
    """A new inode with the old content changes nothing for requests."""
    watcher = make_watcher()
    write(make_envelope(1))
    watcher.poll()
    before = watcher.current
    write(make_envelope(1))

    assert watcher.poll() is False
    assert watcher.current is before
    assert len(verdicts) == 1


def test_restart_serves_the_release_on_disk_again(make_watcher, write, make_envelope, verdicts):
    """Static stability: the same revision is good enough for a new process, with no control plane in sight."""
    write(make_envelope(7))
    make_watcher().poll()

    assert make_watcher().poll() is True
    assert [verdict["verdict"] for verdict in verdicts] == ["ack", "ack"]


def bad_files(make_envelope):
    good = make_envelope(5).to_json()
    fields = json.loads(good)
    return {
        "malformed_release": good[:-20],
        "bad_signature": json.dumps(fields | {"document": fields["document"].replace('"free"', '"vip"') + " "}),
        "unknown_key": json.dumps(fields | {"key_id": "0" * 16}),
        "digest_mismatch": json.dumps(fields | {"digest": "0" * 64}),
        "stale_revision": make_envelope(2).to_json(),
    }


@pytest.mark.parametrize(
    "code", ["malformed_release", "bad_signature", "unknown_key", "digest_mismatch", "stale_revision"]
)
def test_bad_file_leaves_the_old_release_serving_and_is_refused_once(
    make_watcher, write, make_envelope, verdicts, code
):
    """The old object keeps serving, and one NACK, however often the same bad file is met."""
    watcher = make_watcher()
    write(make_envelope(3))
    watcher.poll()
    before = watcher.current
    for _ in range(3):
        write(bad_files(make_envelope)[code].encode())
        assert watcher.poll() is False

    assert watcher.current is before
    assert [verdict["verdict"] for verdict in verdicts] == ["ack", "nack"]
    assert verdicts[-1]["reason"].startswith(f"{code}: ")


def test_good_release_after_a_bad_file_is_served(make_watcher, write, make_envelope, verdicts):
    """A refusal blocks nothing, and the same bad file later is told again."""
    watcher = make_watcher()
    write(b"{")
    watcher.poll()
    write(make_envelope(3))

    assert watcher.poll() is True
    write(b"{")
    watcher.poll()
    assert [verdict["verdict"] for verdict in verdicts] == ["nack", "ack", "nack"]


def test_file_that_vanishes_leaves_the_release_serving(make_watcher, write, make_envelope, release_file):
    """Losing the disk does not stop traffic."""
    watcher = make_watcher()
    write(make_envelope(3))
    watcher.poll()
    os.unlink(release_file)

    assert watcher.poll() is False
    assert watcher.current.revision == 3


def test_release_is_looked_at_again_when_its_key_becomes_trusted(
    make_watcher, write, make_envelope, trusted_keys_file, verdicts
):
    """A rotation may bring the release before the key."""
    keys = trusted_keys_file.read_bytes()
    trusted_keys_file.write_bytes(b"{}")
    watcher = make_watcher()
    write(make_envelope(1))
    watcher.poll()
    trusted_keys_file.unlink()
    write_atomically(trusted_keys_file, keys)

    assert watcher.poll() is True
    assert [verdict["verdict"] for verdict in verdicts] == ["nack", "ack"]


def test_subscriber_that_fails_hides_the_release_from_nobody(make_watcher, write, make_envelope, verdicts):
    """The swap stands, the others are called, and it is acknowledged."""
    watcher = make_watcher()
    seen = []
    watcher.subscribe(lambda release: 1 / 0)
    watcher.subscribe(seen.append)
    write(make_envelope(1))

    assert watcher.poll() is True
    assert len(seen) == 1
    assert verdicts[-1]["verdict"] == "ack"


@pytest.mark.parametrize("padding", [0, 2 * INLINE_BYTES], ids=["small", "large"])
async def test_running_watcher_serves_what_is_written_without_being_asked(make_watcher, write, make_envelope, padding):
    """From the file to the swap without anybody calling poll, whether the loop or a thread examines it."""
    watcher = make_watcher()
    write(make_envelope(1))
    await watcher.start()
    assert watcher.current.revision == 1
    adopted = asyncio.Event()
    watcher.subscribe(lambda release: adopted.set())
    write(make_envelope(2, reason="x" * padding))

    await asyncio.wait_for(adopted.wait(), timeout=60)
    await watcher.stop()

    assert watcher.current.revision == 2


def test_keys_that_are_trusted_are_those_in_the_file_now(make_watcher, trusted_keys_file, trusted):
    """A key that is added or taken away counts at the next question; from a file that is no good, none is."""
    watcher = make_watcher()
    assert set(watcher.trusted_keys()) == set(trusted)
    assert watcher.trusted_keys() is watcher.trusted_keys()

    for content in ("{}", "no keys at all"):
        write_atomically(trusted_keys_file, content.encode())
        assert watcher.trusted_keys() == {}
    trusted_keys_file.unlink()
    assert watcher.trusted_keys() == {}


async def test_request_that_took_a_release_keeps_it_whole(make_watcher, write, make_envelope):
    """The object that a request holds does not change under it."""
    watcher = make_watcher()
    write(make_envelope(1, reason="old"))
    watcher.poll()
    taken = watcher.current
    write(make_envelope(2, reason="new"))
    watcher.poll()

    assert (taken.revision, taken.reason) == (1, "old")
    assert (watcher.current.revision, watcher.current.reason) == (2, "new")
