"""Whether the place that weights come from at a restart is there: an address that answers, or a path that exists."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import httpx

from dataplane.health.watchdog import Hung, Watchdog

PATH_SECONDS: Final = 5.0


def mirror_check(mirror: str, *, transport: httpx.AsyncBaseTransport | None = None) -> Callable[[], Awaitable[str]]:
    """Return a check that returns why the mirror is away, or an empty text. Whoever calls it bounds its time.

    Any answer below 500 is one: a bucket that says 403 to us is there. A path may lie on a file system that hangs: a
    thread of its own bears that.
    """
    if mirror.startswith(("http://", "https://")):

        async def ask() -> str:
            try:
                async with httpx.AsyncClient(transport=transport, trust_env=False) as http:
                    response = await http.head(mirror)
            except httpx.HTTPError as exc:
                return f"{mirror}: {exc.__class__.__name__}"
            return f"{mirror} answered {response.status_code}" if response.status_code >= 500 else ""

        return ask
    path, watchdog = Path(mirror), Watchdog("mirror")

    async def look() -> str:
        try:
            return "" if await watchdog.call(path.exists, deadline_seconds=PATH_SECONDS) else f"{mirror} is not there"
        except (Hung, OSError) as exc:
            return f"{mirror}: {exc}"

    return look
