"""The script of a delivery: waits and order, read off without a network."""

from __future__ import annotations

import pytest

from dataplane.simulator.faults import parse_faults, plan_faults
from dataplane.simulator.profiles import INSTANT, LatencyProfile, Pacing
from dataplane.simulator.script import Chunk, Close, End, Head, Pause, Reset, Silence, write_script
from dataplane.simulator.wire import JSON_TYPE, Frame, FrameKind, Reply

STREAM = Reply(
    200,
    (),
    (
        Frame(FrameKind.OTHER, b"<role>"),
        Frame(FrameKind.CONTENT, b"<one>"),
        Frame(FrameKind.CONTENT, b"<two>"),
        Frame(FrameKind.FINISH, b"<finish>"),
        Frame(FrameKind.TERMINATOR, b"<done>"),
    ),
    streamed=True,
    tokens=2,
    error_event=b"<error>",
)
PLAIN = Reply(200, (JSON_TYPE,), (Frame(FrameKind.CONTENT, b'{"a":"' + b"x" * 100 + b'"}'),), tokens=2)
STEADY = LatencyProfile(1.0, 0.0, 0.5, 0.0)


def script(reply, fault="", profile=INSTANT):
    return list(write_script(reply, plan_faults(parse_faults(fault)), Pacing(profile, 1)))


def sent(steps):
    return b"".join(step.data for step in steps if isinstance(step, Chunk))


def waits(steps):
    return [step.seconds for step in steps if isinstance(step, Pause)]


def test_instant_reply_waits_for_nothing():
    """Head, every frame in order, end."""
    steps = script(STREAM)

    assert steps == [Head(200, ()), *(Chunk(frame.data) for frame in STREAM.frames), End()]


def test_stream_waits_before_the_head_and_before_each_token():
    """A profile without spread waits its medians exactly."""
    steps = script(STREAM, profile=STEADY)

    assert waits(steps) == pytest.approx([1.0, 0.5, 0.5])


def test_plain_reply_waits_for_all_its_tokens_first():
    """Nothing is sent until the last token would have been."""
    steps = script(PLAIN, profile=STEADY)

    assert waits(steps) == pytest.approx([2.0])
    assert isinstance(steps[0], Pause)


@pytest.mark.parametrize(("fault", "at"), [("latency:ms=300", 0), ("latency:ms=300,before=first_chunk", 1)])
def test_latency_waits_before_or_after_the_head(fault, at):
    """The head comes late, or comes at once and the body late."""
    assert script(STREAM, fault)[at] == Pause(0.3)


def test_slow_drip_waits_before_every_chunk():
    """Each frame of a stream, and each piece of a plain body, is held back."""
    assert waits(script(STREAM, "slow_drip:ms=50")) == pytest.approx([0.05] * 5)
    assert waits(script(PLAIN, "slow_drip:ms=50")) == pytest.approx([0.05] * 4)
    assert sent(script(PLAIN, "slow_drip:ms=50")) == PLAIN.frames[0].data


@pytest.mark.parametrize(("fault", "only"), [("reset", Reset()), ("silence", Silence())])
def test_reset_and_silence_send_nothing(fault, only):
    """There is not even a head."""
    assert script(STREAM, fault) == [only]


@pytest.mark.parametrize(
    ("fault", "before", "last"),
    [
        ("reset_mid_stream:after=0", b"<role>", Reset()),
        ("reset_mid_stream:after=1", b"<role><one>", Reset()),
        ("reset_mid_stream:after=99", b"<role><one><two>", Reset()),
        ("silence_mid_stream:after=1", b"<role><one>", Silence()),
        ("truncated_chunk:after=1", b"<role><one><tw", Close()),
        ("truncated_chunk:after=1,close=clean", b"<role><one><tw", End()),
        ("error_mid_stream:after=1", b"<role><one><error>", End()),
        ("missing_final", b"<role><one><two><finish>", End()),
        ("missing_final:drop=finish", b"<role><one><two>", End()),
        ("duplicate_final", b"<role><one><two><finish><finish><done><done>", End()),
    ],
)
def test_stream_fault_strikes_after_the_chunks_it_names(fault, before, last):
    """However short the answer, the fault comes before its finish."""
    steps = script(STREAM, fault)

    assert sent(steps) == before
    assert steps[-1] == last


@pytest.mark.parametrize("after", [0, 1, 99])
def test_plain_body_never_gets_through_a_reset(after):
    """The length promises the whole body; at least its last piece is missing."""
    steps = script(PLAIN, f"reset_mid_stream:after={after}")

    assert (b"content-length", b"%d" % len(PLAIN.frames[0].data)) in steps[0].headers
    assert len(sent(steps)) == min(after * 32, 96)
    assert steps[-1] == Reset()
