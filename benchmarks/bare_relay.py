"""The limit beside which the gateway is measured: its own server and its own client, and nothing in between.

    python -m benchmarks.bare_relay PORT UPSTREAM_URL

Every POST goes to UPSTREAM_URL as it is and its answer comes back whole: no key, no prompt, no lane, no telemetry, no
parsing. What the gateway costs beyond this is what its policies cost.
"""

from __future__ import annotations

import sys

import uvicorn

from dataplane.gateway import Receive, Scope, Send
from dataplane.process import SERVER
from dataplane.providers.base import UpstreamCall
from dataplane.timers import TimerWheel
from dataplane.transport import Http1Transport, Limits

HEADERS = (("authorization", "Bearer sk-benchmark"), ("content-type", "application/json"))
LIMITS = Limits(connect_seconds=2, first_byte_seconds=10, idle_seconds=10)


class Relay:
    """An ASGI application."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._transport = Http1Transport(timers=TimerWheel())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on; anything but a POST is answered with an empty 200, as a sign of life."""
        body = b""
        if scope["method"] == "POST":
            message = await receive()
            exchange = await self._transport.send(
                UpstreamCall(self._url, HEADERS, message["body"]), lane="relay", limits=LIMITS
            )
            try:
                body = await exchange.read()
            finally:
                exchange.close()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve until SIGTERM."""
    port, url = int(sys.argv[1]), sys.argv[2]
    uvicorn.run(Relay(url), host="127.0.0.1", port=port, lifespan="off", **SERVER)


if __name__ == "__main__":
    main()
