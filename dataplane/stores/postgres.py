"""How the data plane's stores hold on to PostgreSQL."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from dataplane.errors import GatewayError

log = logging.getLogger("ballast.postgres")

Pool = AsyncConnectionPool[psycopg.AsyncConnection[DictRow]]

# One statement is one transaction; and a host that is gone without a word is noticed in seconds, not hours.
KEEPING: Final[dict[str, Any]] = {
    "autocommit": True,
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


Configure = Callable[[psycopg.AsyncConnection[DictRow]], Awaitable[None]]


def make_pool(
    url: str, *, name: str, connections: int, timeout_seconds: float, configure: Configure | None = None
) -> Pool:
    """A pool, not yet open, of up to so many connections that go by `name`; rows are dicts. `timeout_seconds` bounds
    the wait for one of them; `configure` prepares each, or raises and it is none.
    """
    return AsyncConnectionPool(
        url,
        connection_class=psycopg.AsyncConnection[DictRow],
        min_size=1,
        max_size=connections,
        timeout=timeout_seconds,
        open=False,
        name=name,
        configure=configure,
        kwargs={**KEEPING, "application_name": name, "row_factory": dict_row},
    )


async def run(
    pool: Pool,
    work: Callable[[psycopg.AsyncConnection[DictRow]], Awaitable[list[DictRow]]],
    *,
    timeout_seconds: float,
    unavailable: Callable[[str], GatewayError],
) -> list[DictRow]:
    """Return the rows of what is done over a connection of `pool`, within so many seconds.

    A connection that was lost since it was last used is no failure yet: the work is done again, once, so each step of
    it looks whether it was done before.

    Raises:
        GatewayError: what `unavailable` makes of the reason, when the database fails or gives no answer in time.
    """
    may_run_again = True
    while True:
        connection: psycopg.AsyncConnection[DictRow] | None = None
        try:
            async with asyncio.timeout(timeout_seconds), pool.connection() as connection:
                return await work(connection)
        except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.ProgrammingError, TimeoutError) as exc:
            if not may_run_again or connection is None or not connection.broken:
                error = unavailable(f"the database fails ({type(exc).__name__})")
                log.info("%s: %s: %s", error.code, type(exc).__name__, exc)
                raise error from exc
            may_run_again = False
            await pool.check()
