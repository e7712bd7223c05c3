"""What a process says of itself when it is asked whether it can do its work, and of what it depends on.

A dependency that is *needed* makes it not ready while it is away. The others are told of, with what cannot be done
meanwhile; docs/failure-modes.md decides which is which. Asking takes time and connections, so each is asked once a
second at most, whoever asks and however often.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
import redis

ASK_SECONDS: Final = 1.0
FRESH_SECONDS: Final = 1.0
OK: Final = "ok"

# Waits for its own time-out at most, raises nothing. Gives OK, or a sentence that holds no secret.
Ask = Callable[[], str]


@dataclass(frozen=True, slots=True)
class Dependency:
    """Something that a process asks others for. `without`: what it cannot do while this is away."""

    name: str
    ask: Ask
    needed: bool
    without: str


class Dependencies:
    """See the module. May be asked from several threads."""

    def __init__(self, dependencies: Sequence[Dependency], *, clock: Callable[[], float]) -> None:
        self._dependencies = tuple(dependencies)
        self._clock = clock
        self._lock = threading.Lock()
        self._asked_at: float | None = None
        self._found: Mapping[str, str] = {}

    def look(self) -> tuple[bool, dict[str, dict[str, Any]]]:
        """Whether all that is needed is there, and what is known of each.

        Shape: {name: {"state": "ok" or a sentence, "needed": bool, "without": str}}; `without` where it is away.
        """
        with self._lock:
            now = self._clock()
            if self._asked_at is None or now - self._asked_at >= FRESH_SECONDS:
                self._found = {one.name: one.ask() for one in self._dependencies}
                self._asked_at = self._clock()
            found = self._found
        ready = all(found[one.name] == OK for one in self._dependencies if one.needed)
        return ready, {
            one.name: {"state": found[one.name], "needed": one.needed}
            | ({} if found[one.name] == OK else {"without": one.without})
            for one in self._dependencies
        }


def redis_answers(url: str, *, variable: str = "REDIS_URL") -> str:
    """Whether a Redis answers. `variable` is named where it does not; the address may hold a password."""
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=ASK_SECONDS, socket_timeout=ASK_SECONDS) as client:
            client.ping()
    except (redis.RedisError, OSError):
        return f"Redis does not answer; check {variable}"
    return OK


def postgres_answers(url: str) -> str:
    """Whether a PostgreSQL answers."""
    try:
        # Its own time-out counts whole seconds, and is never less than two.
        with psycopg.connect(url, connect_timeout=2, autocommit=True) as connection:
            connection.execute("SELECT 1")
    except psycopg.Error:
        return "PostgreSQL does not answer; check DATABASE_URL"
    return OK


def broker_answers(url: str) -> str:
    """Whether Celery's broker lets a client in."""
    if urlsplit(url).scheme in {"redis", "rediss"}:
        return redis_answers(url, variable="CELERY_BROKER_URL")
    from kombu import Connection

    connection = Connection(url, connect_timeout=ASK_SECONDS, transport_options={"max_retries": 1})
    try:
        connection.connect()
    except Exception:  # noqa: BLE001  # each transport has errors of its own, and none of them may end a probe
        return "the broker does not let us in; check CELERY_BROKER_URL"
    finally:
        connection.release()
    return OK
