"""The page's live line: one WebSocket, topics its operator may see, and a clock by which a page knows it is live."""

import asyncio
import json
import logging
from collections import Counter
from importlib import import_module
from typing import Any, Final

from channels.auth import get_user  # type: ignore[import-untyped]  # channels ships no types
from channels.db import database_sync_to_async  # type: ignore[import-untyped]  # as above
from channels.generic.websocket import AsyncWebsocketConsumer  # type: ignore[import-untyped]  # as above
from django.conf import settings
from django.utils import timezone

from controlplane import live
from controlplane.accounts import second_factor
from controlplane.accounts.access import may, may_somewhere
from controlplane.accounts.models import Operator
from controlplane.rollouts.models import Canary

MAX_TOPICS: Final = 20
MAX_MESSAGE_BYTES: Final = 4096
MAX_TOPIC_LENGTH: Final = 100
# Of one operator, at one process: open pages, on all their devices. A script that opens lines without end gets no more.
MAX_LINES: Final = 40
CLOCK_SECONDS: Final = 5.0
# How long a revoked role, or a session that was ended elsewhere, can still be listening.
RECHECK_SECONDS: Final = 30.0
# A browser that takes nothing for so long is cut off: what it does not read would pile up here.
SEND_SECONDS: Final = 10.0

SIGNED_OUT: Final = 4401
TOO_BIG: Final = 1009
NOT_UNDERSTOOD: Final = 1007
TRY_AGAIN: Final = 1013

logger = logging.getLogger(__name__)


# Operator -> lines that are open here.
_lines: Counter[int] = Counter()


class LiveConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]  # its base has no types
    """Serves /ws/live/.

    From the browser: {"subscribe": [topic, …]} and {"unsubscribe": [topic, …]}.
    To it: {"refused": topic} for one that is unknown, not theirs or over the limit of 20; {"subscribed": [topic, …]}
    once what was asked for is joined or refused: a page fetches then what happened before; {"topic": str, "data": {…}};
    {"topic": "clock", "data": {"now": ISO-8601}} on connecting and every 5 s. Closes with 4401 when signed out.
    Topics and who may see them: "fleet" and "overview" with releases.view_release; "lanes", "quotas" and "answers" with
    routing.view_routingtable; "dead-letters" with accounts.view_deadletter on any tenant; "canary.<slug>" and
    "verdict.<slug>" with prompts.view_prompt on its prompt; "eval.<id>" with evals.view_evalset; "reviews" every
    operator.
    """

    def __init__(
        self, *args: Any, clock_seconds: float = CLOCK_SECONDS, recheck_seconds: float = RECHECK_SECONDS
    ) -> None:
        super().__init__(*args)
        self._clock_seconds = clock_seconds
        self._recheck_seconds = recheck_seconds
        self._topics: set[str] = set()
        self._own: str | None = None
        self._counted: int | None = None
        self._clock: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Accept, and close again with a code that the page understands if nobody is signed in."""
        await self.accept()
        operator = await self._operator()
        if operator is None:
            await self.close(SIGNED_OUT)
            return
        if _lines[operator.pk] >= MAX_LINES:
            await self.close(TRY_AGAIN)
            return
        _lines[operator.pk] += 1
        self._counted = operator.pk
        self._own = live.operator_topic(operator.pk)
        self._clock = asyncio.create_task(self._keep_time())

    async def disconnect(self, code: int) -> None:
        """Leave every topic."""
        if self._counted is not None:
            _lines[self._counted] -= 1
            if not _lines[self._counted]:
                del _lines[self._counted]
            self._counted = None
        if self._clock is not None:
            self._clock.cancel()
        if self._own is not None:
            await self.channel_layer.group_discard(self._own, self.channel_name)
        for topic in list(self._topics):
            await self._leave(topic)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """Take one message of the page."""
        if text_data is None or len(text_data) > MAX_MESSAGE_BYTES:
            await self.close(TOO_BIG)
            return
        try:
            wanted = json.loads(text_data)
            subscribe, unsubscribe = _topics(wanted, "subscribe"), _topics(wanted, "unsubscribe")
        except (ValueError, RecursionError):
            await self.close(NOT_UNDERSTOOD)
            return
        for topic in unsubscribe:
            await self._leave(topic)
        operator = await self._operator()
        if operator is None:
            await self.close(SIGNED_OUT)
            return
        for topic in subscribe[:MAX_TOPICS]:
            await self._join(operator, topic)
        for topic in subscribe[MAX_TOPICS:]:
            await self._refuse(topic)
        if subscribe:
            await self._say({"subscribed": [topic for topic in subscribe if topic in self._topics]})

    async def live_message(self, message: dict[str, Any]) -> None:
        """Pass on what `controlplane.live` sent to a topic."""
        if message["topic"] == self._own:  # locked out, a role revoked, another password: now, not at the next recheck
            await self._recheck()
        elif message["topic"] in self._topics:
            await self._say({"topic": message["topic"], "data": message["data"]})

    async def _join(self, operator: Operator, topic: str) -> None:
        if topic in self._topics:
            return
        if len(self._topics) >= MAX_TOPICS or not await _may_watch(operator, topic):
            await self._refuse(topic)
            return
        await self.channel_layer.group_add(topic, self.channel_name)
        self._topics.add(topic)

    async def _leave(self, topic: str) -> None:
        if topic in self._topics:
            self._topics.discard(topic)
            await self.channel_layer.group_discard(topic, self.channel_name)

    async def live_clock(self, message: dict[str, Any]) -> None:
        """Pass on our own clock."""
        await self._say({"topic": "clock", "data": message["data"]})

    async def _keep_time(self) -> None:
        """Say the time again and again, and now and then ask whether its operator may still listen.

        The time takes the way of every other message, through the channel layer: a page that hears it is live in truth.
        """
        loop = asyncio.get_running_loop()
        recheck_at = loop.time() + self._recheck_seconds
        try:
            await self.channel_layer.group_add(self._own, self.channel_name)
            while True:
                clock = {"type": "live.clock", "data": {"now": timezone.now().isoformat()}}
                async with asyncio.timeout(SEND_SECONDS):
                    await self.channel_layer.send(self.channel_name, clock)
                await asyncio.sleep(self._clock_seconds)
                if loop.time() >= recheck_at:
                    recheck_at = loop.time() + self._recheck_seconds
                    if not await self._recheck():
                        return
        except Exception:
            logger.warning("a live line is closed, its page will poll", exc_info=True)
            await self.close(TRY_AGAIN)

    async def _recheck(self) -> bool:
        """Drop the topics that its operator has lost; close the line, and return False, when nobody is signed in."""
        operator = await self._operator()
        if operator is None:
            await self.close(SIGNED_OUT)
            return False
        for topic in list(self._topics):
            if not await _may_watch(operator, topic):
                await self._leave(topic)
                await self._refuse(topic)
        return True

    async def _operator(self) -> Operator | None:
        """Who is signed in by this session now: read anew, since people sign out while pages are open."""
        key = self.scope["session"].session_key
        if not key:
            return None
        store = import_module(settings.SESSION_ENGINE).SessionStore(key)
        user = await get_user({"session": store})
        return user if isinstance(user, Operator) and await _may_enter(user) else None

    async def _refuse(self, topic: str) -> None:
        await self._say({"refused": topic[:MAX_TOPIC_LENGTH]})

    async def _say(self, content: dict[str, Any]) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            await self.send(text_data=json.dumps(content, separators=(",", ":")))


def _topics(wanted: Any, key: str) -> list[str]:
    topics = wanted.get(key, []) if isinstance(wanted, dict) else None
    if not isinstance(topics, list) or not all(isinstance(topic, str) for topic in topics):
        raise ValueError(f"{key!r} is no list of topics")
    return list(dict.fromkeys(topics))


@database_sync_to_async  # type: ignore[untyped-decorator]  # as above
def _may_enter(operator: Operator) -> bool:
    """The same rule as every page."""
    return operator.is_active and not second_factor.is_missing(operator)


@database_sync_to_async  # type: ignore[untyped-decorator]  # as above
def _may_watch(operator: Operator, topic: str) -> bool:
    """The same rule as the page that shows the topic; False for a topic that does not exist."""
    if topic in (live.FLEET, live.OVERVIEW):
        return may(operator, "releases.view_release")
    if topic in (live.LANES, live.QUOTAS, live.ANSWERS, live.SHADOWS):
        return may(operator, "routing.view_routingtable")
    if topic == live.LADDERS:
        return may(operator, "ladder.view_ladderpolicy")
    if topic == live.CORPORA:
        return may(operator, "corpora.view_corpuspolicy")
    if topic == live.REVIEWS:
        return True
    if topic == live.DEAD_LETTERS:  # its messages name plans by their ids, and nothing else
        return may_somewhere(operator, "accounts.view_deadletter")
    prefix, dot, slug = topic.partition(".")
    if prefix + dot == live.EVAL_PREFIX:  # its messages have counts, and no words
        return slug.isdecimal() and len(topic) <= MAX_TOPIC_LENGTH and may(operator, "evals.view_evalset")
    if prefix + dot in (live.CANARY_PREFIX, live.VERDICT_PREFIX) and len(topic) <= MAX_TOPIC_LENGTH:
        canary = Canary.objects.select_related("prompt").filter(slug=slug).first()
        return canary is not None and may(operator, "prompts.view_prompt", canary.prompt)
    return False
