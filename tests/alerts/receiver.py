"""A receiver of webhooks as somebody else would write it, on a port of this machine."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Message:
    """What came: headers with small names, and the body as it was on the wire."""

    path: str
    headers: dict[str, str]
    body: bytes

    def is_signed_with(self, secret: str) -> bool:
        """Whether one of its signatures is by the secret. Written from the specification, not from our code."""
        key = base64.b64decode(secret.split("_", 1)[1])
        named = [self.headers[name].encode() for name in ("webhook-id", "webhook-timestamp")]
        content = b".".join([*named, self.body])
        wanted = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        return f"v1,{wanted}" in self.headers["webhook-signature"].split(" ")


@dataclass
class Receiver:
    """Answers with the next of `statuses`, or 204 when there is none left."""

    server: ThreadingHTTPServer
    scheme: str = "http"
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    silent: threading.Event = field(default_factory=threading.Event)  # set: who asks is left waiting
    endless: bool = False
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def url(self, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}/hooks/ballast?token=t0ken"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    receiver: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.receiver.messages.append(Message(self.path, headers, body))
        if self.receiver.silent.is_set():
            self.receiver.over.wait()
            return
        self.send_response(self.receiver.statuses.pop(0) if self.receiver.statuses else 204)
        for name, value in self.receiver.headers.items():
            self.send_header(name, value)
        if self.receiver.endless:
            self.end_headers()
            with contextlib.suppress(OSError):
                while not self.receiver.over.is_set():
                    self.wfile.write(b"x" * 65536)
            return
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:  # where a redirect that was followed would end
        self.do_POST()

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serve(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver that is there until the end of the block."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    receiver = handler.receiver = Receiver(server, "https" if tls is not None else "http")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
