"""Frames: how they look on the wire, what words they carry, and who sees how many of them."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.frames import DONE, Ending, FrameBuffer, characters_in, digest_frames, encode_events, text_of


def chunk(*deltas):
    return json.dumps({"choices": [{"delta": delta} for delta in deltas]}).encode()


def test_events_bear_consecutive_numbers():
    """From any number on; and nothing is nothing."""
    assert encode_events(7, [b"a", DONE]) == b"id: 7\ndata: a\n\nid: 8\ndata: [DONE]\n\n"
    assert encode_events(7, []) == b""


@given(st.lists(st.binary(max_size=20).filter(lambda payload: b"\n" not in payload)))
def test_the_digest_is_that_of_the_payloads_line_by_line(payloads):
    """Anybody who has the stream can compute it with `sha256sum`."""
    lines = b"".join(payload + b"\n" for payload in payloads)

    assert digest_frames(payloads) == hashlib.sha256(lines).hexdigest()


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (DONE, ""),
        (b'{"error":{"message":"no"}}', ""),
        (b'{"choices":[],"usage":{}}', ""),
        (b'{"choices":null}', ""),
        (chunk({"content": "Größe"}), "Größe"),
        (chunk({"content": None, "refusal": "I will not"}), "I will not"),
        (chunk({"content": "a"}, {"content": "b"}), "ab"),
        (chunk({"tool_calls": [{"function": {"name": "f", "arguments": '{"x'}}, {"function": None}]}), '{"x'),
        (b'{"choices":[{"delta":null,"finish_reason":"stop"}]}', ""),
    ],
)
def test_the_words_of_a_frame_are_those_that_a_reader_reads(payload, text):
    """Content, refusals and the arguments of tools, of every choice; whatever is missing is nothing."""
    assert text_of(payload) == text
    assert characters_in([payload, payload]) == 2 * len(text)


async def test_readers_see_what_is_shown_and_are_woken_for_more():
    """Everybody who waits, once; whoever left meanwhile is no hindrance."""
    buffer, loop = FrameBuffer(), asyncio.get_running_loop()
    waiting = [asyncio.create_task(buffer.wait(loop)) for _ in range(3)]
    await asyncio.sleep(0)
    buffer.add([b"one", b"two"])
    await asyncio.sleep(0)
    assert (buffer.shown, [task.done() for task in waiting]) == (0, [False] * 3)
    waiting.pop().cancel()

    buffer.show(1)
    await asyncio.gather(*waiting)

    assert (buffer.shown, buffer.is_over) == (1, False)
    buffer.show(0)
    assert buffer.shown == 1


def test_a_stream_is_over_when_its_end_is_shown_and_takes_no_more():
    """One terminal event, and nothing behind it."""
    buffer = FrameBuffer([b"one"])
    buffer.add([DONE], ending=Ending.COMPLETED)
    assert (buffer.is_over, buffer.size_bytes) == (False, 9)

    buffer.show(2)

    assert buffer.is_over
    with pytest.raises(ValueError, match="completed already"):
        buffer.add([b"more"])
    assert FrameBuffer([b"one", DONE], ending=Ending.COMPLETED).is_over


@pytest.mark.parametrize(("shown", "is_over"), [(0, False), (1, False), (2, True)])
def test_what_was_never_shown_can_be_forgotten_the_end_included(shown, is_over):
    """Then the stream is not over, and another end may follow; unless the end was shown."""
    buffer = FrameBuffer()
    buffer.add([b"one", DONE], ending=Ending.COMPLETED)
    buffer.show(shown)

    buffer.cut()

    assert (len(buffer.payloads), buffer.is_over) == (shown, is_over)
    assert buffer.size_bytes == sum(map(len, buffer.payloads))
    if not is_over:
        buffer.add([b'{"error":{}}'], ending=Ending.INTERRUPTED)
        buffer.show(shown + 1)
        assert (buffer.is_over, buffer.ending) == (True, Ending.INTERRUPTED)
