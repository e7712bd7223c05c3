"""One stream in one process: as it is read for callers (`View`), and as it is generated (`Production`).

What generates a stream sees a Production as the caller's side of the connection, so that it need not know that callers
come and go. Nothing is shown to anybody before the log has it, unless the log is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import orjson

from dataplane.envelope import Header, error_body, error_headers, face_of
from dataplane.errors import GatewayError
from dataplane.errors.streams import StreamCancelled, StreamTooLong
from dataplane.frames import Ending, FrameBuffer
from dataplane.journey import Attempt, Journey
from dataplane.messages import Usage
from dataplane.policies import DIGEST, StreamPolicy
from dataplane.stores.streams import Append, Appended, Standing
from dataplane.stream_rows import Answering, Origin, Partial, Segment, finished_row, identity, segments_json, usage_rows

MAX_STREAM_BYTES: Final = 32 * 1024 * 1024
# So much may wait to be written before whoever generates has to wait as well.
MAX_UNSHOWN: Final = 256
MAX_APPEND: Final = 512
# The question of a stream is kept with it, so that it can be taken up again; a longer one is not.
MAX_KEPT_BODY_BYTES: Final = 256 * 1024

Whole = tuple[int, list[Header], bytes]


class Writer(Protocol):
    """Writes productions to the log, such as `StreamWriter`."""

    def mark(self, production: Production) -> None:
        """Note that there is something to write; must not wait."""


class Witness(Protocol):
    """Is told how the generation of a stream goes, such as `key_leases.Watch`."""

    def began(self, stop: Callable[[], object]) -> None:
        """It is generated, in a task of its own, which `stop` ends."""

    async def opened(self, stream: str) -> None:
        """Its first frames are about to be sent.

        Raises:
            OwnerLost: they must not be.
        """

    async def ended(self, reply: Production) -> None:
        """It has its terminal event, or there was no stream after all."""


class View:
    """A stream as this process reads it for callers. `delivered` and `acked` are numbers of frames."""

    def __init__(
        self,
        stream: str,
        tenant: str,
        buffer: FrameBuffer,
        *,
        retention_seconds: float,
        running_seconds: float,
        delivered: int,
        acked: int,
    ) -> None:
        """It is kept for `retention_seconds` after its end, and runs for at most `running_seconds`."""
        self.id = stream
        self.tenant = tenant
        self.buffer = buffer
        self.retention_seconds = retention_seconds
        self.running_seconds = running_seconds
        self.delivered = delivered
        self.acked = acked
        self.readers = 0
        # The tick at which somebody last asked for it.
        self.wanted_at = 0
        self.is_dirty = False
        # True once nobody can say any more how it goes on: its frames are gone, or the log has been away for too long.
        self.is_lost = False
        # Who moved the checkpoints last: a reader who came back (resumed), or an acknowledgement (ack).
        self.moved_by = "resumed"
        self.about: dict[str, Any] = {}

    @property
    def kept_seconds(self) -> float:
        """For how long it can be read from now on, at least."""
        return self.retention_seconds + (0.0 if self.buffer.is_over else self.running_seconds)

    def deliver(self, through: int) -> None:
        """Note that a caller's connection has taken the frames up to `through`."""
        if through > self.delivered:
            self.delivered = through
            self.is_dirty = True
            self.moved_by = "resumed"

    def acknowledge(self, through: int) -> None:
        """Note that a caller says that it has the frames up to `through`. Never moves back."""
        if through > self.acked:
            self.acked = through
            self.delivered = max(self.delivered, through)
            self.is_dirty = True
            self.moved_by = "ack"

    @property
    def places(self) -> list[dict[str, Any]]:
        """Which lane and model gave the frames from which number on. Shape: [{"first_seq", "lane", "model", ...}]."""
        segments: list[dict[str, Any]] = self.about.get("segments", [])
        return segments

    @property
    def head(self) -> list[Header]:
        """The headers that its first reader was sent."""
        return [(name.encode(), value.encode("latin-1")) for name, value in self.about.get("head", ())]

    def lose(self) -> None:
        """Let readers go without a terminal event: they may come back, here or at another process."""
        self.is_lost = True
        self.buffer.wake()


class Production(View):
    """A stream as this process generates it; a `Reply` to whoever does. Plain attributes, one event loop."""

    def __init__(
        self,
        stream: str,
        journey: Journey,
        policy: StreamPolicy,
        *,
        writer: Writer,
        sign: Callable[[View, int], str],
        clock: Callable[[], float],
        wall: Callable[[], float],
        origin: Origin | None = None,
        witness: Witness | None = None,
    ) -> None:
        """`sign` makes a cursor after a number; `origin` is the stream that this one takes up.

        `clock` is monotonic seconds, `wall` epoch seconds.
        """
        super().__init__(
            stream,
            "" if journey.tenant is None else journey.tenant.slug,
            FrameBuffer(),
            retention_seconds=policy.retention_seconds.value,
            running_seconds=journey.deadline_ms / 1000,
            delivered=0,
            acked=0,
        )
        self.journey = journey
        self.policy = policy
        may_keep = journey.tenant is not None and journey.tenant.log_content
        self.transcript = policy.transcript if may_keep else DIGEST
        self.origin = origin
        self.witness = witness
        continues = "" if origin is None else origin.stream
        self.identity = identity(journey, policy, stream=stream, started_at=wall(), continues=continues)
        self.opened = False
        self.epoch = 1
        self.task: asyncio.Task[None] | None = None
        self.segments: list[Segment] = []
        self.headers: list[Header] = []
        self.whole: Whole | None = None
        self.head_ready = asyncio.Event()
        self.unread_since: float | None = clock()
        self.stopped_by: GatewayError | None = None
        self.is_fenced = False
        self.is_handed_over = False
        self.code = ""
        self.row: dict[str, Any] | None = None
        # True once the log has had a part of it, so that others may find it there without an end.
        self.was_written = False
        self.is_reported = False
        self._persisted = 0
        # What is kept beside the frames changes while the log is being told of it: which change it is told, and knows.
        self._about_change = 1
        self._about_told = 0
        self._about_known = 0
        self._settled = asyncio.Event()
        self._writer = writer
        self._sign = sign
        self._clock = clock
        self._wall = wall

    # What whoever generates the stream calls.

    async def send_whole(self, status: int, headers: list[Header], body: bytes) -> None:
        """As `Reply.send_whole`: there is no stream after all."""
        self.opened = True
        self.whole = (status, headers, body)
        self.head_ready.set()

    async def open_stream(self, headers: list[Header]) -> None:
        """As `Reply.open_stream`."""
        if self.witness is not None:
            await self.witness.opened(self.id)
        self.opened = True
        self.headers = headers
        self.head_ready.set()

    async def send_events(self, payloads: Sequence[bytes], *, ending: Ending | None = None) -> None:
        """As `Reply.send_events`. Waits only for the terminal event to be written, and when too much waits to be.

        Raises:
            StreamTooLong: the stream is over MAX_STREAM_BYTES; a terminal event is taken all the same.
        """
        if self.is_fenced or self.buffer.ending is not None:
            return  # somebody else has ended it meanwhile, or does
        if ending is None and self.buffer.size_bytes > MAX_STREAM_BYTES:
            raise StreamTooLong(limit_bytes=MAX_STREAM_BYTES)
        self.buffer.add(payloads, ending=ending)
        if ending is not None:
            self._about_change += 1
        self._writer.mark(self)
        if ending is not None or len(self.buffer.payloads) - self.buffer.shown > MAX_UNSHOWN:
            await self._wait_until_shown()

    @property
    def position(self) -> int:
        """As `Reply.position`."""
        return len(self.buffer.payloads)

    def begin_segment(self, attempt: Attempt, run: Answering, *, how: str, cause: str) -> Segment:
        """Note that the next frames come from `attempt`: see `Segment`."""
        segment = Segment(attempt, run, how, cause, len(self.buffer.payloads) + 1)
        self.segments.append(segment)
        self._about_change += 1
        return segment

    def cursor(self, after: int | None = None) -> str:
        """A resume cursor after a number; None: after the frame that comes next."""
        return self._sign(self, len(self.buffer.payloads) + 1 if after is None else after)

    @property
    def words(self) -> str:
        """The words of the answer so far that this stream gave."""
        return "".join(segment.run.tally.text for segment in self.segments)

    @property
    def answer_id(self) -> str:
        """The id that the chunks of the answer bear."""
        if not self.buffer.payloads:
            return self.id if self.origin is None else self.origin.answer_id
        first: str = orjson.loads(self.buffer.payloads[0]).get("id") or self.id
        return first

    @property
    def is_anew(self) -> bool:
        """True when the answer is a new one after all, though it was to take up another stream's."""
        return any(segment.run.has_diverged for segment in self.segments)

    def partial(self) -> Partial:
        """What the caller has of the answer, from here and from the stream that this one takes up."""
        tallies = [segment.run.tally for segment in self.segments]
        before = Partial("", 0) if self.origin is None or self.is_anew else self.origin.partial
        return Partial(
            before.text + self.words,
            before.tokens + sum(segment.tokens_kept for segment in self.segments),
            called_tools=any(tally.called_tools for tally in tallies),
            refused=any(tally.refused for tally in tallies),
        )

    def spent(self) -> Usage:
        """What the segments so far are billed."""
        return sum((segment.attempt.billed() for segment in self.segments), Usage())

    async def _wait_until_shown(self) -> None:
        while not self.is_fenced and self.buffer.shown < len(self.buffer.payloads):
            self._settled.clear()
            await self._settled.wait()

    # What the process calls.

    def stop(self, because: GatewayError) -> None:
        """End the generation, unless it is over: its terminal event will say why."""
        if self.buffer.ending is None and self.stopped_by is None and self.task is not None:
            self.stopped_by = because
            # Not at once: a task that is cancelled before its first step takes none, and nobody would hear of its end.
            self.task.get_loop().call_soon(self.task.cancel)

    async def end(self) -> None:
        """See to it that the stream has its terminal event; nothing to do if it came by itself."""
        error = self.stopped_by or GatewayError("the gateway failed; the request id finds the reason in its log")
        request_id = self.journey.inbound.request_id
        if not self.opened:
            headers = [*error_headers(error), (b"ballast-request-id", request_id.encode())]
            await self.send_whole(face_of(error).status, headers, error_body(error, request_id=request_id))
        elif self.whole is None and self.buffer.ending is None and not self.is_fenced:
            ending = Ending.CANCELLED if isinstance(error, StreamCancelled) else Ending.INTERRUPTED
            code = error.code if ending is Ending.CANCELLED else "upstream_interrupted"
            self.code = error.code
            await self.send_events([self.last_words(error, code=code)], ending=ending)

    def last_words(self, error: GatewayError, *, code: str) -> bytes:
        """The terminal event of a stream that ends here with `error`, as its readers are told it."""
        request_id = self.journey.inbound.request_id
        return error_body(error, request_id=request_id, code=code, resume_cursor=self.cursor())

    def fence(self) -> None:
        """Note that the stream is somebody else's, who ends it; nothing more is written or shown from here."""
        self.is_fenced = True
        self.buffer.cut()
        self._settled.set()
        if self.task is not None:
            self.task.cancel()

    @property
    def is_unwritten(self) -> bool:
        """True while the log lacks something."""
        return not self.is_fenced and (self._persisted < len(self.buffer.payloads))

    @property
    def is_generated(self) -> bool:
        """True from its first frame to its last."""
        return bool(self.headers) and not self.is_fenced and self.buffer.ending is None

    @property
    def needs_lease(self) -> bool:
        """True while others must know that this process looks after the stream."""
        return self.is_generated or (bool(self.headers) and self.is_unwritten)

    def next_append(self) -> Append:
        """What the log lacks, as far as one append takes it."""
        buffer, first = self.buffer, self._persisted + 1
        payloads = buffer.payloads[self._persisted : self._persisted + MAX_APPEND]
        reaches_end = self._persisted + len(payloads) == len(buffer.payloads)
        ending = buffer.ending if reaches_end else None
        about = b""
        if first == 1 or ending is not None or self._about_known != self._about_change:
            about = orjson.dumps(self.describe(ending))
            self._about_told = self._about_change
        return Append(
            stream=self.id,
            epoch=self.epoch,
            first=first,
            payloads=payloads,
            keep_seconds=self.retention_seconds + (0.0 if ending is not None else self.running_seconds),
            about=about,
            ending=ending,
        )

    def settle(self, append: Append, appended: Appended) -> None:
        """Take note of what the log has; what it still lacks is written next."""
        match appended.standing:
            case Standing.OK | Standing.GAP:
                self._persisted = appended.last
                self.was_written = True
                if append.about and appended.standing is Standing.OK:
                    self._about_known = self._about_told
                self.show(min(self._persisted, len(self.buffer.payloads)))
            case Standing.GONE:
                self.forget_written()
            case Standing.FENCED:
                self.fence()

    def forget_written(self) -> None:
        """Note that the log has lost the stream: everything is to be written again."""
        self._persisted = 0
        self._about_known = 0

    @property
    def places(self) -> list[dict[str, Any]]:
        """See `View.places`."""
        return [
            {"first_seq": one.first, "lane": one.attempt.lane.id, "model": one.attempt.lane.upstream_model}
            for one in self.segments
        ] or super().places

    @property
    def head(self) -> list[Header]:
        """See `View.head`."""
        return self.headers

    def show(self, through: int | None = None) -> None:
        """Let readers see the frames up to a number; None: all of them, because the log is away."""
        self.buffer.show(len(self.buffer.payloads) if through is None else through)
        self._settled.set()

    def describe(self, ending: Ending | None) -> dict[str, Any]:
        """What is kept of the stream beside its frames; with the finished ledger row once it has ended."""
        journey, payloads = self.journey, self.buffer.payloads
        wall = self._wall()
        usage = usage_rows(journey, wall=wall, now=self._clock())
        segments = segments_json(self.segments, last=len(payloads))
        inbound = journey.inbound
        self.about = {
            "identity": self.identity,
            "head": [(name.decode(), value.decode("latin-1")) for name, value in self.headers],
            "segments": segments,
            "usage": usage,
            "output_price": self.segments[-1].attempt.lane.output_micros_per_million_tokens if self.segments else 0,
            "retention_seconds": self.retention_seconds,
            "running_seconds": self.running_seconds,
            "transcript": self.transcript,
            "request": {
                "body": inbound.body.decode() if len(inbound.body) <= MAX_KEPT_BODY_BYTES else None,
                "user": inbound.user,
                "accept_language": inbound.accept_language,
            },
        }
        if ending is not None:
            self.row = finished_row(
                self.identity,
                at=wall,
                ending=ending,
                code="" if ending is Ending.COMPLETED else self.code or (journey.error.code if journey.error else ""),
                segments=segments,
                usage=usage,
                payloads=payloads,
                words=self.words,
                transcript=self.transcript,
            )
            self.about["row"] = {**self.row, "transcript": None}
        return self.about
