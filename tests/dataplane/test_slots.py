"""Slots: what stands in one outlives its writer, and nothing half-written is ever read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from zlib import crc32

import pytest

from dataplane.stores.slots import MAX_RECORD_BYTES, NONE, SLOT_BYTES, Slots

NUMBER = 4


@pytest.fixture
def path(tmp_path):
    """Where the slots are."""
    return tmp_path / "attempts.slots"


def left(path, number=NUMBER):
    """What a successor finds."""
    return sorted(Slots(path, number=number).left.values())


def test_successor_finds_what_was_taken_and_not_freed(path):
    """Its owner never closed it, nor told the disk anything."""
    slots = Slots(path, number=NUMBER)
    one, two, three = (slots.take(record) for record in (b"one", b"two", b"three"))
    slots.free(two)

    assert left(path) == [b"one", b"three"]
    assert len({one, two, three}) == 3


def test_what_was_left_stays_until_it_is_freed(path):
    """However often successors die; its slot is nobody else's meanwhile."""
    Slots(path, number=2).take(b"lost")
    Slots(path, number=2)
    slots = Slots(path, number=2)
    [lost] = slots.left

    taken = slots.take(b"mine"), slots.take(b"no room")
    slots.free(lost)

    assert lost not in taken
    assert taken[1] == NONE
    assert left(path, 2) == [b"mine"]


def test_what_is_shared_stands_behind_what_is_not(path):
    """Under the checksum that was worked out once; another's would be none of it."""
    slots = Slots(path, number=NUMBER)
    slots.take(b"own ", b"shared", crc32(b"shared"))
    slots.take(b"own ", b"torn", crc32(b"shared"))

    assert left(path) == [b"own shared"]


def test_record_that_is_too_long_or_one_too_many_is_refused(path):
    """And nothing of it is written."""
    slots = Slots(path, number=1)

    assert slots.take(b"x" * (MAX_RECORD_BYTES + 1)) == NONE
    longest = slots.take(b"x" * MAX_RECORD_BYTES)
    assert (longest, slots.take(b"y")) == (0, NONE)
    assert left(path, 1) == [b"x" * MAX_RECORD_BYTES]


@pytest.mark.parametrize("kept", range(1, 15))
def test_half_of_a_copy_counts_as_free(path, kept):
    """Of header and record, however much of it there was time for."""
    slots = Slots(path, number=1)
    slots.take(b"abc")
    slots.close()
    area = path.stat().st_size - SLOT_BYTES
    with path.open("r+b") as file:
        file.seek(area + kept)
        file.write(bytes(SLOT_BYTES - kept))

    assert left(path, 1) == []


def test_shorter_record_after_a_longer_one_is_read_alone(path):
    """What an earlier one left behind it in the slot is no part of it."""
    slots = Slots(path, number=1)
    slots.free(slots.take(b"a longer one"))
    slots.take(b"short")

    assert left(path, 1) == [b"short"]


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"another format!!" + bytes(48 + NUMBER * SLOT_BYTES)])
def test_file_of_something_else_is_replaced(path, content):
    """An attempt is guarded from the next one on."""
    path.write_bytes(content)

    slots = Slots(path, number=NUMBER)
    slots.take(b"one")

    assert left(path) == [b"one"]


def test_process_that_is_killed_leaves_what_it_had_taken(path):
    """By SIGKILL, in a process of its own."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom dataplane.stores.slots import Slots\n"
        f"slots = Slots(Path(sys.argv[1]), number={NUMBER})\n"
        "slots.take(b'one'), slots.free(slots.take(b'two'))\nos.kill(os.getpid(), 9)"
    )

    ended = subprocess.run([sys.executable, "-c", code, str(path)], env=os.environ, check=False, timeout=60)

    assert ended.returncode == -signal.SIGKILL
    assert left(path) == [b"one"]
