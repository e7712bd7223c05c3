"""Live topics: how a change reaches the pages that show it.

A topic is a Channels group of the same name: "fleet", "overview", "lanes", "quotas", "answers", "shadows", "ladders",
"corpora", "reviews", "dead-letters", "canary.<slug>", "verdict.<slug>", "eval.<id of a run>"; and, for the lines
themselves, "operator.<id>", which says that what this operator may hear has changed. A message is a hint with data,
never the truth: pages poll when no message comes, so a lost one costs seconds, and `notify` never raises.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer  # type: ignore[import-untyped]  # channels ships no types

FLEET: Final = "fleet"
OVERVIEW: Final = "overview"
LANES: Final = "lanes"
QUOTAS: Final = "quotas"
ANSWERS: Final = "answers"
SHADOWS: Final = "shadows"
LADDERS: Final = "ladders"
CORPORA: Final = "corpora"
REVIEWS: Final = "reviews"
DEAD_LETTERS: Final = "dead-letters"
CANARY_PREFIX: Final = "canary."
VERDICT_PREFIX: Final = "verdict."
EVAL_PREFIX: Final = "eval."
OPERATOR_PREFIX: Final = "operator."
# A click must not hang because Redis is away.
SEND_SECONDS: Final = 2.0

logger = logging.getLogger(__name__)


def canary_topic(slug: str) -> str:
    """The topic of one canary's dashboard."""
    return f"{CANARY_PREFIX}{slug}"


def verdict_topic(slug: str) -> str:
    """The topic of what statistics say of one canary."""
    return f"{VERDICT_PREFIX}{slug}"


def eval_topic(run: int) -> str:
    """The topic of one eval run's progress."""
    return f"{EVAL_PREFIX}{run}"


def operator_topic(operator_id: int) -> str:
    """The topic that every live line of one operator listens to; no page can ask for it."""
    return f"{OPERATOR_PREFIX}{operator_id}"


def notify(topic: str, data: Mapping[str, Any]) -> bool:
    """Send one message to everybody who watches `topic`; False when it could not be sent, which pages make up for.

    For synchronous code, after its transaction: `transaction.on_commit(partial(notify, "reviews", {...}))`.

    Args:
        data: JSON values only.
    """
    return async_to_sync(send)(topic, data)


class Notifier:
    """`notify` for a process that sends all day: one event loop, so one connection to Redis instead of one a message.

    Used from one thread, in which no event loop runs.
    """

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def notify(self, topic: str, data: Mapping[str, Any]) -> bool:
        """As the function."""
        return self._runner.run(send(topic, data))

    def close(self) -> None:
        """Let go of the connection."""
        self._runner.close()


async def send(topic: str, data: Mapping[str, Any]) -> bool:
    """`notify` for asynchronous code."""
    layer = get_channel_layer()
    try:
        async with asyncio.timeout(SEND_SECONDS):
            await layer.group_send(topic, {"type": "live.message", "topic": topic, "data": dict(data)})
    except Exception:
        logger.warning("a live message on %r was not sent; pages will poll", topic, exc_info=True)
        return False
    return True
