"""Turning a reply and its delivery faults into steps: pure, so that what a client will see can be read off without
a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from dataplane.simulator.faults import Fault, FaultPlan
from dataplane.simulator.profiles import Pacing
from dataplane.simulator.wire import Frame, FrameKind, Header, Reply

# A plain body under a mid-body fault goes out in pieces of this size, so that "after N chunks" means something for
# it too.
_BODY_PIECE_BYTES = 32
_MID_FAULTS = ("reset_mid_stream", "silence_mid_stream", "truncated_chunk", "malformed_chunk", "error_mid_stream")


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Head:
    """Send the status line and the headers."""

    status: int
    headers: tuple[Header, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Send these bytes of the body."""

    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """End the response as HTTP wants it."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Break the connection with a TCP RST."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close the connection with the response unfinished."""


@dataclass(frozen=True, slots=True)
class Silence:
    """Send nothing more and keep the connection until the client leaves."""


Step = Pause | Head | Chunk | End | Reset | Close | Silence


@dataclass(slots=True)
class Progress:
    """How many tokens of a reply have been generated so far."""

    tokens: int = 0


def write_script(reply: Reply, plan: FaultPlan, pacing: Pacing, *, progress: Progress | None = None) -> Iterator[Step]:
    """Yield the steps that deliver `reply` at the model's pace under `plan`, and keep `progress` as they are taken."""
    progress = progress or Progress()
    latency = plan.get("latency")
    extra = latency.number("ms") / 1000 if latency else 0.0
    before_head = latency is not None and latency.word("before") == "head"
    waits = pacing.token_waits()
    wait = pacing.first_token_seconds() + (extra if before_head else 0.0)
    if not reply.streamed:
        wait += sum(islice(waits, reply.tokens))
    if wait:
        yield Pause(wait)
    if "reset" in plan:
        yield Reset()
        return
    if "silence" in plan:
        yield Silence()
        return
    reply = _apply_whole_faults(reply, plan)
    if not reply.streamed:
        progress.tokens = reply.tokens
    yield Head(
        reply.status,
        reply.headers if reply.streamed else (*reply.headers, (b"content-length", str(_body_length(reply)).encode())),
    )
    if extra and not before_head:
        yield Pause(extra)
    yield from _write_body(reply, plan, waits, progress)


def _write_body(reply: Reply, plan: FaultPlan, waits: Iterator[float], progress: Progress) -> Iterator[Step]:
    drip = plan["slow_drip"].number("ms") / 1000 if "slow_drip" in plan else 0.0
    fault = _mid_fault(reply, plan)
    contents = sum(frame.kind is FrameKind.CONTENT for frame in reply.frames)
    # However short the answer, the fault comes: before a stream's finish, or before a plain body's last piece.
    after = min(fault.number("after"), contents if reply.streamed else contents - 1) if fault else 0
    sent = 0
    for frame in reply.frames:
        is_content = frame.kind is FrameKind.CONTENT
        wait = drip + (next(waits) if is_content and reply.streamed else 0.0)
        if wait:
            yield Pause(wait)
        if fault is not None and sent >= after and (is_content or frame.kind is FrameKind.FINISH):
            if fault.name != "malformed_chunk":
                yield from _break_off(fault, frame, reply)
                return
            frame, fault = replace(frame, data=_garble(frame.data)), None
        sent += is_content
        if reply.streamed:
            progress.tokens = sent
        yield Chunk(frame.data)
    yield End()


def _mid_fault(reply: Reply, plan: FaultPlan) -> Fault | None:
    """Return the fault that strikes between chunks; on a plain body only those that break the connection do."""
    fault = next((plan[name] for name in _MID_FAULTS if name in plan), None)
    if fault is None or reply.streamed:
        return fault
    breaks = fault.name in ("reset_mid_stream", "silence_mid_stream") or (
        fault.name == "truncated_chunk" and fault.word("close") == "abrupt"
    )
    return fault if breaks else None


def _break_off(fault: Fault, frame: Frame, reply: Reply) -> Iterator[Step]:
    """Yield what comes in place of `frame` and of everything after it."""
    match fault.name:
        case "reset_mid_stream":
            yield Reset()
        case "silence_mid_stream":
            yield Silence()
        case "truncated_chunk":
            yield Chunk(_cut_inside(frame.data))
            yield End() if fault.word("close") == "clean" else Close()
        case _:
            yield Chunk(reply.error_event)
            yield End()


def _apply_whole_faults(reply: Reply, plan: FaultPlan) -> Reply:
    """Return `reply` with the faults that do not depend on timing: content type, final events, and the cutting up
    of a plain body.
    """
    if fault := plan.get("wrong_content_type"):
        value = fault.word("value").encode("latin-1", "replace")
        reply = replace(
            reply, headers=tuple((name, value if name == b"content-type" else old) for name, old in reply.headers)
        )
    if reply.streamed:
        return replace(reply, frames=_final_frames(reply.frames, plan))
    body = b"".join(frame.data for frame in reply.frames)
    if "malformed_chunk" in plan:
        body = _garble(body)
    if (fault := plan.get("truncated_chunk")) and fault.word("close") == "clean":
        # For a plain body a clean cut means a complete response whose JSON is not.
        body = _cut_inside(body)
    if "slow_drip" in plan or _mid_fault(reply, plan) is not None:
        pieces = [body[at : at + _BODY_PIECE_BYTES] for at in range(0, len(body), _BODY_PIECE_BYTES)]
        return replace(reply, frames=tuple(Frame(FrameKind.CONTENT, piece) for piece in pieces))
    return replace(reply, frames=(Frame(FrameKind.CONTENT, body),))


def _final_frames(frames: tuple[Frame, ...], plan: FaultPlan) -> tuple[Frame, ...]:
    if fault := plan.get("missing_final"):
        dropped = (
            {FrameKind.TERMINATOR} if fault.word("drop") == "terminator" else {FrameKind.TERMINATOR, FrameKind.FINISH}
        )
        return tuple(frame for frame in frames if frame.kind not in dropped)
    if "duplicate_final" in plan:
        doubled: list[Frame] = []
        for frame in frames:
            doubled += [frame, frame] if frame.kind in (FrameKind.FINISH, FrameKind.TERMINATOR) else [frame]
        return tuple(doubled)
    return frames


def _body_length(reply: Reply) -> int:
    return sum(len(frame.data) for frame in reply.frames)


def _cut_inside(data: bytes) -> bytes:
    """Return the first part of an event or body piece, ending inside its JSON."""
    return data[: max(1, len(data) * 3 // 5)]


def _garble(data: bytes) -> bytes:
    """Return `data` of the same length with its JSON broken: the last quote and all after it but the line ends
    become tildes.
    """
    at = data.rfind(b'"')
    if at < 0:
        return data
    return data[:at] + bytes(byte if byte in b"\r\n" else ord("~") for byte in data[at:])
