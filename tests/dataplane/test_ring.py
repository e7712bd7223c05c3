"""The ring: what was written survives its writer, in order and bounded, and nothing half-written is ever read."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dataplane.stores.ring import Ring

SIZE = 200
# Of a record, beside its row.
EXTRA = 8


@pytest.fixture
def path(tmp_path):
    """Where the ring is."""
    return tmp_path / "rows.ring"


def written(path, *rows, size=SIZE):
    """A ring that took all of these rows."""
    ring = Ring(path, size_bytes=size)
    assert all(ring.write(row) for row in rows)
    return ring


def test_successor_of_an_abandoned_ring_reads_what_was_written(path):
    """Its owner never closed it, nor told the disk anything."""
    abandoned = written(path, b"one", b"two")

    assert Ring(path, size_bytes=SIZE).rows() == [b"one", b"two"]
    assert abandoned.rows() == [b"one", b"two"]


def test_what_was_forgotten_is_not_read_again(path):
    """What was handed over before its owner died is somebody else's; the rest is still here."""
    ring = written(path, b"handed over")
    mark = ring.end
    ring.write(b"not yet")

    ring.forget(mark)

    assert Ring(path, size_bytes=SIZE).rows() == [b"not yet"]


def test_ring_that_was_left_empty_is_empty(path):
    """An orderly stop leaves nothing, whatever still stands in the file."""
    ring = written(path, b"one", b"two")
    ring.forget(ring.end)
    ring.close()

    assert b"two" in path.read_bytes()
    assert Ring(path, size_bytes=SIZE).rows() == []


def test_full_ring_takes_nothing_until_something_is_forgotten(path):
    """It refuses the newest, and harms none of the oldest."""
    ring = written(path, b"a" * 92)
    mark = ring.end
    assert ring.write(b"b" * 92)

    refused = ring.write(b"c")
    ring.forget(mark)
    taken = ring.write(b"c")

    assert (refused, taken) == (False, True)
    assert Ring(path, size_bytes=SIZE).rows() == [b"b" * 92, b"c"]


def test_row_longer_than_the_ring_is_refused(path):
    """There is no room for it, ever."""
    ring = written(path)

    assert not ring.write(b"x" * (SIZE - EXTRA + 1))
    assert ring.write(b"x" * (SIZE - EXTRA))


def test_quiet_ring_goes_on_at_its_first_page(path):
    """Pages that were never touched cost nothing."""
    ring = Ring(path, size_bytes=1 << 20)
    for number in range(1000):
        ring.write(b"%0100d" % number)
        ring.forget(ring.end)

    assert path.read_bytes()[4096:].strip(b"\0") == b""


@pytest.mark.parametrize("torn", range(1, EXTRA + 8))
def test_row_that_was_being_copied_is_no_row(path, torn):
    """Whatever part of it had arrived, those before it are read, and the next is written in its place."""
    ring = written(path, b"whole")
    before, begin = path.read_bytes(), path.read_bytes().index(b"whole") + len(b"whole")
    ring.write(b"half-one")
    after = path.read_bytes()
    path.write_bytes(after[: begin + torn] + before[begin + torn :])

    successor = Ring(path, size_bytes=SIZE)
    rows = successor.rows()
    successor.write(b"next")

    assert rows == [b"whole"]
    assert successor.rows() == [b"whole", b"next"]


def test_rows_of_an_earlier_lap_are_not_read_again(path):
    """They lie whole behind the newest, just where the next row would be."""
    ring = written(path, b"a" * 12, b"b" * 12, b"c" * 12)
    ring.forget(ring.end)
    ring.write(b"d" * 12)

    assert b"b" * 12 in path.read_bytes()
    assert Ring(path, size_bytes=SIZE).rows() == [b"d" * 12]


@pytest.mark.parametrize(
    "content", [b"", b"something else", b"ballast rows 0\n\0" + bytes(48 + SIZE), bytes(64 + SIZE)], ids=repr
)
def test_file_that_is_no_ring_is_set_aside(path, content):
    """Somebody may want to look into it; it stops nobody."""
    path.write_bytes(content)

    ring = Ring(path, size_bytes=SIZE)

    assert ring.set_aside == path.with_name("rows.ring.unread")
    assert ring.set_aside.read_bytes() == content
    assert ring.write(b"row")
    assert ring.rows() == [b"row"]


def test_ring_of_another_size_is_set_aside(path):
    """A version that wants more room, or less, does not read it as its own."""
    written(path, b"row").close()

    other = Ring(path, size_bytes=2 * SIZE)

    assert other.set_aside is not None
    assert other.rows() == []
    assert Ring(path, size_bytes=2 * SIZE).set_aside is None


def test_ring_for_which_there_is_no_room_leaves_nothing_behind(path, monkeypatch):
    """The blocks are asked for at the start: a page without one would kill whoever writes it."""

    def refuse(file, offset, length):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)

    with pytest.raises(OSError, match="No space left"):
        Ring(path, size_bytes=SIZE)
    assert list(path.parent.iterdir()) == []


WRITER = """
import sys
from pathlib import Path
from dataplane.stores.ring import Ring

ring = Ring(Path(sys.argv[1]), size_bytes=1 << 16)
number = 0
while True:
    mark = ring.end
    for _ in range(40):
        assert ring.write(b"%d " % number * (1 + number % 50))
        number += 1
        if number == 4000:
            print("busy", flush=True)
    ring.forget(mark)
"""


def test_killed_writer_leaves_whole_rows_in_order(path):
    """kill -9 at any moment, also in the middle of a copy: the rows are consecutive, and there are as many as were
    not forgotten.
    """
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)

    rows = Ring(path, size_bytes=1 << 16).rows()

    first = int(rows[0].split()[0])
    assert rows == [b"%d " % number * (1 + number % 50) for number in range(first, first + len(rows))]
    assert 40 <= len(rows) <= 80


class RingMachine(RuleBasedStateMachine):
    """A ring beside a list that does the same, however rows are written, forgotten and found by successors."""

    def __init__(self):
        super().__init__()
        self.directory = tempfile.mkdtemp()
        self.path = Path(self.directory) / "rows.ring"
        self.ring = Ring(self.path, size_bytes=SIZE)
        self.rows = []
        # How many of them, and the end, when they were last drained.
        self.mark = (0, self.ring.end)

    @rule(row=st.binary(min_size=1, max_size=SIZE))
    def write(self, row):
        held = sum(len(one) + EXTRA for one in self.rows)
        taken = self.ring.write(row)
        if taken:
            self.rows.append(row)
        assert not taken or held + len(row) + EXTRA <= SIZE

    @rule()
    def drain(self):
        self.mark = (len(self.rows), self.ring.end)

    @rule()
    def forget(self):
        count, end = self.mark
        self.ring.forget(end)
        del self.rows[:count]
        self.mark = (0, end)

    @rule()
    def die(self):
        self.ring = Ring(self.path, size_bytes=SIZE)
        self.mark = (0, 0)

    @precondition(lambda self: not self.rows)
    @rule()
    def empty_ring_has_room(self):
        self.ring.forget(self.ring.end)
        self.mark = (0, self.ring.end)
        self.write(b"x" * (SIZE - EXTRA))
        assert len(self.rows) == 1

    @invariant()
    def successor_would_find_the_same(self):
        assert self.ring.rows() == self.rows
        assert Ring(self.path, size_bytes=SIZE).rows() == self.rows

    def teardown(self):
        shutil.rmtree(self.directory)


TestRingMachine = RingMachine.TestCase
TestRingMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
