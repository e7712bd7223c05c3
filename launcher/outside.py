"""Servers that are not ours: reached before anything starts, and complained about without their passwords."""

import socket
from urllib.parse import urlsplit

import psycopg
import redis

from launcher.environment import REDIS_SCHEMES
from launcher.errors import LauncherError

CONNECT_SECONDS = 5
DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671, "redis": 6379, "rediss": 6379}
SQLSTATES = {  # PostgreSQL 18, appendix A
    "28P01": "refused the user name or password",
    "28000": "refused the user name or the way of signing in",
    "3D000": "has no such database",
    "53300": "has no connection left for us",
    "57P03": "is still starting up",
}


def place_of(url: str) -> str:
    """Return host, port and path of a URL: what a person needs to find the server, without credentials."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.hostname}{port}{parts.path}"


def require_database(url: str) -> None:
    """Return when PostgreSQL lets us in.

    Raises:
        LauncherError: it does not, within 5 s.
    """
    try:
        psycopg.connect(url, connect_timeout=CONNECT_SECONDS).close()
    except psycopg.Error as exc:
        # libpq's own text may quote the connection string, so only facts we know to be harmless are passed on.
        text = str(exc).lower()
        reason = SQLSTATES.get(exc.sqlstate or "")
        if reason is None:
            words = {
                "password authentication failed": SQLSTATES["28P01"],
                "does not exist": SQLSTATES["3D000"],
                "refused": "is not reachable (connection refused)",
                "timeout": f"did not answer within {CONNECT_SECONDS} s",
                "name or service not known": "is not reachable (unknown host name)",
                "resolve": "is not reachable (unknown host name)",
            }
            reason = next((said for word, said in words.items() if word in text), "does not let us in")
        raise LauncherError(f"DATABASE_URL: PostgreSQL at {place_of(url)} {reason}") from exc


def require_redis(url: str, *, variable: str = "REDIS_URL") -> None:
    """Return when Redis answers.

    Raises:
        LauncherError: it does not, within 5 s; names `variable`.
    """
    try:
        with redis.Redis.from_url(
            url, socket_connect_timeout=CONNECT_SECONDS, socket_timeout=CONNECT_SECONDS
        ) as client:
            client.ping()
    except redis.AuthenticationError as exc:
        raise LauncherError(f"{variable}: Redis at {place_of(url)} refused the user name or password") from exc
    except redis.TimeoutError as exc:
        raise LauncherError(f"{variable}: Redis at {place_of(url)} did not answer within {CONNECT_SECONDS} s") from exc
    except redis.ConnectionError as exc:
        raise LauncherError(f"{variable}: Redis at {place_of(url)} is not reachable") from exc
    except (redis.RedisError, ValueError) as exc:
        raise LauncherError(f"{variable}: Redis at {place_of(url)} does not let us in") from exc


def require_broker(url: str) -> None:
    """Return when the Celery broker can be reached: by a PING for Redis, by a TCP connection for the others.

    Raises:
        LauncherError: it cannot, within 5 s.
    """
    parts = urlsplit(url)
    if parts.scheme in REDIS_SCHEMES:
        require_redis(url, variable="CELERY_BROKER_URL")
        return
    try:
        socket.create_connection(
            (parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]), timeout=CONNECT_SECONDS
        ).close()
    except OSError as exc:
        raise LauncherError(f"CELERY_BROKER_URL: the broker at {place_of(url)} is not reachable") from exc
