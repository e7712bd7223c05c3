"""How busy GPUs are, read from the Prometheus endpoints that triggers name. One worker of a fleet reads, beside the
requests that it serves; the others hear of it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Callable
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from dataplane.ladder.signals import Gauge
from dataplane.networks import AddressForbidden, Allowed
from dataplane.release import Release

READ_EVERY_SECONDS: Final = 5.0
TIMEOUT_SECONDS: Final = 2.0
MAX_BYTES: Final = 4 * 1024 * 1024
ACCEPT: Final = "text/plain;version=0.0.4"

log = logging.getLogger("ballast.ladder")


def highest_of(text: str, metric: str) -> float | None:
    """Return the highest finite value that a page of Prometheus' text format has of a metric; None: it has none.

    Raises:
        ValueError: what it says of the metric is not in that format.
    """
    # Only the lines of interest are parsed: pages are long, and requests are served meanwhile.
    lines = [line for line in text.splitlines() if line.startswith(metric)]
    samples = [
        sample.value
        for family in text_string_to_metric_families("\n".join(lines) + "\n")
        for sample in family.samples
        if sample.name == metric and math.isfinite(sample.value)
    ]
    return max(samples, default=None)


class Gauges:
    """See the module. Belongs to one event loop."""

    def __init__(
        self,
        *,
        leads: Callable[[], bool],
        read_every_seconds: float = READ_EVERY_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        allowed: Allowed | None = None,
    ) -> None:
        """`leads` says whether this worker is the one that reads; `allowed` where gauges may be, None: anywhere."""
        self._allowed = allowed
        self._leads = leads
        self._read_every_seconds = read_every_seconds
        self._timeout_seconds = timeout_seconds
        self._gauges: dict[tuple[str, str], Gauge] = {}
        self._values: dict[tuple[str, str], float] = {}
        self._unreadable: set[str] = set()
        self._client: httpx.AsyncClient | None = None
        self._task: asyncio.Task[None] | None = None

    def adopt(self, release: Release) -> None:
        """Follow another release; what was read of gauges that are still there is kept."""
        gauges = {
            (slug, name): trigger.source
            for slug, surface in release.ladder.items()
            for name, trigger in surface.triggers.items()
            if isinstance(trigger.source, Gauge)
        }
        self._values = {key: value for key, value in self._values.items() if gauges.get(key) == self._gauges[key]}
        self._gauges = gauges

    async def start(self) -> None:
        """Begin to read."""
        self._task = asyncio.create_task(self._read_regularly(), name="read-gauges")

    async def stop(self) -> None:
        """Read no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def values(self, surface: str) -> dict[str, float]:
        """Utilisation by trigger, 0..1, of those gauges of a surface that could be read lately by this worker."""
        return {name: value for (slug, name), value in self._values.items() if slug == surface}

    async def read(self) -> None:
        """Read every gauge once, if that is this worker's part. The regular turn does only this."""
        gauges = self._gauges
        if not gauges or not self._leads():
            self._values = {}
            return
        urls = sorted({gauge.url for gauge in gauges.values()})
        pages = dict(zip(urls, await asyncio.gather(*map(self._page, urls)), strict=True))
        values = {}
        for key, gauge in gauges.items():
            found = self._value(gauge, pages[gauge.url])
            if found is not None and self._gauges.get(key) == gauge:  # a release may have come meanwhile
                values[key] = found
        self._values = values

    async def _read_regularly(self) -> None:
        while True:
            try:
                await self.read()
            except Exception:  # what a trigger cannot read must not end what the others do
                log.exception("gauges could not be read")
            await asyncio.sleep(self._read_every_seconds)

    async def _placed(self, url: httpx.URL) -> tuple[httpx.URL, dict[str, str], dict[str, str]]:
        """The address with the judged one in the place of its name; the name where endpoint and certificate want it.

        Raises:
            AddressForbidden: gauges may not be there.
            OSError: it has no address.
        """
        if self._allowed is None:
            return url, {}, {}
        port = url.port or (443 if url.scheme == "https" else 80)
        found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        first, *_ = self._allowed.choose(url.host, [str(one[4][0]) for one in found], scheme=url.scheme)
        return url.copy_with(host=first), {"host": url.netloc.decode()}, {"sni_hostname": url.host}

    async def _page(self, url: str) -> str | None:
        """What an endpoint says; None when it cannot be read."""
        if self._client is None:
            # Made when first needed: most fleets read nothing, and it takes a while.
            self._client = httpx.AsyncClient(trust_env=False, timeout=self._timeout_seconds)
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                address, headers, extensions = await self._placed(httpx.URL(url))
                sent = {"accept": ACCEPT} | headers
                async with self._client.stream("GET", address, headers=sent, extensions=extensions) as response:
                    response.raise_for_status()
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > MAX_BYTES:
                            raise ValueError(f"it is longer than {MAX_BYTES} bytes")
                text = body.decode()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, ValueError, AddressForbidden) as exc:
            if url not in self._unreadable:
                self._unreadable.add(url)
                log.warning("gauges at %s cannot be read: %s: %s", url, type(exc).__name__, exc)
            return None
        if url in self._unreadable:
            self._unreadable.discard(url)
            log.warning("gauges at %s can be read again", url)
        return text

    def _value(self, gauge: Gauge, page: str | None) -> float | None:
        if page is None:
            return None
        try:
            highest = highest_of(page, gauge.metric)
        except ValueError as exc:
            log.warning("gauge %r at %s cannot be understood: %s", gauge.metric, gauge.url, exc)
            return None
        return None if highest is None else min(1.0, max(0.0, highest / gauge.full))
