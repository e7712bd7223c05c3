"""What a process says of itself when it is asked whether it can do its work, and of what it depends on.

A dependency that is *needed* makes it not ready while it is away. The others are told of, with what cannot be done
meanwhile; docs/failure-modes.md decides which is which. Asking takes time and connections, so each is asked once a
second at most, whoever asks and however often.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

ASK_SECONDS: Final = 1.0
FRESH_SECONDS: Final = 1.0
# In which a probe is answered, whatever is away; those who probe us have a little more patience.
WAIT_SECONDS: Final = 2.5
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
        self._looked_at: float | None = None
        self._asking: dict[str, _Asking] = {}
        self._found: Mapping[str, str] = {}

    def look(self) -> tuple[bool, dict[str, dict[str, Any]]]:
        """Whether all that is needed is there, and what is known of each, within WAIT_SECONDS whatever becomes of them.

        Shape: {name: {"state": "ok" or a sentence, "needed": bool, "without": str}}; `without` where it is away.
        """
        with self._lock:
            now = self._clock()
            if self._looked_at is None or now - self._looked_at >= FRESH_SECONDS:
                self._found = self._ask_all()
                self._looked_at = self._clock()
            found = self._found
        ready = all(found[one.name] == OK for one in self._dependencies if one.needed)
        return ready, {
            one.name: {"state": found[one.name], "needed": one.needed}
            | ({} if found[one.name] == OK else {"without": one.without})
            for one in self._dependencies
        }

    def _ask_all(self) -> Mapping[str, str]:
        """All at the same time. Who has not answered yet is not asked a second time meanwhile."""
        for one in self._dependencies:
            if one.name not in self._asking:
                self._asking[one.name] = _Asking(one.ask)
        deadline = time.monotonic() + WAIT_SECONDS
        found = {}
        for name, asking in list(self._asking.items()):
            asking.done.wait(max(deadline - time.monotonic(), 0.0))
            found[name] = asking.state
            if asking.done.is_set():
                del self._asking[name]
        return found


class _Asking:
    """One question, in a thread that nobody waits for at the process's end: a name may take for ever to be resolved."""

    __slots__ = ("_ask", "done", "state")

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.state = "no answer yet"
        self.done = threading.Event()
        threading.Thread(target=self._run, name="readiness", daemon=True).start()

    def _run(self) -> None:
        try:
            self.state = self._ask()
        finally:
            self.done.set()


def redis_answers(url: str, *, variable: str = "REDIS_URL") -> str:
    """Whether a Redis answers. `variable` is named where it does not; the address may hold a password."""
    try:
        with redis.Redis.from_url(
            url, socket_connect_timeout=ASK_SECONDS, socket_timeout=ASK_SECONDS, retry=Retry(NoBackoff(), 0)
        ) as client:
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
