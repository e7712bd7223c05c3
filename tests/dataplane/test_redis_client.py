"""The data plane's Redis clients, at a real Redis."""

import asyncio

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from dataplane.stores.redis_client import make_redis

# More turns of the event loop than two commands take.
TURNS = 60
PATIENCE_SECONDS = 60


async def _ask_for_ever(client):
    while True:
        await client.set("key", "value")
        await client.get("key")


async def test_whoever_is_cancelled_between_any_two_turns_of_the_loop_ends(redis_url):
    """A cancellation that comes just as a command was sent is not lost."""
    client = make_redis(redis_url, timeout_seconds=PATIENCE_SECONDS)

    for turns in range(TURNS):
        await client.ping()
        task = asyncio.create_task(_ask_for_ever(client))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        ended, _ = await asyncio.wait([task], timeout=PATIENCE_SECONDS)
        assert ended, f"cancelled after {turns} turns, it goes on"

    await client.aclose()


async def test_an_answer_that_does_not_come_in_time_is_an_error(redis_url):
    """The client waits as long as it was told to, and no longer."""
    client = make_redis(redis_url, timeout_seconds=0.05)

    with pytest.raises(RedisTimeoutError):
        await client.blpop(["nothing"], timeout=PATIENCE_SECONDS)

    await client.aclose()
