"""What a gateway does for shadows: once a request has been answered, it draws, and hands over what it draws.

No request waits for any of this: it begins when the answer is the caller's, takes one write into a buffer of bounded
length, and what there is no room for, or nobody to hand to, is discarded and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dataplane.records import record
from dataplane.shadow.counting import CANDIDATE, ShadowCounting, ShadowSeries
from dataplane.shadow.figures import ShadowTotals
from dataplane.shadow.offers import MAX_OFFER_BYTES, Given, Offer
from dataplane.shadow.sampling import canonical_bytes, draw
from dataplane.shadow.wire import connect, frame

if TYPE_CHECKING:
    from dataplane.chat import Chat
    from dataplane.journey import Journey
    from dataplane.messages import ChatResponse
    from dataplane.shadow.policy import ShadowPolicy

log = logging.getLogger("ballast.shadow")

MAX_WAITING: Final = 256
MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
# What may lie in the socket's buffer here, which the process has not taken yet.
MAX_UNSENT_BYTES: Final = 1024 * 1024
RETRY_SECONDS: Final = 1.0

# Why a request is not handed over.
FULL, AWAY, SLOW, TOO_LONG, FAILED = "queue_full", "process_away", "process_slow", "too_long", "not_handed_over"

Connect = Callable[[Path], Awaitable[asyncio.WriteTransport]]


@record
class Overheard:
    """An answer that is a caller's now, as its lane gave it."""

    chat: Chat
    text: str
    tool_calls: tuple[tuple[str, str], ...]
    finish_reason: str


def overhear(chat: Chat, response: ChatResponse) -> Overheard:
    """Overhear a whole answer."""
    calls = tuple((call.name, call.arguments) for call in response.tool_calls)
    return Overheard(chat, response.text or response.refusal or "", calls, response.finish_reason)


def overhear_pieces(
    chat: Chat, text: str, pieces: Iterable[tuple[int, str | None, str]], finish_reason: str
) -> Overheard:
    """Overhear a streamed answer; `pieces` of its tool calls are (index, name with the first, more arguments)."""
    names: dict[int, str] = {}
    arguments: dict[int, list[str]] = {}
    for index, name, piece in pieces:
        names[index] = name or names.get(index, "")
        arguments.setdefault(index, []).append(piece)
    calls = tuple((name, "".join(arguments[index])) for index, name in names.items())
    # Words beside tool calls are remarks, which stand among the arguments where a stream's words are kept.
    return Overheard(chat, "" if calls else text, calls, finish_reason)


class Offering:
    """See the module. One per gateway process, on its event loop."""

    def __init__(self, path: Path, *, counting: ShadowCounting, connect: Connect = connect) -> None:
        """`path` is where the shadow process listens."""
        self._path = path
        self._counting = counting
        self._connect = connect
        self._waiting: deque[tuple[ShadowSeries, bytes]] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._transport: asyncio.WriteTransport | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._is_away = False

    @property
    def totals(self) -> ShadowTotals:
        """What was handed over since the process started, and what was not."""
        return self._counting

    async def start(self) -> None:
        """Begin to hand over."""
        self._tasks = [
            asyncio.create_task(self._hand_over_regularly(), name="hand-over-shadows"),
            asyncio.create_task(self._stay_connected(), name="connect-shadows"),
        ]

    async def stop(self) -> None:
        """Hand over nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def offer(self, journey: Journey) -> None:
        """Draw for a request whose answer its caller has. Never waits, never raises."""
        heard = journey.overheard
        policy = None if heard is None else heard.chat.route.shadow
        if heard is None or policy is None or not _is_to_be_asked_again(journey):
            return
        series = ShadowSeries(policy.slug, policy.digest, heard.chat.route.slug, CANDIDATE, "")
        try:
            self._offer(journey, heard, policy, series)
        except Exception:  # whatever it is, it is none of the request's
            log.exception("request %s could not be handed over", journey.inbound.request_id)
            self._counting.discard(series, FAILED)

    def _offer(self, journey: Journey, heard: Overheard, policy: ShadowPolicy, series: ShadowSeries) -> None:
        tenant, attempt = journey.tenant, journey.answering
        if tenant is None or attempt is None or not policy.percent.value:
            return
        if len(journey.inbound.body) > MAX_OFFER_BYTES:
            self._counting.discard(series, TOO_LONG)  # and not even drawn for
            return
        canonical = canonical_bytes(heard.chat.request)
        drawn = draw(policy.slug, canonical)
        if not drawn.is_sampled(policy):
            return
        # Before anything is made of it, which whoever is away would never get.
        if len(self._waiting) >= MAX_WAITING:
            self._counting.discard(series, FULL)
            return
        if self._transport is None:
            self._counting.discard(series, AWAY)
            return
        version = journey.prompt_version
        payload = Offer(
            policy=policy.slug,
            digest=policy.digest,
            is_noise=drawn.is_noise(policy),
            request_id=journey.inbound.request_id,
            tenant=tenant.slug,
            key_id=journey.key_id,
            residency=tenant.residency,
            log_content=tenant.log_content,
            route=heard.chat.route.slug,
            prompt="" if version is None else version.prompt,
            version=0 if version is None else version.number,
            request=heard.chat.request,
            given=Given(
                lane=attempt.lane.id,
                text=heard.text,
                tool_calls=heard.tool_calls,
                finish_reason=heard.finish_reason,
                refused=journey.refused,
                cost_micros=attempt.cost_micros,
                latency_ms=attempt.latency_ms,
                ttft_ms=attempt.ttft_ms,
            ),
            traceparent="" if journey.trace is None else journey.trace.traceparent,
        ).to_bytes(canonical)
        if len(payload) > MAX_OFFER_BYTES:
            self._counting.discard(series, TOO_LONG)
        elif self._waiting_bytes + len(payload) > MAX_WAITING_BYTES:
            self._counting.discard(series, FULL)
        else:
            self._waiting.append((series, payload))
            self._waiting_bytes += len(payload)
            self._wake.set()

    async def _hand_over_regularly(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                series, payload = self._waiting.popleft()
                self._waiting_bytes -= len(payload)
                try:
                    self._hand_over(series, payload)
                except Exception:  # the next may go better; whoever asked is served already
                    log.exception("a request could not be handed over")
                    self._counting.discard(series, FAILED)

    def _hand_over(self, series: ShadowSeries, payload: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            self._transport = None
            self._counting.discard(series, AWAY)
        elif transport.get_write_buffer_size() + len(payload) > MAX_UNSENT_BYTES:
            self._counting.discard(series, SLOW)
        else:
            transport.write(frame(payload))
            self._counting.offer(series)

    async def _stay_connected(self) -> None:
        while True:
            if self._transport is None or self._transport.is_closing():
                self._transport = None
                try:
                    async with asyncio.timeout(RETRY_SECONDS):
                        self._transport = await self._connect(self._path)
                    self._is_away = False
                except (OSError, TimeoutError) as exc:
                    if not self._is_away:
                        self._is_away = True
                        log.info("no shadow process listens at %s: %s", self._path, exc)
                except Exception:  # a gateway without shadows serves as well as one with them
                    log.exception("the shadow process at %s cannot be reached", self._path)
            await asyncio.sleep(RETRY_SECONDS)


def _is_to_be_asked_again(journey: Journey) -> bool:
    """Whether a request is one of those that count: a caller's own, answered by a lane.

    Evals and our own questions are nobody's traffic. A runner of jobs may come with the same work again, and signed
    copy is no answer to compare with.
    """
    return (
        journey.outcome == "ok"
        and journey.copy is None
        and not journey.is_eval
        and not journey.is_job
        and journey.kind == "primary"
    )
