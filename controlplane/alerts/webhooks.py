"""Sends one webhook: to an address that was looked up and allowed, within a deadline, following nothing."""

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import httpx

from controlplane.alerts.errors import DeliveryFailed
from controlplane.alerts.networks import Place

# For all of it, whatever the receiver drips; the addresses of one host share it.
SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 4.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the receiver said. Its body is nobody's business here, and is not read."""

    status: int
    ms: int


def post(
    place: Place,
    body: bytes,
    headers: Mapping[str, str],
    *,
    tls: ssl.SSLContext | None = None,
    seconds: float = SECONDS,
) -> Answer:
    """POST a body to a receiver and return what it said, whatever that is.

    Args:
        tls: What certificates are judged by; None: the authorities that everybody trusts.
        seconds: For all of it.
    Raises:
        DeliveryFailed: there was no answer in that time.
    """
    begun = time.monotonic()
    try:
        status = asyncio.run(_post(place, body, headers, tls, seconds))
    except (TimeoutError, httpx.TimeoutException) as exc:
        raise DeliveryFailed(f"{place.host!r} gave no answer within {seconds:g} s") from exc
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise DeliveryFailed(f"{place.host!r} cannot be reached: {exc or type(exc).__name__}") from exc
    return Answer(status, round((time.monotonic() - begun) * 1000))


async def _post(
    place: Place, body: bytes, headers: Mapping[str, str], tls: ssl.SSLContext | None, seconds: float
) -> int:
    url = httpx.URL(place.url)
    # Neither a proxy of the environment, which would look the name up again, nor anybody's ~/.netrc.
    client = httpx.AsyncClient(
        trust_env=False,
        verify=tls if tls is not None else True,
        timeout=httpx.Timeout(seconds, connect=CONNECT_SECONDS),
        follow_redirects=False,
    )
    async with asyncio.timeout(seconds), client:
        for last, address in _marked(place.addresses):
            try:
                async with client.stream(
                    "POST",
                    # The address in the place of the name; the name where the receiver and its certificate want it.
                    url.copy_with(host=address),
                    content=body,
                    headers={**headers, "Host": url.netloc.decode(), "Content-Type": "application/json"},
                    extensions={"sni_hostname": place.host},
                ) as answer:
                    return answer.status_code
            except httpx.ConnectError:
                if last:
                    raise
    raise AssertionError("a place has an address")


def _marked(addresses: tuple[str, ...]) -> list[tuple[bool, str]]:
    return [(address == addresses[-1], address) for address in addresses]
