"""Resume cursors: what one is good for, and what is none."""

from __future__ import annotations

import base64
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.__main__ import main
from dataplane.cursors import MIN_KEY_BYTES, BadCursorKeys, Cursor, CursorKeys, parse_cursor_keys
from dataplane.errors.streams import CursorExpired, InvalidCursor
from dataplane.stores.files import read_or_make_key

OLD, NEW = b"o" * MIN_KEY_BYTES, b"n" * MIN_KEY_BYTES
NOW = 1_760_000_000.0
CURSOR = Cursor("0123456789abcdef" * 2, "acme", 7, int(NOW) + 60)


@given(
    stream=st.binary(min_size=16, max_size=16).map(bytes.hex),
    tenant=st.text(max_size=60),
    after=st.integers(0, 2**63),
    seconds=st.integers(1, 10**9),
)
def test_a_cursor_says_what_it_was_made_of(stream, tenant, after, seconds):
    """Whatever stream, tenant and number; and it fits into an address as it is."""
    cursor = Cursor(stream, tenant, after, int(NOW) + seconds)
    text = CursorKeys([OLD]).sign(cursor)

    assert CursorKeys([OLD]).read(text, now=NOW) == cursor
    assert text.isascii()
    assert not set(text) & set("=+/&?#% ")


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_no_bit_of_a_cursor_can_be_changed(place, bit):
    """Neither what it says nor its signature."""
    text = CursorKeys([OLD]).sign(CURSOR)
    data = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    data[place % len(data)] ^= 1 << bit

    with pytest.raises(InvalidCursor):
        CursorKeys([OLD]).read(base64.urlsafe_b64encode(bytes(data)).decode().rstrip("="), now=NOW)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_what_is_no_cursor_is_refused(text):
    """Whatever stands in the address."""
    with pytest.raises(InvalidCursor):
        CursorKeys([OLD]).read(text, now=NOW)


def test_a_cursor_expires():
    """It is good until then and no longer; how long ago that was is told."""
    keys = CursorKeys([OLD])
    text = keys.sign(CURSOR)

    assert keys.read(text, now=CURSOR.expires_at - 1) == CURSOR
    with pytest.raises(CursorExpired, match="5 s ago"):
        keys.read(text, now=CURSOR.expires_at + 5)


def test_keys_are_changed_without_a_gap():
    """A new line on top signs; the old one is read until it is taken out."""
    before, both, after = CursorKeys([OLD]), CursorKeys([NEW, OLD]), CursorKeys([NEW])
    old, new = before.sign(CURSOR), both.sign(CURSOR)

    assert both.read(old, now=NOW) == both.read(new, now=NOW) == after.read(new, now=NOW) == CURSOR
    for keys, text in ((before, new), (after, old)):
        with pytest.raises(InvalidCursor):
            keys.read(text, now=NOW)


@pytest.mark.parametrize(
    ("text", "match"),
    [("", "at least one"), ("c2hvcnQ=\n", "32 bytes"), ("no base64!\n", "not base64"), ("ünlesbar", "not base64")],
)
def test_a_file_that_holds_no_keys_is_refused(text, match):
    """And what is in it is not repeated."""
    with pytest.raises(BadCursorKeys, match=match) as refused:
        parse_cursor_keys(text)

    assert not text.strip() or text.strip() not in str(refused.value)


def test_the_first_process_of_a_host_makes_the_key(tmp_path):
    """For our user only; whoever comes later, or at the same time, reads the same."""
    path = tmp_path / "keys" / "cursor-keys"

    first = read_or_make_key(path, size_bytes=MIN_KEY_BYTES)

    assert read_or_make_key(path, size_bytes=MIN_KEY_BYTES) == first
    assert path.stat().st_mode & 0o077 == 0
    assert [one.name for one in path.parent.iterdir()] == ["cursor-keys"]
    text = parse_cursor_keys(first).sign(CURSOR)
    rotated = parse_cursor_keys(base64.b64encode(NEW).decode() + "\n" + first)
    assert rotated.read(text, now=NOW) == CURSOR


def test_a_gateway_with_a_bad_key_file_says_which(tmp_path, capsys):
    """One line that names the variable, and no start."""
    path = tmp_path / "cursor-keys"
    path.write_text("no base64!\n")
    listener = socket.create_server(("127.0.0.1", 0))
    variables = {"BALLAST_CURSOR_KEYS_FILE": str(path), "REDIS_URL": "redis://127.0.0.1:1/0"}

    status = main(["gateway-process", "--slot", "0", "--listener", str(listener.detach())], variables)

    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert status == 1
    assert said == f"ballast gateway-process: {path} (BALLAST_CURSOR_KEYS_FILE): a line is not base64"
