"""The fleet's word on killed shadows, where shadow processes look every second; it is taken back here alone."""

from contextlib import closing
from typing import Final

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from controlplane.shadows.errors import FleetUnreachable
from dataplane.shadow.switch import killed_key

# A click must not hang because Redis is away.
TIMEOUT_SECONDS: Final = 2.0


def raise_flag(digest: str, reason: str) -> None:
    """Have shadow processes ask nothing more under the policy with this digest; the first reason stays.

    Raises:
        FleetUnreachable: Redis is away.
    """
    try:
        with closing(_connect()) as client:
            client.set(killed_key(digest), reason, nx=True)
    except redis.RedisError as exc:
        raise FleetUnreachable(f"Redis is away, so no flag was raised: {exc}") from exc


def has_flag(digest: str) -> bool:
    """Whether the fleet holds the policy for killed.

    Raises:
        FleetUnreachable: Redis is away.
    """
    try:
        with closing(_connect()) as client:
            return bool(client.exists(killed_key(digest)))
    except redis.RedisError as exc:
        raise FleetUnreachable(f"Redis is away, so nobody can say what the fleet holds: {exc}") from exc


def lower_flag(digest: str) -> None:
    """Take the flag back, whoever raised it.

    Raises:
        FleetUnreachable: Redis is away.
    """
    try:
        with closing(_connect()) as client:
            client.delete(killed_key(digest))
    except redis.RedisError as exc:
        raise FleetUnreachable(
            "Redis is away, so the flag that stops the fleet cannot be taken back; without it nothing is asked anyway: "
            f"try again when it is back ({exc})"
        ) from exc


def _connect() -> "redis.Redis":
    return redis.Redis.from_url(
        settings.REDIS_URL,
        socket_connect_timeout=TIMEOUT_SECONDS,
        socket_timeout=TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
