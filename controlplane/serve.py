"""`python -m controlplane.serve`: the console's server, which says that it will stop before it does."""

import asyncio
import gc
import logging
import os
import socket
import sys
from typing import Final

import django
import uvicorn
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured

from controlplane import tracing
from controlplane.request_metrics import REQUESTS
from controlplane.vitals import CONSOLE
from dataplane.grace import GraceServer
from dataplane.pulse import LOOK_SECONDS, Pulse
from dataplane.quorum import publisher_settings

# Live lines look things up in one thread that they all share; whatever one of them asks of PostgreSQL is short.
SHARED_THREAD_SECONDS: Final = 60.0
# Live lines are cut, and pages poll meanwhile; a request takes less.
STOP_SECONDS: Final = 3
# Of one message: live lines refuse what is over a sixteenth of it with a word, and this is what is ever held of one.
MAX_WEBSOCKET_BYTES: Final = 64 * 1024
GC_THRESHOLD: Final = 20_000


def settle() -> None:
    """Have the collector of garbage look no more at what exists now, which lives as long as the process, and look
    seldom at what requests leave: to go through all of Django again and again took a sixth of the time of a page.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)


class ConsoleServer(GraceServer):
    """Looks, besides, whether the thread turns that all live lines share: pages have threads of their own."""

    def __init__(self, config: uvicorn.Config, *, pulse: Pulse, grace_seconds: float, looks: bool) -> None:
        """`looks`: nobody else does."""
        super().__init__(config, announce=CONSOLE.drain, grace_seconds=grace_seconds)
        self._pulse = pulse
        self._looks = looks
        self._watching: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As `GraceServer`'s."""
        settle()
        await super().startup(sockets)
        self._watching = [asyncio.create_task(self._stamp())]
        if self._looks:
            self._watching.append(asyncio.create_task(self._look()))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As `GraceServer`'s; what was traced is sent at its end, since uvicorn ends the process by its signal."""
        await super().shutdown(sockets)
        await asyncio.to_thread(tracing.end)

    async def _stamp(self) -> None:
        while True:
            # Waits for its turn behind whatever the thread is busy with.
            await sync_to_async(self._pulse.beat, thread_sensitive=True)()
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        while True:
            CONSOLE.look()
            await asyncio.sleep(LOOK_SECONDS)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "controlplane.settings")
    gc.disable()  # as manage.py does
    try:
        django.setup()
    except ImproperlyConfigured as exc:
        sys.exit(f"ballast: {exc}")
    from django.conf import settings

    from controlplane.celery import app

    tracing.begin(tracing.CONSOLE)
    app.conf.update(publisher_settings(settings.CELERY_BROKER_URL))
    logging.getLogger("uvicorn.error").setLevel(settings.LOG_LEVEL)
    config = uvicorn.Config(
        "controlplane.asgi:application",
        host=settings.BIND,
        port=settings.CONSOLE_PORT,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=STOP_SECONDS,
        ws_max_size=MAX_WEBSOCKET_BYTES,
    )
    pulse = CONSOLE.pulse("live lines", within_seconds=SHARED_THREAD_SECONDS)
    CONSOLE.expose(REQUESTS.families)
    CONSOLE.expose(tracing.families)
    # For scrapes, which are nobody else's to see; probes come to its own port.
    is_scraped = CONSOLE.serve(settings.HEALTH_ADDRESS) is not None
    server = ConsoleServer(config, pulse=pulse, grace_seconds=settings.DRAIN_GRACE_SECONDS, looks=not is_scraped)
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    if not server.started:
        sys.exit(3)


if __name__ == "__main__":
    main()
