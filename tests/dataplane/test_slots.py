"""Slots: what stands in one outlives its writer, and nothing half-written is ever read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from struct import Struct

import pytest

from dataplane.stores.slots import MAX_RECORD_BYTES, NONE, SLOT_BYTES, Slots

NUMBER = 4
LENGTH_BYTES = 8
NOTHING = Struct("")


def take(slots, record):
    """Put all of this into a slot as what is shared."""
    return slots.take(NOTHING, (), record)


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
    one, two, three = (take(slots, record) for record in (b"one", b"two", b"three"))
    slots.free(two)

    assert left(path) == [b"one", b"three"]
    assert len({one, two, three}) == 3


def test_what_was_left_stays_until_it_is_freed(path):
    """However often successors die; its slot is nobody else's meanwhile."""
    take(Slots(path, number=2), b"lost")
    Slots(path, number=2)
    slots = Slots(path, number=2)
    [lost] = slots.left

    taken = take(slots, b"mine"), take(slots, b"no room")
    slots.free(lost)

    assert lost not in taken
    assert taken[1] == NONE
    assert left(path, 2) == [b"mine"]


def test_what_is_shared_stands_behind_what_is_not(path):
    """In one piece, as whoever wrote it knows where one ends."""
    Slots(path, number=NUMBER).take(Struct("<4sI"), (b"own ", 7), b"shared")

    assert left(path) == [b"own \x07\0\0\0shared"]


def test_record_that_is_too_long_or_one_too_many_is_refused(path):
    """And nothing of it is written."""
    slots = Slots(path, number=1)

    assert take(slots, b"x" * (MAX_RECORD_BYTES + 1)) == NONE
    longest = take(slots, b"x" * MAX_RECORD_BYTES)
    assert (longest, take(slots, b"y")) == (0, NONE)
    assert left(path, 1) == [b"x" * MAX_RECORD_BYTES]


def test_half_of_a_copy_counts_as_free(path):
    """The length comes last: whatever else there was time for, the slot says that it holds nothing."""
    slots = Slots(path, number=1)
    take(slots, b"abc")
    slots.close()
    area = path.stat().st_size - SLOT_BYTES
    with path.open("r+b") as file:
        file.seek(area)
        file.write(bytes(LENGTH_BYTES))

    assert path.read_bytes()[area + LENGTH_BYTES :].startswith(b"abc")
    assert left(path, 1) == []


def test_shorter_record_after_a_longer_one_is_read_alone(path):
    """What an earlier one left behind it in the slot is no part of it."""
    slots = Slots(path, number=1)
    slots.free(take(slots, b"a longer one"))
    take(slots, b"short")

    assert left(path, 1) == [b"short"]


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"another format!!" + bytes(48 + NUMBER * SLOT_BYTES)])
def test_file_of_something_else_is_replaced(path, content):
    """An attempt is guarded from the next one on."""
    path.write_bytes(content)

    slots = Slots(path, number=NUMBER)
    take(slots, b"one")

    assert left(path) == [b"one"]


def test_process_that_is_killed_leaves_what_it_had_taken(path):
    """By SIGKILL, in a process of its own."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom dataplane.stores.slots import Slots\n"
        f"slots = Slots(Path(sys.argv[1]), number={NUMBER})\n"
        "from struct import Struct\nnone = Struct('')\n"
        "slots.take(none, (), b'one'), slots.free(slots.take(none, (), b'two'))\nos.kill(os.getpid(), 9)"
    )

    ended = subprocess.run([sys.executable, "-c", code, str(path)], env=os.environ, check=False, timeout=60)

    assert ended.returncode == -signal.SIGKILL
    assert left(path) == [b"one"]
