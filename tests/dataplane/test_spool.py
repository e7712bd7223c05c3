"""The spool: in order, bounded, and nothing half-written is ever replayed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.stores.spool import Spool, SpoolBusy


@pytest.fixture
def directory(tmp_path):
    """Where the spool is."""
    return tmp_path / "spool"


def replay(spool, max_bytes=1 << 20):
    lines = []
    while (chunk := spool.peek(max_bytes)) is not None:
        lines += chunk.lines
        spool.remove(chunk)
    return lines


def test_lines_come_back_in_order_across_segments(directory):
    """Segments are an inner matter."""
    spool = Spool(directory, max_bytes=8 * 40)
    lines = [b'{"n": %d}' % number for number in range(20)]
    for line in lines:
        spool.append([line])

    assert len(list(directory.glob("*.jsonl"))) > 1
    assert replay(spool, max_bytes=15) == lines
    assert spool.is_empty
    assert list(directory.glob("*.jsonl")) == []


def test_what_was_spooled_is_there_after_a_restart(directory):
    """The next process of the same slot replays what its predecessor could not deliver, and then its own."""
    first = Spool(directory, max_bytes=10_000)
    first.append([b"1", b"2"])
    first.close()

    second = Spool(directory, max_bytes=10_000)
    second.append([b"3"])

    assert replay(second) == [b"1", b"2", b"3"]


def test_lines_not_removed_are_given_again(directory):
    """A delivery that failed changes nothing."""
    spool = Spool(directory, max_bytes=10_000)
    spool.append([b"1", b"2", b"3"])

    assert spool.peek(4).lines == spool.peek(4).lines == [b"1", b"2"]


def test_line_longer_than_the_chunk_is_given_whole(directory):
    """One large batch cannot block the queue."""
    spool = Spool(directory, max_bytes=10_000)
    spool.append([b"x" * 500, b"y"])

    assert replay(spool, max_bytes=10) == [b"x" * 500, b"y"]


def test_oldest_lines_are_dropped_and_counted_when_the_spool_is_full(directory):
    """Bounded on disk, newest kept, and the loss is known."""
    spool = Spool(directory, max_bytes=80)
    lines = [b"%03d" % number for number in range(100)]
    for line in lines:
        spool.append([line])

    kept = replay(spool)
    dropped, dropped_bytes = spool.take_dropped()

    assert kept == lines[-len(kept) :]
    assert len(kept) + dropped == 100
    assert dropped_bytes == dropped * 4
    assert len(kept) * 4 <= 80
    assert spool.take_dropped() == (0, 0)


def test_removing_lines_that_were_dropped_meanwhile_removes_nothing_else(directory):
    """A delivery is slow; the disk may have filled while it went on."""
    spool = Spool(directory, max_bytes=80)
    spool.append([b"old-line"])
    sent = spool.peek(100)
    for number in range(30):
        spool.append([b"%08d" % number])

    before = spool.pending_bytes
    spool.remove(sent)

    assert spool.pending_bytes == before


def test_second_process_cannot_open_the_same_spool(directory):
    """Two writers in one queue would mix their lines, so the second is told to take a slot of its own."""
    spool = Spool(directory, max_bytes=1000)

    with pytest.raises(SpoolBusy, match="its own slot"):
        Spool(directory, max_bytes=1000)
    spool.close()
    Spool(directory, max_bytes=1000).close()


@given(cut=st.integers(1, 30))
@settings(max_examples=30)
def test_torn_tail_is_never_replayed(tmp_path_factory, cut):
    """Wherever a write was cut, whole lines come back and half a line does not."""
    directory = tmp_path_factory.mktemp("spool")
    spool = Spool(directory, max_bytes=10_000)
    lines = [b'{"a": 1}', b'{"b": 22}', b'{"c": 333}']
    spool.append(lines)
    spool.close()
    [segment] = directory.glob("*.jsonl")
    os.truncate(segment, segment.stat().st_size - cut)

    survivor = Spool(directory, max_bytes=10_000)
    survivor.append([b"new"])
    replayed = replay(survivor)
    survivor.close()

    assert replayed[-1] == b"new"
    assert replayed[:-1] == lines[: len(replayed) - 1]


WRITER = """
import sys
from pathlib import Path
from dataplane.stores.spool import Spool

spool = Spool(Path(sys.argv[1]), max_bytes=1 << 30)
for number in range(20_000):  # which is far from filling it
    spool.append([b"%d:" % number + b"x" * 5000 + b":%d" % number])
    if number == 200:
        print("running", flush=True)
sys.stdin.read()
"""


def test_process_killed_while_writing_leaves_only_whole_lines(directory):
    """kill -9 in the middle of a stream of writes: every line that comes back is whole and in its place."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout.readline() == b"running\n"
    writer.send_signal(signal.SIGKILL)
    writer.communicate()

    spool = Spool(directory, max_bytes=1 << 30)
    lines = replay(spool)

    assert len(lines) >= 200
    assert lines == [b"%d:" % number + b"x" * 5000 + b":%d" % number for number in range(len(lines))]
