"""One attempt at one lane: send, wait within the lane's and the route's limits, and hand over what came.

Until the first event of a stream goes out, nothing is committed to the caller, and an attempt that fails or drags may
be made again elsewhere unseen. After that there is no way back: the stream ends with an error event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from dataplane.answer_gate import AnswerGate
from dataplane.continuation import Overlap
from dataplane.credentials import Secrets
from dataplane.errors import GatewayError
from dataplane.errors.upstream import UpstreamInterrupted, UpstreamTimeout
from dataplane.frames import DONE
from dataplane.journey import CHARACTERS_PER_TOKEN, Attempt
from dataplane.messages import (
    ChatRequest,
    ChatResponse,
    ChunkEncoder,
    EmbeddingResponse,
    Finish,
    Json,
    RefusalDelta,
    StreamChunk,
    TakesUp,
    TextDelta,
    ToolCallDelta,
    UsageDelta,
)
from dataplane.providers.base import Adapter, StreamParser, UpstreamCall, read_limits
from dataplane.release import Release
from dataplane.routing import Account, Lane, Route
from dataplane.thresholds import Threshold
from dataplane.timers import TimerWheel
from dataplane.transport import Exchange, Limits, Transport

NO_LIMIT: Final = nullcontext()
# Limits of an account change rarely: the headers that name them are read once in so long.
LEARN_EVERY_SECONDS: Final = 5.0


class LaneCaller:
    """Makes attempts for all requests of a process."""

    def __init__(
        self,
        *,
        transport: Transport,
        secrets: Secrets,
        adapters: Mapping[str, Adapter],
        timers: TimerWheel,
        clock: Callable[[], float],
        wall: Callable[[], float],
        learn: Callable[[Lane, Mapping[int, float]], None] | None = None,
    ) -> None:
        """`clock` is monotonic seconds, `wall` epoch seconds; `learn` is told of the limits per minute that providers
        name, by their place in QUOTA_RATES.
        """
        self._transport = transport
        self._learn = learn
        self._learn_at: dict[str, float] = {}
        self._secrets = secrets
        self._adapters = adapters
        self._timers = timers
        self._clock = clock
        self._wall = wall

    def access(self, release: Release, lane: Lane) -> tuple[Account, Adapter, str]:
        """Return what a call at `lane` takes: its account, its wire and the account's secret.

        Raises:
            SecretUnavailable: the account's secret cannot be read here.
        """
        account = release.routing.accounts[lane.account]
        adapter = self._adapters[release.routing.providers[lane.provider].wire]
        return account, adapter, self._secrets.resolve(account.secret, now=self._clock())

    async def chat(
        self,
        attempt: Attempt,
        call: UpstreamCall,
        adapter: Adapter,
        request: ChatRequest,
        *,
        limit: Threshold | None = None,
    ) -> ChatResponse:
        """Fetch a whole answer, within `limit` seconds.

        Raises:
            GatewayError: what went wrong, after which another lane may be tried.
        """
        body = await self._fetch(attempt, call, adapter, limit)
        response = adapter.parse_chat(body, request=request, created=int(self._wall()))
        attempt.usage = response.usage
        attempt.characters = len(response.text or "")
        attempt.finish_reason = response.finish_reason
        attempt.response_model, attempt.response_id = response.model, response.id
        return response

    async def embed(
        self, attempt: Attempt, call: UpstreamCall, adapter: Adapter, *, limit: Threshold | None = None
    ) -> EmbeddingResponse:
        """Fetch embeddings; as `chat`."""
        body = await self._fetch(attempt, call, adapter, limit)
        response = adapter.parse_embeddings(body)
        attempt.usage = response.usage
        return response

    async def open_stream(
        self,
        attempt: Attempt,
        call: UpstreamCall,
        adapter: Adapter,
        request: ChatRequest,
        route: Route,
        *,
        keep_text: bool = False,
        opening: Json | None = None,
        takes_up: TakesUp | None = None,
        overlap: Overlap | None = None,
        gate: AnswerGate | None = None,
    ) -> StreamRun:
        """Begin a stream and bring it to the point where it may be committed: the first piece of an answer is here, and
        if the route holds tokens back, they came at least as fast as the floor of the lane's breaker.

        Whoever gets the run closes it in a `finally`.

        Args:
            keep_text: Whether the words are wanted after they went out.
            opening: What goes out with the first chunk, as its member `ballast`.
            takes_up, overlap: The answer that this one goes on with, and what is dropped of its beginning.
            gate: What of the answer may go out; None: all of it, as it comes.
        Raises:
            GatewayError: what went wrong before that; the run is closed, and another lane may be tried.
        """
        limit = route.first_token_seconds
        run: StreamRun | None = None
        try:
            try:
                with self._limit(None if limit is None else limit.value):
                    exchange = await self._send(attempt, call, stream=True)
                    run = StreamRun(
                        attempt,
                        exchange,
                        adapter.stream_parser(request, created=int(self._wall())),
                        ChunkEncoder(include_usage=request.include_usage, opening=opening, takes_up=takes_up),
                        overlap=overlap,
                        gate=gate,
                        keep_text=keep_text,
                        clock=self._clock,
                    )
                    if not 200 <= exchange.status < 300:
                        raise await self._read_failure(exchange, adapter, attempt.lane)
                    if attempt.lane.quota is not None:
                        self._learn_limits(attempt.lane, exchange)
                    await run.read_until(lambda run: run.tally.began)
            except TimeoutError:
                raise UpstreamTimeout(
                    lane=attempt.lane.id, phase="first_token", waited_seconds=limit.value if limit else 0.0
                ) from None
            if route.held_tokens and not run.finished:
                await self._hold_back(run, attempt, route.held_tokens)
        except BaseException:
            if run is not None:
                run.close()
            raise
        return run

    async def _hold_back(self, run: StreamRun, attempt: Attempt, tokens: int) -> None:
        breaker = attempt.lane.breaker
        if breaker is None:
            return
        enough = tokens * CHARACTERS_PER_TOKEN
        seconds = tokens / breaker.drain_tokens_per_second.value
        try:
            with self._limit(seconds):
                await run.read_until(lambda run: attempt.characters >= enough)
        except TimeoutError:
            raise UpstreamTimeout(lane=attempt.lane.id, phase="drain", waited_seconds=seconds) from None

    async def _fetch(self, attempt: Attempt, call: UpstreamCall, adapter: Adapter, limit: Threshold | None) -> bytes:
        try:
            with self._limit(None if limit is None else limit.value):
                exchange = await self._send(attempt, call, stream=False)
                try:
                    if not 200 <= exchange.status < 300:
                        raise await self._read_failure(exchange, adapter, attempt.lane)
                    if attempt.lane.quota is not None:
                        self._learn_limits(attempt.lane, exchange)
                    return await exchange.read()
                finally:
                    exchange.close()
        except TimeoutError:
            raise UpstreamTimeout(
                lane=attempt.lane.id, phase="whole_answer", waited_seconds=limit.value if limit else 0.0
            ) from None

    async def _send(self, attempt: Attempt, call: UpstreamCall, *, stream: bool) -> Exchange:
        lane = attempt.lane
        limits = Limits(
            connect_seconds=lane.connect_timeout_seconds,
            first_byte_seconds=lane.first_byte_timeout_seconds if stream else None,
            idle_seconds=lane.idle_timeout_seconds,
        )
        attempt.sent_bytes = len(call.body)
        return await self._transport.send(call, lane=lane.id, limits=limits)

    async def _read_failure(self, exchange: Exchange, adapter: Adapter, lane: Lane) -> GatewayError:
        body = await exchange.read()
        return adapter.error(exchange.status, exchange.headers(), body, lane=lane.id, wall=self._wall())

    def _learn_limits(self, lane: Lane, exchange: Exchange) -> None:
        now = self._clock()
        if self._learn is None or now < self._learn_at.get(lane.quota_pool, now):
            return
        self._learn_at[lane.quota_pool] = now + LEARN_EVERY_SECONDS
        self._learn(lane, read_limits(exchange.headers()))

    def _limit(self, seconds: float | None) -> AbstractContextManager[object]:
        return NO_LIMIT if seconds is None else self._timers.deadline(seconds)


class StreamRun:
    """A stream under way: bytes in, payloads of events out.

    `held` are payloads that have not been handed over; `finished` is True once the provider said why it stopped.
    """

    __slots__ = (
        "_attempt",
        "_clock",
        "_encoder",
        "_exchange",
        "_is_finished",
        "_keep_text",
        "_parser",
        "gate",
        "held",
        "overlap",
        "tally",
    )

    def __init__(
        self,
        attempt: Attempt,
        exchange: Exchange,
        parser: StreamParser,
        encoder: ChunkEncoder,
        *,
        overlap: Overlap | None,
        gate: AnswerGate | None,
        keep_text: bool,
        clock: Callable[[], float],
    ) -> None:
        self._attempt = attempt
        self._exchange = exchange
        self._clock = clock
        self._encoder = encoder
        self._parser = parser
        self._keep_text = keep_text
        # From then on the connection is not ours: while the last events are on their way, it carries other calls.
        self._is_finished = False
        self.gate = gate
        self.overlap = overlap
        self.tally = StreamTally(attempt, clock=clock)
        self.held: list[bytes] = []

    @property
    def dropped_characters(self) -> int:
        """How much of the answer is not handed over, because the caller has it already."""
        return 0 if self.overlap is None else self.overlap.dropped_characters

    @property
    def has_diverged(self) -> bool:
        """True when it was to take up an answer and is a new one after all."""
        return self.overlap is not None and self.overlap.has_diverged

    @property
    def finished(self) -> bool:
        """True when the answer is complete."""
        return self._parser.finished

    @property
    def is_whole(self) -> bool:
        """True when nothing of the answer is held back."""
        return self.finished and (self.gate is None or not self.gate.is_held)

    def conclude(self, chunks: Iterable[StreamChunk]) -> list[bytes]:
        """Return what is left of an answer that was held back, up to its end."""
        for chunk in chunks:
            self._encode(chunk)
        self._close_answer()
        return self.take()

    async def read_until(self, reached: Callable[[StreamRun], bool]) -> None:
        """Read until `reached` or `finished`, holding what comes.

        Raises:
            GatewayError: the stream broke; what is held is worth nothing then.
        """
        while not self.finished and not reached(self):
            if (failure := await self._read()) is not None:
                raise failure

    async def read(self) -> tuple[list[bytes], GatewayError | None]:
        """Wait for more; return it with all that was held, and what broke the stream after it, if anything did."""
        failure = await self._read()
        return self.take(), failure

    def take(self) -> list[bytes]:
        """Hand over what is held."""
        held, self.held = self.held, []
        return held

    def close(self) -> None:
        """Let go of the connection. Idempotent, never waits."""
        if not self._is_finished:
            self._exchange.close()

    async def _read(self) -> GatewayError | None:
        began = self.tally.began
        waiting_since = self._clock() if began else 0.0
        data = await self._exchange.next_chunk()
        if began:
            self._attempt.waited_seconds += self._clock() - waiting_since
        failure: GatewayError | None = None
        try:
            if data is None:
                raise UpstreamInterrupted(
                    "the provider's stream ended before it was complete", lane=self._attempt.lane.id
                )
            for chunk in self._parser.feed(data):
                self.tally.add(chunk)
                for new in (chunk,) if self.gate is None else self.gate.feed(chunk):
                    self._encode(new)
        except GatewayError as exc:
            failure = exc  # first what came before it
        if self._parser.finished:
            self._is_finished = True
            self._exchange.finish()
            if self.is_whole and failure is None:
                self._close_answer()
        return failure

    def _encode(self, chunk: StreamChunk) -> None:
        new = chunk if self.overlap is None else self.overlap.feed(chunk)
        if self._keep_text:
            self.tally.keep(new)
        self.held += self._encoder.encode(new)

    def _close_answer(self) -> None:
        self.held += self._encoder.closing()
        self.held.append(DONE)


class StreamTally:
    """Adds up what a stream's deltas say: time to the first piece, usage, characters, refusal, and the words if wanted:
    `pieces`, in order, those of tool calls in `calls` as well: index, name with the first, more of the arguments.
    """

    __slots__ = ("_attempt", "_clock", "called_tools", "calls", "finish_reason", "pieces", "refused")

    def __init__(self, attempt: Attempt, *, clock: Callable[[], float]) -> None:
        self._attempt = attempt
        self._clock = clock
        self.pieces: list[str] = []
        self.calls: list[tuple[int, str | None, str]] = []
        self.finish_reason = ""
        self.called_tools = False
        self.refused = False

    @property
    def began(self) -> bool:
        """True once the first piece of an answer is here."""
        return self._attempt.ttft_ms is not None

    @property
    def text(self) -> str:
        """The answer's words so far; empty unless they are kept."""
        return "".join(self.pieces)

    def keep(self, chunk: StreamChunk) -> None:
        """Keep the words of one chunk."""
        for delta in chunk.deltas:
            if isinstance(delta, TextDelta | RefusalDelta):
                self.pieces.append(delta.text)
            elif isinstance(delta, ToolCallDelta):
                self.pieces.append(delta.arguments)
                self.calls.append((delta.index, delta.name, delta.arguments))

    def add(self, chunk: StreamChunk) -> None:
        """Take note of one chunk."""
        attempt = self._attempt
        for delta in chunk.deltas:
            if isinstance(delta, TextDelta):
                attempt.characters += len(delta.text)
            elif isinstance(delta, ToolCallDelta):
                self.called_tools = True
                attempt.characters += len(delta.arguments)
            elif isinstance(delta, UsageDelta):
                attempt.usage = delta.usage
                continue
            elif isinstance(delta, RefusalDelta):
                self.refused = True
                attempt.characters += len(delta.text)
            elif isinstance(delta, Finish):
                self.finish_reason = attempt.finish_reason = delta.reason
                self.refused = self.refused or delta.reason == "content_filter"
                continue
            else:
                attempt.response_model, attempt.response_id = delta.model, delta.id
                continue
            if attempt.ttft_ms is None:
                attempt.ttft_ms = (self._clock() - attempt.started) * 1000
