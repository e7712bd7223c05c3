"""Redis clients of the data plane: bounded in time, without attempts of their own, and true to who cancels them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import redis.asyncio
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError


def make_redis(url: str, *, timeout_seconds: float, **options: Any) -> redis.asyncio.Redis:
    """A client of the Redis at `url`. Whoever uses it has ways of its own to try again; the client's would hold it up.

    Args:
        timeout_seconds: For connecting, for sending and for an answer, each; `options` may say otherwise.
    """
    bounds = {"socket_timeout": timeout_seconds, "socket_connect_timeout": timeout_seconds}
    client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **(bounds | options))
    pool = client.connection_pool
    pool.connection_class = _OBEDIENT[pool.connection_class]
    return client


class _Obedient(AbstractConnection):
    """A connection that lets nobody's cancellation be lost.

    The client's own sends within `asyncio.wait_for`, which before Python 3.12 returns as if nothing had been asked for
    when it is cancelled just as its work ends (gh-86296), as nearly every send does. A loop that was told to end then
    turns for ever.
    """

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if check_health:
            await self.check_health()  # type: ignore[no-untyped-call]  # the client gives it no types
        parts = [command.encode()] if isinstance(command, str) else [command] if isinstance(command, bytes) else command
        try:
            async with asyncio.timeout(self.socket_timeout or None):
                await self._send_packed_command(parts)
        except TimeoutError as exc:
            await self.disconnect(nowait=True)
            raise RedisTimeoutError("Timeout writing to socket") from exc
        except OSError as exc:
            await self.disconnect(nowait=True)
            raise RedisConnectionError(f"Error while writing to socket. {exc}") from exc
        except BaseException:
            await self.disconnect(nowait=True)  # half a command may be out
            raise


class _ObedientConnection(_Obedient, Connection):
    pass


class _ObedientSSLConnection(_Obedient, SSLConnection):
    pass


class _ObedientUnixConnection(_Obedient, UnixDomainSocketConnection):
    pass


_OBEDIENT: Final[dict[type[AbstractConnection], type[AbstractConnection]]] = {
    Connection: _ObedientConnection,
    SSLConnection: _ObedientSSLConnection,
    UnixDomainSocketConnection: _ObedientUnixConnection,
}
