"""How the data plane's stores hold on to PostgreSQL."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

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


def make_pool(url: str, *, name: str, connections: int, timeout_seconds: float) -> Pool:
    """A pool, not yet open, of up to so many connections that go by `name`; rows are dicts. `timeout_seconds` bounds
    the wait for one of them.
    """
    return AsyncConnectionPool(
        url,
        connection_class=psycopg.AsyncConnection[DictRow],
        min_size=1,
        max_size=connections,
        timeout=timeout_seconds,
        open=False,
        name=name,
        kwargs={**KEEPING, "application_name": name, "row_factory": dict_row},
    )
