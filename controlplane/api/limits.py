"""How often the API may be called: by whoever is known, and by addresses that show no good token.

Counted in Redis, for all processes together, over a window that slides: what is left of the minute before counts in
part. While the counters cannot be reached everybody is let through: a roll-back must be possible when Redis is away,
and whoever is refused for a bad token stays refused.
"""

import ipaddress
import math
from dataclasses import dataclass
from typing import Final

from allauth.account.adapter import get_adapter
from django.core.cache import cache
from django.http import HttpRequest
from redis import RedisError

WINDOW_SECONDS: Final = 60
# An operator's script may turn every knob there is; it may not keep the console from everybody else.
CALLS: Final = 1200
# Of requests without a good token; a page that lost its session asks a few times a minute.
STRANGERS: Final = 60


@dataclass(frozen=True, slots=True)
class Standing:
    """How a caller stands: how many calls a window holds, how many of these are left, and when there are more."""

    name: str
    limit: int
    left: int
    reset_seconds: int

    @property
    def is_over(self) -> bool:
        """Whether the call that was counted was one too many."""
        return self.left < 0

    def headers(self) -> dict[str, str]:
        """As the IETF's draft on RateLimit header fields has them."""
        return {
            "RateLimit-Policy": f'"{self.name}";q={self.limit};w={WINDOW_SECONDS}',
            "RateLimit": f'"{self.name}";r={max(self.left, 0)};t={self.reset_seconds}',
        }


def count(name: str, who: str, *, limit: int, now: float) -> Standing | None:
    """Count one call, and say how the caller stands; None while nobody can count.

    Args:
        now: Epoch seconds.
    """
    minute, gone = divmod(now, WINDOW_SECONDS)
    keys = [f"ballast:api:{name}:{who}:{int(minute) - back}" for back in (0, 1)]
    try:
        # Kept for two windows: this one, and the next, in which it is the one before.
        cache.add(keys[0], 0, timeout=2 * WINDOW_SECONDS)
        here, before = cache.incr(keys[0]), cache.get(keys[1], 0)
    except (RedisError, ValueError):  # ValueError: it was gone between the two
        return None
    used = here + math.floor(before * (1 - gone / WINDOW_SECONDS))
    return Standing(name, limit, limit - used, max(1, math.ceil(WINDOW_SECONDS - gone)))


def address_of(request: HttpRequest) -> str:
    """Whose address a request comes from, by the proxy that is trusted. Of IPv6 the network: a household has as many
    addresses as it likes.
    """
    text = get_adapter().get_client_ip(request)
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "unknown"
    return str(ipaddress.ip_network(f"{address}/64", strict=False)) if address.version == 6 else str(address)
